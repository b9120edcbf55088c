"""Tells containerd of what happens to tasks, in the order in which it happened, and never makes anybody wait.

Called by `pod`. One thread sends; what cannot be delivered after a few tries is lost, as with every shim, and the log
says so. Without an address (CRI-O) events are only logged.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, cast

from kata.protocol.client import Client
from kata.protocol.generated.host import forward_pb2
from kata.protocol.messages import message
from kata.protocol.status import Code, RpcError
from kata.protocol.transport import dial

if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any as AnyMessage
    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp

    from kata.log import Logger

FORWARD = "containerd.services.events.ttrpc.v1.Events/Forward"
CALL_TIMEOUT = 5.0
TRIES = 5
PAUSES = (0.1, 0.3, 1.0, 3.0)
"""Seconds before another try; containerd may be restarting."""
QUEUED = 64
"""Events that wait to be sent beyond which those are left out that a guest can cause by itself."""
OF_GUESTS = frozenset({"TaskOOM"})

TOPICS = {
    "TaskCreate": "/tasks/create",
    "TaskStart": "/tasks/start",
    "TaskExecAdded": "/tasks/exec-added",
    "TaskExecStarted": "/tasks/exec-started",
    "TaskExit": "/tasks/exit",
    "TaskDelete": "/tasks/delete",
    "TaskOOM": "/tasks/oom",
    "TaskPaused": "/tasks/paused",
    "TaskResumed": "/tasks/resumed",
}


def timestamp(seconds: float) -> Timestamp:
    """A google.protobuf.Timestamp for a time of time.time()."""
    whole = int(seconds)
    make = cast("type[Timestamp]", message("google.protobuf.Timestamp"))
    return make(seconds=whole, nanos=int((seconds - whole) * 1e9))


def as_any(value: Message, url: str = "") -> AnyMessage:
    """A google.protobuf.Any that holds `value`; its type's name alone is the URL, as containerd has it."""
    make = cast("type[AnyMessage]", message("google.protobuf.Any"))
    return make(type_url=url or value.DESCRIPTOR.full_name, value=value.SerializeToString())


class Publisher:
    """Sends events; `close` waits for those that are under way."""

    def __init__(self, address: str, namespace: str, log: Logger) -> None:
        self._address = address
        self._namespace = namespace
        self._log = log
        self._queue: queue.SimpleQueue[forward_pb2.ForwardRequest | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._client: Client | None = None
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def publish(self, event: Message) -> None:
        """Queue an event. Never blocks, and never keeps any number of what a guest says."""
        name = event.DESCRIPTOR.name
        if name in OF_GUESTS and self._queue.qsize() >= QUEUED:
            return
        envelope = forward_pb2.Envelope(
            timestamp=timestamp(time.time()), namespace=self._namespace, topic=TOPICS[name], event=as_any(event)
        )
        self._queue.put(forward_pb2.ForwardRequest(envelope=envelope))

    def close(self, timeout: float) -> None:
        """Send what is queued, at most for `timeout` seconds, then stop."""
        self._queue.put(None)
        self._thread.join(timeout)
        self._closing.set()
        self._drop_client()

    def _run(self) -> None:
        while (request := self._queue.get()) is not None:
            topic = request.envelope.topic
            if not self._address:
                self._log.info("event", topic=topic)
            elif not self._send(request):
                self._log.error("an event could not be delivered", topic=topic, address=self._address)

    def _send(self, request: forward_pb2.ForwardRequest) -> bool:
        for attempt in range(TRIES):
            try:
                self._connected().call(FORWARD, request, timeout=CALL_TIMEOUT)
                return True
            except (OSError, RpcError) as error:
                refused = isinstance(error, RpcError) and error.code not in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)
                self._drop_client()
                if refused:
                    self._log.warn("containerd refuses an event", topic=request.envelope.topic, error=error)
                    return False
            if attempt < len(PAUSES) and self._closing.wait(PAUSES[attempt]):
                return False
        return False

    def _connected(self) -> Client:
        if self._client is None or self._client.closed:
            self._client = Client(dial(f"unix://{self._address.removeprefix('unix://')}", CALL_TIMEOUT))
        return self._client

    def _drop_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()
