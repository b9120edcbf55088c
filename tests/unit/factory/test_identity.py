"""A template's name: another one for everything that a saved machine depends on, the same one otherwise."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec.structs import replace

from kata.factory.identity import current, files_of, name_of
from kata.factory.shape import prewired, template_of
from kata.hypervisor.machine import MachineSpec, NinePDirectory, SharedDirectory, TapNic, UserNetwork

MAC = "02:aa:bb:cc:dd:ee"


def spec_in(folder: Path) -> MachineSpec:
    for name in ("kernel", "initrd", "image"):
        (folder / name).write_text(name)
    return MachineSpec(
        sandbox_id="abc",
        directory="/run/vc/vm/abc",
        kernel=str(folder / "kernel"),
        initrd=str(folder / "initrd"),
        image=str(folder / "image"),
        accelerator="tcg",
    )


def name(spec: MachineSpec, accelerator: str = "tcg") -> str:
    template = template_of(prewired(spec))
    return name_of(template, files_of(template), accelerator)


def test_it_follows_from_what_the_machine_is(tmp_path: Path) -> None:
    spec = spec_in(tmp_path)
    variants = [
        spec,
        replace(spec, vcpus=2),
        replace(spec, memory_mib=512),
        replace(spec, kernel_params=("quiet",)),
        replace(spec, network=UserNetwork(MAC)),
        replace(spec, nics=(TapNic(MAC, (3,)),)),
        replace(spec, debug_console=True),
        replace(spec, balloon=True),
        replace(spec, max_memory_mib=4096, memory_slots=2),
        replace(spec, initrd=None),
        replace(spec, ninep=(NinePDirectory("kataShared"),)),
        replace(spec, ninep=(NinePDirectory("another"),)),
    ]
    names = [name(variant) for variant in variants]
    assert len(set(names)) == len(names)
    assert name(spec, "kvm") not in names


def test_a_sandbox_changes_nothing_about_it(tmp_path: Path) -> None:
    spec = spec_in(tmp_path)
    assert name(spec) == name(replace(spec, sandbox_id="other", directory="/x", uid=7, gid=7))
    one, two = replace(spec, nics=(TapNic(MAC, (3,)),)), replace(spec, nics=(TapNic("02:00:00:00:00:09", (8,), 9000),))
    assert name(one) == name(two)
    shared = replace(spec, shares=(SharedDirectory("kataShared", "/s"),))
    assert name(spec) == name(shared), "that device is plugged in"
    exports = [
        NinePDirectory("kataShared", **behind) for behind in ({}, {"proxy_fd": 8}, {"proxy_fd": 9}, {"path": "/x"})
    ]
    assert len({name(replace(spec, ninep=(export,))) for export in exports}) == 1, "what is behind it does not count"


def test_another_file_is_another_template(tmp_path: Path) -> None:
    spec = spec_in(tmp_path)
    before, files = name(spec), files_of(template_of(prewired(spec)))
    assert current(files) == files
    (tmp_path / "image").write_text("newer image")
    assert name(spec) != before
    assert current(files) != files
    (tmp_path / "image").write_text("image")
    os.utime(tmp_path / "image", ns=(0, 1))
    assert name(spec) != before
    (tmp_path / "image").unlink()
    assert current(files) != files
