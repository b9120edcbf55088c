"""Files, drop-ins, the search path, both of upstream's forms."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

from kata.config import Config, FileError, InvalidConfigError, UnsupportedConfigError, check, load
from kata.config import locate as search
from kata.config.index import SUBTABLES, by_key
from kata.config.settings import SECTIONS, Agent, Factory, Hypervisor, Runtime
from kata.config.settings.hypervisor import RUNNABLE
from tests.unit.config.files import HOST, SAMPLES, loaded, write


@pytest.mark.parametrize("sample", sorted(SAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_upstreams_files_load_without_a_word(sample: Path) -> None:
    config = load(str(sample), host=HOST)
    assert {found.key for found in config.warnings} <= {
        "hypervisor.firecracker.jailer_path",
        "hypervisor.qemu.guest_extension_images",
    }
    (table,) = tomllib.loads(sample.read_text())["hypervisor"]
    assert config.hypervisor_name == table
    assert ("hypervisor." + table in dict(config.unsupported())) == (table != "qemu")


def test_the_samples_have_every_key() -> None:
    found: set[str] = set()
    for sample in SAMPLES.glob("*.toml"):
        for section, table in tomllib.loads(sample.read_text()).items():
            tables = table.values() if section in ("hypervisor", "agent") else [table]
            for one in tables:
                found |= names(section, one)
    assert found == set(by_key())


def names(section: str, table: dict[str, Any]) -> set[str]:
    found = set()
    for key, value in table.items():
        name = f"{section}.{key}"
        found |= names(name, value) if name in SUBTABLES else {name}
    return found


def test_nothing_at_all_is_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "PLACES", ())
    monkeypatch.delenv("KATA_CONF_FILE", raising=False)
    config = load(host=HOST)
    assert config.path == ""
    assert config.hypervisor.default_vcpus == 1.0
    assert config.hypervisor.enable_annotations == ()
    assert config.hypervisor.kernel.endswith("/assets/vmlinuz")
    assert config.warnings == ()
    config.check_runnable()


def test_the_search_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {name: tmp_path / f"{name}.toml" for name in ("option", "variable", "containerd", "etc", "usr")}
    for file in files.values():
        file.write_text("")
    monkeypatch.setattr(search, "PLACES", (str(files["etc"]), str(files["usr"])))
    monkeypatch.setenv("KATA_CONF_FILE", str(files["variable"]))
    operator = str(files["containerd"])
    assert load(str(files["option"]), operator_path=operator).path == str(files["option"])
    assert load(operator_path=operator).path == str(files["variable"])
    monkeypatch.setenv("KATA_CONF_FILE", "")
    assert load(operator_path=operator).path == operator
    assert load().path == str(files["etc"])
    files["etc"].unlink()
    assert load().path == str(files["usr"])


def test_a_file_that_was_named_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = str(tmp_path / "missing.toml")
    monkeypatch.delenv("KATA_CONF_FILE", raising=False)
    with pytest.raises(FileError, match="there is no configuration file"):
        load(missing)
    with pytest.raises(FileError, match="there is no configuration file") as caught:
        load(operator_path=missing)
    assert "config_path" in caught.value.hint
    monkeypatch.setenv("KATA_CONF_FILE", missing)
    with pytest.raises(FileError) as caught:
        load()
    assert "KATA_CONF_FILE" in caught.value.hint


def test_links_are_resolved_before_drop_ins_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    write(tmp_path / "real", "", a="[hypervisor.qemu]\ndefault_memory = 512\n")
    link = tmp_path / "configuration.toml"
    link.symlink_to(tmp_path / "real/configuration.toml")
    config = load(str(link), host=HOST)
    assert config.hypervisor.default_memory == 512
    assert config.path == str(tmp_path / "real/configuration.toml")


def test_drop_ins_replace_single_keys_in_the_order_of_their_names(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        '[hypervisor.qemu]\ndefault_vcpus = 1\ndefault_memory = 512\nkernel_params = "a"\n',
        **{
            "10-x": "[hypervisor.qemu]\ndefault_vcpus = 2\ndefault_memory = 1024\n",
            "9-y": "[hypervisor.qemu]\ndefault_vcpus = 3\n",
        },
    )
    assert (config.hypervisor.default_vcpus, config.hypervisor.default_memory) == (3.0, 1024)
    assert config.origin(Hypervisor.default_vcpus) == ("drop-in", str(tmp_path / "config.d/9-y.toml"), "")
    assert config.origin(Hypervisor.kernel_params).kind == "file"
    assert config.origin(Runtime.disable_new_netns).kind == "default"
    assert [os.path.basename(place) for place in config.drop_ins] == ["10-x.toml", "9-y.toml"]


def test_what_is_no_drop_in_is_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    folder = tmp_path / "config.d"
    for name in ("a.toml~", "a.conf", ".a.toml", "#a.toml#"):
        (folder / name).write_text("this is no TOML")
    (folder / "folder.toml").mkdir()
    config = load(path, host=HOST)
    assert config.drop_ins == ()
    assert [found.key for found in config.warnings] == ["folder.toml"]


def test_two_hypervisors_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigError, match="there are 2 tables") as caught:
        loaded(tmp_path, "[hypervisor.qemu]\n", x="[hypervisor.clh]\n")
    assert "config.d/x.toml" in caught.value.what


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", "qemu"),
        ('[runtime]\nhypervisor_name = "clh"\n', "clh"),
        ("[hypervisor.cloud-hypervisor]\n", "clh"),
        ('[runtime]\nhypervisor_name = "cloud-hypervisor"\n[hypervisor.clh]\n', "clh"),
    ],
)
def test_which_hypervisor_it_is(text: str, name: str, tmp_path: Path) -> None:
    assert loaded(tmp_path, text).hypervisor_name == name


def test_only_what_has_a_driver_can_be_run(tmp_path: Path) -> None:
    from kata.hypervisor import registry

    assert registry.names() == RUNNABLE
    config = loaded(tmp_path, "[hypervisor.clh]\n")
    with pytest.raises(UnsupportedConfigError, match="clh: only qemu can be run"):
        config.check_runnable()


@pytest.mark.parametrize(
    "text",
    [
        "[hypervisor.qemu]\nconfidential_guest = true\n",
        '[hypervisor.qemu]\nkernel_verity_params = "root_hash=abc,salt=def"\n',
        '[hypervisor.qemu]\nmachine_type = "virt"\n',
        '[hypervisor.qemu]\nshared_fs = "virtio-fs-nydus"\n',
        "[runtime]\nexperimental_force_guest_pull = true\n",
        '[runtime]\nemptydir_mode = "block-encrypted"\n',
    ],
)
def test_what_must_not_be_left_out_silently_is_refused_at_use(text: str, tmp_path: Path) -> None:
    config = loaded(tmp_path, text)
    with pytest.raises(UnsupportedConfigError):
        config.check_runnable()


def test_both_forms_come_to_the_same(tmp_path: Path) -> None:
    go = """
        [hypervisor.qemu]
        seccompsandbox = "on"
        block_device_driver = "nvdimm"
        [agent.kata]
        dial_timeout = 45
        cdh_api_timeout = 20
        [factory]
        enable_template = true
        [runtime]
        create_container_timeout = 30
        guest_selinux_label = "x"
    """
    rust = """
        [hypervisor.qemu]
        seccomp_sandbox = "on"
        block_device_driver = "virtio-pmem"
        selinux_label = "x"
        [hypervisor.qemu.factory]
        enable_template = true
        [agent.kata]
        reconnect_timeout_ms = 45000
        cdh_api_timeout_ms = 20000
        create_container_timeout = 30
    """
    first, second = values(loaded(tmp_path, go)), values(loaded(tmp_path, rust))
    assert first == second
    assert first[Agent.dial_timeout.name] == 45.0
    assert first[Factory.enable_template.name] is True


def values(config: Config) -> dict[str, object]:
    return {s.name: config.section(kind).values[s.key] for kind in SECTIONS for s in kind.settings()}


def test_one_setting_under_two_names_is_a_warning(tmp_path: Path) -> None:
    config = loaded(tmp_path, "[agent.kata]\ndial_timeout = 45\nreconnect_timeout_ms = 3000\n")
    assert config.agent.dial_timeout == 45.0
    assert "means the same as agent.kata.dial_timeout" in config.warnings[0].why
    assert config.warnings[0].where.endswith("configuration.toml:3")


@pytest.mark.parametrize(
    ("text", "key", "line", "suggestion"),
    [
        ("[hypervisor.qemu]\n\ndefault_vcpu = 1\n", "hypervisor.qemu.default_vcpu", 3, "default_vcpus"),
        ("[runtime]\nshared_fs = 'none'\n", "runtime.shared_fs", 2, "belongs into the table of hypervisor"),
        ("[hypervisor.qmu]\n", "hypervisor.qmu", 1, "qemu"),
        ("[runtim]\n", "runtim", 1, "runtime"),
        ("[agent.kta]\nx = 1\n", "agent.kta", 1, "kata"),
        ("runtime = 1\n", "runtime", 1, "[runtime]"),
        ("[hypervisor]\nqemu = 1\n", "hypervisor.qemu", 2, "[hypervisor.qemu]"),
        ("[hypervisor.qemu]\ndefault_vcpus = 'two'\n", "hypervisor.qemu.default_vcpus", 2, "without quotes"),
        ("[factory]\nenable_template = 1\n", "factory.enable_template", 2, "without quotes"),
        ("[hypervisor.qemu.factory]\nvm_cache_number = 1\n", "hypervisor.qemu.factory.vm_cache_number", 2, "factory"),
        ("[agent.kata.mem_agent]\nenabled = true\n", "agent.kata.mem_agent.enabled", 2, "enable"),
    ],
)
def test_mistakes_are_named_with_file_line_and_the_nearest(
    text: str, key: str, line: int, suggestion: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        loaded(tmp_path, text)
    (found,) = caught.value.findings
    assert found.key == key
    assert found.where == f"{tmp_path}/configuration.toml:{line}"
    assert suggestion in found.suggestion
    assert caught.value.layer == "config"


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        loaded(tmp_path, "[runtime]\nxyzzy = 1\n", b="[runtime]\nplugh = 1\n")
    assert [found.key for found in caught.value.findings] == ["runtime.xyzzy", "runtime.plugh"]
    assert "plugh" in caught.value.detail


@pytest.mark.parametrize(
    "data",
    [b"[hypervisor", b"\xff\xfe", b"x = " + b"[" * 100000, b"x = " + b"9" * 6000, b"#" * (5 * 1024 * 1024)],
    ids=["syntax", "encoding", "depth", "number", "size"],
)
def test_what_is_no_toml(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "configuration.toml"
    path.write_bytes(data)
    with pytest.raises(FileError):
        load(str(path))


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.toml")
    for path in (tmp_path, tmp_path / "fifo.toml"):
        with pytest.raises(FileError):
            load(str(path))


def test_values_without_effect_say_so_unless_they_are_the_default(tmp_path: Path) -> None:
    config = loaded(tmp_path, "[hypervisor.qemu]\nenable_guest_swap = true\ndisable_seccomp = false\nrootless = true\n")
    assert [(found.key, found.severity) for found in config.warnings] == [
        ("hypervisor.qemu.enable_guest_swap", "warning")
    ]


def test_check_finds_what_only_shows_at_use(tmp_path: Path) -> None:
    path = write(tmp_path, "[hypervisor.qemu]\nkernel = '/nowhere/vmlinuz'\nmemory_slots = 5\n")
    assert [str(found) for found in check(path, HOST)] == [
        f"{path}: error: hypervisor.qemu.kernel: there is no /nowhere/vmlinuz"
    ]
    path = write(tmp_path, "[hypervisor.clh]\nkernel = '/nowhere/vmlinuz'\n")
    assert [found.key for found in check(path, HOST)] == ["hypervisor.clh"]


def test_the_configuration_is_frozen(tmp_path: Path) -> None:
    config = loaded(tmp_path, "")
    with pytest.raises(AttributeError, match="frozen"):
        config.hypervisor.default_vcpus = 2.0
    with pytest.raises(TypeError):
        config.hypervisor.values["default_vcpus"] = 2.0  # type: ignore[index]
    assert hash(config.hypervisor) == hash(loaded(tmp_path, "").hypervisor)
    assert repr(config.factory) == "Factory()"
