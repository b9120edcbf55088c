"""The kernel command line."""

from __future__ import annotations

from typing import Any

import pytest

from kata.agent.config import Config, parse_cmdline
from kata.agent.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("console=ttyS0 quiet", {}),
        ("agent.log=debug", {"log": "debug"}),
        ("agent.log=warning", {"log": "warn"}),
        ("agent.log=PANIC", {"log": "critical"}),
        ("agent.server_addr=vsock://-1:1025", {"server_addr": "vsock://-1:1025"}),
        ("agent.hotplug_timeout=1 agent.hotplug_timeout=20", {"hotplug_timeout": 20.0}),
        ("agent.debug_console agent.debug_console_vport=1026", {"debug_console": True, "debug_console_vport": 1026}),
        ("agent.trace=true", {"trace": True}),
        ("agent.trace=false", {}),
        ("agent.devmode", {"devmode": True}),
        ("agent.container_pipe_size=65536\n", {"container_pipe_size": 65536}),
        ("agent.unheard_of=7 agent.mem_agent_enable=1", {}),
        ('dyndbg="file agent.log=debug +p" agent.log_vport=1025', {"log_vport": 1025}),
        ("agent.debug_console_vport=1 xagent.log=debug", {"debug_console_vport": 1}),
    ],
)
def test_options(text: str, changed: dict[str, Any]) -> None:
    assert parse_cmdline(text) == Config()._replace(**changed)


@pytest.mark.parametrize(
    "text",
    [
        "agent.hotplug_timeout=soon",
        "agent.hotplug_timeout=-1",
        "agent.hotplug_timeout",
        "agent.log_vport=1025x",
        "agent.log_vport=\u0663",
        "agent.log=loud",
        "agent.trace=perhaps",
        "agent.server_addr=",
    ],
)
def test_a_malformed_value_is_an_error_that_names_it(text: str) -> None:
    with pytest.raises(ConfigError, match=text.partition("=")[0].replace(".", r"\.")):
        parse_cmdline(text)
