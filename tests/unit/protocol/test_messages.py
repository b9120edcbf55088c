"""Message classes come from the descriptor set, cheaply, in both ways of loading, and in what a guest is given."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import google.protobuf
import pytest

from kata.protocol import messages
from kata.protocol.generated import agent_pb2, csi_pb2, health_pb2, types_pb2

SITE = Path(google.protobuf.__file__).parents[2]
SOURCE = Path(messages.__file__).parents[2]
DEBIAN = "/usr/bin/python3.11"


def run_isolated(code: str, *paths: Path) -> str:
    """Run `code` as the guest's agent and the sandbox process run: no site, nothing of the environment."""
    prologue = f"import sys; sys.path[:0] = {[str(path) for path in paths]!r}\n"
    done = subprocess.run([DEBIAN, "-I", "-S", "-c", prologue + code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_classes_are_the_same_however_they_are_reached() -> None:
    spec = messages.message("grpc.Spec")
    assert spec is messages.message("grpc.Spec")
    assert type(agent_pb2.CreateContainerRequest().OCI) is spec
    assert agent_pb2.CreateContainerRequest is messages.message("grpc.CreateContainerRequest")


def test_generated_modules_know_enums_and_their_values() -> None:
    assert types_pb2.v6 == types_pb2.IPFamily.Value("v6") == 1
    assert csi_pb2.VolumeUsage.Unit.Name(csi_pb2.VolumeUsage.INODES) == "INODES"
    assert health_pb2.HealthCheckResponse.ServingStatus.keys() == ["UNKNOWN", "SERVING", "NOT_SERVING"]
    assert agent_pb2.DESCRIPTOR.name == "agent.proto"


def test_names_that_do_not_exist() -> None:
    with pytest.raises(AttributeError, match=r"agent.proto defines no Nothing"):
        agent_pb2.Nothing  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(KeyError):
        messages.message("grpc.Nothing")
    with pytest.raises(KeyError):
        messages.method("grpc.AgentService", "Nothing")
    with pytest.raises(KeyError):
        messages.method("grpc.Nothing", "Check")
    with pytest.raises(KeyError):
        messages.service("grpc.Nothing")


def test_services_describe_their_methods() -> None:
    found = messages.method("grpc.AgentService", "UpdateInterface")
    assert (found.service, found.name) == ("grpc.AgentService", "UpdateInterface")
    assert found.request is agent_pb2.UpdateInterfaceRequest
    assert found.response is types_pb2.Interface
    assert len(messages.service("grpc.AgentService").methods) == 42


def test_public_library_gives_classes_of_the_same_form() -> None:
    public = messages.load(public=True)
    made = public.message("grpc.CreateContainerRequest")(container_id="c")
    assert made.SerializeToString() == agent_pb2.CreateContainerRequest(container_id="c").SerializeToString()
    assert public.method("grpc.Health", "Check").response.DESCRIPTOR.full_name == "grpc.HealthCheckResponse"
    assert public.find("types.proto", "v6") == 1


@pytest.mark.parametrize("data", [b"\x12\x01a", b"\x0a\x05ab", b"\x0a", b"\x0a\xff"])
def test_what_is_no_descriptor_set_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "set.binpb"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="not a descriptor set"):
        messages.load(str(path))


def test_the_private_module_gone_means_the_public_one(tmp_path: Path) -> None:
    code = """
sys.modules["google._upb"] = None
from kata.protocol.generated import agent_pb2
print(agent_pb2.SignalProcessRequest(container_id="c", signal=9).SerializeToString().hex())
"""
    environment = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
    code = f"import os; os.environ.update({environment!r})\n{code}"
    assert run_isolated(code, SOURCE, SITE) == "0a01631809"


def test_a_guest_needs_only_the_runtime_files(tmp_path: Path) -> None:
    for name in messages.RUNTIME_FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SITE / name, tmp_path / name)
    code = """
from kata.protocol.generated import agent_pb2, types_pb2
from kata.protocol.client import Client
from kata.protocol.server import Server
from kata.protocol.transport import listen, dial
import kata.protocol.serial
request = agent_pb2.CreateContainerRequest(container_id="c", storages=[agent_pb2.Storage(driver="blk")])
request.OCI.Annotations["a"] = "b"
print(type(request).FromString(request.SerializeToString()) == request, types_pb2.IPFamily.Name(1), sys.path[0])
print(sorted(name for name in sys.modules if name.startswith("google") and "." in name))
"""
    out = run_isolated(code, tmp_path, SOURCE).splitlines()
    assert out[0] == f"True v6 {tmp_path}"
    assert "google._upb._message" in out[1]


FORBIDDEN = "asyncio ssl dataclasses logging inspect http urllib concurrent.futures pathlib subprocess"


def test_the_start_path_imports_nothing_heavy() -> None:
    code = f"""
from kata.protocol import messages
messages.skip_helpers()
import kata.protocol.client, kata.protocol.server, kata.protocol.transport, kata.protocol.serial
from kata.protocol.generated import agent_pb2
agent_pb2.CreateContainerRequest()
print([name for name in {FORBIDDEN.split()!r} if name in sys.modules])
print("google.protobuf.descriptor" in sys.modules, "datetime" in sys.modules)
"""
    assert run_isolated(code, SOURCE, SITE).splitlines() == ["[]", "False False"]


def test_helpers_stay_for_whoever_has_them() -> None:
    code = """
from google.protobuf import timestamp_pb2
from kata.protocol import messages
messages.skip_helpers()
messages.message("grpc.Spec")()
print(timestamp_pb2.Timestamp(seconds=0).ToJsonString())
"""
    assert run_isolated(code, SOURCE, SITE) == "1970-01-01T00:00:00Z"


def test_generating_again_changes_nothing(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    code = f"import sys; sys.path.insert(0, {str(root / 'tools')!r}); import protos, pathlib; "
    code += f"protos.generate(pathlib.Path({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    committed = root / "src/kata/protocol/generated"
    assert _files(tmp_path) == _files(committed)


def _files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
