"""Network namespaces of tests: named by our process, removed whatever happens, and what the real tools say of them."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_CARRIER = {"LOWER_UP", "NO-CARRIER"}  # seen a moment after the other end came up
_numbers = itertools.count()


def run(*words: str, check: bool = True, **options: Any) -> str:
    """What a command says; its standard error is the failure's text."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, **options)
    assert not check or done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
    return str(done.stdout)


class Netns:
    """A namespace below /run/netns. Programs enter it by nsenter: `ip netns exec` would mount /sys anew."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = f"/run/netns/{name}"

    def command(self, *words: str, check: bool = True, **options: Any) -> str:
        return run("nsenter", f"--net={self.path}", *words, check=check, **options)

    def ip(self, command: str) -> None:
        run("ip", "-n", self.name, *command.split())

    def json(self, command: str) -> list[dict[str, Any]]:
        """What `ip -j` says."""
        answer: list[dict[str, Any]] = json.loads(run("ip", "-n", self.name, "-d", "-j", *command.split()) or "[]")
        return answer

    def state(self) -> dict[str, Any]:
        """Links, addresses, routes and traffic control: what must be the same after as before."""
        links = [
            (entry["ifname"], entry["address"], entry["mtu"], sorted(set(entry["flags"]) - _CARRIER))
            for entry in self.json("link")
        ]
        addresses = [
            (entry["ifname"], sorted(info["local"] for info in entry["addr_info"])) for entry in self.json("address")
        ]
        filters = {name: self.command("tc", "filter", "show", "dev", name, "ingress") for name, *_ in links}
        return {
            "links": links,
            "addresses": addresses,
            "routes": self.json("route"),
            "qdiscs": self.command("tc", "qdisc", "show"),
            "filters": filters,
        }

    def ping(self, address: str, *, size: int = 56, wait: int = 10) -> bool:
        """Whether an echo comes back within `wait` seconds."""
        words = ("busybox", "ping", "-c", "1", "-W", str(wait), "-s", str(size), address)
        return "1 packets received" in self.command(*words, check=False)


@contextmanager
def netns(label: str = "n") -> Iterator[Netns]:
    """A new namespace with loopback up."""
    made = Netns(f"kt{label}-{os.getpid()}-{next(_numbers)}")
    run("ip", "netns", "add", made.name)
    try:
        made.ip("link set lo up")
        # Whether an IPv6 address is a duplicate takes seconds to find out, and nothing here is.
        made.command("sh", "-c", "echo 0 | tee /proc/sys/net/ipv6/conf/*/accept_dad")
        yield made
    finally:
        run("ip", "netns", "del", made.name, check=False)


def connect(outside: Netns, pod: Netns, number: int = 0, mtu: int = 1500) -> None:
    """A veth pair: `out<number>` (10.77.<number>.1, fd77:<number>::1) outside, `eth<number>` (….2) in the pod."""
    eth, out = f"eth{number}", f"out{number}"
    outside.ip(f"link add {out} mtu {mtu} type veth peer name {eth} mtu {mtu} netns {pod.name}")
    for end, name, last in ((outside, out, 1), (pod, eth, 2)):
        end.ip(f"link set {name} addrgenmode none")
        end.ip(f"addr add 10.77.{number}.{last}/24 dev {name}")
        end.ip(f"addr add fd77:{number}::{last}/64 dev {name} nodad")
        end.ip(f"link set {name} up")


def open_fds() -> set[str]:
    """What this process has open."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
        except FileNotFoundError:
            pass  # that of the listing itself
    return found
