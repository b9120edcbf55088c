"""The service's surface: every handler answers an RPC that exists, every error has its code."""

from __future__ import annotations

import pytest

from kata.agent import errors
from kata.agent.devices.errors import DeviceTimeout
from kata.agent.service import AgentService, Health, to_status
from kata.agent.storages.errors import InvalidStorage, UnsupportedStorage
from kata.oci.errors import SpecError
from kata.protocol.messages import service
from kata.protocol.server import snake_case
from kata.protocol.status import Code, RpcError

EXPECTED = """
CreateSandbox DestroySandbox CreateContainer StartContainer RemoveContainer ExecProcess SignalProcess WaitProcess
WriteStdin ReadStdout ReadStderr CloseStdin TtyWinResize StatsContainer GetGuestDetails ReseedRandomDev
SetGuestDateTime OnlineCPUMem CopyFile UpdateInterface UpdateRoutes ListInterfaces ListRoutes AddARPNeighbors
PauseContainer ResumeContainer UpdateContainer GetOOMEvent GetVolumeStats ResizeVolume UpdateEphemeralMounts
RemoveStaleVirtiofsShareMounts AddSwap AddSwapPath MemHotplugByProbe GetMetrics GetDiagnosticData GetIPTables
SetIPTables SetPolicy
"""


def handlers(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_every_handler_is_an_rpc_and_the_promised_ones_are_there() -> None:
    names = {snake_case(method.name) for method in service("grpc.AgentService").methods}
    assert handlers(AgentService) <= names
    assert {snake_case(name) for name in EXPECTED.split()} <= handlers(AgentService)
    assert handlers(Health) == {snake_case(method.name) for method in service("grpc.Health").methods}


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (errors.UnknownContainer("x"), Code.INVALID_ARGUMENT, "Invalid container id 'x'"),
        (errors.BadRequest("no", hint="do", detail="why"), Code.INVALID_ARGUMENT, "no; do; why"),
        (errors.UnknownProcess("p"), Code.NOT_FOUND, "p"),
        (errors.AlreadyExists("a"), Code.ALREADY_EXISTS, "a"),
        (errors.WrongState("w"), Code.FAILED_PRECONDITION, "w"),
        (errors.NoTerminal("t"), Code.UNAVAILABLE, "t"),
        (errors.SandboxGone("g"), Code.UNAVAILABLE, "g"),
        (errors.ContainerTimeout("ETIME"), Code.INTERNAL, "ETIME"),
        (UnsupportedStorage("u"), Code.UNIMPLEMENTED, "u"),
        (DeviceTimeout("a disk", 3), Code.DEADLINE_EXCEEDED, "waiting for a disk; The kernel parameter"),
        (InvalidStorage("s"), Code.INVALID_ARGUMENT, "s"),
        (SpecError("o"), Code.INVALID_ARGUMENT, "o"),
        (ProcessLookupError(3, "whatever"), Code.INTERNAL, "ESRCH: No such process"),
        (OSError(2, "No such file", "/x"), Code.INTERNAL, "/x"),
        (KeyError(), Code.INTERNAL, "KeyError"),
        (RpcError(Code.ABORTED, "as it is"), Code.ABORTED, "as it is"),
    ],
)
def test_codes(error: BaseException, code: Code, text: str) -> None:
    status = to_status(error)
    assert status.code == code
    assert text in status.message
