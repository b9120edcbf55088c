"""grpc.Health."""

from __future__ import annotations

from kata.protocol.generated import health_pb2
from kata.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.protocol.server import Call

PROTOCOL_VERSION = "0.0.1"


class Health:
    """grpc.Health."""

    def check(self, request: health_pb2.CheckRequest, call: Call) -> health_pb2.HealthCheckResponse:
        """Serving, or there would be no answer."""
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    def version(self, request: health_pb2.CheckRequest, call: Call) -> health_pb2.VersionCheckResponse:
        """Versions of protocol and agent."""
        return health_pb2.VersionCheckResponse(grpc_version=PROTOCOL_VERSION, agent_version=__version__)
