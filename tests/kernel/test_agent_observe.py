"""Metrics, termination logs and the packet filter of a whole agent, in namespaces of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.agent.diagnostics import PATH_ANNOTATION
from kata.protocol.generated import agent_pb2
from kata.protocol.status import Code, RpcError
from tests.kernel.test_agent import Agent
from tests.unit.agent.test_metrics import EXPECTED, parse

pytestmark = pytest.mark.root


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    made.call("CreateSandbox", agent_pb2.CreateSandboxRequest(sandbox_id="sb"))
    yield made
    made.close()


def test_metrics_are_those_of_the_agent_and_its_network(agent: Agent) -> None:
    found = parse(agent.call("GetMetrics", agent_pb2.GetMetricsRequest()).metrics)  # type: ignore[attr-defined]
    assert set(found) >= EXPECTED
    assert found["kata_agent_scrape_count"] == {"": 1}
    devices = {labels.partition(",")[0] for labels in found["kata_guest_netdev_stat"]}
    assert devices == {'interface="lo"'}


def test_a_containers_last_words(agent: Agent, tmp_path: Path) -> None:
    log = tmp_path / "termination"
    log.write_bytes(b"")
    request = agent.request("box", "sh", "-c", "echo the end > /dev/termination-log")
    request.OCI.Annotations[PATH_ANNOTATION] = "/dev/termination-log"
    request.OCI.Mounts.add(destination="/dev/termination-log", source=str(log), type="bind", options=["bind", "rw"])
    agent.call("CreateContainer", request)
    agent.call("StartContainer", agent_pb2.StartContainerRequest(container_id="box"))
    assert agent.wait("box") == 0
    ask = agent_pb2.GetDiagnosticDataRequest(log_type="termination_log", container_id="box")
    assert agent.call("GetDiagnosticData", ask).data == "the end\n"  # type: ignore[attr-defined]
    ask.log_type = "core"
    with pytest.raises(RpcError, match="core") as caught:
        agent.call("GetDiagnosticData", ask)
    assert caught.value.code == Code.INVALID_ARGUMENT


@pytest.mark.skipif(not shutil.which("iptables-save"), reason="needs iptables")
@pytest.mark.parametrize("ipv6", [False, True])
def test_rules_there_and_back(agent: Agent, ipv6: bool) -> None:
    rules = b"*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n"
    rules += b"-A INPUT -i lo -j ACCEPT\nCOMMIT\n"
    try:
        agent.call("SetIPTables", agent_pb2.SetIPTablesRequest(is_ipv6=ipv6, data=rules))
    except RpcError as error:
        if "not supported" not in str(error) and "initialize" not in str(error):
            raise
        pytest.skip(f"this kernel has no packet filter: {error}")
    saved = agent.call("GetIPTables", agent_pb2.GetIPTablesRequest(is_ipv6=ipv6)).data  # type: ignore[attr-defined]
    assert b"-A INPUT -i lo -j ACCEPT\n" in saved
    assert b":FORWARD DROP" in saved
    with pytest.raises(RpcError) as caught:
        agent.call("SetIPTables", agent_pb2.SetIPTablesRequest(is_ipv6=ipv6, data=b"*nonsense\nCOMMIT\n"))
    assert caught.value.code == Code.INTERNAL


POLICY = (Path(__file__).parents[2] / "docs/policies/allow-all-except-exec-process.rego").read_text()


def test_a_policy_blocks_requests_and_hides_output(agent: Agent) -> None:
    agent.run("box", "sh", "-c", "read x; seq 100000; exit 7")
    agent.call("SetPolicy", agent_pb2.SetPolicyRequest(policy=POLICY))
    with pytest.raises(RpcError, match="ExecProcessRequest is blocked by policy") as caught:
        agent.exec("box", "more", "true")
    assert caught.value.code == Code.PERMISSION_DENIED
    with pytest.raises(RpcError, match="line 2") as caught:
        agent.call("SetPolicy", agent_pb2.SetPolicyRequest(policy="package agent_policy\nX if nothing.y"))
    assert caught.value.code == Code.INVALID_ARGUMENT
    closed = POLICY + "\nReadStreamRequest := false\nSetPolicyRequest := false\n"
    agent.call("SetPolicy", agent_pb2.SetPolicyRequest(policy=closed))
    with pytest.raises(RpcError, match="SetPolicyRequest is blocked by policy"):
        agent.call("SetPolicy", agent_pb2.SetPolicyRequest(policy=POLICY))
    agent.write("box", b"go\n")
    assert agent.read("box") == b""  # answered when all 588895 bytes were thrown away
    assert agent.wait("box") == 7


CONDITIONS = """
import rego.v1

CreateContainerRequest := {"allowed": true, "ops": [{"op": "add", "path": path, "value": input.OCI.Process.Args}]} if {
	print("arguments", input.OCI.Process.Args)
	input.OCI.Process.Args[0] == "sh"
	path := concat("/", ["/pstate", input.container_id])
}
ExecProcessRequest if {
	print("container has", data.pstate[input.container_id])
	input.process.Args == ["echo", data.pstate[input.container_id][2]]
}
WriteStreamRequest if input.data == [103, 111, 10]
"""


def test_a_policy_with_conditions_looks_into_requests_and_remembers(agent: Agent) -> None:
    others = POLICY.replace("default CreateContainerRequest := true", "default CreateContainerRequest := false")
    others = others.replace("default WriteStreamRequest := true", "default WriteStreamRequest := false")
    head, _, rest = others.partition("package agent_policy\n")
    policy = f"{head}package agent_policy\n{CONDITIONS}{rest}"
    agent.call("SetPolicy", agent_pb2.SetPolicyRequest(policy=policy))
    with pytest.raises(
        RpcError, match=r"CreateContainerRequest is blocked by policy: agent_policy:\d+: arguments"
    ) as no:
        agent.run("other", "sleep", "9")
    assert no.value.code == Code.PERMISSION_DENIED
    agent.run("box", "sh", "-c", "read x")
    with pytest.raises(RpcError, match=r'container has \["sh", "-c", "read x"\]'):
        agent.exec("box", "no", "echo", "read y")
    agent.exec("box", "yes", "echo", "read x")
    assert agent.wait("box", "yes") == 0
    with pytest.raises(RpcError, match="WriteStreamRequest is blocked by policy"):
        agent.write("box", b"stop\n")
    agent.write("box", b"go\n")
    assert agent.wait("box") == 0
    agent.call("SetPolicy", agent_pb2.SetPolicyRequest(policy="package agent_policy\nDestroySandboxRequest if input"))
    with pytest.raises(RpcError, match="PauseContainerRequest: the policy has no answer") as unanswered:
        agent.call("PauseContainer", agent_pb2.PauseContainerRequest(container_id="box"))
    assert unanswered.value.code == Code.INTERNAL
