"""What is answered at which path: upstream's list (shim behaviour, section 11), and where the debug console is.

Made by `serve`. A few lines a path, each one call of the sandbox; errors become HTTP statuses in `answer` and nowhere
else.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol

from kata.errors import KataError
from kata.management.errors import HttpError
from kata.management.exposition import CONTENT_TYPE
from kata.management.http import Response, failure
from kata.sandbox import errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.management.http import Request
    from kata.protocol.generated import csi_pb2

    Handler = Callable[[Request], Response]

STATUSES: tuple[tuple[type[KataError], int], ...] = (
    (errors.NotFoundError, 404),
    (errors.ConflictError, 409),
    (errors.ConfigError, 400),
    (errors.GuestError, 504),
    (errors.ContainerError, 502),
)
"""First match wins; everything else is 500."""


class GuestAgent(Protocol):
    """What is asked of the guest's agent. Everything raises KataError."""

    def get_ip_tables(self, *, ipv6: bool) -> bytes:
        """The guest's packet filter, as iptables-save(8) text."""

    def set_ip_tables(self, rules: bytes, *, ipv6: bool) -> bytes:
        """Replace tables of the packet filter; what the guest's program said."""

    def set_policy(self, policy: str) -> None:
        """Replace the agent's policy."""


class Managed(Protocol):
    """The sandbox that is managed."""

    @property
    def agent(self) -> GuestAgent:
        """Its agent. Raises ConflictError when the sandbox has ended."""

    @property
    def agent_url(self) -> str:
        """Where the agent is. Raises ConflictError when the sandbox has ended."""

    @property
    def console_url(self) -> str:
        """Where the debug console is. Raises KataError when there is none."""

    def volume_stats(self, volume_path: str) -> csi_pb2.VolumeStatsResponse:
        """How full the volume is that the host knows by that path. Raises KataError."""

    def resize_volume(self, volume_path: str, size: int) -> None:
        """Make the volume `size` bytes. Raises KataError."""


class Routes:
    """Answers requests about one sandbox; `metrics` renders what `/metrics` says."""

    def __init__(self, sandbox: Managed, metrics: Callable[[], str]) -> None:
        self._sandbox = sandbox
        self._metrics = metrics
        self._paths: dict[str, dict[str, Handler]] = {
            "/metrics": {"GET": lambda _: Response(metrics().encode(), type=CONTENT_TYPE)},
            "/agent-url": {"GET": lambda _: Response(sandbox.agent_url.encode())},
            "/debug/console": {"GET": lambda _: Response(sandbox.console_url.encode())},
            "/direct-volume/stats": {"GET": self._volume_stats, "POST": self._volume_stats},
            "/direct-volume/resize": {"POST": self._resize_volume},
            "/iptables": {"GET": self._get_ip_tables, "PUT": self._set_ip_tables},
            "/ip6tables": {"GET": self._get_ip_tables, "PUT": self._set_ip_tables},
            "/policy": {"PUT": self._set_policy},
        }

    def answer(self, request: Request) -> Response:
        """The answer to a request; whatever goes wrong is one too."""
        try:
            return self._handler(request)(request)
        except HttpError as error:
            return failure(error.status, error.text)
        except KataError as error:
            status = next((status for kind, status in STATUSES if isinstance(error, kind)), 500)
            hint = f" ({error.hint})" if error.hint else ""
            return failure(status, f"{error.layer}: {error.what}{hint}")
        except Exception as error:  # noqa: BLE001 - a fault of ours must not leave the client without an answer
            return failure(500, f"an unexpected fault: {type(error).__name__}: {error}")

    def _handler(self, request: Request) -> Handler:
        methods = self._paths.get(request.path)
        if methods is None:
            raise HttpError(404, f"nothing is at {request.path}; there are {' '.join(self._paths)}")
        wanted = "GET" if request.method == "HEAD" else request.method
        if wanted not in methods:
            raise HttpError(405, f"{request.path} takes {' and '.join(methods)}")
        return methods[wanted]

    def _get_ip_tables(self, request: Request) -> Response:
        return Response(self._sandbox.agent.get_ip_tables(ipv6=request.path == "/ip6tables"))

    def _set_ip_tables(self, request: Request) -> Response:
        return Response(self._sandbox.agent.set_ip_tables(request.body, ipv6=request.path == "/ip6tables"))

    def _set_policy(self, request: Request) -> Response:
        try:
            policy = request.body.decode()
        except UnicodeDecodeError:
            raise HttpError(400, "the policy is no UTF-8") from None
        self._sandbox.agent.set_policy(policy)
        return Response()

    def _volume_stats(self, request: Request) -> Response:
        path = request.query.get("path") or request.body.decode("utf-8", "replace")
        stats = self._sandbox.volume_stats(_volume_path(path))
        usage = [
            {"available": one.available, "total": one.total, "used": one.used, "unit": one.unit} for one in stats.usage
        ]
        condition = {"abnormal": stats.volume_condition.abnormal, "message": stats.volume_condition.message}
        text = json.dumps({"usage": usage, "volume_condition": condition})
        return Response(text.encode(), type="application/json")

    def _resize_volume(self, request: Request) -> Response:
        try:
            wanted = json.loads(request.body)
            path, size = wanted["VolumePath"], wanted["Size"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise HttpError(400, 'the body must be {"VolumePath": "...", "Size": bytes}') from None
        if type(size) is not int or not 0 < size < 1 << 63:
            raise HttpError(400, f"a volume cannot have the size {str(size)[:40]!r}")
        self._sandbox.resize_volume(_volume_path(path), size)
        return Response()


def _volume_path(path: object) -> str:
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise HttpError(400, "a volume's path begins with /")
    return path
