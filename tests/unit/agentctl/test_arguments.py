"""Words of a command line into requests: every type, every form, and what is refused."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
from google.protobuf.message import Message

from kata.agentctl import arguments, rpcs
from kata.agentctl.errors import UsageError
from kata.oci import convert
from kata.protocol.generated import agent_pb2, oci_pb2, types_pb2
from kata.protocol.messages import message


def build(name: str, *words: str) -> Message:
    request = rpcs.find(name).request()
    arguments.fill(request, words)
    return request


CREATE = agent_pb2.CreateContainerRequest
PROCESS = oci_pb2.Process

FORMS: list[tuple[str, tuple[str, ...], Message]] = [
    ("Check", (), message("grpc.CheckRequest")()),
    ("check", ("service=grpc.Health",), message("grpc.CheckRequest")(service="grpc.Health")),
    ("CREATECONTAINER", ("cid=a", "sandbox_pidns=yes"), CREATE(container_id="a", sandbox_pidns=True)),
    ("CreateContainer", ("container_id=a=b", "exec_id="), CREATE(container_id="a=b")),
    ("CreateContainer", ("OCI.Process.Cwd=/x",), CREATE(OCI=oci_pb2.Spec(Process=PROCESS(Cwd="/x")))),
    (
        "CreateContainer",
        ("spec.Process.Args=sh", "spec.Process.Args=-c", "spec.Process.Args=a b"),
        CREATE(OCI=oci_pb2.Spec(Process=PROCESS(Args=["sh", "-c", "a b"]))),
    ),
    (
        "CreateContainer",
        ("OCI.Annotations.io.katacontainers.pkg=a.b=c", 'OCI.Annotations=json://{"k": "v"}'),
        CREATE(OCI=oci_pb2.Spec(Annotations={"io.katacontainers.pkg": "a.b=c", "k": "v"})),
    ),
    (
        "CreateContainer",
        ("storages.0.driver=blk", "storages.0.options=ro", "storages.1.driver=local", "storages.0.options=noatime"),
        CREATE(
            storages=[
                agent_pb2.Storage(driver="blk", options=["ro", "noatime"]),
                agent_pb2.Storage(driver="local"),
            ]
        ),
    ),
    (
        "CreateContainer",
        ('devices={"id": "02", "type": "blk"}', 'devices=json://[{"id": "03"}]'),
        CREATE(devices=[agent_pb2.Device(id="02", type="blk"), agent_pb2.Device(id="03")]),
    ),
    (
        "CreateSandbox",
        ('json://{"hostname": "h", "dns": ["a"]}', "dns=b", 'dns=json://["c", "d"]'),
        agent_pb2.CreateSandboxRequest(hostname="h", dns=["a", "b", "c", "d"]),
    ),
    (
        "UpdateInterface",
        ("interface.IPAddresses.0.family=V6", "interface.IPAddresses.0.address=::1", "interface.mtu=0x5dc"),
        agent_pb2.UpdateInterfaceRequest(
            interface=types_pb2.Interface(
                IPAddresses=[types_pb2.IPAddress(family=types_pb2.IPFamily.v6, address="::1")], mtu=1500
            )
        ),
    ),
    ("SignalProcess", ("signal=SIGTERM",), agent_pb2.SignalProcessRequest(signal=15)),
    ("SignalProcess", ("signal=kill",), agent_pb2.SignalProcessRequest(signal=9)),
    ("CopyFile", ("file_mode=0o100644", "uid=-1"), agent_pb2.CopyFileRequest(file_mode=0o100644, uid=-1)),
    ("WriteStdin", ("data=hex:00ff",), agent_pb2.WriteStreamRequest(data=b"\x00\xff")),
    ("WriteStdin", ("data=base64:AP8=",), agent_pb2.WriteStreamRequest(data=b"\x00\xff")),
    ("WriteStdin", ("data=text:hex:00",), agent_pb2.WriteStreamRequest(data=b"hex:00")),
    ("WriteStdin", ("data=é\n",), agent_pb2.WriteStreamRequest(data="é\n".encode())),
    ("SetPolicy", ("policy=text:@x",), agent_pb2.SetPolicyRequest(policy="@x")),
    ("MemAgentMemcgSet", ("disabled=false",), agent_pb2.MemAgentMemcgConfig(disabled=False)),
    ("AddSwap", ("PCIPath=2", "PCIPath=0x1d"), agent_pb2.AddSwapRequest(PCIPath=[2, 29])),
]


@pytest.mark.parametrize(("name", "words", "wanted"), FORMS)
def test_forms(name: str, words: tuple[str, ...], wanted: Message) -> None:
    assert build(name, *words) == wanted


def test_presence_of_an_empty_message_is_kept() -> None:
    assert build("ExecProcess", "process={}").HasField("process")
    assert not build("ExecProcess").HasField("process")


def test_files(tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text('{"container_id": "a", "len": 7}')
    (tmp_path / "data").write_bytes(b"\x00\xff")
    assert build("ReadStdout", f"file://{tmp_path}/request.json") == agent_pb2.ReadStreamRequest(
        container_id="a", len=7
    )
    assert build("WriteStdin", f"data=@{tmp_path}/data") == agent_pb2.WriteStreamRequest(data=b"\x00\xff")
    (tmp_path / "policy").write_text("package x\n")
    assert build("SetPolicy", f"policy=@{tmp_path}/policy") == agent_pb2.SetPolicyRequest(policy="package x\n")


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    for words, data, wanted in [
        (("-",), b'{"container_id": "a"}', agent_pb2.WriteStreamRequest(container_id="a")),
        (("data=@-",), b"x\x00", agent_pb2.WriteStreamRequest(data=b"x\x00")),
    ]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert build("WriteStdin", *words) == wanted


def test_the_runtime_specifications_form_is_converted(tmp_path: Path) -> None:
    process = {"args": ["sh"], "cwd": "/", "user": {"uid": 7, "gid": 0}}
    spec = {"ociVersion": "1.0.2", "process": process, "root": {"path": "/r"}}
    (tmp_path / "config.json").write_text(json.dumps(spec))
    wanted = CREATE(OCI=convert.spec_to_proto(spec))  # type: ignore[arg-type]
    assert build("CreateContainer", f"spec=file://{tmp_path}/config.json") == wanted
    in_protobufs_form = '{"Version": "1.0.2", "Root": {"Path": "/r"}, "Process": {"Args": ["sh"], "Cwd": "/"}}'
    assert build("CreateContainer", f"OCI={in_protobufs_form}", "OCI.Process.User.UID=7") == wanted
    exec_request = agent_pb2.ExecProcessRequest(process=convert.process_to_proto(process))  # type: ignore[arg-type]
    assert build("ExecProcess", f"process={json.dumps(process)}") == exec_request
    resources = agent_pb2.UpdateContainerRequest(resources=convert.resources_to_proto({"pids": {"limit": 9}}))
    assert build("UpdateContainer", 'resources={"pids": {"limit": 9}}') == resources


@pytest.mark.parametrize(
    ("name", "word", "text"),
    [
        ("Chekc", "", "is it Check"),
        ("Nothing-like-it", "", "list"),
        ("WaitProcess", "cid", "NAME=VALUE"),
        ("WaitProcess", "=x", "NAME=VALUE"),
        ("WaitProcess", "cid.x=1", "no fields"),
        ("WaitProcess", "nope=1", "container_id, exec_id"),
        ("CreateContainer", "OCI.nope=1", "'nope'"),
        ("CreateContainer", "OCI=x", "JSON document"),
        ("CreateContainer", "OCI=json://[]", "JSON object"),
        ("CreateContainer", "OCI=json://{", "no JSON"),
        ("CreateContainer", "OCI=file:///nowhere/config.json", "cannot be read"),
        ("CreateContainer", 'OCI={"process": {"args": "sh"}}', "process.args must be a list"),
        ("CreateContainer", 'devices={"nope": 1}', "nope"),
        ("CreateContainer", "devices.1.id=x", "'1' is no index"),
        ("CreateContainer", "devices.x.id=x", "'x' is no index"),
        ("CreateContainer", "sandbox_pidns=maybe", "true or false"),
        ("CreateSandbox", "dns.0=x", "repeat dns="),
        ("ReadStdout", "len=0644", "0o21"),
        ("ReadStdout", "len=4294967296", "out of range"),
        ("ReadStdout", "len=-1", "out of range"),
        ("SetGuestDateTime", f"Sec={1 << 63}", "out of range"),
        ("SignalProcess", "signal=SIGNOTHING", "no number"),
        ("WriteStdin", "data=hex:0", "hex"),
        ("WriteStdin", "data=base64:A", "base64"),
        ("UpdateInterface", "interface.IPAddresses.0.family=v5", "v4 or v6"),
    ],
)
def test_what_is_wrong_is_said(name: str, word: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(name, *([word] if word else []))
    assert text in f"{caught.value.what} {caught.value.hint}"


def test_a_file_that_no_request_can_hold_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as file:
        file.truncate(arguments.FILE_LIMIT + 1)
    with pytest.raises(UsageError, match="4 MiB"):
        build("WriteStdin", f"data=@{tmp_path}/big")
    with pytest.raises(UsageError, match="4 MiB"):
        build("WriteStdin", "data=@/dev/zero")


def test_every_request_takes_its_own_json(capsys: pytest.CaptureFixture[str]) -> None:
    """What --json prints of a request is what json:// takes."""
    from kata.agentctl.output import to_json

    for method in rpcs.all_methods():
        request = method.request()
        for field in rpcs.descriptor(method.request).fields:
            if field.type == arguments.STRING and not field.is_repeated:
                setattr(request, field.name, f"a value of {field.name}")
        assert build(method.name, f"json://{to_json(request)}") == request


def test_base64_of_json_is_protobufs() -> None:
    encoded = base64.b64encode(b"\x00\xff").decode()
    assert build("WriteStdin", f'json://{{"data": "{encoded}"}}') == agent_pb2.WriteStreamRequest(data=b"\x00\xff")
