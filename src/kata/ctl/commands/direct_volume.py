"""`kata direct-volume`: volumes that a guest gets as disks, as drivers of storage (CSI) record them."""

from __future__ import annotations

import argparse
import json
import os
from urllib.parse import quote

HELP = "record a volume that guests get as a disk, and look at it while it is used"

EPILOG = """\
examples:
  kata direct-volume add --volume-path /var/lib/kubelet/.../mount \\
      --mount-info '{"volume-type": "block", "device": "/dev/sdb", "fstype": "ext4", "metadata": {}, "options": []}'
  kata direct-volume stats --volume-path /var/lib/kubelet/.../mount
  kata direct-volume resize --volume-path /var/lib/kubelet/.../mount --size 2147483648"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The four of upstream's."""
    ways = parser.add_subparsers(dest="way", required=True, metavar="WAY")
    for way, words in (
        ("add", "write down what the volume is"),
        ("remove", "forget a volume"),
        ("stats", "how full a volume is that a container uses, as JSON"),
        ("resize", "grow a volume that a container uses"),
    ):
        one = ways.add_parser(way, help=words, description=words, allow_abbrev=False)
        one.add_argument("--volume-path", required=True, metavar="P", help="the path at which it is published")
        if way == "add":
            one.add_argument("--mount-info", required=True, metavar="JSON", help="volume-type, device, fstype, ...")
        if way == "resize":
            one.add_argument("--size", required=True, type=int, metavar="N", help="bytes that it shall have")


def execute(args: argparse.Namespace) -> int:
    """Exit code 0 when it was done."""
    from kata.storage import directvolumes

    path = args.volume_path
    if args.way == "add":
        directvolumes.add(path, os.fsencode(args.mount_info))
    elif args.way == "remove":
        directvolumes.remove(path)
    elif args.way == "stats":
        print(_ask(path, "GET", f"/direct-volume/stats?path={quote(path, safe='')}").decode("utf-8", "replace"))
    else:
        _resize(path, args.size)
    return 0


def _resize(path: str, size: int) -> None:
    from kata.ctl.errors import UsageError

    if size <= 0:
        raise UsageError("--size must be a number of bytes above 0")
    _ask(path, "POST", "/direct-volume/resize", json.dumps({"VolumePath": path, "Size": size}).encode())


def _ask(volume_path: str, method: str, target: str, body: bytes = b"") -> bytes:
    """Have the sandbox answer that uses the volume."""
    from kata import paths
    from kata.management import client
    from kata.storage import directvolumes
    from kata.storage.errors import VolumeError

    users = [user for user in directvolumes.sandboxes(volume_path) if paths.monitor_socket(user).exists()]
    if not users:
        raise VolumeError(f"no running sandbox uses a direct volume at {volume_path}")
    return client.request(users[0], method, target, body)
