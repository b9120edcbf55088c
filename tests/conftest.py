"""What every test stands on: a state directory of its own, guest assets, and proof that nothing is left behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# A slow machine is no fault of the code: no test asserts speed by a clock, and random tests do not either.
hypothesis.settings.register_profile(
    "kata", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("kata")

FLOORS = ("linters", "unit", "wire", "fuzz", "kernel", "vm", "attacks", "faults", "containerd", "budget")
"""In the order of what they need and of how long they take: the cheap ones fail first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the floors in their order."""
    items.sort(key=_floor)


def _floor(item: pytest.Item) -> int:
    parts = item.path.relative_to(item.config.rootpath).parts
    return FLOORS.index(parts[1]) if len(parts) > 2 and parts[1] in FLOORS else len(FLOORS)


@pytest.fixture(scope="session", autouse=True)
def state_dir() -> Iterator[Path]:
    """State of our own, under a short path: a unix socket's has at most 107 bytes (unix(7))."""
    path = Path(tempfile.mkdtemp(prefix="kt-", dir="/run" if os.access("/run", os.W_OK) else None))
    before = os.environ.get("KATA_STATE_DIR")
    os.environ["KATA_STATE_DIR"] = str(path)
    yield path
    if before is None:
        del os.environ["KATA_STATE_DIR"]
    else:
        os.environ["KATA_STATE_DIR"] = before
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def assets() -> Path:
    """Where the guest kernel and image are."""
    from kata import paths

    folder = paths.assets_dir()
    missing = [name for name in ("vmlinuz", "kata-containers.img") if not (folder / name).is_file()]
    if missing:
        pytest.fail(f"{folder} lacks {' and '.join(missing)}: run `make assets`", pytrace=False)
    return folder


@pytest.fixture(scope="session")
def debug_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guest image with a shell, which several floors boot."""
    from kata.osbuilder import Recipe, build_image

    folder = tmp_path_factory.mktemp("debug-image")
    build_image(Recipe(debug=True), folder, lambda _: None)
    return folder / "kata-containers.img"


@pytest.fixture(scope="session")
def busybox(assets: Path) -> str:
    """The busybox image in the local store: its name."""
    from tests.helpers.cli import kata

    kata("setup", check=True)
    return "busybox"
