"""containerd's own messages to a shim: requests of the task service, the runtime's options, specifications in `Any`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from kata.errors import KataError
from kata.oci.convert import process_to_proto, resources_to_proto
from kata.protocol.generated.host import runtimeoptions_pb2, task_pb2
from kata.protocol.server import _parse
from kata.protocol.status import RpcError
from kata.shim.configure import operators
from kata.shim.service import _json

if TYPE_CHECKING:
    from kata.oci.spec import LinuxResources, Process

OPTIONS = "runtimeoptions.v1.Options"
KINDS = (
    task_pb2.CreateTaskRequest,
    task_pb2.ExecProcessRequest,
    task_pb2.UpdateTaskRequest,
    task_pb2.StateRequest,
    runtimeoptions_pb2.Options,
)


def _create() -> bytes:
    create = task_pb2.CreateTaskRequest(id="a", bundle="/run/a", terminal=True, stdin="/run/in")
    create.options.type_url = OPTIONS
    create.options.value = runtimeoptions_pb2.Options(
        config_path="/a.toml", config_body=b"[runtime]\n"
    ).SerializeToString()
    return create.SerializeToString()


def _exec() -> bytes:
    request = task_pb2.ExecProcessRequest(id="a", exec_id="b")
    request.spec.value = b'{"args": ["sh"], "cwd": "/"}'
    return request.SerializeToString()


SEEDS = (b"\0" + _create(), b"\1" + _exec())
TOKENS = (OPTIONS.encode(), b"\xff", b"\x0a\0", b"[[[[[[[[", b"null", b"{}", b'{"args": "\\ud800"}', b"\x12\x02\x08")


def target(data: bytes) -> None:
    """The first byte is which message it is."""
    if not data:
        return
    try:
        request = _parse(KINDS[data[0] % len(KINDS)], data[1:])
        if isinstance(request, task_pb2.CreateTaskRequest):
            operators(request.options)
        elif isinstance(request, task_pb2.ExecProcessRequest):
            process_to_proto(cast("Process", _json(request.spec.value, "the process"))).SerializeToString()
        elif isinstance(request, task_pb2.UpdateTaskRequest):
            resources_to_proto(cast("LinuxResources", _json(request.resources.value, "the resources")))
    except (RpcError, KataError) as error:
        assert str(error)
