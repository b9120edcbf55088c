"""Evidence of a failure is worth something only if it is there when it is needed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.helpers.evidence import TAIL, collect, descendants


def test_the_end_of_each_log_and_each_process(tmp_path: Path) -> None:
    (tmp_path / "sbs").mkdir()
    (tmp_path / "sbs" / "runtime.log").write_bytes(b"early" + b"." * TAIL + b"\xfflast words")
    (tmp_path / "console").write_text("Kernel panic")
    (tmp_path / "secret").write_text("not a log")
    with subprocess.Popen(["/bin/sh", "-c", "sleep 60 & wait"], stdout=subprocess.PIPE) as process:
        try:
            while len(below := descendants(process.pid)) < 1:
                assert process.poll() is None
            found = dict(collect([tmp_path], os.getpid()))
        finally:
            for pid in (*descendants(process.pid), process.pid):
                os.kill(pid, 9)
    log = found[str(tmp_path / "sbs" / "runtime.log")]
    assert log.endswith("last words")
    assert "early" not in log
    assert found[str(tmp_path / "console")] == "Kernel panic"
    assert not any("not a log" in text for text in found.values())
    assert "sleep 60" in found[f"process {below[0]}"] or "/bin/sh" in found[f"process {below[0]}"]
    assert "State:" in found[f"process {process.pid}"]


def test_a_process_that_has_gone_has_no_descendants() -> None:
    done = subprocess.Popen(["/bin/true"])
    done.wait()
    assert descendants(done.pid) == []
