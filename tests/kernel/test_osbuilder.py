"""The guest image from Debian's real packages: built twice, and looked at from inside.

Packages come from the machine's apt into the usual cache; only what is built goes elsewhere.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata import paths
from kata.kernel import packages
from kata.kernel.asset import Manifest, read_manifest
from kata.kernel.packages import simulate
from kata.osbuilder import Recipe, build_image, recipe
from kata.osbuilder.assets import IMAGE, ensure_assets
from kata.osbuilder.errors import AgentError
from kata.osbuilder.recipe import encode

pytestmark = pytest.mark.root

IN_GUEST = """
import json, sys
sys.path.insert(0, "/usr/lib/kata-agent")
import kata.agent.__main__
from kata.protocol.messages import message
made = message("grpc.CreateContainerRequest")(container_id="abc").SerializeToString()
print(json.dumps({
    "made": made.hex(),
    "from_source": [n for n, m in sys.modules.items() if "SourceFile" in str(getattr(m, "__loader__", ""))],
    "api": [name for name in sys.modules if name.startswith("google")],
}))
"""


@pytest.fixture(scope="module", autouse=True)
def asked_once() -> Iterator[None]:
    """apt is asked the same for each image, and takes seconds to answer."""
    answers = functools.cache(simulate)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packages, "simulate", lambda wanted, status: answers(tuple(wanted), status))
        yield


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The agent's sources in a place of their own."""
    copy = tmp_path / "kata"
    for name, path in recipe.agent_sources(Path(Recipe().source)):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(path.read_bytes())
    return copy


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    folder = tmp_path_factory.mktemp("rootfs")
    return folder / "rootfs", build_image(Recipe(kind="rootfs"), folder, lambda _: None)


def in_guest(root: Path, *argv: str) -> str:
    """What a program writes that runs in the tree, with a /proc (which crun needs) that goes away with it."""
    apart = ["unshare", "--mount", "--pid", "--fork", f"--mount-proc={root}/proc", "chroot", str(root)]
    done = subprocess.run([*apart, *argv], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_two_builds_in_two_places_are_the_same(tmp_path: Path, source: Path) -> None:
    here, there = built_before(tmp_path / "here"), tmp_path / "there/deeper"
    old = os.umask(0o077)
    try:
        manifest = build_image(Recipe(source=str(source)), there, lambda _: None)
    finally:
        os.umask(old)
    assert manifest == read_manifest(here / IMAGE)
    assert manifest.size < 12 << 20
    for name in (IMAGE, f"{IMAGE}.json"):
        assert (here / name).read_bytes() == (there / name).read_bytes()
    assert sorted(os.listdir(there)) == [".lock", IMAGE, f"{IMAGE}.json"]


def built_before(folder: Path) -> Path:
    """Where another build is: that of the guests' own image, if it is an image of the usual kind."""
    ensure_assets(lambda _: None)
    manifest = read_manifest(paths.assets_dir() / IMAGE)
    assert manifest is not None
    if manifest.recipe == encode(Recipe()):
        return paths.assets_dir()
    build_image(Recipe(), folder, lambda _: None)
    return folder


def test_the_agent_starts_from_compiled_code_alone(built: tuple[Path, Manifest]) -> None:
    root, manifest = built
    said = in_guest(root, "/usr/bin/python3.11", "-IS", "/sbin/init", "--version")
    assert said == f"kata-agent {manifest.agent_version}\n"
    seen = json.loads(in_guest(root, "/usr/bin/python3.11", "-IS", "-c", IN_GUEST))
    assert bytes.fromhex(seen["made"]) == b"\x0a\x03abc"
    assert seen["from_source"] == []
    assert "google._upb._message" in seen["api"]
    assert "google.protobuf.descriptor_pool" not in seen["api"]


def test_crun_has_all_it_needs(built: tuple[Path, Manifest]) -> None:
    assert "+SECCOMP" in in_guest(built[0], "/usr/bin/crun", "--version")


def test_the_manifest_tells_the_truth(built: tuple[Path, Manifest]) -> None:
    root, manifest = built
    there = {"/" + str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and not path.is_symlink()}
    assert {file.path for file in manifest.files} == there
    assert {"python3.11-minimal", "crun", "libc6"} <= {package.name for package in manifest.packages}
    assert not {path for path in there if path.endswith("/sh") or "busybox" in path}, "the guest needs no shell"
    assert all((root / file.path[1:]).stat().st_size == file.size for file in manifest.files)


def test_extra_packages_and_a_shell_for_debugging(tmp_path: Path) -> None:
    build_image(Recipe(kind="rootfs", debug=True, extra_packages=("kmod",)), tmp_path, lambda _: None)
    root = tmp_path / "rootfs"
    assert in_guest(root, "/bin/sh", "-c", "echo hello") == "hello\n"
    assert "kmod version" in in_guest(root, "/bin/kmod", "--version")
    assert (root / "sbin/modprobe").is_symlink()


def test_an_agent_that_does_not_load_leaves_the_old_image(tmp_path: Path, source: Path) -> None:
    (source / "agent/broken.py").write_text("import msgspec\n")
    output = tmp_path / "out"
    output.mkdir()
    (output / "kata-containers.img").write_bytes(b"old")
    with pytest.raises(AgentError) as caught:
        build_image(Recipe(source=str(source)), output, lambda _: None)
    assert "kata.agent.broken" in caught.value.detail
    assert "msgspec" in caught.value.detail
    assert (output / "kata-containers.img").read_bytes() == b"old"
    assert sorted(os.listdir(output)) == [".lock", "kata-containers.img"]
