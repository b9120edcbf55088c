"""The sample policies of the documentation: each answers every request of the API, as it says that it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kata.agent import policy
from kata.agent.policy import Policy
from kata.agent.policy.builtins import BUILTINS
from kata.protocol.generated import agent_pb2
from kata.protocol.messages import message, service

SAMPLES = Path(__file__).parents[4] / "docs/policies"
REQUESTS = sorted({method.input_type.full_name for method in service("grpc.AgentService").methods})
SHARED = "/run/kata-containers/shared/containers/"


def test_the_documentation_names_every_function() -> None:
    text = (SAMPLES.parent / "policy.md").read_text()
    listed = text.partition("* Functions: `")[2].partition("`")[0]
    names = {"".join((head, name, tail)) for head, each, tail in map(spread, listed.split()) for name in each}
    assert names == {name for name in BUILTINS if name[0].isalpha()} | {"walk"}


def spread(word: str) -> tuple[str, list[str], str]:
    """`a.{b,c}` as its parts."""
    head, _, rest = word.partition("{")
    inner, _, tail = rest.partition("}")
    return head, inner.split(","), tail


def sample(name: str) -> Policy:
    return policy.load(str(SAMPLES / f"{name}.rego"))


def answers(found: Policy) -> dict[str, bool]:
    """What a policy says to an empty request of each kind. An error is a request that it forgot."""
    return {name.rpartition(".")[2]: found.check(name.rpartition(".")[2], message(name)()).allowed for name in REQUESTS}


@pytest.mark.parametrize(
    ("name", "exceptions", "others"),
    [
        ("allow-all", set(), True),
        ("allow-all-except-exec-process", {"ExecProcessRequest"}, True),
        ("allow-set-policy", {"SetPolicyRequest"}, False),
    ],
)
def test_plain_samples_answer_every_request(name: str, exceptions: set[str], others: bool) -> None:
    found = answers(sample(name))
    assert len(found) == len(REQUESTS) > 40
    assert {request for request, allowed in found.items() if allowed != others} == exceptions


def test_the_sample_with_conditions_answers_every_request() -> None:
    found = answers(sample("one-workload"))
    assert found["StartContainerRequest"]
    assert not found["SetPolicyRequest"]
    assert not found["CreateContainerRequest"]


def container(container_id: str, **changes: Any) -> agent_pb2.CreateContainerRequest:
    request = agent_pb2.CreateContainerRequest(container_id=container_id)
    request.OCI.Process.Args.extend(changes.get("args", ["/usr/sbin/httpd", "-f", "-p", "8080"]))
    request.OCI.Process.Env.extend(["PATH=/usr/bin:/bin", "DB_SERVICE_HOST=10.0.0.1", *changes.get("env", [])])
    request.OCI.Process.User.UID = 0
    request.OCI.Root.Path = f"{SHARED}{container_id}/rootfs"
    for kind in ("ipc", "uts", "mount"):
        request.OCI.Linux.Namespaces.add(Type=kind)
    request.OCI.Mounts.add(destination="/proc", source="proc", type="proc")
    request.OCI.Mounts.add(destination="/etc/hosts", type="bind", source=changes.get("source", f"{SHARED}abc-hosts"))
    return request


@pytest.mark.parametrize(
    "changes",
    [
        {"args": ["/bin/sh"]},
        {"env": ["LD_PRELOAD=/x.so"]},
        {"source": "/etc/shadow"},
        {"source": f"{SHARED}../../../../etc"},
    ],
)
def test_other_containers_are_denied(changes: dict[str, Any]) -> None:
    found = sample("one-workload")
    assert not found.check("CreateContainerRequest", container("web1", **changes)).allowed
    hooked = container("web1")
    hooked.OCI.Hooks.Prestart.add(Path="/x")
    assert not found.check("CreateContainerRequest", hooked).allowed
    assert found.check("CreateContainerRequest", container("web1")).allowed


def test_the_state_follows_the_containers() -> None:
    found = sample("one-workload")
    process = agent_pb2.ExecProcessRequest(container_id="web1")
    process.process.Args.extend(["/bin/ls", "/var/www"])
    process.process.User.UID = 0
    assert not found.check("ExecProcessRequest", process).allowed
    assert found.check("CreateContainerRequest", container("web1")).allowed
    assert not found.check("CreateContainerRequest", container("web2")).allowed, "it runs already"
    assert found.check("ExecProcessRequest", process).allowed
    process.process.Args.append("-l")
    denied = found.check("ExecProcessRequest", process)
    assert not denied.allowed
    assert denied.reason.endswith(': command ["/bin/ls", "/var/www", "-l"] in web')
    assert found.check("RemoveContainerRequest", agent_pb2.RemoveContainerRequest(container_id="web1")).allowed
    assert not found.check("RemoveContainerRequest", agent_pb2.RemoveContainerRequest(container_id="web1")).allowed
    assert found.check("CreateContainerRequest", container("web2")).allowed


def test_files_and_interfaces() -> None:
    found = sample("one-workload")
    for path, mode, allowed in [
        (f"{SHARED}a", 0o100644, True),
        (f"{SHARED}a", 0o120777, False),
        (f"{SHARED}../a", 0o100644, False),
        ("/etc/passwd", 0o100644, False),
    ]:
        request = agent_pb2.CopyFileRequest(path=path, file_mode=mode, data=b"x")
        assert found.check("CopyFileRequest", request).allowed is allowed, (path, mode)
    for name, allowed in (("eth0", True), ("lo", False)):
        update = agent_pb2.UpdateInterfaceRequest()
        update.interface.name = name
        assert found.check("UpdateInterfaceRequest", update).allowed is allowed
