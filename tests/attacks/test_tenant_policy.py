"""GHSA-fmg6-v47x-52wr: requests that a policy must not let through, against the sample that people start from.

A policy is for those who do not trust the host either, so every request here is one that a host could make.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from kata.agent import policy
from kata.agent.policy import Policy
from kata.errors import KataError
from kata.oci.convert import spec_to_proto
from kata.protocol.generated import agent_pb2
from kata.sandbox import spec as command_spec
from kata.sandbox.config import ContainerConfig, DiskRootfs, Rootfs, SharedRootfs
from kata.sandbox.containerplan import plan_container
from kata.sandbox.updates import SHARE_MOUNT, Facilities
from tests.helpers.tenants import pod

SAMPLE = Path(__file__).parents[2] / "docs/policies/one-workload.rego"
ARGS = ["/usr/sbin/httpd", "-f", "-p", "8080"]
ENV = ["PATH=/usr/bin:/bin", "HOSTNAME=web-1", "DB_SERVICE_HOST=10.0.0.1"]
CAPABILITIES = ["CAP_CHOWN", "CAP_NET_BIND_SERVICE"]


@pytest.fixture(scope="module")
def sample() -> str:
    return SAMPLE.read_text()


@pytest.fixture
def found(sample: str) -> Policy:
    return policy.parse(sample)


def request(rootfs: Rootfs | None = None) -> agent_pb2.CreateContainerRequest:
    """The request that this host makes for the workload: as a container of a pod, or of the command."""
    if isinstance(rootfs, DiskRootfs):
        spec: dict[str, Any] = cast("Any", command_spec.container(options()))
        spec["process"]["capabilities"] = {"bounding": CAPABILITIES}
    else:
        spec = of_pod()
    config = ContainerConfig(id="web1", spec=spec, rootfs=rootfs or SharedRootfs("/tmp"), resolv_conf=False)
    plan = plan_container(config, Facilities(share=True, shm=True))
    plan = plan.with_addresses(lambda serial: ("blk", "04"))
    made = agent_pb2.CreateContainerRequest(container_id="web1", exec_id="web1", OCI=spec_to_proto(plan.spec))
    made.storages.extend(plan.storages)
    return made


def options() -> command_spec.ContainerOptions:
    process = command_spec.ProcessOptions(args=tuple(ARGS), env=("PATH=/usr/bin:/bin", "HOSTNAME=web-1"))
    return command_spec.ContainerOptions(id="web1", process=process, hostname="web-1")


def of_pod() -> dict[str, Any]:
    spec = pod(hooks={})
    spec["process"] |= {"args": ARGS, "env": ENV, "user": {"uid": 0, "gid": 0}}
    spec["process"]["capabilities"] = {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES}
    spec["linux"]["devices"] = []
    spec["linux"]["namespaces"] += [{"type": kind} for kind in ("ipc", "uts")]
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["destination"] != "/data"]
    return spec


def test_what_this_host_asks_for_is_allowed(sample: str) -> None:
    """Else the requests below would be denied for any reason. With a shared root, and with one that is a disk."""
    for rootfs in (SharedRootfs("/tmp"), DiskRootfs("rootfs-web1")):
        made = request(rootfs)
        if isinstance(rootfs, DiskRootfs):
            made.OCI.Process.Env[:] = [entry for entry in made.OCI.Process.Env if not entry.startswith("HOME=")]
        answer = policy.parse(sample).check("CreateContainerRequest", made)
        assert answer.allowed, answer.reason


def mount(**fields: Any) -> Callable[[agent_pb2.CreateContainerRequest], object]:
    return lambda made: made.OCI.Mounts.add(**fields)


def storage(**fields: Any) -> Callable[[agent_pb2.CreateContainerRequest], object]:
    return lambda made: made.storages.add(**fields)


def process(change: Callable[[Any], object]) -> Callable[[agent_pb2.CreateContainerRequest], object]:
    return lambda made: change(made.OCI.Process)


def linux(change: Callable[[Any], object]) -> Callable[[agent_pb2.CreateContainerRequest], object]:
    return lambda made: change(made.OCI.Linux)


SHARED = f"{SHARE_MOUNT}/x"
SANDBOX = "/run/kata-containers/sandbox"
HOSTILE: dict[str, Callable[[Any], object]] = {
    # Mounts: what makes one a bind mount, where from, where to, and nothing for a source
    "a bind mount that says it is a tmpfs": mount(destination="/dev/shm", type="tmpfs", source="/", options=["rbind"]),
    "a bind mount of another kind": mount(destination="/sys", type="sysfs", source="/", options=["nosuid", "bind"]),
    "a source for a tmpfs": mount(destination="/dev/shm", type="tmpfs", source="/etc"),
    "an empty source": mount(destination="/etc/hosts", type="bind", source="", options=["rbind"]),
    "no type and no source": mount(destination="/etc/hosts", options=["rbind"]),
    "a source beside the share": mount(destination="/etc/hosts", type="bind", source=f"{SHARE_MOUNT}-x/y"),
    "the share's parent": mount(destination="/etc/hosts", type="bind", source=f"{SHARE_MOUNT}/../../"),
    "dots in the middle": mount(destination="/etc/hosts", type="bind", source=f"{SHARED}/../../../agent"),
    "a pattern for a source": mount(destination="/etc/hosts", type="bind", source=".*"),
    "a line and another": mount(destination="/etc/hosts", type="bind", source=f"/etc\n{SHARED}"),
    "the guest's root": mount(destination="/etc/hosts", type="bind", source="/"),
    "the guest's processes": mount(destination="/etc/hosts", type="bind", source="/proc/1/root/etc/shadow"),
    "over the program": mount(destination="/usr/sbin", type="bind", source=SHARED, options=["rbind"]),
    "over the program by dots": mount(destination="/var/www/../../usr/sbin", type="bind", source=SHARED),
    "over everything": mount(destination="/", type="bind", source=SHARED),
    "another proc": mount(destination="/etc/hosts", type="proc", source="proc"),
    "the share itself": mount(destination="/proc", type="virtiofs", source="kataShared"),
    "an overlay of theirs": mount(destination="/proc", type="overlay", options=["lowerdir=/:/etc"]),
    # Storages
    "a storage without a driver": storage(source="/x", mount_point=f"{SANDBOX}/rootfs/web1"),
    "a bind mount by a storage": storage(driver="bind", fstype="bind", source="/", mount_point=f"{SANDBOX}/rootfs/y"),
    "a storage over the agent": storage(driver="blk", fstype="ext4", source="04", mount_point="/usr/bin"),
    "dots in a storage": storage(driver="blk", fstype="ext4", source="04", mount_point=f"{SANDBOX}/rootfs/../../.."),
    "an empty place": storage(driver="blk", fstype="ext4", source="04"),
    "another file system": storage(driver="blk", fstype="proc", source="04", mount_point=f"{SANDBOX}/rootfs/y"),
    "a local file system": storage(driver="local", source="local", mount_point="/etc"),
    "an overlay of the guest": storage(
        driver="overlayfs", fstype="overlay", options=["lowerdir=/"], mount_point=f"{SANDBOX}/rootfs/y"
    ),
    "an overlay of two": storage(
        driver="overlayfs",
        fstype="overlay",
        options=[f"lowerdir={SANDBOX}/layers/web1:/etc"],
        mount_point=f"{SANDBOX}/rootfs/y",
    ),
    "an upper folder": storage(
        driver="overlayfs",
        fstype="overlay",
        options=[f"lowerdir={SANDBOX}/layers/web1", "upperdir=/etc"],
        mount_point=f"{SANDBOX}/rootfs/y",
    ),
    "watching the guest": storage(
        driver="watchable-bind", fstype="bind", source="/etc", mount_point=f"{SANDBOX}/watchable/y"
    ),
    "the guest's images": storage(driver="image_guest_pull", fstype="overlay", mount_point=f"{SANDBOX}/rootfs/y"),
    # What runs, as whom
    "another program": process(lambda it: it.Args.__setitem__(0, "/bin/sh")),
    "more arguments": process(lambda it: it.Args.append("-h/")),
    "fewer arguments": process(lambda it: it.Args.pop()),
    "arguments in one": process(lambda it: it.Args.__setitem__(slice(None), [" ".join(ARGS)])),
    "a library": process(lambda it: it.Env.append("LD_PRELOAD=/x.so")),
    "a library in a second line": process(lambda it: it.Env.append("PATH=/bin\nLD_PRELOAD=/x.so")),
    "a variable that begins like one": process(lambda it: it.Env.append("HOSTNAME=web; rm -rf /")),
    "an empty variable": process(lambda it: it.Env.append("")),
    "another user": process(lambda it: setattr(it.User, "UID", 1)),
    "a capability": process(lambda it: it.Capabilities.Bounding.append("CAP_SYS_ADMIN")),
    "an ambient capability": process(lambda it: it.Capabilities.Ambient.append("CAP_SYS_ADMIN")),
    # Devices, namespaces, the kernel, hooks
    "a device": lambda made: made.devices.add(type="blk", id="04", container_path="/dev/x"),
    "a node": linux(lambda it: it.Devices.add(Path="/dev/x", Type="b", Major=254)),
    "a namespace of the guest's": linux(lambda it: it.Namespaces.add(Type="mount", Path="/proc/1/ns/mnt")),
    "no namespaces": linux(lambda it: it.ClearField("Namespaces")),
    "no Linux at all": lambda made: made.OCI.ClearField("Linux"),
    "a setting of the kernel": linux(lambda it: it.Sysctl.update({"kernel.core_pattern": "|/x"})),
    "a hook": lambda made: made.OCI.Hooks.Prestart.add(Path="/x"),
    "hooks that are empty": lambda made: made.OCI.Hooks.SetInParent(),
    "a folder of another container": lambda made: made.shared_mounts.add(name="x", src_path="/", dst_path="/"),
    # Its root and its name
    "the guest's root as its own": lambda made: setattr(made.OCI.Root, "Path", "/"),
    "no root": lambda made: made.OCI.ClearField("Root"),
    "a root by dots": lambda made: setattr(made.OCI.Root, "Path", f"{SHARED}/../../../../../.."),
    "no process": lambda made: made.OCI.ClearField("Process"),
    "no specification": lambda made: made.ClearField("OCI"),
    "a path for a name": lambda made: setattr(made, "container_id", "../web1"),
    "a pointer for a name": lambda made: setattr(made, "container_id", "a~1b/c"),
    "no name": lambda made: setattr(made, "container_id", ""),
    "a name of two lines": lambda made: setattr(made, "container_id", "web1\nx"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_ghsa_fmg6_v47x_52wr_a_hostile_request_is_denied(name: str, found: Policy) -> None:
    made = request()
    HOSTILE[name](made)
    assert not allowed(found, "CreateContainerRequest", made)
    assert allowed(found, "CreateContainerRequest", request()), "and its container can be created yet"


def allowed(found: Policy, name: str, made: object) -> bool:
    """Whether the agent would serve it: an error is no permission."""
    try:
        return found.check(name, made).allowed
    except KataError:
        return False


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it.Args.__setitem__(slice(None), ["/bin/ls /var/www"]),
        lambda it: it.Args.__setitem__(slice(None), ["/bin/ls", "/var", "www"]),
        lambda it: it.Args.append(";id"),
        lambda it: it.ClearField("Args"),
        lambda it: it.Env.append("LD_PRELOAD=/var/www/x.so"),
        lambda it: setattr(it.User, "UID", 7),
        lambda it: it.Capabilities.Effective.append("CAP_SYS_ADMIN"),
    ],
)
def test_ghsa_fmg6_v47x_52wr_further_processes_are_the_workloads(
    change: Callable[[Any], object], found: Policy
) -> None:
    assert allowed(found, "CreateContainerRequest", request())
    made = agent_pb2.ExecProcessRequest(container_id="web1", exec_id="e")
    made.process.Args.extend(["/bin/ls", "/var/www"])
    made.process.Env.extend(ENV)
    made.process.User.UID = 0
    assert allowed(found, "ExecProcessRequest", made)
    change(made.process)
    assert not allowed(found, "ExecProcessRequest", made)
    for other in ("", "web2", "../web1", "web1\n", "pstate"):
        again = agent_pb2.ExecProcessRequest()
        again.CopyFrom(made)
        again.container_id = other
        assert not allowed(found, "ExecProcessRequest", again)


def test_a_denied_request_changes_no_state(found: Policy) -> None:
    made = request()
    made.OCI.Process.Args.append("x")
    for _ in range(3):
        assert not allowed(found, "CreateContainerRequest", made)
    assert allowed(found, "CreateContainerRequest", request())
    again = request()
    again.container_id = "web2"
    assert not allowed(found, "CreateContainerRequest", again), "it runs already"
