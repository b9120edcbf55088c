"""Kubernetes' side of containerd: calls over its CRI socket, pods and their containers in a test's words.

The messages are made from tests/protos/cri.proto when they are first needed.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from grpc_tools import protoc

from tests.helpers.containerd import IMAGE

PROTOS = Path(__file__).parents[1] / "protos"
HANDLER = "kata"
TIMEOUT = 180.0
_numbers = itertools.count()


@functools.cache
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    with tempfile.NamedTemporaryFile() as file:
        words = ["protoc", f"-I{PROTOS}", f"--descriptor_set_out={file.name}", "cri.proto"]
        assert protoc.main(words) == 0
        for entry in descriptor_pb2.FileDescriptorSet.FromString(Path(file.name).read_bytes()).file:
            pool.Add(entry)
    return pool


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"runtime.v1.{name}"))


class Cri:
    """A connection to the runtime service. Call it with a method's name and the fields of its request.

    `pods` are the ids of all that there ever were.
    """

    def __init__(self, address: Path) -> None:
        self._address = address
        self.pods: list[str] = []
        self._channel = grpc.insecure_channel(f"unix://{address}")

    def __call__(self, method: str, **fields: Any) -> Any:
        """The response. Raises grpc.RpcError."""
        call = self._channel.unary_unary(
            f"/runtime.v1.RuntimeService/{method}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=_message(f"{method}Response").FromString,
        )
        return call(json_format.ParseDict(fields, _message(f"{method}Request")()), timeout=TIMEOUT, wait_for_ready=True)

    def await_service(self) -> None:
        """Until containerd has loaded what it knew; before that it refuses calls."""
        await_true(self._answers, "containerd's CRI")

    def _answers(self) -> bool:
        try:
            self("ListPodSandbox")
        except grpc.RpcError as error:
            assert "not initialized" in error.details(), error
            return False
        return True

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def pod(self, logs: Path, handler: str = HANDLER, **config: Any) -> Pod:
        """Run a pod. `config` goes into its PodSandboxConfig; container logs go below `logs`."""
        name = f"pod{os.getpid()}-{next(_numbers)}"
        metadata = {"name": name, "uid": f"uid-{name}", "namespace": "tests", "attempt": 0}
        whole = {"metadata": metadata, "hostname": name, "log_directory": str(logs), "linux": {}, **config}
        pod_id = self("RunPodSandbox", config=whole, runtime_handler=handler).pod_sandbox_id
        self.pods.append(pod_id)
        return Pod(self, whole, pod_id)

    def remove_all(self) -> None:
        """Remove every pod with what is in it."""
        for item in self("ListPodSandbox").items:
            self("StopPodSandbox", pod_sandbox_id=item.id)
            self("RemovePodSandbox", pod_sandbox_id=item.id)


class Pod:
    """A pod that runs."""

    def __init__(self, cri: Cri, config: dict[str, Any], pod_id: str) -> None:
        self.cri = cri
        self.config = config
        self.id = pod_id

    @property
    def status(self) -> Any:
        """Its PodSandboxStatus."""
        return self.cri("PodSandboxStatus", pod_sandbox_id=self.id).status

    @property
    def ready(self) -> bool:
        """Whether containerd takes it for ready."""
        return bool(self.status.state == 0)

    @property
    def pid(self) -> int:
        """The process on the host that containerd takes it for."""
        answer = self.cri("PodSandboxStatus", pod_sandbox_id=self.id, verbose=True)
        return int(json.loads(answer.info["info"])["pid"])

    @property
    def ip(self) -> str:
        """Its address."""
        return str(self.status.network.ip)

    def create(self, name: str, *command: str, attempt: int = 0, **config: Any) -> Container:
        """Create a container, not started. `config` goes into its ContainerConfig."""
        whole = {
            "metadata": {"name": name, "attempt": attempt},
            "image": {"image": IMAGE},
            "command": list(command),
            "log_path": f"{name}-{attempt}.log",
            "linux": {},
            **config,
        }
        answer = self.cri("CreateContainer", pod_sandbox_id=self.id, config=whole, sandbox_config=self.config)
        return Container(self.cri, answer.container_id, Path(self.config["log_directory"], whole["log_path"]))

    def run(self, name: str, *command: str, **config: Any) -> Container:
        """Create and start a container."""
        container = self.create(name, *command, **config)
        container.start()
        return container

    def once(self, name: str, script: str, **config: Any) -> tuple[int, str]:
        """Exit code and output of a shell script in a container of its own, which is removed."""
        container = self.run(name, "sh", "-c", script, **config)
        status = container.await_end()
        said = container.said()
        container.remove()
        return int(status.exit_code), said

    def stop(self) -> None:
        """Stop it."""
        self.cri("StopPodSandbox", pod_sandbox_id=self.id)

    def remove(self) -> None:
        """Stop and remove it, twice: a kubelet repeats itself."""
        for method in ("StopPodSandbox", "StopPodSandbox", "RemovePodSandbox", "RemovePodSandbox"):
            self.cri(method, pod_sandbox_id=self.id)


class Container:
    """A container of a pod. `log` is where containerd writes what it says."""

    def __init__(self, cri: Cri, container_id: str, log: Path) -> None:
        self.cri = cri
        self.id = container_id
        self.log = log

    @property
    def status(self) -> Any:
        """Its ContainerStatus."""
        return self.cri("ContainerStatus", container_id=self.id).status

    @property
    def pid(self) -> int:
        """The process on the host that containerd takes it for."""
        answer = self.cri("ContainerStatus", container_id=self.id, verbose=True)
        return int(json.loads(answer.info["info"])["pid"])

    @property
    def running(self) -> bool:
        """Whether containerd takes it for running."""
        return bool(self.status.state == 1)

    def start(self) -> None:
        """Start it."""
        self.cri("StartContainer", container_id=self.id)

    def exec(self, *command: str, timeout: int = 60) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of one more process."""
        answer = self.cri("ExecSync", container_id=self.id, cmd=list(command), timeout=timeout)
        return int(answer.exit_code), answer.stdout.decode(), answer.stderr.decode()

    def shell(self, script: str, timeout: int = 60) -> str:
        """What a script says that must succeed."""
        code, out, err = self.exec("sh", "-c", script, timeout=timeout)
        assert code == 0, f"{script}: {code}: {out}{err}"
        return out

    def await_end(self, timeout: float = 60.0) -> Any:
        """The status, once it has ended."""
        await_true(lambda: self.status.state == 2, f"the end of {self.id}", timeout)
        return self.status

    def log_lines(self) -> list[tuple[str, str, str]]:
        """What it wrote: stream, tag (F whole, P part) and text, as in the log."""
        found = []
        for line in self.log.read_text().splitlines():
            _, stream, tag, text = line.split(" ", 3)
            found.append((stream, tag, text))
        return found

    def said(self, stream: str = "") -> str:
        """The log's text, of one stream or of both."""
        return "".join(
            text + ("\n" if tag == "F" else "") for name, tag, text in self.log_lines() if stream in ("", name)
        )

    def stop(self, timeout: int = 0) -> None:
        """Stop it: SIGTERM, and SIGKILL after `timeout` seconds."""
        self.cri("StopContainer", container_id=self.id, timeout=timeout)

    def remove(self) -> None:
        """Remove it, whatever it does."""
        self.cri("RemoveContainer", container_id=self.id)


def await_true(condition: Callable[[], bool], what: str, timeout: float = 60.0) -> None:
    """Until the condition holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {timeout:.0f} s"
        time.sleep(0.2)
