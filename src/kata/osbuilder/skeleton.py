"""The parts of a guest's root file system that come from no package: folders, links, a few small files.

Called by `image`. The image is read-only: whatever is written at run time lies below /run, /tmp or a mount.
"""

from __future__ import annotations

from pathlib import Path

from kata.osbuilder.recipe import AGENT_ROOT
from kata.version import __version__

FOLDERS = {
    "dev": 0o755,
    "etc": 0o755,
    "mnt": 0o755,
    "proc": 0o555,
    "root": 0o700,
    "run": 0o755,
    "sys": 0o555,
    "tmp": 0o1777,
    "usr/bin": 0o755,
    "usr/lib": 0o755,
    "usr/lib64": 0o755,
    "usr/sbin": 0o755,
    # The interpreter takes this folder as the proof that it found its installation, even when it is empty.
    "usr/lib/python3.11/lib-dynload": 0o755,
    "var/lib": 0o755,
    "var/log": 0o755,
    "var/tmp": 0o1777,
}
LINKS = {
    "bin": "usr/bin",
    "sbin": "usr/sbin",
    "lib": "usr/lib",
    "lib64": "usr/lib64",
    "var/run": "/run",
    "etc/mtab": "/proc/self/mounts",
}
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    # Empty files are there to be mounted over.
    "etc/hostname": "",
    "etc/machine-id": "",
    "etc/resolv.conf": "",
}
OS_RELEASE = f'NAME="Kata Containers guest"\nID=kata\nID_LIKE=debian\nVERSION_ID={__version__}\n'

INIT = f"""#!/usr/bin/python3.11 -IS
import sys

sys.path.insert(0, "/{AGENT_ROOT}")
from kata.agent.__main__ import main

main()
"""


def lay_out(root: Path, init_names: tuple[str, ...]) -> None:
    """Make folders, links and files in `root`; the agent is started by each of `init_names`."""
    for path, mode in FOLDERS.items():
        (root / path).mkdir(parents=True, exist_ok=True)
        (root / path).chmod(mode)
    for path, target in LINKS.items():
        if not (root / path).is_symlink():
            (root / path).symlink_to(target)
    for path, text in (*FILES.items(), ("etc/os-release", OS_RELEASE)):
        (root / path).unlink(missing_ok=True)
        (root / path).write_text(text)
        (root / path).chmod(0o644)
    for name in init_names:
        (root / name).unlink(missing_ok=True)
        (root / name).write_text(INIT)
        (root / name).chmod(0o755)
