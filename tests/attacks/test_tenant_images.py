"""Images that strangers made, on their way into the store and to a root file system (more: test_images_hostile.py)."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kata.ctl.errors import show
from kata.images import layers, tarheaders, workspace
from kata.images.errors import ImageError, MalformedImageError, NoSpaceError
from kata.images.source import look_at
from kata.images.store import ImageStore
from kata.linux.process import run
from tests.helpers.cli import ARGV
from tests.unit.images import crafted
from tests.unit.images.crafted import LAYER, entry, tar

pytestmark = pytest.mark.root

MIB = 1 << 20
MEMORY = 768 * MIB
"""Bytes of address space in which the command has to do: an import of an ordinary image takes a third of them."""


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "store")


def records(**pairs: str) -> bytes:
    """The content of a pax header."""
    out = b""
    for key, value in pairs.items():
        body = f" {key.replace('__', '.')}={value}\n".encode()
        length = len(body)
        while len(str(length)) + len(body) != length:
            length = len(str(length)) + len(body)
        out += str(length).encode() + body
    return out


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """One header, whatever it claims."""
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def extended(**pairs: str) -> bytes:
    data = records(**pairs)
    return header("x", len(data), tarfile.XHDTYPE) + data.ljust(-(-len(data) // 512) * 512, b"\0")


def sparse_bomb(entries: int) -> bytes:
    """A file of nothing whose map of holes has this many entries: GNU's sparse format 1.0."""
    start = extended(GNU__sparse__major="1", GNU__sparse__minor="0", GNU__sparse__name="x", GNU__sparse__realsize="0")
    body = f"{entries}\n".encode() + b"0\n" * (2 * entries)
    body = body.ljust(-(-len(body) // 512) * 512, b"\0")
    return start + header("x", len(body)) + body + bytes(1024)


Packer = type[gzip.GzipFile] | type[bz2.BZ2File] | type[lzma.LZMAFile]


def zeros(pack: Packer, path: Path, start: bytes, count: int) -> None:
    """A compressed file that begins with `start` and goes on with MiB of zeros."""
    with pack(path, "wb") as file:
        file.write(start)
        for _ in range(count):
            file.write(bytes(MIB))


def command(*words: str) -> subprocess.CompletedProcess[bytes]:
    """`kata` with little memory and time; a fault of ours would show as a traceback, or as the kernel's SIGKILL."""
    argv = ["prlimit", f"--as={MEMORY}", "--cpu=60", "--", *ARGV, *words]
    done = subprocess.run(argv, capture_output=True, timeout=120, check=False)
    assert b"Traceback" not in done.stderr and b"MemoryError" not in done.stderr, done.stderr.decode()
    assert done.returncode >= 0, f"killed by {-done.returncode}"
    return done


# Bombs


@pytest.mark.parametrize("size", [6 << 30, 1 << 50])
@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_headers_of_archives_that_claim_gigabytes(kind: bytes, size: int, tmp_path: Path) -> None:
    """Such a header was read into memory, and only then found wanting."""
    zeros(gzip.GzipFile, tmp_path / "a.tar.gz", header("x", size, kind), 300)
    done = command("image", "import", str(tmp_path / "a.tar.gz"))
    assert done.returncode and b"is no image" in done.stderr


@pytest.mark.parametrize("pack", [gzip.GzipFile, bz2.BZ2File, lzma.LZMAFile])
def test_archives_that_unpack_to_far_more_than_they_are(
    pack: Packer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """400 bytes of bzip2 may be hours of zeros, which look like the content of one large file."""
    monkeypatch.setattr(tarheaders, "FREE", 16 * MIB)
    monkeypatch.setattr(tarheaders, "RATIO", 100)
    zeros(pack, tmp_path / "a", header("layer.tar", 1 << 40), 64)
    with (
        pytest.raises(tarheaders.BadArchiveError, match="far more"),
        tarheaders.open_archive(tmp_path / "a") as archive,
    ):
        while archive.next() is not None:
            pass


@pytest.mark.parametrize("packed", [False, True])
def test_cve_2025_58183_maps_of_sparse_files(packed: bool, tmp_path: Path) -> None:
    """A layer of 800 KB took gigabytes and minutes, here and in umoci after us: it is refused by its header."""
    data = sparse_bomb(200_000)
    (tmp_path / "l").write_bytes(gzip.compress(data) if packed else data)
    read = 0
    original = tarheaders.TarReader._read

    def count(self: tarheaders.TarReader, size: int, *, at_end: bool = False) -> bytes:
        nonlocal read
        read += size
        return original(self, size, at_end=at_end)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tarheaders.TarReader, "_read", count)
        with pytest.raises(MalformedImageError) as caught:
            layers.measure([(tmp_path / "l", f"{LAYER}+gzip" if packed else LAYER)], 1 << 40)
    assert "sparse" in caught.value.detail
    assert read < 4096


@pytest.mark.parametrize(
    "start",
    [
        header("x", 0, tarfile.GNUTYPE_SPARSE),
        extended(GNU__sparse__map="0,0,0,0") + header("x", 0),
        extended(GNU__sparse__major="0", GNU__sparse__numblocks="1000000000") + header("x", 0),
    ],
)
def test_cve_2025_58183_every_form_of_them(start: bytes, tmp_path: Path) -> None:
    (tmp_path / "l").write_bytes(start + bytes(1024))
    with pytest.raises(MalformedImageError):
        layers.measure([(tmp_path / "l", LAYER)], 1 << 40)


IMPORT = f"""
import resource, sys
from pathlib import Path
from kata.images import workspace
from kata.images.errors import ImageError
from kata.images.store import ImageStore
workspace.MEMORY = {200 * MIB}
try:
    ImageStore(Path(sys.argv[1])).import_(sys.argv[2], "x")
except ImageError:
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_programs_that_read_archives_have_a_limit_of_memory(store: ImageStore, tmp_path: Path) -> None:
    """What is behind the part that we look at is skopeo's: it ends, and not the host's memory.

    In a small process of its own, since what a parent has resident counts as its child's until that is another program.
    """
    crafted.small(tmp_path / "l")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "l", ".")
    whole = (tmp_path / "a.tar").read_bytes().rstrip(b"\0")
    whole = whole.ljust(-(-len(whole) // 512) * 512, b"\0")
    (tmp_path / "a.tar").write_bytes(whole + sparse_bomb(12_000_000))
    argv = [sys.executable, "-I", "-c", IMPORT, str(store.root), f"oci-archive:{tmp_path / 'a.tar'}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert 0 < int(done.stdout) << 10 < 300 * MIB, done.stderr
    assert store.list() == [] and [file.name for file in store.work.iterdir()] == [".lock"]


def test_many_entries_and_many_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million headers that only say more of the next one are a million headers."""
    monkeypatch.setattr(layers, "MAX_ENTRIES", 1000)
    for data in (
        b"".join(header(f"f{number}", 0) for number in range(1001)),
        extended(path="x") * 1001 + header("y", 0),
        header("x", 0, tarfile.XGLTYPE) * 1001 + header("y", 0),
    ):
        (tmp_path / "l").write_bytes(data + bytes(1024))
        with pytest.raises(NoSpaceError):
            layers.measure([(tmp_path / "l", LAYER)], 1 << 40)


def test_ten_thousand_whiteouts(store: ImageStore, tmp_path: Path) -> None:
    files = [entry(f"d/f{number}", b"") for number in range(10_000)]
    gone = [entry(f"d/.wh.f{number}", b"") for number in range(10_000)]
    crafted.image(tmp_path / "l", tar(*files), tar(*gone), tar(entry("d/.wh..wh..opq", b""), entry("left", b"x")))
    begin = time.monotonic()
    with store.rootfs(store.import_(str(tmp_path / "l"), "x")) as rootfs:
        assert listing(rootfs.path) == ["d", "left"]
    assert time.monotonic() - begin < 120


# Numbers and names that are none


@pytest.mark.parametrize(
    "change",
    [
        lambda block: block[:124] + b"\xff" * 12 + block[136:],  # a negative size: an endless loop (CVE-2025-8194)
        lambda block: block[:124] + b"\x80" + b"\xff" * 11 + block[136:],
        lambda block: block[:124] + b"99999999999\0" + block[136:],
        lambda block: block[:124] + b"-0000000001\0" + block[136:],
        lambda block: block[:124] + b"0x1\0        "[:12] + block[136:],
        lambda block: block[:148] + b"0000000\0" + block[156:],
    ],
)
def test_cve_2025_8194_sizes_and_sums_that_are_none(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    block = change(header("x", 0))
    if block[148:156] != b"0000000\0":
        total = sum(block[:148]) + 8 * 32 + sum(block[156:])
        block = block[:148] + f"{total:06o}\0 ".encode() + block[156:]
    (tmp_path / "l").write_bytes(block + bytes(4096))
    with pytest.raises(MalformedImageError):
        layers.measure([(tmp_path / "l", LAYER)], 1 << 40)
    with pytest.raises(ImageError):
        look_at(str(tmp_path / "l"))


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"1" * 100_000,
            b"11 path=x\n" * 3 + b"x",
            b"5 a=b\n",
            b"0 a=b\n",
            b"-6 a=b\n",
            b"999 path=x\n",
            b"10 pathxxx\n",
        ),
        *(b"99999999999999999999 path=x\n", "\u0661\u0661 path=x\n".encode(), b"\0" * 600),
    ],
)
def test_cve_2024_6232_extended_headers_that_make_no_sense(data: bytes, tmp_path: Path) -> None:
    """CVE-2024-6232: digits without end kept Python's own reader busy for a quarter of an hour."""
    padded = data.ljust(-(-len(data) // 512) * 512, b"\0")
    (tmp_path / "l").write_bytes(header("x", len(data), tarfile.XHDTYPE) + padded + header("y", 0) + bytes(1024))
    begin = time.monotonic()
    with pytest.raises(MalformedImageError):
        layers.measure([(tmp_path / "l", LAYER)], 1 << 40)
    assert time.monotonic() - begin < 5


def test_the_reader_agrees_with_others(tmp_path: Path) -> None:
    """On what is sane: names long and short, in all forms, and what has data and what has not."""
    members = [
        *(entry("d", type=tarfile.DIRTYPE), entry("d/" + "n" * 150, b"x" * 700), entry("é/\u4e2d" + "p" * 300, b"")),
        *(entry("link", type=tarfile.SYMTYPE, linkname="/x" * 200), entry("hard", type=tarfile.LNKTYPE, linkname="d")),
        *(entry("fifo", type=tarfile.FIFOTYPE), entry("dev", type=tarfile.CHRTYPE), entry("big", bytes(100_000))),
    ]
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / "a", "w", format=form) as archive:
            for member, data in members:
                archive.addfile(member, io.BytesIO(data) if member.isreg() else None)
        with tarfile.open(tmp_path / "a") as archive:
            expected = [(member.name, member.size if member.isreg() else 0) for member in archive]
        for pack in ([], ["gzip"], ["bzip2"], ["xz"]):
            if pack:
                run([*pack, "-kf", str(tmp_path / "a")], timeout=30)
            [path] = [tmp_path / "a"] if not pack else list(tmp_path.glob("a.*"))
            with tarheaders.open_archive(path) as reader:
                found = [(member.name.rstrip("/"), member.size) for member in iter(reader.next, None)]
            assert found == expected
            if pack:
                path.unlink()


# What an image has in it


def listing(path: Path) -> list[str]:
    """What an erofs file has, by fsck.erofs."""
    place = path.parent / "extracted"
    subprocess.run(["fsck.erofs", f"--extract={place}", str(path)], check=True, capture_output=True, timeout=60)
    found = sorted(str(file.relative_to(place)) for file in place.rglob("*"))
    subprocess.run(["rm", "-rf", str(place)], check=True, timeout=60)
    return found


def test_devices_pipes_and_setuid_files_are_never_opened_or_run(store: ImageStore, tmp_path: Path) -> None:
    """They become entries of the guest's file system. Where an unpacked tree lies, nobody but root can get at them."""
    devices = [entry(name, type=kind, devmajor=8, devminor=0, mode=0o666)
               for name, kind in (("blk", tarfile.BLKTYPE), ("chr", tarfile.CHRTYPE))]  # fmt: skip
    crafted.image(
        tmp_path / "l",
        tar(
            *devices,
            entry("etc", type=tarfile.DIRTYPE),
            entry("etc/passwd", type=tarfile.FIFOTYPE),
            entry("etc/group", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
            entry("suid", b"#!/bin/sh\n", mode=0o6777),
        ),
    )
    modes: list[int] = []
    sweeping = workspace.remove_tree

    def look(path: Path) -> None:
        modes.extend(place.stat().st_mode & 0o077 for place in (path, path / "unpacked") if place.exists())
        sweeping(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workspace, "remove_tree", look)
        image = store.import_(str(tmp_path / "l"), "x")
        with store.rootfs(image) as rootfs:
            assert (rootfs.passwd, rootfs.group) == ("", "")
            assert stat.S_IMODE(os.fstat(rootfs.fd).st_mode) == 0o600
            assert {"blk", "chr", "suid", "etc/passwd", "etc/group"} <= set(listing(rootfs.path))
    assert modes and set(modes) == {0}


@pytest.mark.parametrize(
    "entries",
    [
        [entry("a", b"1"), entry("a", b"2")],
        [entry("a", type=tarfile.SYMTYPE, linkname="/etc"), entry("a", type=tarfile.DIRTYPE), entry("a/shadow", b"x")],
        [entry("a", type=tarfile.DIRTYPE), entry("a/b", b""), entry("a", type=tarfile.SYMTYPE, linkname="/etc")],
        [entry("a", b""), entry("a/b", b"x")],
        [entry("etc", type=tarfile.SYMTYPE, linkname="etc"), entry("etc/passwd", b"x")],
        [entry("/", type=tarfile.SYMTYPE, linkname="/etc"), entry("/x", b"")],
        [entry("\udcff\udcfe", b""), entry("a\nb", b""), entry("-rf", b""), entry("--help", b""), entry(" ", b"")],
    ],
)
def test_entries_that_come_twice_or_have_odd_names(
    entries: list[tuple[tarfile.TarInfo, bytes]], store: ImageStore, tmp_path: Path
) -> None:
    """Whatever becomes of them, it is inside or an error, and the host's files are as they were."""
    watched = [Path("/etc/passwd"), Path("/etc/hostname"), Path("/etc")]
    before = [os.stat(path) for path in watched]
    with tarfile.open(tmp_path / "layer", "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as archive:
        for member, data in entries:
            archive.addfile(member, io.BytesIO(data) if member.isreg() else None)
    crafted.image(tmp_path / "l", (tmp_path / "layer").read_bytes())
    try:
        store.rootfs(store.import_(str(tmp_path / "l"), "x")).close()
    except ImageError as error:
        assert error.what
    assert [(found.st_ino, found.st_mtime_ns) for found in map(os.stat, watched)] == [
        (found.st_ino, found.st_mtime_ns) for found in before
    ]
    assert [file.name for file in store.work.iterdir()] == [".lock"]


# What an image says of itself


@pytest.fixture
def data_of_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageStore:
    """The store of the command, in a folder of the test's."""
    monkeypatch.setenv("KATA_DATA_DIR", str(tmp_path / "data"))
    return ImageStore()


ESCAPES = "\x1b]0;owned\x07\x1b[2J\r\u202e\x9b31m"


def test_nothing_that_an_image_says_commands_a_terminal(
    data_of_command: ImageStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its architecture, its layers' types, its names: in messages and in tables."""
    crafted.small(tmp_path / "os", os=ESCAPES)
    crafted.small(tmp_path / "arch", architecture=f"amd64{ESCAPES}")
    crafted.image(tmp_path / "type", tar(entry("a")))
    index = json.loads((tmp_path / "type/index.json").read_text())
    manifest = tmp_path / "type/blobs/sha256" / index["manifests"][0]["digest"][7:]
    document = json.loads(manifest.read_text())
    document["layers"][0]["mediaType"] = ESCAPES
    crafted.entry_point(tmp_path / "type", json.dumps(document).encode())
    for name in ("os", "arch", "type"):
        said = command("image", "import", str(tmp_path / name))
        print(said.stdout.decode(), said.stderr.decode())
        for image in data_of_command.list():
            with pytest.raises(ImageError) as caught:
                data_of_command.rootfs(image)
            show(caught.value)  # what `kata run` does with it
    print(command("image", "ls").stdout.decode())
    text = "".join(capsys.readouterr())
    assert text.count("owned") > 3, "some of it is told"
    assert not [char for char in text if not (char.isprintable() or char == "\n")], text


@pytest.mark.parametrize("what", ["manifest", "config"])
def test_documents_of_many_megabytes(what: str, store: ImageStore, tmp_path: Path) -> None:
    padding = {"x": "y" * (5 << 20)}
    if what == "config":
        crafted.small(tmp_path / "l", config={"Labels": padding})
    else:
        crafted.small(tmp_path / "l")
    index = json.loads((tmp_path / "l/index.json").read_text())
    if what == "manifest":
        manifest = tmp_path / "l/blobs/sha256" / index["manifests"][0]["digest"][7:]
        document = {**json.loads(manifest.read_text()), "annotations": padding}
        crafted.entry_point(tmp_path / "l", json.dumps(document).encode())
    with pytest.raises(ImageError):
        store.import_(str(tmp_path / "l"), "x")
    assert store.list() == []


@pytest.mark.parametrize("place", ["layer", "config", "manifest"])
def test_content_that_is_not_what_its_digest_says(place: str, store: ImageStore, tmp_path: Path) -> None:
    crafted.small(tmp_path / "l")
    index = json.loads((tmp_path / "l/index.json").read_text())
    manifest = tmp_path / "l/blobs/sha256" / index["manifests"][0]["digest"][7:]
    document = json.loads(manifest.read_text())
    digests = {"manifest": manifest.name, "config": document["config"]["digest"][7:]}
    blob = tmp_path / "l/blobs/sha256" / digests.get(place, document["layers"][0]["digest"][7:])
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    with pytest.raises(ImageError):
        store.import_(str(tmp_path / "l"), "x")
    assert store.list() == [] and not list(store.layout.glob("blobs/sha256/*"))


def test_the_tests_command_can_import_at_all(data_of_command: ImageStore, tmp_path: Path) -> None:
    """Else the limits of `command` would be what refuses."""
    crafted.small(tmp_path / "l")
    done = command("image", "import", str(tmp_path / "l"), "fine")
    assert (done.returncode, done.stdout) == (0, b"fine:latest\n"), done.stderr
    assert sys.executable in ARGV
