"""The last edge: whatever goes wrong is a sentence, a hint and an exit code."""

from __future__ import annotations

import argparse
import errno
import os
import subprocess
import sys

import pytest

from kata.ctl.__main__ import COMMANDS, _execute, main
from kata.errors import KataError
from kata.sandbox.errors import CommandNotFoundError, CommandNotRunnableError


def outcome(error: BaseException, command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    def fail(_: argparse.Namespace) -> int:
        raise error

    code = _execute(argparse.Namespace(command_name=command, execute=fail))
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "command", "code", "text"),
    [
        (KataError("it broke", hint="mend it"), "run", 125, "kata: host: it broke\n  hint: mend it\n"),
        (KataError("it broke", layer="VMM"), "ps", 1, "kata: VMM: it broke\n"),
        (
            CommandNotFoundError("'x' is not there"),
            "exec",
            127,
            "kata: container: 'x' is not there\n  hint: kata run --entrypoint sh looks around\n",
        ),
        (CommandNotRunnableError("'x' cannot run"), "run", 126, "kata: container: 'x' cannot run\n"),
        (KeyboardInterrupt(), "run", 130, ""),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "run", 125, "kata: host: the disk is full\n"),
        (OSError(errno.ENOSPC, "", "/x"), "ps", 1, "kata: host: the disk is full (/x)\n  hint: kata check"),
        (
            OSError(errno.EROFS, "", "/x"),
            "ps",
            1,
            "kata: host: the file system is read-only (/x)\n  hint: mount it for",
        ),
        (OSError(errno.EMFILE, ""), "ps", 1, "this process may open no more files\n  hint: raise the limit: ulimit -n"),
        (OSError(errno.ENFILE, ""), "ps", 1, "the host may open no more files\n  hint: raise the limit: sysctl"),
        (MemoryError(), "ps", 1, "kata: host: there is no memory left\n  hint: free some"),
        (RuntimeError("can't start new thread"), "ps", 1, "no more processes or threads may be started\n  hint: end"),
        (BlockingIOError(errno.EAGAIN, ""), "ps", 1, "no more processes or threads may be started"),
        (BlockingIOError(errno.EAGAIN, "try again", "/x"), "ps", 1, "the system refused: try again (/x)"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "ps", 1, "refused: Permission denied (/x)"),
        (ZeroDivisionError("oops"), "ps", 1, "unexpected fault: ZeroDivisionError: oops"),
    ],
)
def test_every_failure(
    error: BaseException, command: str, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found, said = outcome(error, command, capsys)
    assert found == code
    assert text in said
    assert "Traceback" not in said


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: kata {command}" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "code"), [(["run", "--bogus"], 125), (["ps", "--bogus"], 2), (["bogus"], 2)])
def test_wrong_options_name_the_way_to_the_help(
    words: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == code
    assert "--help" in capsys.readouterr().err


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_no_surprise(closed: str) -> None:
    """A file that is opened later must not take their numbers: `kata run -i <&-` waited for itself for ever."""
    program = (
        "import os, sys; from kata.ctl.__main__ import main; code = main([]);"
        "names = [os.readlink(f'/proc/self/fd/{n}') for n in (0, 1, 2)];"
        "os.write(int(sys.argv[1]), f'{code} {os.devnull in names}'.encode())"
    )
    reading, writing = os.pipe()
    argv = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-I", "-c", program, str(writing)]
    done = subprocess.run(argv, pass_fds=[writing], capture_output=True, timeout=60, check=False)
    os.close(writing)
    with os.fdopen(reading) as said:
        assert said.read() == "2 True"
    assert done.returncode == 0


@pytest.mark.parametrize("words", [["run"], ["run", "--rm"]])
def test_only_what_is_missing_is_asked_for(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)
    said = capsys.readouterr().err
    assert "IMAGE" in said
    assert "COMMAND" not in said
