"""What holds for any input: never a traceback, later layers win key by key, what is shown loads again."""

from __future__ import annotations

import datetime
import json
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kata.config import ConfigError, load
from kata.config.files import Layer
from kata.config.finding import Findings
from kata.config.index import by_annotation, by_key
from kata.config.kinds import toml_string
from kata.config.merge import merge
from kata.config.model import Draft
from kata.config.pod import is_allowed_path
from kata.config.render import as_json, show
from kata.config.rules import Rules
from kata.config.settings import SECTIONS
from kata.config.values import kernel_words, merge_kernel_params
from tests.unit.config.files import HOST, enabling, loaded

KEYS = sorted({name.rpartition(".")[2] for name in by_key()})
scalars = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["virtio-fs", "q35", "/dev/urandom", "tcfilter", "none", "on"]),
    st.dates(),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["name", "path"]), inner, max_size=2)
    ),
    max_leaves=5,
)
tables = st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=5)), values, max_size=6)
trees = st.dictionaries(
    st.sampled_from(["hypervisor", "agent", "runtime", "factory", "netmon", "image", "other"]),
    st.one_of(values, tables, st.dictionaries(st.sampled_from(["qemu", "clh", "kata", "x"]), tables, max_size=2)),
    max_size=4,
)


def layer(tree: dict[str, Any]) -> Layer:
    return Layer("/x.toml", "file", tree, "")


@given(st.lists(trees, max_size=3))
@settings(deadline=None, max_examples=150)
def test_any_types_anywhere_give_findings_and_no_traceback(layers: list[dict[str, Any]]) -> None:
    findings = Findings()
    draft = merge([layer(tree) for tree in layers], findings)
    Rules(draft, HOST, findings).apply()
    config = draft.freeze(findings.warnings)
    assert tomllib.loads(show(config))
    json.dumps(as_json(config))
    config.unsupported()
    for found in findings.all:
        assert found.key and found.why
        assert "\n" not in str(found)


@given(st.text(alphabet="[]{}=\"'.,#\n -_abq09ntruefals", max_size=80))
@settings(deadline=None, max_examples=150)
def test_any_text_loads_or_is_refused(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            loaded(Path(folder), text)
        except ConfigError as error:
            assert error.what


# One plain value for each of some settings: enough to see which layer a value came from.
numbers = st.dictionaries(
    st.sampled_from(["default_memory", "memory_slots", "queue_size", "num_queues", "rx_rate_limiter_max_rate"]),
    st.integers(1, 1000),
    max_size=5,
)


def merged(*layers: dict[str, int]) -> Draft:
    return merge([layer({"hypervisor": {"qemu": values}}) for values in layers], Findings())


@given(st.lists(numbers, max_size=4))
def test_layers_merge_as_dictionaries_do(layers: list[dict[str, int]]) -> None:
    expected: dict[str, int] = {}
    for values in layers:
        expected |= values
    assert merged(*layers).values == {f"hypervisor.{key}": value for key, value in expected.items()}


@given(numbers, numbers, numbers)
def test_merging_is_associative_and_idempotent(a: dict[str, int], b: dict[str, int], c: dict[str, int]) -> None:
    assert merged(a, {**b, **c}).values == merged({**a, **b}, c).values
    assert merged(a, a).values == merged(a).values
    assert merged(a, {}).values == merged({}, a).values


any_annotations = st.dictionaries(
    st.one_of(
        st.sampled_from(sorted(by_annotation())),
        st.text(max_size=10).map(lambda name: "io.katacontainers.config." + name),
        st.text(max_size=20),
    ),
    st.one_of(st.text(max_size=20), st.sampled_from(["1", "true", "/etc/passwd", "none", "9" * 40, "[{}]", "a=b;c"])),
    max_size=4,
)


@given(any_annotations, st.sampled_from([(), (".*",), ("default_.*", "agent\\..*")]))
@settings(deadline=None, max_examples=150)
def test_any_annotations_load_or_are_refused_by_name(annotations: dict[str, str], enabled: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            config = loaded(Path(folder), enabling(*enabled), annotations)
        except ConfigError as error:
            names = {"".join(char if char.isprintable() else "?" for char in name) for name in annotations}
            assert {found.key for found in error.findings} & names
        else:
            changed = {origin.where for origin in config.origins.values() if origin.kind == "annotation"}
            assert changed <= annotations.keys()


@given(st.text(alphabet="ab=\" '", max_size=20), st.text(alphabet="ab=\" '", max_size=20))
def test_a_pods_kernel_parameters_are_all_there_and_win(ours: str, theirs: str) -> None:
    assume(ours.count('"') % 2 == theirs.count('"') % 2 == 0)  # what the setting accepts
    result = list(kernel_words(merge_kernel_params(ours, theirs)))
    wanted = list(kernel_words(theirs))
    assert result[len(result) - len(wanted) :] == wanted
    names = {word.partition("=")[0] for word in wanted}
    assert [word for word in kernel_words(ours) if word.partition("=")[0] not in names] == result[
        : len(result) - len(wanted)
    ]


@given(st.text(alphabet="ab/.*", max_size=12), st.text(alphabet="ab/.*", max_size=12))
def test_a_glob_never_reaches_beyond_its_folder(folder: str, rest: str) -> None:
    assert not is_allowed_path(f"/nowhere/{folder}/{rest}", ("/elsewhere/*", "/elsewhere/*/*", "/elsewhere/[a-z]*/*"))


# Values for each setting that its own kind accepts, as a file would hold them.
plain = {
    "boolean": st.booleans(),
    "integer": st.integers(1, 16),
    "integer (MiB)": st.integers(96, 4096),
    "number": st.integers(0, 4),
    "seconds": st.integers(1, 90),
    "path": st.sampled_from(["", "/a", '/with "quotes"', "/tab-free/\\back"]),
}
settable = {
    name: setting
    for name, (setting, _) in sorted(by_key().items())
    if name == setting.name and setting.kind.name in plain and setting.section in ("hypervisor", "runtime", "agent")
}


@given(st.lists(st.sampled_from(sorted(settable)), max_size=8, unique=True), st.data())
@settings(deadline=None, max_examples=100)
def test_what_is_shown_loads_again_to_the_same(names: list[str], data: st.DataObject) -> None:
    lines: dict[str, list[str]] = {"hypervisor.qemu": [], "runtime": [], "agent.kata": []}
    for name in names:
        table = {"hypervisor": "hypervisor.qemu", "agent": "agent.kata"}.get(settable[name].section, "runtime")
        value = data.draw(plain[settable[name].kind.name])
        text = toml_string(value) if isinstance(value, str) else str(value).lower()
        lines[table].append(f"{settable[name].key} = {text}")
    source = "\n".join(f"[{table}]\n" + "\n".join(entries) for table, entries in lines.items())
    with tempfile.TemporaryDirectory() as folder:
        try:
            first = loaded(Path(folder), source)
        except ConfigError:
            return  # values that exclude each other
        again = loaded(Path(folder), show(first))
    for kind in SECTIONS:
        assert first.section(kind) == again.section(kind)
    assert len(as_json(first)["settings"]) == sum(len(list(kind.settings())) for kind in SECTIONS)  # type: ignore[arg-type]


def test_dates_are_no_values(tmp_path: Path) -> None:
    findings = Findings()
    merge([layer({"runtime": {"name": datetime.date(2026, 1, 1)}})], findings)
    assert findings.errors[0].key == "runtime.name"


def test_the_door_takes_the_host_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "configuration.toml"
    path.write_text("")
    assert load(str(path)).hypervisor.default_maxvcpus >= 1
    assert load(str(path), host=HOST).hypervisor.default_maxvcpus == HOST.cpus
