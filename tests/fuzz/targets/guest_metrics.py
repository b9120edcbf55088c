"""What a guest says of itself to Prometheus: what comes out is well-formed, and stays as it is in a second turn."""

from __future__ import annotations

import re

from kata.management.exposition import of_guest

SEEDS = (
    b"# HELP kata_guest_load Guest system load.\n# TYPE kata_guest_load gauge\n"
    b'kata_guest_load{item="load1"} 0.5\nkata_guest_load{item="load5"} 1e-3\n',
    b'process_cpu_seconds_total 3\nkata_agent_x{a="b\\"c",d="e"} +Inf\nkata_guest_y NaN\n',
    b'kata_guest_load{a="1",a="2"} 1\nkata_shim_forged 1\n',
)
TOKENS = (
    b"# TYPE ",
    b"# HELP ",
    b"kata_guest_",
    b"process_",
    b'{a="',
    b'"}',
    b"\\n",
    b" Inf",
    b"\r",
    b"\x85",
    "\u2028".encode(),
)
LINE = re.compile(r"(# (HELP|TYPE) kata_(agent|guest)_\w+ .*|kata_(agent|guest)_\w+(\{.*\})? [-+.0-9eEINainf]+)")


def target(data: bytes) -> None:
    """Each line speaks of the guest, and none is there twice."""
    made = of_guest(data.decode("utf-8", "replace"))
    # What the agent says of its process gets a longer name, which may then be too long.
    assert of_guest(made) == made or "kata_agent_process_" in made
    lines = made.split("\n")[:-1]
    assert all(LINE.fullmatch(line) for line in lines)
    keys = [line.rpartition(" ")[0] if line[0] != "#" else " ".join(line.split(" ")[:3]) for line in lines]
    assert len(set(keys)) == len(keys)
    _in_order(lines)


def _in_order(lines: list[str]) -> None:
    """A comment after a sample of the same name makes the whole text wrong."""
    seen = set()
    for line in lines:
        if line.startswith("# "):
            assert line.split(" ")[2] not in seen
        else:
            seen.add(re.split(r"[{ ]", line)[0])
