"""Configuration files for tests, in a folder of their own."""

from __future__ import annotations

from pathlib import Path

from kata.config import Config, load
from kata.config.host import Host

HOST = Host(cpus=4, memory_mib=8192)
SAMPLES = Path(__file__).parent / "samples"
HYPERVISOR = "io.katacontainers.config.hypervisor."
RUNTIME = "io.katacontainers.config.runtime."
AGENT = "io.katacontainers.config.agent."


def write(folder: Path, text: str, **drop_ins: str) -> str:
    """A main file, and drop-ins `config.d/NAME.toml`; returns the main file's path."""
    main = folder / "configuration.toml"
    main.write_text(text)
    (folder / "config.d").mkdir(exist_ok=True)
    for name, content in drop_ins.items():
        (folder / "config.d" / f"{name}.toml").write_text(content)
    return str(main)


def loaded(folder: Path, text: str, annotations: dict[str, str] | None = None, /, **drop_ins: str) -> Config:
    """The configuration that these files make on a host with 4 CPUs and 8 GiB."""
    return load(write(folder, text, **drop_ins), annotations=annotations, host=HOST)


def enabling(*patterns: str, more: str = "") -> str:
    """A file that lets pods set what matches."""
    return f"[hypervisor.qemu]\nenable_annotations = [{', '.join(repr(word) for word in patterns)}]\n{more}"
