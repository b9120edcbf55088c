"""Lines of commands: words, variables, built-ins, where a run stops; and the values that are filled in."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from kata.agentctl.errors import ExpectationError, UsageError
from kata.agentctl.script import Script, split
from kata.agentctl.session import DEFAULT_TIMEOUT, Options, Session
from kata.protocol.generated import agent_pb2
from kata.protocol.status import Code, RpcError
from tests.unit.agentctl.peers import Recorder


def refuse(code: Code) -> Any:
    def answer(request: Message) -> Message:
        raise RpcError(code, "so it is")

    return answer


def script(recorder: Recorder | None = None, **options: Any) -> tuple[Script, Recorder, Session]:
    target = recorder or Recorder()
    session = Session(target, Options(**options))
    return Script(session), target, session


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        ("  a\tb ", ["a", "b"]),
        ("a # b", ["a"]),
        ("a#b", ["a#b"]),
        ("x='a b' \"c d\"", ["x=a b", "c d"]),
        ("'$v' \"$v\" $v ${v}w", ["$v", "val ue", "val ue", "val uew"]),
        (r"a\ b \$v '\n'", ["a b", "$v", r"\n"]),
        ("$ $1 ''", ["$", "$1", ""]),
        ('json://{"a": "b # c", "d": "$v"} x', ['json://{"a": "b # c", "d": "$v"}', "x"]),
        ('OCI.x={"a": [1, 2]} y', ['OCI.x={"a": [1, 2]}', "y"]),
        ("a=[b c]", ["a=[b", "c]"]),
    ],
)
def test_words(line: str, words: list[str]) -> None:
    assert split(line, {"v": "val ue"}) == words


@pytest.mark.parametrize(("line", "text"), [("'a", "not closed"), ('"a', "not closed"), ("$x", "not set")])
def test_words_that_are_wrong(line: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        split(line, {})


def test_ids_are_made_up_where_something_is_created_and_remembered() -> None:
    run, target, session = script()
    for line in ("CreateSandbox", "CreateContainer", "StartContainer", "ExecProcess", "WaitProcess exec_id=$exec_id"):
        run.line(line)
    sandbox, create, start, execute, wait = (request for _, request, _ in target.asked)
    assert re.fullmatch("[0-9a-f]{64}", sandbox.sandbox_id)  # type: ignore[attr-defined]
    cid = create.container_id  # type: ignore[attr-defined]
    assert re.fullmatch("[0-9a-f]{64}", cid)
    assert create == agent_pb2.CreateContainerRequest(container_id=cid, exec_id=cid)
    assert start == agent_pb2.StartContainerRequest(container_id=cid)
    exec_id = execute.exec_id  # type: ignore[attr-defined]
    assert exec_id not in ("", cid)
    assert wait == agent_pb2.WaitProcessRequest(container_id=cid, exec_id=exec_id)
    assert session.variables["cid"] == cid
    run.line("CreateContainer cid=box")
    run.line("WaitProcess")
    assert target.asked[-1][1] == agent_pb2.WaitProcessRequest(container_id="box"), "the first process has no exec id"


def test_nothing_is_made_up_without_auto_values() -> None:
    run, target, _ = script(auto_values=False)
    run.line("CreateContainer")
    run.line("StartContainer")
    assert [request for _, request, _ in target.asked] == [
        agent_pb2.CreateContainerRequest(),
        agent_pb2.StartContainerRequest(),
    ]


def test_a_bundle_is_the_specification_unless_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"process": {"args": ["sh"]}, "root": {"path": "rootfs"}}))
    run, target, _ = script(bundle=str(tmp_path))
    run.line("CreateContainer cid=box")
    run.line("CreateContainer cid=box spec.Hostname=h")
    first, second = (request.OCI for _, request, _ in target.asked)  # type: ignore[attr-defined]
    assert (first.Process.Args, first.Root.Path) == (["sh"], f"{tmp_path}/rootfs")
    assert (second.Hostname, second.Process.Args) == ("h", [])


def test_requests_that_wait_have_no_limit_unless_one_is_given() -> None:
    cases: list[tuple[dict[str, Any], list[float | None]]] = [
        ({}, [DEFAULT_TIMEOUT, None]),
        ({"timeout": 3.0}, [3.0, 3.0]),
        ({"timeout": 0.0}, [None, None]),
    ]
    for options, wanted in cases:
        run, target, _ = script(**options)
        run.line("Check")
        run.line("WaitProcess cid=x")
        assert [timeout for _, _, timeout in target.asked] == wanted


def test_repeat_counts_and_echo_and_set_print(capsys: pytest.CaptureFixture[str]) -> None:
    run, target, _ = script()
    assert run.run(["set who you", "repeat 3 echo $n '$n' $who", "repeat 2 Check # twice"], "x") == 0
    assert capsys.readouterr().out.splitlines() == ["1 $n you", "2 $n you", "3 $n you", *["status: UNKNOWN"] * 2]
    assert len(target.asked) == 2


def test_a_run_stops_at_the_first_failure_and_names_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    run, target, _ = script(Recorder({"Version": refuse(Code.INTERNAL)}))
    lines = ["# comment", "", "Check", "Version", "Check"]
    assert run.run(lines, "life.txt") == 1
    assert "life.txt:4: INTERNAL: so it is" in capsys.readouterr().err
    assert [name for name, _, _ in target.asked] == ["Check", "Version"]
    assert run.run(lines, "", ignore_errors=True) == 1
    assert [name for name, _, _ in target.asked[2:]] == ["Check", "Version", "Check"]
    assert run.run(["Chekc"], "x") == 2
    assert run.run(["quit", "Version"], "x") == 0


def test_expected_errors() -> None:
    run, _, _ = script(Recorder({"Check": refuse(Code.NOT_FOUND)}))
    run.line("expect not_found Check")
    run.line("expect OK Version")
    with pytest.raises(ExpectationError, match="INTERNAL was expected, it was NOT_FOUND"):
        run.line("expect INTERNAL Check")
    with pytest.raises(ExpectationError, match="the request succeeded"):
        run.line("expect INTERNAL Version")
    with pytest.raises(UsageError, match="no code"):
        run.line("expect SOMETHING Version")


def test_expected_fields() -> None:
    answer = agent_pb2.GuestDetailsResponse(agent_details=agent_pb2.AgentDetails(version="1", init_daemon=True))
    data = agent_pb2.ReadStreamResponse(data=b"out\n")
    run, _, session = script(Recorder({"GetGuestDetails": lambda _: answer, "ReadStdout": lambda _: data}))
    session.variables["v"] = "1"
    run.line("expect agent_details.version=$v GetGuestDetails")
    run.line("expect agent_details.init_daemon=true GetGuestDetails")
    with pytest.raises(ExpectationError, match="data=in was expected, it is"):
        run.line("expect data=in ReadStdout cid=x")
    with pytest.raises(UsageError, match="no field"):
        run.line("expect nope=1 GetGuestDetails")


@pytest.mark.parametrize(
    "line",
    [
        *("repeat", "repeat x Check", "repeat 3", "repeat -1 Check", "sleep", "sleep x", "sleep -1", "sleep nan"),
        *("set a", "set 1 x", "expect OK", "help Chekc"),
    ],
)
def test_built_ins_that_are_used_wrongly(line: str) -> None:
    run, target, _ = script()
    with pytest.raises(UsageError):
        run.line(line)
    assert target.asked == []
