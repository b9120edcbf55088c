"""A configuration file, as containerd can hand it on. What loads can be shown, and what is shown loads as the same."""

from __future__ import annotations

import json

from kata import config
from kata.config.errors import ConfigError
from kata.config.host import Host
from kata.config.render import as_json, show

HOST = Host(cpus=4, memory_mib=8192)
SEEDS = (
    b"[hypervisor.qemu]\ndefault_vcpus = 2\nenable_annotations = ['.*']\nkernel_params = \"a=b\"\n[runtime]\n",
    b'[agent.kata]\nkernel_modules = ["a b=c"]\ndial_timeout = 45\n[factory]\nenable_template = true\n',
    show(config.load(operator_text="[runtime]\n", host=HOST)).encode(),
)
TOKENS = (
    b"[hypervisor.qemu]\n",
    b"[runtime]\n",
    b"[[",
    b'"',
    b"'''",
    b"\\u0000",
    b"\\U0001d173",
    b"inf",
    b"nan",
    b"0x",
    b"= -1",
    b"= 1e999",
    b"= true",
    b"= []",
    b"= {}",
    b"1979-05-27",
)


def target(data: bytes) -> None:
    """Names of keys may be anything, but no message has them as they came."""
    text = data.decode("utf-8", "replace")
    try:
        first = config.load(operator_text=text, host=HOST)
    except config.ConfigError as error:
        _check(error)
        return
    json.dumps(as_json(first)).encode()
    first.unsupported()
    again = config.load(operator_text=show(first), host=HOST)
    for kind in (first.hypervisor, first.factory, first.agent, first.mem_agent, first.runtime):
        assert again.section(type(kind)).values == kind.values


def _check(error: ConfigError) -> None:
    assert error.what.isprintable()
    assert len(error.what) < 2000
    assert all(line.isprintable() for line in error.detail.split("\n"))
