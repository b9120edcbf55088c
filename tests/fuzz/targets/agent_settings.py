"""What the agent is told at boot (kernel command line, file, policy) and by crun: words of the host and of programs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from kata.agent import config, config_file, crun, policy
from kata.agent.errors import BadRequest, ConfigError
from kata.config.values import kernel_words, merge_kernel_params
from kata.linux.mountoptions import parse_options

SEEDS = (
    b'quiet agent.log=debug agent.container_pipe_size=2 agent.hotplug_timeout=3 "agent.no_proxy=a b" agent.unknown',
    b'server_addr = "vsock://-1:1024"\nhotplug_timeout = {secs = 1, nanos = 5}\n[endpoints]\nallowed = ["A"]\n',
    b'{"msg": "exec failed", "level": "error"}\n[1]\nplain\n',
    b"package agent_policy\nimport rego.v1\ndefault A := true\nB := false # c\n",
    b"rw,nosuid,rshared,size=1k,x-a,defaults",
)
TOKENS = (
    b'"',
    b"=",
    b" ",
    b"agent.",
    b"systemd.unified_cgroup_hierarchy",
    b"99999999999",
    b"\xd9\xa1",
    b"[[[[[[[[",
    b"nan",
    b",",
)

_folder = tempfile.TemporaryDirectory(prefix="kata-fuzz-")
FILE = Path(_folder.name) / "file"


def target(data: bytes) -> None:
    """Each reads the whole; what it refuses, it refuses by an error of its own."""
    FILE.write_bytes(data)
    text = data.decode("utf-8", "replace")
    for read, given in ((config.parse_cmdline, text), (config_file.load, str(FILE))):
        try:
            found = read(given)
        except ConfigError as error:
            assert error.what
        else:
            config.without_effect(found)
    try:
        policy.parse(text)
    except BadRequest as error:
        assert error.what
    crun.said(str(FILE))
    parse_options(text.split(","))
    words = list(kernel_words(text))
    assert list(kernel_words(merge_kernel_params("", text))) == words or text.count('"') % 2
