"""No exit status is lost, whatever the order of things. In a child process: a Reaper takes all children."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SRC = Path(__file__).parents[3] / "src"

PRELUDE = """
import os, signal, sys, threading, time
from kata.linux import syscalls
from kata.linux.reaper import Reaper
syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
reaper = Reaper()
null = os.open("/dev/null", os.O_RDWR)
def run(script):
    return reaper.run(["/bin/sh", "-c", script], {"PATH": "/bin:/usr/bin"}, null, null, null)
def orphan(script):
    # It begins only when its parent is gone: a shell that is still there may reap it.
    r, w = os.pipe()
    begin_r, begin_w = os.pipe()
    shell = ["/bin/sh", "-c", "exec 3<&0; (read x <&3; " + script + ") & echo $!"]
    ended = reaper.run(shell, {"PATH": "/bin:/usr/bin"}, begin_r, w, null)
    os.close(w); os.close(begin_r)
    pid = int(os.read(r, 100)); os.close(r)
    assert ended.wait(10) == 0
    os.close(begin_w)
    return pid
"""


def run(body: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + body],
        env={"PYTHONPATH": str(SRC), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


def test_codes_of_programs_however_short() -> None:
    run("""
exits = [run(f"exit {n}") for n in range(60)]
assert [e.wait(10) for e in exits] == list(range(60))
assert run("kill -9 $$").wait(10) == 137
assert run("sleep 100").wait(0.05) is None
""")


def test_orphans_dead_or_alive_are_claimed() -> None:
    run("""
with reaper.launching():
    pid = orphan("exit 9")
    time.sleep(0.2)
    assert reaper.claim(pid).wait(0) == 9
with reaper.launching():
    live = reaper.claim(orphan("sleep 0.3; exit 8"))
    assert live.code is None
assert live.wait(10) == 8
""")


def test_other_orphans_are_reaped_and_forgotten() -> None:
    run("""
pid = orphan("exit 9")
deadline = time.monotonic() + 10
while os.path.exists(f"/proc/{pid}"):
    assert time.monotonic() < deadline
with reaper.launching():
    try:
        reaper.claim(pid)
    except ProcessLookupError:
        pass
    else:
        sys.exit("claimed a process that is no child")
assert not reaper._unclaimed
""")


def test_signals_watchers_and_many_waiters() -> None:
    run("""
told = []
e = run("sleep 100")
e.on_end(lambda: told.append(1))
codes = []
threads = [threading.Thread(target=lambda: codes.append(e.wait(10))) for _ in range(5)]
for t in threads: t.start()
e.send(signal.SIGTERM)
for t in threads: t.join()
assert codes == [143] * 5 and told == [1]
e.on_end(lambda: told.append(2))
assert told == [1, 2]
try:
    e.send(signal.SIGTERM)
except ProcessLookupError:
    pass
else:
    sys.exit("sent a signal to nobody")
""")


def test_close_gives_everything_back() -> None:
    run("""
heard = []
reaper.on_signal = heard.append
signal.signal(signal.SIGTERM, lambda *a: None)
os.kill(os.getpid(), signal.SIGTERM)
assert run("exit 3").wait(10) == 3
assert heard == [signal.SIGTERM]
reaper.close()
assert threading.active_count() == 1
assert len(os.listdir("/proc/self/fd")) == 5, os.listdir("/proc/self/fd")  # 0, 1, 2, null, the listing
""")


def test_children_get_no_descriptor_and_default_signals() -> None:
    run("""
os.open("/etc/passwd", os.O_RDONLY)
assert run("test $(ls /proc/self/fd | wc -l) -eq 4").wait(10) == 0
assert run("yes | head -1").wait(10) == 0
r, w = os.pipe()
e = reaper.run(["/bin/cat", "/proc/self/status"], {}, null, w, null)
assert e.wait(10) == 0
status = os.read(r, 65536).decode()
ignored = int(status.split("SigIgn:")[1].split()[0], 16)
for signo in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores both
    assert not ignored >> (signo - 1) & 1, status
""")
