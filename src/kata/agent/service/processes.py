"""Requests about processes of containers and their streams.

One part of `AgentService`. Each method unpacks its message, calls one room, packs the reply: no decisions here.
"""

from __future__ import annotations

import time

from kata.agent import errors
from kata.agent.sandbox import check_signal
from kata.agent.service.base import Base
from kata.agent.service.guard import READ_STREAM, decide
from kata.protocol.encoded import with_bytes
from kata.protocol.generated import agent_pb2
from kata.protocol.status import Code, RpcError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

    from kata.protocol.encoded import Encoded
    from kata.protocol.server import Call


class Processes(Base):
    """Started, signalled, waited for, written to and read from."""

    def exec_process(self, request: agent_pb2.ExecProcessRequest, call: Call) -> Message:
        """Start another process in a container."""
        from kata.agent.updates import translate_process
        from kata.oci.convert import process_from_proto

        container = self._container(request)
        if not request.HasField("process"):
            raise errors.BadRequest("ExecProcess: no process is given")
        process = translate_process(process_from_proto(request.process), self._sandbox.pci_map(request.container_id))
        container.exec(request.exec_id, process)
        return self._done()

    def signal_process(self, request: agent_pb2.SignalProcessRequest, call: Call) -> Message:
        """Send a signal."""
        self._container(request).signal(request.exec_id, check_signal(request.signal))
        return self._done()

    def wait_process(self, request: agent_pb2.WaitProcessRequest, call: Call) -> agent_pb2.WaitProcessResponse:
        """Block until it has ended."""
        container = self._container(request)
        left = None if call.deadline is None else call.deadline - time.monotonic()
        code = container.process(request.exec_id).wait(left)
        if code is None:
            raise RpcError(Code.DEADLINE_EXCEEDED, f"process {request.exec_id!r} still runs")
        container.drop_spent(request.exec_id)
        return agent_pb2.WaitProcessResponse(status=code)

    def write_stdin(self, request: agent_pb2.WriteStreamRequest, call: Call) -> agent_pb2.WriteStreamResponse:
        """Write to standard input; no data is its end."""
        stdin = self._container(request).process(request.exec_id).streams.stdin
        if not request.data:
            stdin.end()
            return agent_pb2.WriteStreamResponse()
        return agent_pb2.WriteStreamResponse(len=stdin.write(request.data))

    def close_stdin(self, request: agent_pb2.CloseStdinRequest, call: Call) -> Message:
        """The end of standard input."""
        self._container(request).process(request.exec_id).streams.stdin.end()
        return self._done()

    def read_stdout(self, request: agent_pb2.ReadStreamRequest, call: Call) -> Encoded:
        """Block until there is output; no data is the end."""
        return self._read(request, "stdout")

    def read_stderr(self, request: agent_pb2.ReadStreamRequest, call: Call) -> Encoded:
        """Likewise; with a terminal there is never any."""
        return self._read(request, "stderr")

    def tty_win_resize(self, request: agent_pb2.TtyWinResizeRequest, call: Call) -> Message:
        """Set the terminal's size."""
        self._container(request).process(request.exec_id).resize(request.row, request.column)
        return self._done()

    def _read(self, request: agent_pb2.ReadStreamRequest, stream: str) -> Encoded:
        container = self._container(request)
        process = container.process(request.exec_id)
        data = process.read(stream, request.len)
        while data and self._redacted(request):
            data = process.read(stream, request.len)
        if not data:
            container.drop_spent(request.exec_id)
        return with_bytes(agent_pb2.ReadStreamResponse, agent_pb2.ReadStreamResponse.DATA_FIELD_NUMBER, data)

    def _redacted(self, request: agent_pb2.ReadStreamRequest) -> bool:
        """Whether the policy keeps output from the host; it is thrown away then, and the container goes on."""
        try:
            decision = decide(self._sandbox, READ_STREAM, request)
        except errors.AgentError as error:
            self._sandbox.log.warn("output is kept back", error=str(error))
            return True
        return decision is not None and not decision.allowed
