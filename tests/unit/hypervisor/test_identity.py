"""A user id per sandbox: unique, returned, and taken back from the dead."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from kata.hypervisor.errors import IdentityError
from kata.hypervisor.identity import FIRST_UID, UID_COUNT, claim_identity


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KATA_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def owner(tmp_path: Path, name: str) -> str:
    path = tmp_path / name
    path.mkdir()
    return str(path)


def test_every_sandbox_has_its_own(tmp_path: Path) -> None:
    claims = [claim_identity(owner(tmp_path, f"s{i}"), first=FIRST_UID, count=8) for i in range(8)]
    assert len({claim.uid for claim in claims}) == 8
    assert all(claim.gid == claim.uid for claim in claims)
    with pytest.raises(IdentityError):
        claim_identity(owner(tmp_path, "more"), first=FIRST_UID, count=8)


def test_release_frees_and_leaves_no_file(tmp_path: Path, state: Path) -> None:
    claim = claim_identity(owner(tmp_path, "a"), first=FIRST_UID, count=1)
    claim.release()
    claim.release()
    assert list((state / "uids").iterdir()) == []
    assert claim_identity(owner(tmp_path, "b"), first=FIRST_UID, count=1).uid == FIRST_UID


def test_a_crashed_sandbox_gives_its_id_back_with_its_directory(tmp_path: Path) -> None:
    dead = owner(tmp_path, "dead")
    claim_identity(dead, first=FIRST_UID, count=1)
    with pytest.raises(IdentityError):
        claim_identity(owner(tmp_path, "early"), first=FIRST_UID, count=1)
    os.rmdir(dead)
    assert claim_identity(owner(tmp_path, "next"), first=FIRST_UID, count=1).uid == FIRST_UID


def test_users_of_the_host_are_passed_over(tmp_path: Path) -> None:
    with pytest.raises(IdentityError):
        claim_identity(owner(tmp_path, "a"), first=0, count=1)  # root is always in passwd


def test_default_range_is_outside_what_others_use() -> None:
    assert FIRST_UID > 1_879_048_191  # the end of systemd's container range
    assert FIRST_UID + UID_COUNT < 2_147_352_576  # the start of its foreign range


def _claim(path: str) -> int:
    return claim_identity(path, first=FIRST_UID, count=64).uid


def test_many_at_once_get_different_ids(tmp_path: Path) -> None:
    owners = [owner(tmp_path, f"s{i}") for i in range(32)]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        uids = pool.map(_claim, owners, chunksize=1)
    assert len(set(uids)) == 32
