"""What crun says through the agent, and which exit code it comes to."""

from __future__ import annotations

import pytest

from kata.protocol.status import Code, RpcError
from kata.sandbox.agent_errors import understand
from kata.sandbox.errors import CommandNotFoundError, CommandNotRunnableError, ContainerError


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("crun create: executable file `x` not found in $PATH: No such file or directory", CommandNotFoundError),
        ("crun create: open executable: No such file or directory", CommandNotFoundError),
        ("crun start: exec container process `/s`: No such file or directory", CommandNotFoundError),
        ("crun create: open executable: Permission denied", CommandNotRunnableError),
        ("crun start: exec container process `/s`: Exec format error", CommandNotRunnableError),
        ("crun exec: chdir `/nodir`: No such file or directory", CommandNotRunnableError),
        ("crun create: mount `/a` to `b`: No such file or directory", ContainerError),
    ],
)
def test_the_kind_of_failure(text: str, kind: type[ContainerError]) -> None:
    assert type(understand("CreateContainer", RpcError(Code.INTERNAL, text))) is kind
