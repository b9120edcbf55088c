"""What a container's processes could get of the runtime that starts them: folders, descriptors, capabilities, users.

The whole agent and its crun, in namespaces of their own instead of a guest. What is beside the containers is `VICTIM`.
Attempts that would harm the machine that they run on, if they came off, are made in a guest: test_guest.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.agent.crun import Crun
from kata.oci.convert import process_to_proto, spec_to_proto
from kata.oci.errors import SpecError
from kata.oci.spec import LinuxCapabilities, Mount, Process
from kata.protocol.generated import agent_pb2
from kata.protocol.status import RpcError
from tests.kernel.test_agent import Agent, make_process

pytestmark = pytest.mark.root

VICTIM = "/run/victim"
MOST = 40
"""Descriptors that a runtime could have open; the agent has 12."""
KILL, SYS_ADMIN = 1 << 5, 1 << 21
SECRET = f"for up in 1 2 3 4 5 6 7 8; do cat .{VICTIM}/secret 2>/dev/null; cd -P .. || break; done; echo end"
LOOK = "ls -l /proc/$$/fd"
FAKE = """
    mount -t proc proc /real && mount -t tmpfs fake /proc && cd /proc && mkdir -p self/fd self/attr self/ns self/task &&
    mkdir -p sys/kernel thread-self/attr && echo 0 > sys/kernel/cap_last_cap && echo deny > self/setgroups &&
    echo 0 > self/oom_score_adj && echo 0 > self/loginuid && echo x > self/attr/exec && ln -s / self/root && echo faked
"""


def caps(*names: str) -> LinuxCapabilities:
    return {kind: [f"CAP_{name}" for name in names] for kind in ("bounding", "effective", "permitted")}  # type: ignore[return-value]


class Box:
    """An agent with a container that runs."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self._execs = 0
        victim = Path(f"/proc/{agent.pid}/root{VICTIM}")
        victim.mkdir()
        (victim / "secret").write_text("precious\n")
        for name in ("grep", "ls", "ln", "mkdir", "mount", "readlink", "stat"):
            (agent.rootfs / "bin" / name).symlink_to("busybox")
        (agent.rootfs / "real").mkdir()
        agent.run("box", "sleep", "10000", capabilities=caps("SYS_ADMIN", "KILL"))

    def exec(self, script: str, **changes: object) -> str:
        """What a shell says in the container; or what the agent says that it cannot be started with."""
        self._execs += 1
        exec_id = f"e{self._execs}"
        process: Process = make_process("sh", "-c", script, **changes)
        request = agent_pb2.ExecProcessRequest(container_id="box", exec_id=exec_id, process=process_to_proto(process))
        try:
            self.agent.call("ExecProcess", request)
        except RpcError as error:
            return f"refused: {error.message}"
        return (self.agent.read("box", exec_id) + self.agent.read("box", exec_id, "Stderr")).decode()

    def first(self, script: str, **changes: object) -> str:
        """The same as the first process of a new container."""
        request = self.agent.request("first", "sh", "-c", script, **changes)
        try:
            self.agent.call("CreateContainer", request)
        except RpcError as error:
            return f"refused: {error.message}"
        try:
            self.agent.call("StartContainer", agent_pb2.StartContainerRequest(container_id="first"))
            return self.agent.read("first").decode()
        finally:
            self.agent.remove("first")


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    agent = Agent(tmp_path)
    try:
        agent.call("CreateSandbox", agent_pb2.CreateSandboxRequest(sandbox_id="sb", hostname="pod"))
        yield Box(agent)
    finally:
        agent.close()


@pytest.mark.parametrize("terminal", [False, True])
def test_cve_2024_21626_a_working_folder_that_is_a_descriptor_of_the_runtime(box: Box, terminal: bool) -> None:
    """CVE-2024-21626 and #13587: whichever descriptor is named, no process has a folder outside as its own."""
    said = []
    for number in range(MOST):
        for place in (f"/proc/self/fd/{number}", f"/proc/self/fd/{number}/../..", f"/proc/1/fd/{number}"):
            said.append(box.exec(SECRET, cwd=place, terminal=terminal))
            said.append(box.first(SECRET, cwd=place, terminal=terminal))
    assert len([text for text in said if text.startswith("refused: ")]) > MOST
    assert not [text for text in said if "precious" in text]


def test_issue_13587_a_working_folder_that_was_a_link_of_the_image(box: Box) -> None:
    """#13587: it is looked for from the container's root, after which there is no other."""
    for number, link in enumerate((VICTIM, f"../../../../..{VICTIM}", "/proc/self/cwd", "/proc/1/cwd")):
        (box.agent.rootfs / f"link{number}").symlink_to(link)
        for place in (f"/link{number}", f"/../../../link{number}", f"/link{number}/../../.."):
            for text in (box.exec(SECRET, cwd=place), box.first(SECRET, cwd=place)):
                assert text == "end\n" or text.startswith("refused: "), text


def test_cve_2024_21626_descriptors_that_a_container_gets(box: Box) -> None:
    """CVE-2024-21626, CVE-2016-9962's class: three pipes, or a terminal, and nothing else; also seen from beside."""
    for said in (box.exec(LOOK), box.first(LOOK), box.exec("ls -l /proc/1/fd")):
        assert _descriptors(said) == {"0": "pipe", "1": "pipe", "2": "pipe"}, said
    for said in (box.exec(LOOK, terminal=True), box.first(LOOK, terminal=True)):
        assert _descriptors(said) == dict.fromkeys("012", "/dev/pts/0"), said


def test_cve_2022_27650_an_exec_inherits_no_capabilities(box: Box) -> None:
    """CVE-2022-27650: inheritable and ambient sets are empty unless they were asked for; the others are as asked."""
    fields = _status(box.exec("cat /proc/self/status", capabilities=caps("KILL")))
    assert [int(fields[name], 16) for name in ("CapInh", "CapAmb")] == [0, 0]
    assert [int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")] == [KILL] * 3
    fields = _status(box.exec("cat /proc/self/status"))
    assert [int(fields[name], 16) for name in ("CapInh", "CapAmb", "CapBnd")] == [0, 0, KILL | SYS_ADMIN]
    fields = _status(box.first("cat /proc/self/status"))
    assert [int(fields[name], 16) for name in ("CapInh", "CapAmb", "CapPrm", "CapBnd")] == [0] * 4


def test_issue_13615_an_exec_into_a_container_with_a_faked_proc(box: Box) -> None:
    """#13615: what the container made of its /proc decides over no capability, user, group or descriptor of an exec."""
    volume = box.agent.rootfs.parent / "kernel"
    volume.mkdir()
    (volume / "cap_last_cap").write_text("0\n")
    assert box.exec(FAKE) == "faked\n"
    asked = {"user": {"uid": 1000, "gid": 1000, "additionalGids": [7]}, "noNewPrivileges": True}
    said = box.exec("cat /real/self/status; ls /real/self/fd", capabilities=caps("KILL"), **asked)
    fields = _status(said)
    assert [fields[name].split() for name in ("Uid", "Gid")] == [["1000"] * 4] * 2
    assert set(fields["Groups"].split()) <= {"7"}, "none of the agent's; that one is missing is the container's doing"
    assert [int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd")] == [0, 0, 0, 0, KILL]
    assert fields["NoNewPrivs"] == "1"
    assert said.split()[-4:] == list("0123"), "ls has its own one"


def test_issue_13615_a_volume_over_the_kernels_settings(box: Box, tmp_path: Path) -> None:
    """#13615 without a privilege: a tenant's volume at /proc/sys/kernel says that there is but one capability."""
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings/cap_last_cap").write_text("0\n")
    mount: Mount = {
        "destination": "/proc/sys/kernel",
        "type": "bind",
        "source": f"{tmp_path}/settings",
        "options": ["rbind"],
    }
    request = box.agent.request("faked", "sleep", "1000", capabilities=caps("KILL"))
    added = spec_to_proto({"mounts": [mount]}).Mounts
    request.OCI.Mounts.extend(added)
    box.agent.call("CreateContainer", request)
    box.agent.call("StartContainer", agent_pb2.StartContainerRequest(container_id="faked"))
    script = "cat /proc/sys/kernel/cap_last_cap /proc/1/status /proc/self/status"
    box.agent.exec("faked", "look", "sh", "-c", script, capabilities=caps("KILL"))
    said = box.agent.read("faked", "look").decode()
    assert said.startswith("0\n")
    bounds = [line.split()[1] for line in said.splitlines() if line.startswith(("CapBnd", "CapEff", "CapPrm"))]
    assert [int(bound, 16) for bound in bounds] == [KILL] * 6


@pytest.mark.parametrize("user", ["root", "0:1000", "1000/0", -1, 1 << 32, 1000.0, True])
def test_cve_2026_30892_users_are_numbers(user: object) -> None:
    """CVE-2026-30892: crun is never given `exec -u` to parse, and its process file has no user that is not a number."""
    assert "-u" not in str(Crun.exec.__code__.co_consts) and "--process" in str(Crun.exec.__code__.co_consts)
    for name in ("uid", "gid"):
        with pytest.raises(SpecError):
            process_to_proto(make_process("id", user={name: user}))


@pytest.mark.parametrize("field", ["uid", "gid", "additionalGids"])
def test_cve_2024_40635_a_user_that_means_no_change(box: Box, field: str) -> None:
    """CVE-2024-40635's class (GO-2025-3528): 4294967295 is -1 to setuid(2), which leaves a process as it is: root.

    Our host would not send it, so it is put into the message here.
    """
    none = 0xFFFFFFFF
    process = process_to_proto(make_process("id", user={"uid": 7, "gid": 8}))
    if field == "additionalGids":
        process.User.AdditionalGids.append(none)
    else:
        setattr(process.User, field.upper(), none)
    first = box.agent.request("first", "id")
    first.OCI.Process.CopyFrom(process)
    again = agent_pb2.ExecProcessRequest(container_id="box", exec_id="again", process=process)
    for method, request in (("CreateContainer", first), ("ExecProcess", again)):
        with pytest.raises(RpcError, match=f"{field} has {none}"):
            box.agent.call(method, request)


def test_no_new_privileges_and_groups_are_as_asked(box: Box) -> None:
    """A promise of the container holds for each exec, though the exec's own process says otherwise."""
    said = box.first("cat /proc/self/status", noNewPrivileges=True, user={"uid": 7, "gid": 8, "additionalGids": [9]})
    fields = _status(said)
    assert (fields["NoNewPrivs"], fields["Groups"].split()) == ("1", ["9"])
    fields = _status(box.exec("cat /proc/self/status", user={"uid": 7, "gid": 8}))
    assert (fields["NoNewPrivs"], fields["Groups"].split()) == ("0", [])


def _descriptors(text: str) -> dict[str, str]:
    """What `ls -l` says of a folder of descriptors: number to what it is open on."""
    words = [line.split() for line in text.splitlines() if " -> " in line]
    return {line[-3]: line[-1].split(":")[0] for line in words}


def _status(text: str) -> dict[str, str]:
    """The fields of a /proc/<pid>/status."""
    assert not text.startswith("refused"), text
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines()) if value}
