"""What pods may change: nothing that was not enabled, no path that was not allowed, no value that is malformed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from kata.config import AnnotationError
from kata.config.finding import TOLD
from kata.config.index import by_annotation
from kata.config.pod import ADVISED, is_allowed_path, is_enabled
from kata.config.settings import Hypervisor
from kata.config.settings.hypervisor.annotations import Annotations
from tests.unit.config.files import AGENT, HYPERVISOR, RUNTIME, enabling, loaded


@pytest.mark.parametrize(
    ("annotation", "text", "section", "key", "value"),
    [
        (HYPERVISOR + "default_vcpus", "1.5", "hypervisor", "default_vcpus", 1.5),
        (HYPERVISOR + "default_max_vcpus", "2", "hypervisor", "default_maxvcpus", 2),
        (HYPERVISOR + "default_memory", "512", "hypervisor", "default_memory", 512),
        (HYPERVISOR + "default_memory", "1Gi", "hypervisor", "default_memory", 1024),
        (HYPERVISOR + "enable_iothreads", "true", "hypervisor", "enable_iothreads", True),
        (HYPERVISOR + "machine_type", "microvm", "hypervisor", "machine_type", "microvm"),
        (HYPERVISOR + "shared_fs", "none", "hypervisor", "shared_fs", "none"),
        (HYPERVISOR + "blk_logical_sector_size", "512", "hypervisor", "block_device_logical_sector_size", 512),
        (HYPERVISOR + "guest_hook_path", "/usr/share/hooks", "hypervisor", "guest_hook_path", "/usr/share/hooks"),
        (HYPERVISOR + "rx_rate_limiter_max_rate", "1000", "hypervisor", "rx_rate_limiter_max_rate", 1000),
        (RUNTIME + "disable_guest_seccomp", "true", "runtime", "disable_guest_seccomp", True),
        (RUNTIME + "sandbox_cgroup_only", "1", "runtime", "sandbox_cgroup_only", True),
        (RUNTIME + "hypervisor_name", "qemu", "runtime", "hypervisor_name", "qemu"),
        (RUNTIME + "internetworking_model", "macvtap", "runtime", "internetworking_model", "macvtap"),
        (RUNTIME + "create_container_timeout", "90", "runtime", "create_container_timeout", 90.0),
        ("io.katacontainers.enable_vcpus_pinning", "true", "runtime", "enable_vcpus_pinning", True),
        (AGENT + "kernel_modules", "e1000e EEE=1;i915", "agent", "kernel_modules", ("e1000e EEE=1", "i915")),
        (AGENT + "container_pipe_size", "65536", "agent", "container_pipe_size", 65536),
        (AGENT + "policy", "cGFja2FnZSB4Cg==", "agent", "policy", "package x\n"),
        (AGENT + "cdh_api_timeout", "5", "agent", "cdh_api_timeout", 5.0),
        (AGENT + "cdh_api_timeout_ms", "5000", "agent", "cdh_api_timeout", 5.0),
    ],
)
def test_each_kind_of_annotation(
    annotation: str, text: str, section: str, key: str, value: object, tmp_path: Path
) -> None:
    config = loaded(tmp_path, enabling(".*"), {annotation: text})
    assert getattr(config, section).values[key] == value
    assert config.origins[f"{section}.{key}"] == ("annotation", annotation, "")


@pytest.mark.parametrize("annotation", sorted(by_annotation()))
def test_nothing_is_enabled_unless_the_operator_says_so(annotation: str, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="it is not enabled") as caught:
        loaded(tmp_path, "", {annotation: "1"})
    assert caught.value.findings[0].key == annotation


def test_no_annotation_changes_what_is_allowed() -> None:
    lists = {setting.name for setting in Annotations.settings()}
    assert not [name for name, (setting, _) in by_annotation().items() if setting.name in lists]


@pytest.mark.parametrize(
    ("pattern", "name", "enabled"),
    [
        ("path", "hypervisor.path", True),
        ("path", "hypervisor.jailer_path", False),
        ("hypervisor\\.path", "hypervisor.path", True),
        ("path", "hypervisor.vhost_user_store_path", False),
        ("default_", "hypervisor.default_vcpus", False),
        ("default_.*", "hypervisor.default_vcpus", True),
        ("a|default_vcpus", "hypervisor.default_vcpus", True),
        ("default_vcpus", "hypervisor.default_vcpus\n", False),
        ("kernel_modules", "agent.kernel_modules", False),
        ("agent\\.kernel_modules", "agent.kernel_modules", True),
        ("disable_new_netns", "runtime.disable_new_netns", False),
        ("runtime\\..*", "runtime.disable_new_netns", True),
        ("runtime\\..*", "hypervisor.path", False),
        (".*", "agent.policy", True),
        ("", "hypervisor.path", False),
    ],
)
def test_patterns_match_whole_names(pattern: str, name: str, enabled: bool) -> None:
    assert is_enabled("io.katacontainers.config." + name, (pattern,)) == enabled


@pytest.mark.parametrize(
    ("annotation", "text", "why"),
    [
        (HYPERVISOR + "default_vcpus", "many", "no number"),
        (HYPERVISOR + "default_vcpus", "5", "this host has 4 CPUs"),
        (HYPERVISOR + "default_max_vcpus", "5", "this host has 4 CPUs"),
        (HYPERVISOR + "default_memory", "95", "95 MiB are too little"),
        (HYPERVISOR + "memory_slots", "0", "one at least"),
        (HYPERVISOR + "enable_iothreads", "yes", "neither true nor false"),
        (HYPERVISOR + "machine_accelerators", "nvdimm=on -device x", "malformed"),
        (HYPERVISOR + "cpu_features", "pmu=off\n-device", "control characters"),
        (HYPERVISOR + "kernel_params", "a\nb", "control characters"),
        (HYPERVISOR + "kernel_params", 'x="a', "malformed"),
        (HYPERVISOR + "kernel_hash", "abc", "malformed"),
        (HYPERVISOR + "default_vcpu", "1", "there is no such annotation"),
        (RUNTIME + "internetworking_model", "bridge", "none of the possible words"),
        (RUNTIME + "disable_new_netns", "true", "internetworking_model none"),
        (RUNTIME + "hypervisor_name", "clh", "has set up qemu alone"),
        (AGENT + "policy", "not base64", "no text in base64"),
        ("io.katacontainers.asset_hash_type", "md5", "no kind of hash"),
    ],
)
def test_malformed_ones_are_errors_that_name_them(annotation: str, text: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError) as caught:
        loaded(tmp_path, enabling(".*"), {annotation: text})
    assert annotation in caught.value.what
    assert why in caught.value.what


@pytest.mark.parametrize(
    "annotation",
    [
        "io.katacontainers.config_path",
        "io.katacontainers.config.config_path",
        HYPERVISOR + "virtio_fs_extra_args",
        RUNTIME + "sandbox_bind_mounts",
    ],
)
def test_cve_2026_50540_and_44210_some_are_refused_whatever_is_enabled(annotation: str, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=annotation.replace(".", r"\.")):
        loaded(tmp_path, enabling(".*"), {annotation: "/tmp/mine.toml"})


def test_other_annotations_are_none_of_ours(tmp_path: Path) -> None:
    others = {
        "io.kubernetes.cri.sandbox-id": "x",
        "io.katacontainers.pkg.oci.bundle_path": "/x",
        "io.katacontainers.container.resource.swappiness": "1",
        "io.katacontainers.asset_hash_type": "sha512",
    }
    assert loaded(tmp_path, "", others).origins.keys() == loaded(tmp_path, "").origins.keys()


def test_kernel_parameters_replace_those_of_the_same_name(tmp_path: Path) -> None:
    text = enabling("kernel_params", more="kernel_params = 'quiet panic=1 x=\"a b\"'\n")
    config = loaded(tmp_path, text, {HYPERVISOR + "kernel_params": "panic=5 new"})
    assert config.hypervisor.kernel_params == 'quiet x="a b" panic=5 new'


def test_the_program_must_match_a_glob(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/qemu-new"
    program.touch()
    globs = f"valid_hypervisor_paths = ['{tmp_path}/bin/qemu-*']\n"
    name = HYPERVISOR + "path"
    assert loaded(tmp_path, enabling("path", more=globs), {name: str(program)}).hypervisor.path == str(program)
    for text, why in (
        ("/bin/sh", "not allowed"),
        (f"{tmp_path}/bin/qemu-missing", "there is no"),
        (f"{tmp_path}/bin/../bin/qemu-new", "no absolute path"),
        ("qemu-new", "no absolute path"),
    ):
        with pytest.raises(AnnotationError, match=why):
            loaded(tmp_path, enabling("path", more=globs), {name: text})
    with pytest.raises(AnnotationError, match="not allowed"):
        loaded(tmp_path, enabling("path"), {name: str(program)})


def test_cve_2020_27151_globs_are_held_against_what_links_lead_to(tmp_path: Path) -> None:
    for folder in ("real", "allowed", "allowed/sub"):
        (tmp_path / folder).mkdir()
    for file in ("real/program", "allowed/program", "allowed/sub/program", "allowed/.hidden"):
        (tmp_path / file).touch()
    (tmp_path / "allowed/link").symlink_to(tmp_path / "real/program")
    (tmp_path / "to-allowed").symlink_to(tmp_path / "allowed")
    globs = (f"{tmp_path}/allowed/*",)
    assert is_allowed_path(f"{tmp_path}/allowed/program", globs)
    assert not is_allowed_path(f"{tmp_path}/allowed/link", globs)
    assert not is_allowed_path(f"{tmp_path}/allowed/sub/program", globs)
    assert not is_allowed_path(f"{tmp_path}/allowed/.hidden", globs)
    assert not is_allowed_path(f"{tmp_path}/allowed", globs)
    # The operator's own links are fine, on either side.
    assert is_allowed_path(f"{tmp_path}/allowed/program", (f"{tmp_path}/to-allowed/*",))
    assert is_allowed_path(f"{tmp_path}/allowed/link", (f"{tmp_path}/allowed/link",))
    assert not is_allowed_path(f"{tmp_path}/allowed/program", ("", "/", "*"))


def test_assets_are_files_in_the_folders_of_the_operators_own(tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    for name in ("vmlinuz", "other", "image"):
        (tmp_path / "assets" / name).write_bytes(name.encode())
    (tmp_path / "assets/link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "assets/fifo")
    text = enabling(".*", more=f"kernel = '{tmp_path}/assets/vmlinuz'\n")
    other = str(tmp_path / "assets/other")
    assert loaded(tmp_path, text, {HYPERVISOR + "kernel": other}).hypervisor.kernel == other
    for path in ("/etc/passwd", f"{tmp_path}/assets/link", f"{tmp_path}/assets/fifo", f"{tmp_path}/assets/none", "x"):
        with pytest.raises(AnnotationError):
            loaded(tmp_path, text, {HYPERVISOR + "image": path})


def test_an_image_takes_the_place_of_an_initrd_and_the_reverse(tmp_path: Path) -> None:
    for name in ("image", "initrd"):
        (tmp_path / name).touch()
    image, initrd = str(tmp_path / "image"), str(tmp_path / "initrd")
    config = loaded(tmp_path, enabling(".*", more=f"image = '{image}'\n"), {HYPERVISOR + "initrd": initrd})
    assert (config.hypervisor.image, config.hypervisor.initrd) == ("", initrd)
    config = loaded(tmp_path, enabling(".*", more=f"initrd = '{initrd}'\n"), {HYPERVISOR + "image": image})
    assert (config.hypervisor.image, config.hypervisor.initrd) == (image, "")
    both = {HYPERVISOR + "image": image, HYPERVISOR + "initrd": initrd}
    with pytest.raises(AnnotationError, match="there is an image as well"):
        loaded(tmp_path, enabling(".*", more=f"image = '{image}'\n"), both)


def test_one_place_for_host_devices_takes_the_others(tmp_path: Path) -> None:
    text = enabling(".*", more="cold_plug_vfio = 'root-port'\n")
    config = loaded(tmp_path, text, {HYPERVISOR + "hot_plug_vfio": "root-port"})
    assert (config.hypervisor.hot_plug_vfio, config.hypervisor.cold_plug_vfio) == ("root-port", "no-port")


@pytest.mark.parametrize("asset", ["kernel", "image"])
def test_hashes_are_checked(asset: str, tmp_path: Path) -> None:
    file = tmp_path / asset
    file.write_bytes(b"the right one" * 100000)
    digest = hashlib.sha512(file.read_bytes()).hexdigest()
    text = enabling(".*", more=f"{asset} = '{file}'\n")
    name = f"{HYPERVISOR}{asset}_hash"
    assert loaded(tmp_path, text, {name: digest.upper()}).hypervisor.values[asset] == str(file)
    file.write_bytes(b"another")
    with pytest.raises(AnnotationError, match="has another SHA-512") as caught:
        loaded(tmp_path, text, {name: digest})
    assert name in caught.value.what
    file.unlink()
    with pytest.raises(AnnotationError, match="cannot be read"):
        loaded(tmp_path, text, {name: digest})


def test_a_hash_is_for_the_file_that_the_pod_chose(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"1")
    second.write_bytes(b"2")
    text = enabling(".*", more=f"kernel = '{first}'\n")
    chosen = {
        HYPERVISOR + "kernel": str(second),
        HYPERVISOR + "kernel_hash": hashlib.sha512(b"2").hexdigest(),
    }
    config = loaded(tmp_path, text, chosen)
    assert config.origin(Hypervisor.kernel).where == HYPERVISOR + "kernel"


def test_several_mistakes_are_told_at_once(tmp_path: Path) -> None:
    wrong = {HYPERVISOR + "default_vcpus": "x", RUNTIME + "vfio_mode": "x"}
    with pytest.raises(AnnotationError) as caught:
        loaded(tmp_path, enabling(".*"), wrong)
    assert [found.key for found in caught.value.findings] == sorted(wrong)


def test_a_flood_of_mistakes_is_told_in_part(tmp_path: Path) -> None:
    """What each could have meant would take a shim half a minute to find, for all that an object may carry."""
    wrong = {f"{HYPERVISOR}default_vcpu{number}": "1" for number in range(5000)}
    with pytest.raises(AnnotationError) as caught:
        loaded(tmp_path, enabling(".*"), wrong)
    assert len(caught.value.findings) == 5000
    assert "did you mean" in caught.value.hint
    assert sum(bool(found.suggestion) for found in caught.value.findings) == ADVISED
    assert caught.value.detail.endswith(f"and {5000 - TOLD} more")
