"""The kernel command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from kata.agent import config_file
from kata.agent.config import INERT, PARSERS, Config, parse_cmdline, with_environment, without_effect
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
        ("agent.unheard_of=7 agent.mem_agent_enable=1", {"unknown": ("agent.unheard_of",), "mem_agent_enable": True}),
        (
            "agent.mem_agent_compact_order=3 agent.mem_agent_enable",
            {"mem_agent_compact_order": 3, "mem_agent_enable": True},
        ),
        ("agent.config_file=/etc/agent.toml", {"config_file": "/etc/agent.toml"}),
        ("agent.https_proxy=http://192.0.2.1:3128", {"https_proxy": "http://192.0.2.1:3128"}),
        ("agent.guest_components_procs=none", {"guest_components_procs": "none"}),
        (
            "agent.cdh_api_timeout=5 agent.secure_storage_integrity=false",
            {"cdh_api_timeout": 5.0, "secure_storage_integrity": False},
        ),
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
        "agent.guest_components_procs=some",
        "agent.mem_agent_memcg_period_secs=often",
    ],
)
def test_a_malformed_value_is_an_error_that_names_it(text: str) -> None:
    with pytest.raises(ConfigError, match=text.partition("=")[0].replace(".", r"\.")):
        parse_cmdline(text)


def test_every_option_is_a_setting() -> None:
    assert set(Config._fields) - set(PARSERS) == {"allowed", "unknown"}


def test_the_environment_goes_first() -> None:
    config = with_environment(Config(log="debug"), {"KATA_AGENT_LOG_LEVEL": "error", "KATA_AGENT_SERVER_ADDR": ""})
    assert config == Config(log="error")
    with pytest.raises(ConfigError, match="KATA_AGENT_TRACING"):
        with_environment(Config(), {"KATA_AGENT_TRACING": "perhaps"})


FILE = """
log_level = "DEBUG"
dev_mode = true
tracing = true
hotplug_timeout = {secs = 2, nanos = 500000000}
cdh_api_timeout = 7
log_vport = 1025
server_addr = "unix:///run/a.sock"
mem_agent_enable = true
surprise = [1]
[endpoints]
allowed = ["CreateContainerRequest"]
"""


def test_a_file_of_settings(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(FILE)
    assert config_file.load(str(tmp_path / "agent.toml")) == Config(
        log="debug",
        devmode=True,
        trace=True,
        hotplug_timeout=2.5,
        cdh_api_timeout=7.0,
        log_vport=1025,
        server_addr="unix:///run/a.sock",
        mem_agent_enable=True,
        allowed=("CreateContainerRequest",),
        unknown=("surprise",),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("log_level = ", "end of document"),
        ("log_vport = '1'", "log_vport"),
        ("log_vport = true", "log_vport"),
        ("log_vport = -1", "log_vport"),
        ("tracing = 1", "tracing"),
        ("log_level = 'loud'", "log_level"),
        ("server_addr = 1", "server_addr"),
        ("hotplug_timeout = {secs = 'a'}", "hotplug_timeout"),
        ("hotplug_timeout = {secs = 1, minutes = 2}", "hotplug_timeout"),
        ("endpoints = 1", "endpoints"),
        ("endpoints = {allowed = 'x'}", "endpoints"),
        ("endpoints = {allow = ['x']}", "endpoints"),
    ],
)
def test_a_bad_file_is_an_error_that_names_it(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "agent.toml").write_text(text)
    with pytest.raises(ConfigError, match=f"agent.toml.*{said}|{said}"):
        config_file.load(str(tmp_path / "agent.toml"))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        config_file.load(str(tmp_path / "missing"))


ROOT = Path(__file__).parents[3]


def test_every_setting_is_used_or_documented_as_one_without_effect() -> None:
    source = "".join(path.read_text() for path in (ROOT / "src/kata/agent").rglob("*.py"))
    docs = (ROOT / "docs/agent.md").read_text()
    for field in Config._fields:
        used = re.search(rf"config\.{field}\b", source) is not None or field.startswith("mem_agent_")
        assert used != (field in INERT), field
        if field in PARSERS and not field.startswith("mem_agent_"):
            assert f"`{field}`" in docs, field


def test_settings_without_effect_are_told_when_given() -> None:
    assert without_effect(Config()) == []
    assert without_effect(parse_cmdline("agent.trace agent.image_pull_timeout=7 agent.log=debug")) == [
        "trace",
        "image_pull_timeout",
    ]
