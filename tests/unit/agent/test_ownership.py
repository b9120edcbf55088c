"""fs_group: what a tree is like afterwards, and what is left alone. Groups are this process's own unless it is root."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from kata.agent.storages.errors import InvalidStorage, StorageError
from kata.agent.storages.ownership import GroupOwner, give_tree, parse_group
from kata.protocol.generated import agent_pb2, types_pb2

GID = 4321 if os.getuid() == 0 else os.getgid()


def look(path: Path) -> tuple[int, int]:
    info = path.lstat()
    return info.st_gid, stat.S_IMODE(info.st_mode)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "volume"
    (top / "dir/inner").mkdir(parents=True)
    (top / "dir/file").write_text("x")
    (top / "dir/program").write_text("x")
    for name, mode in (("", 0o755), ("dir", 0o700), ("dir/inner", 0o500), ("dir/file", 0o400), ("dir/program", 0o755)):
        (top / name).chmod(mode)
    return top


def test_everything_is_the_groups(tree: Path) -> None:
    outside = tree.parent / "outside"
    outside.write_text("precious")
    outside.chmod(0o600)
    before = look(outside)
    (tree / "dir/link").symlink_to(outside)
    (tree / "dangling").symlink_to("nowhere")
    os.mkfifo(tree / "fifo", 0o600)
    give_tree(str(tree), GroupOwner(GID))
    assert look(tree) == (GID, 0o2775)
    assert look(tree / "dir") == (GID, 0o2770)
    assert look(tree / "dir/inner") == (GID, 0o2770)
    assert look(tree / "dir/file") == (GID, 0o660)
    assert look(tree / "dir/program") == (GID, 0o775)
    assert look(tree / "fifo") == (GID, 0o660)
    assert look(tree / "dir/link")[0] == GID and look(tree / "dangling")[0] == GID
    assert look(outside) == before


def test_a_right_root_is_trusted_only_when_asked(tree: Path) -> None:
    give_tree(str(tree), GroupOwner(GID))
    (tree / "dir/file").chmod(0o400)
    give_tree(str(tree), GroupOwner(GID, trust_root=True))
    assert look(tree / "dir/file")[1] == 0o400
    give_tree(str(tree), GroupOwner(GID))
    assert look(tree / "dir/file")[1] == 0o660
    (tree / "dir/file").chmod(0o400)
    tree.chmod(0o755)  # no longer right
    give_tree(str(tree), GroupOwner(GID, trust_root=True))
    assert look(tree / "dir/file")[1] == 0o660


def test_a_tree_without_end_is_an_error_and_the_root_does_not_look_done(tree: Path) -> None:
    here = os.open(tree, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StorageError, match="deeper"):
        give_tree(str(tree), GroupOwner(GID))
    assert look(tree)[1] == 0o755
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_file_can_be_a_volume(tree: Path) -> None:
    give_tree(f"{tree}/dir/file", GroupOwner(GID))
    assert look(tree / "dir/file") == (GID, 0o660)


def test_messages() -> None:
    def parse(**fields: object) -> GroupOwner | None:
        return parse_group(agent_pb2.Storage(fs_group=agent_pb2.FSGroup(**fields)))  # type: ignore[arg-type]

    assert parse_group(agent_pb2.Storage()) is None
    assert parse(group_id=7) == GroupOwner(7)
    assert parse() == GroupOwner(0)
    assert parse(group_id=7, group_change_policy=types_pb2.FSGroupChangePolicy.OnRootMismatch) == GroupOwner(7, True)
    with pytest.raises(InvalidStorage):
        parse(group_change_policy=9)
    with pytest.raises(InvalidStorage):
        parse(group_id=0xFFFFFFFF)
