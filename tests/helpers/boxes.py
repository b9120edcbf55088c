"""Containers in network namespaces of the tests', each with an echo server."""

from __future__ import annotations

import time

from tests.helpers.containerd import Containerd
from tests.helpers.traffic import dial, exchange
from tests.kernel.netns import Netns

ECHO = "while :; do nc -l -p 5000 -e cat; done"


PATIENT = """
[agent.kata]
dial_timeout = 150
"""
"""A configuration for several emulated guests on a busy host; ctr waits a little longer."""


class Box:
    """A container in a pod's namespace, with an echo server at port 5000."""

    def __init__(self, daemon: Containerd, name: str, pod: Netns, result: tuple[str, str]) -> None:
        self.daemon, self.name, self.pod = daemon, name, pod
        self.four, self.six = result
        self._execs = 0

    def start(self, *options: str) -> None:
        """Run it; `options` are more of ctr's."""
        self.daemon.run(self.name, "sh", "-c", ECHO, options=("--with-ns", f"network:{self.pod.path}", *options))

    def shell(self, script: str) -> str:
        """What a script says that must succeed."""
        self._execs += 1
        done = self.daemon.exec(self.name, f"e{self._execs}", "sh", "-c", script)
        assert done.returncode == 0, f"{script}: {done.stdout.decode()}{done.stderr.decode()}"
        return done.stdout.decode()


def check_echo(place: Netns, address: str, mib: int) -> float:
    """Send data to a box and back; seconds that it took."""
    with dial(place, address, 5000) as sock:
        begin = time.monotonic()
        sent, came = exchange(sock, mib)
    assert came == sent
    seconds = time.monotonic() - begin
    print(f"{address}: {mib / seconds:.0f} MiB/s each way")
    return seconds
