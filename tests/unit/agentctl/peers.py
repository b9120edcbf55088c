"""A target that keeps what it is asked and answers from a table: for tests of what stands before it."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from google.protobuf.message import Message

from kata.protocol.messages import Method


class Recorder:
    """Answers every request with an empty reply, or what `answers` makes of it."""

    def __init__(self, answers: dict[str, Callable[[Message], Message]] | None = None) -> None:
        self.answers = answers or {}
        self.asked: list[tuple[str, Message, float | None]] = []

    def call(self, method: Method, request: Message, timeout: float | None) -> Message:
        self.asked.append((method.name, request, timeout))
        answer = self.answers.get(method.name)
        return answer(request) if answer else method.response()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
