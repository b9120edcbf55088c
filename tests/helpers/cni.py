"""Debian's CNI plugins, called as a container manager calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.kernel.netns import Netns

PLUGINS = "/usr/lib/cni"
Result = dict[str, Any]


class Cni:
    """Plugins as a runtime calls them (CNI specification 0.4.0); `host` is what they take for the host.

    Pods have addresses of 10.<number>.0.0/24 and fd<number>::/64, and the first of both is the host's.
    """

    def __init__(self, host: Netns, data: Path, number: int = 66) -> None:
        self.host = host
        self.ipam = {
            "type": "host-local",
            "dataDir": str(data),
            "ranges": [[{"subnet": f"10.{number}.0.0/24"}], [{"subnet": f"fd{number}::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        }

    def bridge(self, **options: Any) -> Result:
        """The plugin that joins pods by a bridge of the host."""
        return {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipam": self.ipam, **options}

    def add(self, pod: Netns, *chain: Result, **arguments: Any) -> Result:
        """Set a pod's eth0 up; what the last plugin says."""
        result: Result = {}
        for plugin in chain:
            result = self._call("ADD", pod, plugin, result, arguments)
        return result

    def remove(self, pod: Netns, *chain: Result, **arguments: Any) -> None:
        """Take it down again."""
        for plugin in reversed(chain):
            self._call("DEL", pod, plugin, {}, arguments)

    def _call(self, command: str, pod: Netns, plugin: Result, result: Result, arguments: Result) -> Result:
        config: Result = {"cniVersion": "0.4.0", "name": "test", **plugin}
        if result:
            config["prevResult"] = result
        if arguments:
            config["runtimeConfig"] = arguments
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": pod.name,
            "CNI_NETNS": pod.path,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": PLUGINS,
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        }
        said = self.host.command(f"{PLUGINS}/{plugin['type']}", input=json.dumps(config), env=environment)
        answer: Result = json.loads(said) if said else {}
        return answer


def addresses(result: Result) -> tuple[str, str]:
    """The IPv4 and the IPv6 address that a pod was given."""
    four, six = (entry["address"].partition("/")[0] for entry in result["ips"])
    return four, six
