"""What a policy sees of a request."""

from __future__ import annotations

import pytest

from kata.agent.errors import BadRequest
from kata.agent.policy.request import to_value
from kata.agent.policy.values import to_json
from kata.protocol.generated import agent_pb2, oci_pb2
from kata.protocol.messages import message, service


def seen(request: object) -> object:
    return to_json(to_value(request))


def test_a_containers_request() -> None:
    request = agent_pb2.CreateContainerRequest(container_id="c", sandbox_pidns=True)
    request.OCI.Process.Args.append("sh")
    request.OCI.Process.User.AdditionalGids.extend([1, 2])
    request.OCI.Annotations["a"] = "b"
    request.OCI.Mounts.add(destination="/proc", type="proc")
    request.OCI.Linux.Namespaces.add(Type="ipc")
    request.devices.add(type="blk", id="d")
    found = seen(request)
    assert isinstance(found, dict)
    oci = found["OCI"]
    assert found["container_id"] == "c"
    assert found["sandbox_pidns"] is True
    assert found["string_user"] is None, "a message that is not there"
    assert found["storages"] == []
    assert found["stdin_port"] == 0
    assert found["devices"] == [{"id": "d", "type_": "blk", "vm_path": "", "container_path": "", "options": []}]
    assert oci["Hooks"] is None
    assert oci["Process"]["Args"] == ["sh"]
    assert oci["Process"]["User"]["AdditionalGids"] == [1, 2]
    assert oci["Annotations"] == {"a": "b"}
    assert oci["Mounts"] == [{"destination": "/proc", "source": "", "type_": "proc", "options": []}]
    assert oci["Linux"]["Namespaces"] == [{"Type": "ipc", "Path": ""}]
    assert oci["Linux"]["Sysctl"] == {}


def test_numbers_enumerations_and_bytes() -> None:
    routes = agent_pb2.UpdateRoutesRequest()
    routes.routes.Routes.add(dest="::/0", family=1)
    found = seen(routes)
    assert isinstance(found, dict)
    assert found["routes"]["Routes"][0]["family"] == 1
    assert seen(agent_pb2.WriteStreamRequest(container_id="c", data=b"\x00\xffa")) == {
        "container_id": "c",
        "exec_id": "",
        "data": [0, 255, 97],
    }
    memory = agent_pb2.MemAgentMemcgConfig(swap=False, period_secs=1 << 60)
    found = seen(memory)
    assert isinstance(found, dict)
    assert (found["swap"], found["disabled"], found["period_secs"]) == (False, None, 1 << 60)


def test_a_choice_of_fields() -> None:
    assert seen(oci_pb2.LinuxSyscall(Action="kill")) == {"Action": "kill", "Args": [], "ErrnoRet": None, "Names": []}
    found = seen(oci_pb2.LinuxSyscall(errnoret=5))
    assert isinstance(found, dict)
    assert found["ErrnoRet"] == {"Errnoret": 5}


@pytest.mark.parametrize(
    ("mode", "data", "kind", "target"),
    [
        (0o100644, b"text", "Regular", None),
        (0o040755, b"", "Directory", None),
        (0o120777, b"../x", "Symlink", "../x"),
        (0o140644, b"", "Unknown", None),
        (0, b"", "Unknown", None),
    ],
)
def test_a_file_is_seen_without_its_content(mode: int, data: bytes, kind: str, target: str | None) -> None:
    request = agent_pb2.CopyFileRequest(
        path="/p", file_size=9, file_mode=mode, dir_mode=0o755, uid=1, gid=-1, offset=4, data=data
    )
    assert seen(request) == {
        "path": "/p",
        "file_type": kind,
        "symlink_target": target,
        "file_size": 9,
        "file_mode": mode,
        "dir_mode": 0o755,
        "uid": 1,
        "gid": -1,
        "offset": 4,
    }


def test_a_link_to_what_is_no_text_is_refused() -> None:
    with pytest.raises(BadRequest, match="no text"):
        to_value(agent_pb2.CopyFileRequest(file_mode=0o120777, data=b"\xff"))


def test_every_request_can_be_seen() -> None:
    for method in service("grpc.AgentService").methods:
        found = seen(message(method.input_type.full_name)())
        assert isinstance(found, dict), method.name
