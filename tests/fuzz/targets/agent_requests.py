"""What a host may send to the agent: each request's message, as the agent's policy would see it, and its specification.

A host is not trusted by a guest's policy, so a request that cannot be shown to it must be refused, not half shown.
"""

from __future__ import annotations

import json
from typing import cast

from kata.agent.errors import AgentError
from kata.agent.policy import parse
from kata.agent.policy.request import to_value
from kata.agent.policy.values import to_json
from kata.oci import convert
from kata.oci.errors import SpecError
from kata.protocol.generated import agent_pb2, oci_pb2
from kata.protocol.messages import method, service
from kata.protocol.server import _parse
from kata.protocol.status import RpcError

METHODS = tuple(described.name for described in service("grpc.AgentService").methods)
POLICY = parse(
    "package agent_policy\nimport rego.v1\n"
    + "".join(
        f"{name} if {{ print(input); count(input) > 0 }}\n"
        for name in sorted({described.input_type.name for described in service("grpc.AgentService").methods})
    )
)


def _spec() -> oci_pb2.Spec:
    return convert.spec_to_proto(
        {
            "ociVersion": "1.2.0",
            "process": {"args": ["sh"], "env": ["A=b"], "cwd": "/", "user": {"uid": 1, "additionalGids": [2]}},
            "root": {"path": "rootfs", "readonly": True},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]}],
            "annotations": {"a": "b"},
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/a"}],
                "devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 5, "fileMode": 438}],
                "resources": {"devices": [{"allow": False, "access": "rwm"}], "memory": {"limit": 1 << 30}},
                "seccomp": {
                    "defaultAction": "SCMP_ACT_ERRNO",
                    "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "errnoRet": 1}],
                },
                "maskedPaths": ["/proc/kcore"],
            },
        }
    )


def _create() -> bytes:
    request = agent_pb2.CreateContainerRequest(container_id="a", exec_id="a", OCI=_spec(), sandbox_pidns=True)
    request.devices.add(id="d", type="blk", vm_path="/dev/vda", container_path="/dev/x", options=["a"])
    request.storages.add(driver="blk", source="01", fstype="ext4", mount_point="/run/x", options=["ro"])
    return request.SerializeToString()


SEEDS = (
    bytes([METHODS.index("CreateContainer")]) + _create(),
    bytes([METHODS.index("CopyFile")])
    + agent_pb2.CopyFileRequest(path="/run/a", file_size=3, file_mode=0o120777, data=b"a\xff").SerializeToString(),
    bytes([METHODS.index("ExecProcess")])
    + agent_pb2.ExecProcessRequest(container_id="a", exec_id="b", process=_spec().Process).SerializeToString(),
    bytes([METHODS.index("UpdateContainer")])
    + agent_pb2.UpdateContainerRequest(container_id="a", resources=_spec().Linux.Resources).SerializeToString(),
)
TOKENS = (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\xff\xff\xff\xff\x0f", b"\x00", b"\x0a\x00", b"\x12\x02a\0")


def target(data: bytes) -> None:
    """The first byte is which request it is."""
    if not data:
        return
    kind = method("grpc.AgentService", METHODS[data[0] % len(METHODS)]).request
    try:
        request = _parse(kind, data[1:])
    except RpcError:
        return
    try:
        json.dumps(to_json(to_value(request)), allow_nan=True)
        POLICY.check(kind.DESCRIPTOR.name, request)
    except AgentError:
        pass
    try:
        _convert(request)
    except SpecError as error:
        assert error.what


def _convert(request: object) -> None:
    """Into a specification and back, which is what the message says, unless it says what has no place in JSON."""
    if isinstance(request, agent_pb2.CreateContainerRequest):
        spec = convert.spec_from_proto(request.OCI)
        json.dumps(spec).encode()
        again = convert.spec_to_proto(spec)
        assert convert.spec_from_proto(again) == spec
    elif isinstance(request, agent_pb2.ExecProcessRequest):
        process = convert.process_from_proto(request.process)
        assert convert.process_from_proto(convert.process_to_proto(process)) == process
    elif isinstance(request, agent_pb2.UpdateContainerRequest):
        resources = convert.resources_from_proto(request.resources)
        rebuilt = convert.resources_from_proto(convert.resources_to_proto(resources))
        assert cast("object", rebuilt) == resources
