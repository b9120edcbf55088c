"""What the kernel command line (`agent.*`) and the agent's own arguments say.

Read once, by `__main__`. Unknown options are ignored, of one given twice the last wins, a malformed number is
a ConfigError: it stops the agent, with the sentence on the console. Options that only other parts of the
guest read (attestation, mem-agent) are not listed and so ignored.
"""

from __future__ import annotations

from typing import NamedTuple

from kata.agent.errors import ConfigError
from kata.log import LEVELS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Config(NamedTuple):
    """Settings of the agent; the defaults are upstream's."""

    server_addr: str = ""
    """Where to listen; empty: the virtio-serial port `agent.channel.0`, else vsock port 1024."""
    log: str = "info"
    log_vport: int = 0
    """Accepted; the log goes to the console."""
    debug_console: bool = False
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


def parse_cmdline(text: str) -> Config:
    """The settings in a kernel command line. Raises ConfigError."""
    found: dict[str, object] = {}
    for word in split_words(text):
        name, equals, value = word.partition("=")
        if not name.startswith("agent."):
            continue
        field = name[len("agent.") :]
        parse = PARSERS.get(field)
        if parse is not None:
            found[field] = parse(name, value if equals else "")
    return Config(**found)  # type: ignore[arg-type]  # PARSERS gives every field its type


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
        raise ConfigError(f"the kernel parameter {name} needs a value")
    return value


def _number(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise ConfigError(
            f"the kernel parameter {name}={value} is malformed", hint="give a number that is not negative"
        )
    return int(value)


def _seconds(name: str, value: str) -> float:
    return float(_number(name, value))


def _flag(name: str, value: str) -> bool:
    if value.lower() in ("", "true", "1", "yes", "on"):
        return True
    if value.lower() in ("false", "0", "no", "off"):
        return False
    raise ConfigError(f"the kernel parameter {name}={value} is malformed", hint="give true or false")


def _level(name: str, value: str) -> str:
    level = {"warning": "warn", "fatal": "critical", "panic": "critical"}.get(value.lower(), value.lower())
    if level not in LEVELS:
        raise ConfigError(f"the kernel parameter {name}={value} is malformed", hint=f"levels are {', '.join(LEVELS)}")
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
}
