"""A pod's annotations, under an operator who allows all: they reach a configuration, or an error says why not."""

from __future__ import annotations

from kata import config
from kata.config.errors import AnnotationError, ConfigError
from kata.config.guest import kernel_params
from kata.config.host import Host
from kata.config.index import by_annotation
from kata.config.pod import REFUSED
from kata.config.render import as_json

HOST = Host(cpus=4, memory_mib=8192)
ALLOWED = '[hypervisor.qemu]\nenable_annotations = [".*"]\n'
NAMES = tuple(sorted(by_annotation()))
SEEDS = (
    "\n".join(f"{name}=1" for name in NAMES).encode(),
    "\n".join(f"{name}=true" for name in NAMES).encode(),
    *(f"{name}={value}".encode() for name in NAMES for value in ("2Gi", "/usr/bin/true")),
    b'io.katacontainers.config.hypervisor.kernel_params=a="b c" d',
    b"io.katacontainers.config_path=/etc/passwd",
)
TOKENS = (
    *(name.encode() for name in NAMES),
    b"=",
    b"\n",
    b"-1",
    b"99999999999999999999",
    b"\xd9\xa1",
    b"..",
    b'[{"name": 1}]',
    b"\0",
)


def target(data: bytes) -> None:
    """A line is one annotation, `name=value`."""
    pairs = [line.partition("=") for line in data.decode("utf-8", "surrogateescape").split("\n")]
    given = {name: value for name, equals, value in pairs if equals}
    try:
        found = config.load(operator_text=ALLOWED, annotations=given, host=HOST)
    except AnnotationError as error:
        _check(error)
        return
    as_json(found)
    assert all(word.isprintable() for word in kernel_params(found))
    assert not REFUSED.keys() & given.keys()
    assert found.hypervisor.default_vcpus <= HOST.cpus


def _check(error: ConfigError) -> None:
    assert error.what.isprintable()
    assert len(error.what) < 2000 or max(map(len, error.what.split())) > 500
