"""Codes and errors, and their form on the wire."""

from __future__ import annotations

import pytest

from kata.protocol import status
from kata.protocol.generated import status_pb2
from kata.protocol.messages import message
from kata.protocol.status import Code, RpcError


def test_codes_are_grpc_s() -> None:
    names = "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED"
    names += " RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE"
    names += " DATA_LOSS UNAUTHENTICATED"
    assert [code.name for code in sorted(Code)] == names.split()
    assert [code.value for code in sorted(Code)] == list(range(17))


def test_an_error_survives_the_wire() -> None:
    detail = message("google.protobuf.Any")(type_url="t", value=b"v")
    sent = status.to_message(RpcError(Code.NOT_FOUND, "no such container", [detail]))  # type: ignore[list-item]
    got = status.from_message(status_pb2.Status.FromString(sent.SerializeToString()))
    assert (got.code, got.message, got.details) == (Code.NOT_FOUND, "no such container", (detail,))
    assert str(got) == "NOT_FOUND: no such container"


@pytest.mark.parametrize("code", [17, -1, 2**31 - 1])
def test_codes_that_nobody_defined_are_unknown(code: int) -> None:
    assert status.from_message(status_pb2.Status(code=code, message="m")).code is Code.UNKNOWN


def test_text_that_is_no_text_is_written_out() -> None:
    sent = status.to_message(RpcError(Code.INTERNAL, "open /tmp/\udcff: failed"))
    assert sent.message == "open /tmp/\\udcff: failed"
