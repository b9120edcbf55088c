"""An agent that lies to `AgentClient`: each call ends in time with an error of the guest, and costs little memory."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from google.protobuf.message import Message

from kata.errors import KataError
from kata.sandbox import agent_client
from kata.sandbox.agent_client import AgentClient
from kata.sandbox.config import Patience
from kata.sandbox.containerplan import ContainerPlan
from kata.sandbox.errors import GuestError, SandboxError
from kata.sandbox.stdio import Asked
from kata.shim import stats
from tests.helpers import lying
from tests.helpers.lying import Lie, LyingAgent, bounds

PATIENCE = Patience(attempt=0.5, create=0.1, request=0.1)
WORDS_MAX = 2300
"""Characters of an error, with what the host adds."""
MIB = 48
"""What one wrong answer may cost, with the agent's own copies of it: a frame has 4 MiB, and both sides are here."""
SECONDS = 4.0
STALLS = {
    *(lying.never, lying.half_a_header, lying.announces_4_mib, lying.announces_4_gib, lying.flood_of_frames),
    *(lying.late, lying.hangs_up),
}
"""Lies after which nothing more comes: calls without a deadline wait until they are cancelled."""
REFUSALS = {lying.fails_with_escapes, lying.fails_strangely}
"""Errors as an agent may well send them: it is the container that failed, for all the host knows."""

TIMED: dict[str, Callable[[AgentClient], object]] = {
    "stats": lambda agent: agent.stats("box"),
    "create": lambda agent: agent.create_container("box", ContainerPlan({}, [])),
    "metrics": lambda agent: agent.metrics(),
    "get_ip_tables": lambda agent: agent.get_ip_tables(ipv6=False),
    "details": lambda agent: agent.guest_details(),
    "volume_stats": lambda agent: agent.volume_stats("/x"),
    "check": lambda agent: agent.check(0.1),
}
WAITING: dict[str, Callable[[AgentClient], Asked[object]]] = {
    "output": lambda agent: agent.ask_output("box", "box", stderr=False, size=100),
    "stdin": lambda agent: agent.write_stdin("box", "box", b"data"),
    "end": lambda agent: agent.ask_end("box", "box"),
}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_client, "METRICS_TIMEOUT", 0.1)


@contextmanager
def connected(folder: Path, lie: Lie | None = None, seed: int = 0) -> Iterator[tuple[AgentClient, LyingAgent]]:
    """A client whose agent is honest until the connection is there."""
    with LyingAgent(folder / "agent", seed=seed) as agent:
        client = AgentClient.connect(agent.address, 5.0, threading.Event(), None, PATIENCE)
        if lie is not None:
            agent.lies["*"] = lie
        try:
            yield client, agent
        finally:
            client.close()


def outcome(call: Callable[[], object]) -> SandboxError | None:
    """What a call raises; anything but an error of ours, harmless to look at, is a failure."""
    try:
        call()
    except SandboxError as error:
        assert len(error.what) <= WORDS_MAX
        assert error.what.isprintable()
        return error
    return None


@pytest.mark.parametrize("lie", lying.LIES, ids=lambda lie: lie.__name__)
def test_each_wrong_answer_is_an_error_of_the_guest(tmp_path: Path, lie: Lie) -> None:
    for name, call in TIMED.items():
        with bounds(seconds=SECONDS, mib=MIB), connected(tmp_path, lie) as (client, _):
            error = outcome(lambda: call(client))  # noqa: B023 - called at once
        (tmp_path / "agent").unlink()
        if lie in STALLS or lie in (lying.garbage_payload, lying.truncated, lying.ends_without_answer, lying.too_long):
            assert isinstance(error, GuestError), name
        assert error is None or error.layer in (("guest", "container") if lie in REFUSALS else ("guest",)), error


@pytest.mark.parametrize("lie", lying.LIES, ids=lambda lie: lie.__name__)
def test_calls_without_a_deadline_can_be_called_back(tmp_path: Path, lie: Lie) -> None:
    for ask in WAITING.values():
        with bounds(seconds=SECONDS, mib=MIB), connected(tmp_path, lie) as (client, _):
            waiting = ask(client)
            timer = threading.Timer(0.1, waiting.cancel)
            timer.start()
            outcome(waiting)
            timer.cancel()
            outcome(lambda: client.check(0.1))  # the connection is still of use, or has ended
        (tmp_path / "agent").unlink()


@pytest.mark.parametrize("seed", range(8))
def test_a_whole_conversation_of_lies(tmp_path: Path, seed: int) -> None:
    choices = random.Random(seed)
    with bounds(seconds=20, mib=2 * MIB), connected(tmp_path, lying.anything, seed) as (client, _):
        for _ in range(20):
            outcome(lambda: choices.choice(list(TIMED.values()))(client))


@pytest.mark.parametrize(
    "lie",
    [
        *(lying.never, lying.hangs_up, lying.garbage_payload, lying.garbage_frames, lying.announces_4_gib),
        *(lying.fails_strangely, lying.fails_with_megabytes, lying.fails_with_escapes, lying.fails_with_details),
        *(lying.flood_of_frames, lying.half_a_header),
    ],
    ids=lambda lie: lie.__name__,
)
def test_a_guest_that_never_serves(tmp_path: Path, lie: Lie) -> None:
    """The connection is made anew where it breaks, but neither for ever nor without a pause."""
    with LyingAgent(tmp_path / "agent", {"*": lie}) as agent:
        with bounds(seconds=SECONDS, mib=MIB), pytest.raises(GuestError) as caught:
            AgentClient.connect(agent.address, 1.0, threading.Event(), None, PATIENCE)
        assert len(agent.asked) < 40
    assert caught.value.what.isprintable()
    assert len(caught.value.what) <= WORDS_MAX


@pytest.mark.parametrize("code", [4, 14])
def test_a_guest_that_says_itself_that_time_is_up(tmp_path: Path, code: int) -> None:
    """DEADLINE_EXCEEDED and UNAVAILABLE at once, again and again: it is asked no more often than a silent one."""
    with LyingAgent(tmp_path / "agent", {"*": lambda asked: asked.fail(code, "as if")}) as agent:
        with pytest.raises(GuestError):
            AgentClient.connect(agent.address, 1.0, threading.Event(), None, PATIENCE)
        assert 2 <= len(agent.asked) < 20


def test_more_output_than_was_asked_for_is_refused(tmp_path: Path) -> None:
    lie = lying.flood_of_output(101)
    with connected(tmp_path, lie) as (client, _), pytest.raises(GuestError, match="101 bytes, 100 were asked for"):
        client.ask_output("box", "box", stderr=False, size=100)()


@pytest.mark.parametrize("seed", range(40))
def test_any_figures_can_be_told_to_containerd(seed: int) -> None:
    """2**64 - 1, gigantic and empty lists, names that are attacks, in both forms of the host's cgroups."""
    from kata.protocol.generated import agent_pb2

    said = agent_pb2.StatsContainerResponse()
    lying.fill(said, random.Random(seed))
    for cgroup2 in (False, True):
        _, metrics = stats.metrics(said, cgroup2=cgroup2)
        assert isinstance(metrics, Message)
        assert type(metrics).FromString(metrics.SerializeToString()) == metrics


def test_figures_without_end_are_refused_before_they_are_read(tmp_path: Path) -> None:
    with (
        connected(tmp_path, lying.tiny_fields) as (client, _),
        bounds(seconds=1.0, mib=48),
        pytest.raises(GuestError, match="nonsense"),
    ):
        client.stats("box")


def test_an_error_names_the_guest_whatever_code_it_has(tmp_path: Path) -> None:
    for code in range(-2, 20):
        if code == 0:
            continue
        lie: Lie = lambda asked: asked.fail(code, "x")  # noqa: B023, E731 - answered before the next
        with connected(tmp_path, lie) as (client, _), pytest.raises(KataError) as caught:
            client.stats("box")
        (tmp_path / "agent").unlink()
        assert caught.value.layer in ("guest", "container")
