"""What the kernel command line (`agent.*`) and the agent's own arguments say.

Read once, by `__main__`. Unknown options are ignored with a warning, of one given twice the last wins, a malformed
number is a ConfigError: it stops the agent, with the sentence on the console. Options about parts of the guest that
this agent does not have (attestation, image pull) are checked and kept, so that a host may give them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from kata.agent.errors import ConfigError
from kata.log import LEVELS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SYSTEMD_UNIFIED = "systemd.unified_cgroup_hierarchy"
"""Systemd's option, which hosts give for `agent.unified_cgroup_hierarchy`, whatever runs in the guest."""


class Config(NamedTuple):
    """Settings of the agent; the defaults are upstream's."""

    server_addr: str = ""
    """Where to listen; empty: the virtio-serial port `agent.channel.0`, else vsock port 1024."""
    log: str = "info"
    log_vport: int = 0
    """Not 0: the log goes to the host as well, by the virtio-serial port `agent.log.0`, else this port of vsock."""
    debug_console: bool = False
    """A shell for the host: at the virtio-serial port `agent.debug.0`, else at `debug_console_vport`, else at the
    serial console."""
    debug_console_vport: int = 0
    devmode: bool = False
    trace: bool = False
    hotplug_timeout: float = 3.0
    """Seconds to wait for a device."""
    container_pipe_size: int = 0
    """Bytes of the buffer of standard streams; 0 is the kernel's own default."""
    launch_process_timeout: float = 6.0
    cdi_timeout: float = 100.0
    visible_cdi_devices: bool = False
    passfd_listener_port: int = 0
    unified_cgroup_hierarchy: bool = True
    """False, or `systemd.unified_cgroup_hierarchy=0`: the guest gets cgroup v1."""
    config_file: str = ""
    """A TOML file that decides instead of the kernel command line; see `config_file`."""
    policy_file: str = ""
    """The policy from the start; empty: the image's own, if it has one."""
    allowed: tuple[str, ...] | None = None
    """Names of the requests that are answered (a configuration file's `[endpoints]`); None for all."""
    cdh_api_timeout: float = 50.0
    image_pull_timeout: float = 1200.0
    guest_components_rest_api: str = "resource"
    guest_components_procs: str = "api-server-rest"
    secure_storage_integrity: bool = True
    https_proxy: str = ""
    no_proxy: str = ""
    mem_agent_enable: bool = False
    mem_agent_memcg_disable: bool = False
    mem_agent_memcg_swap: bool = False
    mem_agent_memcg_swappiness_max: int = 50
    mem_agent_memcg_period_secs: int = 600
    mem_agent_memcg_period_psi_percent_limit: int = 1
    mem_agent_memcg_eviction_psi_percent_limit: int = 1
    mem_agent_memcg_eviction_run_aging_count_min: int = 3
    mem_agent_compact_disable: bool = False
    mem_agent_compact_period_secs: int = 600
    mem_agent_compact_period_psi_percent_limit: int = 1
    mem_agent_compact_psi_percent_limit: int = 5
    mem_agent_compact_sec_max: int = 300
    mem_agent_compact_order: int = 9
    mem_agent_compact_threshold: int = 1024
    mem_agent_compact_force_times: int = 9223372036854775807
    unknown: tuple[str, ...] = ()
    """Options that were given and mean nothing to this agent."""


def parse_cmdline(text: str) -> Config:
    """The settings in a kernel command line. Raises ConfigError."""
    found: dict[str, object] = {}
    unknown: list[str] = []
    for word in split_words(text):
        name, equals, value = word.partition("=")
        if not name.startswith("agent.") and name != SYSTEMD_UNIFIED:
            continue
        field = name.partition(".")[2]
        parse = PARSERS.get(field)
        if parse is None:
            unknown.append(name)
        else:
            found[field] = parse(name, value if equals else "")
    return Config(**found, unknown=tuple(unknown))  # type: ignore[arg-type]  # PARSERS gives every field its type


def without_effect(config: Config) -> list[str]:
    """Names of the settings that somebody gave and that do nothing here."""
    return [name for name in INERT if getattr(config, name) != Config._field_defaults[name]]


def with_environment(config: Config, environment: Mapping[str, str]) -> Config:
    """The settings with what the agent's environment says instead. Raises ConfigError."""
    found: dict[str, Any] = {}  # the fields differ in type; PARSERS gives each its own
    for name, field in ENVIRONMENT.items():
        if value := environment.get(name):
            found[field] = PARSERS[field](name, value)
    return config._replace(**found)


def split_words(text: str) -> Iterator[str]:
    """The words of a kernel command line; as in the kernel, double quotes keep blanks together."""
    word, quoted = "", False
    for char in text.strip() + " ":
        if char == '"':
            quoted = not quoted
        elif char.isspace() and not quoted:
            if word:
                yield word
            word = ""
        else:
            word += char


def _text(name: str, value: str) -> str:
    if not value:
        raise ConfigError(f"the setting {name} needs a value")
    return value


def _number(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 20):
        raise ConfigError(f"the setting {name}={value[:40]} is malformed", hint="give a number that is not negative")
    return int(value)


def _seconds(name: str, value: str) -> float:
    return float(_number(name, value))


def _choice(*choices: str) -> Callable[[str, str], str]:
    def parse(name: str, value: str) -> str:
        if value not in choices:
            raise ConfigError(f"the setting {name}={value} is malformed", hint=f"give {', '.join(choices)}")
        return value

    return parse


def _flag(name: str, value: str) -> bool:
    if value.lower() in ("", "true", "1", "yes", "on"):
        return True
    if value.lower() in ("false", "0", "no", "off"):
        return False
    raise ConfigError(f"the setting {name}={value} is malformed", hint="give true or false")


def _level(name: str, value: str) -> str:
    level = {"warning": "warn", "fatal": "critical", "panic": "critical"}.get(value.lower(), value.lower())
    if level not in LEVELS:
        raise ConfigError(f"the setting {name}={value} is malformed", hint=f"levels are {', '.join(LEVELS)}")
    return level


PARSERS: dict[str, Callable[[str, str], object]] = {
    "server_addr": _text,
    "log": _level,
    "log_vport": _number,
    "debug_console": _flag,
    "debug_console_vport": _number,
    "devmode": _flag,
    "trace": _flag,
    "hotplug_timeout": _seconds,
    "container_pipe_size": _number,
    "launch_process_timeout": _seconds,
    "cdi_timeout": _seconds,
    "visible_cdi_devices": _flag,
    "passfd_listener_port": _number,
    "unified_cgroup_hierarchy": _flag,
    "config_file": _text,
    "policy_file": _text,
    "cdh_api_timeout": _seconds,
    "image_pull_timeout": _seconds,
    "guest_components_rest_api": _choice("all", "attestation", "resource"),
    "guest_components_procs": _choice("none", "attestation-agent", "confidential-data-hub", "api-server-rest"),
    "secure_storage_integrity": _flag,
    "https_proxy": _text,
    "no_proxy": _text,
    **{
        field: _flag if Config._field_defaults[field] is False else _number
        for field in Config._fields
        if field.startswith("mem_agent_")
    },
}
INERT = (
    *("devmode", "trace", "launch_process_timeout", "passfd_listener_port"),
    *("cdh_api_timeout", "image_pull_timeout", "guest_components_rest_api", "guest_components_procs"),
    *("secure_storage_integrity", "https_proxy", "no_proxy"),
)
"""Settings that are checked and have no effect, since what they are about is no part of this agent; docs/agent.md."""
ENVIRONMENT = {
    "KATA_AGENT_SERVER_ADDR": "server_addr",
    "KATA_AGENT_LOG_LEVEL": "log",
    "KATA_AGENT_TRACING": "trace",
    "KATA_AGENT_POLICY_FILE": "policy_file",
}
"""Variables that go before everything else. The kernel gives its first process `NAME=value` words as such."""
