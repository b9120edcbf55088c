"""A pod's annotations against the operator: nothing is allowed that he did not allow, and no word becomes an option."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from kata.config import AnnotationError, load
from kata.config.index import by_annotation
from kata.config.kinds import Choice, Encoded, Flag, Integer, Number, Records, Words
from kata.config.kinds import Path as PathKind
from kata.config.pod import is_enabled
from kata.config.setting import AnySetting
from kata.config.settings import SECTIONS, Hypervisor
from kata.config.settings.hypervisor.annotations import Annotations
from kata.errors import KataError
from kata.hypervisor.errors import SpecError
from kata.hypervisor.machine import Hardware, MachineSpec
from kata.hypervisor.qemu.privileges import drop_privileges
from kata.hypervisor.qemu.validation import check_spec
from kata.storage.daemon import Daemon, daemon_argv
from tests.helpers.tenants import PREFIX, argv, sandbox
from tests.unit.config.files import HOST, SAMPLES

ROOT = Path(__file__).parents[2]
NAMES = sorted(by_annotation())
MARK = "HoStIlE"
HOSTILE = (
    f"--{MARK}",
    f"-device {MARK}",
    f"{MARK},file=/etc/shadow",
    f"x={MARK},-device,y",
    f"{MARK}\n-device\nx",
    f'" -device {MARK} "',
    f"/{MARK}/../../etc/shadow",
    f"$(touch /{MARK})",
    f"a\0{MARK}",
    f"{MARK}\u202e\x1b[2J",
    f"{MARK} " * 5000,
    json.dumps([{"name": MARK, "path": f"/{MARK}", "src_ctr": "-x", "src_path": "", "dst_ctr": "", "dst_path": ""}]),
    "LURldmljZSB4Cg==",
    "-1",
    "99999999999999999999",
    "NaN",
)
GUESTS_OWN = {"guest_hook_path"}
"""Settings that are paths, and of the guest's."""


def settable() -> list[AnySetting]:
    """Every setting that some annotation is for."""
    return [setting for section in SECTIONS for setting in section.settings() if setting.annotations]


def enabling(*patterns: str, more: str = "") -> str:
    return f"[hypervisor.qemu]\nenable_annotations = {json.dumps(list(patterns))}\n{more}"


# 4.3.0 advisories, CVE-2026-44210: what is allowed by default


@pytest.mark.parametrize("file", ["", "packaging/config/configuration-qemu.toml"])
def test_4_3_0_advisories_nothing_at_all_is_allowed_by_default(file: str, tmp_path: Path) -> None:
    """Whatever it names: a program, a path, an argument, a kernel parameter, a device, a limit."""
    path = str(ROOT / file) if file else str(tmp_path / "empty.toml")
    (tmp_path / "empty.toml").touch()
    for name in (*NAMES, PREFIX + "hypervisor.virtio_fs_extra_args", PREFIX + "hypervisor.", PREFIX, PREFIX + "x.y"):
        for text in ("true", "1", "/bin/sh"):
            with pytest.raises(AnnotationError) as caught:
                load(path, annotations={name: text}, host=HOST)
            assert [found.key for found in caught.value.findings] == [name]


def test_4_3_0_advisories_the_operators_lists_are_empty_and_no_pods() -> None:
    lists = list(Annotations.settings())
    assert len(lists) == 8, "a new list needs a look here"
    for setting in lists:
        assert not setting.annotations, f"{setting.name} can be set by a pod"
        assert not any(set(entry) & set("*?[(|.+") for entry in setting.default), f"{setting.name} has a pattern"
    assert {setting.key: setting.default for setting in lists if setting.default} == {
        "valid_entropy_sources": ("/dev/urandom", "/dev/random")
    }


def test_4_3_0_advisories_a_setting_that_names_files_of_the_host_has_a_guard() -> None:
    """Every path that a pod could ever set is held against a list of the operator's, or against his assets."""
    paths = [setting for setting in settable() if isinstance(setting.kind, PathKind)]
    assert len(paths) > 10
    for setting in paths:
        guarded = setting.asset or setting.allowed_by or setting.ignored or setting.refused
        assert guarded or setting.key in GUESTS_OWN, f"{setting.name} is any path that a pod likes"
    plain = [setting for setting in settable() if not isinstance(setting.kind, PathKind)]
    known = (Flag, Integer, Number, Choice, Records, Words, Encoded)
    texts = {setting.key for setting in plain if not isinstance(setting.kind, known)}
    hashes = {setting.key for setting in plain if setting.key.endswith("_hash")}
    # Free texts reach QEMU, the kernel and the agent: each is tried below. A new one needs a look at where it goes.
    assert texts - hashes == {
        *("kernel_params", "kernel_verity_params", "machine_accelerators", "cpu_features", "initdata"),
        *("hypervisor_name", "guest_selinux_label", "default_gpu_model"),
    }


def test_cve_2026_44210_what_upstreams_file_allows_gives_virtiofsd_no_option() -> None:
    """An operator who brings upstream's file has `virtio_fs_extra_args` among what pods may set."""
    path = str(SAMPLES / "go-qemu.toml")
    assert "virtio_fs_extra_args" in Path(path).read_text()
    for text in ('["--sandbox=none"]', "-o allow_root", ""):
        with pytest.raises(AnnotationError, match="a pod cannot give options to virtiofsd"):
            load(path, annotations={PREFIX + "hypervisor.virtio_fs_extra_args": text}, host=HOST)


def test_4_3_0_advisories_patterns_are_whole_names() -> None:
    """No part of a name allows it, and no name allows a longer one."""
    short = [name.removeprefix(PREFIX) for name in NAMES if name.startswith(PREFIX)]
    last = [name.rpartition(".")[2] for name in short]
    for pattern, name in itertools.product({*short, *last}, short):
        means_it = pattern == name or f"hypervisor.{pattern}" == name
        assert is_enabled(PREFIX + name, (pattern.replace(".", r"\."),)) == means_it
    for name in short:
        for part in (name[1:], name[:-1], name[len("hypervisor") + 2 :], ".", "^", "$", f"{name}x", f"x|{name[:-1]}"):
            assert not is_enabled(PREFIX + name, (re.escape(part) if part in (".", "^", "$") else part,)), part
        assert not is_enabled(f"{PREFIX}{name}\n", (name,)), "a pattern ends before the line does"


# CVE-2020-27151: programs and paths


@pytest.mark.parametrize("setting", [setting for setting in settable() if setting.allowed_by], ids=lambda one: one.key)
def test_cve_2020_27151_paths_are_what_they_lead_to(setting: AnySetting, tmp_path: Path) -> None:
    """Enabled, and with a list: only what is really in the operator's folder can be named."""
    for folder in ("allowed/sub", "evil"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("allowed/good", "evil/program", "allowed/sub/deep"):
        (tmp_path / file).touch(0o755)
    (tmp_path / "allowed/link").symlink_to(tmp_path / "evil/program")
    (tmp_path / "allowed/dangling").symlink_to(tmp_path / "evil/none")
    (tmp_path / "allowed/dir").symlink_to(tmp_path / "evil")
    operators = enabling(".*", more=f'{setting.allowed_by} = ["{tmp_path}/allowed/*"]\n')
    name = setting.annotations[0]
    config = load(annotations={name: f"{tmp_path}/allowed/good"}, operator_text=operators, host=HOST)
    assert getattr(config.hypervisor, setting.key) == f"{tmp_path}/allowed/good"
    for path in (
        *("/bin/sh", f"{tmp_path}/evil/program", f"{tmp_path}/allowed/link", f"{tmp_path}/allowed/dangling"),
        *(f"{tmp_path}/allowed/../evil/program", f"{tmp_path}/allowed/dir/program", f"{tmp_path}/allowed/sub/deep"),
        *(f"{tmp_path}/allowed/", f"{tmp_path}/allowed", f"{tmp_path}/allowed/good\n", f"{tmp_path}/allowed/good\0x"),
        *("allowed/good", "../bin/sh", f"{tmp_path}/allowed/missing", f"/proc/self/root{tmp_path}/evil/program"),
    ):
        with pytest.raises(AnnotationError) as caught:
            load(annotations={name: path}, operator_text=operators, host=HOST)
        assert [found.key for found in caught.value.findings] == [name], path


@pytest.mark.parametrize("setting", [setting for setting in settable() if setting.asset], ids=lambda one: one.key)
def test_cve_2020_27151_assets_are_in_the_operators_folders(setting: AnySetting, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/kernel").touch()
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets/kernel").touch()
    (tmp_path / "assets/link").symlink_to(tmp_path / "mine/kernel")
    (tmp_path / "assets/dir").symlink_to(tmp_path / "mine")
    os.mkfifo(tmp_path / "assets/fifo")
    operators = enabling(".*", more=f'kernel = "{tmp_path}/assets/kernel"\n')
    for path in (
        *("/etc/shadow", f"{tmp_path}/mine/kernel", f"{tmp_path}/assets/link", f"{tmp_path}/assets/../mine/kernel"),
        *(f"{tmp_path}/assets/dir/kernel", f"{tmp_path}/assets/fifo", f"{tmp_path}/assets", "/dev/zero", "/dev/sda"),
    ):
        with pytest.raises(AnnotationError):
            load(annotations={setting.annotations[0]: path}, operator_text=operators, host=HOST)


# CVE-2026-50540: which file is the configuration


@pytest.mark.parametrize("name", ["io.katacontainers.config_path", PREFIX + "config_path"])
def test_cve_2026_50540_no_annotation_chooses_the_file(name: str, tmp_path: Path, assets: Path) -> None:
    evil = tmp_path / "evil.toml"
    evil.write_text('[hypervisor.qemu]\npath = "/bin/sh"\nenable_annotations = [".*"]\n')
    for text in (str(evil), "", "/dev/null"):
        with pytest.raises(KataError, match="only the operator chooses"):
            sandbox({name: text}, enabling(".*"))


# CVE-2026-44210: a word of a pod's in an argv


@pytest.fixture(scope="module")
def usual(assets: Path) -> list[str]:
    return argv(sandbox({}, enabling(".*")))


def test_cve_2026_44210_no_annotation_becomes_an_option_of_qemu(usual: list[str], assets: Path) -> None:
    """All annotations there are, all allowed, with values made to break out of where they go."""
    options = {word for word in usual if word.startswith("-")} | {"-bios", "-initrd"}
    places = {"-append", "-machine", "-cpu"}
    came_through = 0
    for name, text in itertools.product(NAMES, HOSTILE):
        try:
            words = argv(sandbox({name: text}, enabling(".*")))
        except KataError:
            continue
        came_through += 1
        assert {word for word in words[1:] if word.startswith("-")} <= options, (name, text)
        marked = [place for place, word in enumerate(words) if MARK in word]
        assert all(words[place - 1] in places for place in marked), (name, text, [words[place] for place in marked])
        assert words[0] == usual[0]
    assert came_through > 10, "some values are fine, or nothing was tried"


def test_cve_2026_44210_nor_of_virtiofsd(assets: Path) -> None:
    for name, text in itertools.product(NAMES, HOSTILE):
        try:
            sharing = sandbox({name: text}, enabling(".*")).sharing
            words = [daemon_argv(Daemon("/v", flavour), tree="/t", listener_fd=3, cache=sharing.cache)
                     for flavour in ("rust", "c")]  # fmt: skip
        except KataError:
            continue
        assert sharing.daemon == "" and sharing.mounts == ()
        assert MARK not in json.dumps(words)


def test_cve_2026_44210_a_namespaces_path_is_one_word() -> None:
    """What a specification names a namespace by goes into nsenter's argv."""
    for path in (f"--{MARK}", f"/x --target 1 {MARK}", f"/x\n{MARK}"):
        words = drop_privileges(1, 1, accelerator="tcg", bind_low_ports=False, root=True, netns=path)
        assert words[:3] == ["nsenter", f"--net={path}", "--"]


@pytest.mark.parametrize("machine", ["q35", "microvm"])
def test_cve_2026_44210_no_property_of_this_qemus_machines_names_a_file(machine: str) -> None:
    """`machine_accelerators`: asked of the QEMU that is here, so that a new one's properties are looked at."""
    said = subprocess.run(
        ["qemu-system-x86_64", "-machine", f"{machine},help"], capture_output=True, text=True, check=True
    ).stdout
    found = re.findall(r"^  ([\w.-]+)=<(string|str|link<[^>]+>)>", said, re.MULTILINE)
    assert len(found) > 8
    harmless = {"dt-compatible", "smbios-entry-point-type", "x-oem-id", "x-oem-table-id"}
    for name, _ in found:
        for spelling in (name, name.upper(), name.replace("-", "_")):
            if name not in harmless:
                with pytest.raises(SpecError):
                    check_spec(_machine(f"{spelling}=x"))
    for words in ("usb=on", "graphics=on", "sata=on", "dump-guest-core=on", "dump_guest_core=on", "pic=on,usb=on"):
        with pytest.raises(SpecError, match="cannot be set this way"):
            check_spec(_machine(words))
    check_spec(_machine("pit=off,hpet=off"))


def _machine(options: str) -> MachineSpec:
    return MachineSpec(
        sandbox_id="x",
        directory="/run",
        kernel="/k",
        initrd=None,
        image=None,
        hardware=Hardware(machine_options=options),
    )


def test_cve_2026_44210_the_guests_own_words_stay_in_the_guest(assets: Path) -> None:
    """Kernel parameters and modules that a pod may set by the operator's leave: one argument, and the agent's list."""
    names = {PREFIX + "hypervisor.kernel_params": f'x="{MARK} -device y" z', PREFIX + "agent.kernel_modules": "a -x;b"}
    made = sandbox(names, enabling(".*"))
    line = argv(made)[argv(made).index("-append") + 1]
    assert line.endswith(f'x="{MARK} -device y" z')
    assert made.guest.modules == (("a", "-x"), ("b",))
    assert Hypervisor.kernel_params.combine is not None, "the operator's own stay"
