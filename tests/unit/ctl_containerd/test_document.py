"""containerd's configuration with our runtime: whatever it was, it says the same, and ours."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.ctl.containerd import document
from kata.ctl.containerd.document import BEGIN, END, DocumentError, add, remove, runtime

DEBIAN = """\
version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
      conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.internal.v1.opt"]
    path = "/var/lib/containerd"
"""
VARIANTS = {
    "debian": DEBIAN,
    "no line end": DEBIAN.rstrip("\n"),
    "only a version": "version = 2\n",
    "comments": f"# mine\n\n{DEBIAN}\n# the end",
    "other runtimes": DEBIAN + '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]\nruntime_type = "x"\n',
    "dotted keys": 'version = 2\nplugins."io.containerd.grpc.v1.cri".containerd.default_runtime_name = "runc"\n',
    "version 3": 'version = 3\n[plugins."io.containerd.cri.v1.runtime".containerd]\ndefault_runtime_name = "runc"\n',
    "literal names": "version = 3\n[plugins.'io.containerd.cri.v1.images']\nsnapshotter = 'overlayfs'\n",
    "windows": DEBIAN.replace("\n", "\r\n"),
    "text that looks like ours": f'version = 2\nx = """\n{END}\n"""\n',
}


def ours(config: dict[str, object], version: int) -> object:
    found: object = config
    for name in ("plugins", document.CRI[version], "containerd", "runtimes", "kata"):
        assert isinstance(found, dict)
        found = found[name]
    return found


@pytest.mark.parametrize("text", VARIANTS.values(), ids=VARIANTS)
def test_added_taken_out_and_added_again(text: str) -> None:
    before = tomllib.loads(text)
    edited = add(text)
    assert edited.changed and edited.text.startswith(text)
    after = tomllib.loads(edited.text)
    assert ours(after, before["version"]) == runtime()
    assert add(edited.text) == (edited.text, False)
    assert remove(edited.text) == (text, True)
    assert remove(text) == (text, False)


@pytest.mark.parametrize("text", ["", "\n", "# nothing but words\n"])
def test_an_empty_file_gets_a_version(text: str) -> None:
    edited = add(text).text
    assert tomllib.loads(edited)["version"] == 2
    assert add(edited).changed is False
    assert remove(edited).text == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version = 2\nx =\n", "no TOML"),
        ('[plugins.cri]\nsandbox_image = "x"\n', "version 1"),
        ("version = 4\n", "version 4"),
        ("version = true\n", "version True"),
        ("version = []\n", "version"),
        ('version = 2\nplugins = {"io.containerd.grpc.v1.cri" = {}}\n', "cannot be added"),
        ("version = 2\nplugins = 5\n", "no table"),
        (
            'version = 2\n[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata]\nruntime_type = "x"\n',
            "another",
        ),
        ('version = 2\n[plugins."io.containerd.grpc.v1.cri"]\ncontainerd = {runtimes = {}}\n', "cannot be added"),
    ],
)
def test_what_cannot_be_edited_is_left_and_told(text: str, said: str) -> None:
    with pytest.raises(DocumentError, match=said):
        add(text)


def test_a_runtime_of_the_same_that_somebody_else_wrote_is_fine() -> None:
    text = DEBIAN + document.block(2).replace(BEGIN, "# by hand").replace(END, "")
    assert add(text) == (text, False)
    assert remove(text) == (text, False)


def test_an_older_block_is_replaced() -> None:
    older = add(DEBIAN).text.replace(
        "privileged_without_host_devices = true", "privileged_without_host_devices = false"
    )
    assert add(older) == (add(DEBIAN).text, True)


def test_what_others_add_below_stays() -> None:
    more = add(DEBIAN).text + '[debug]\nlevel = "debug"\n'
    assert remove(more).text == DEBIAN + '[debug]\nlevel = "debug"\n'


def test_keys_that_follow_our_table_are_not_torn_off() -> None:
    with pytest.raises(DocumentError, match="more than that"):
        remove(add(DEBIAN).text + 'snapshotter = "devmapper"\n')


def test_the_cri_plugin_switched_off() -> None:
    assert document.disables_cri('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    assert document.disables_cri('disabled_plugins = ["cri"]\n')
    assert not document.disables_cri(DEBIAN)


SCALARS = st.booleans() | st.integers(-(1 << 60), 1 << 60) | st.text(st.characters(codec="utf-8"), max_size=20)
VALUES = st.recursive(SCALARS, lambda below: st.dictionaries(st.text('abc.io "é', max_size=6), below, max_size=3))
TABLES = st.dictionaries(st.text("abcdef", min_size=1, max_size=6), VALUES, max_size=4)


@given(TABLES, TABLES, st.sampled_from([2, 3]), st.booleans())
def test_any_configuration_says_what_it_said(
    top: dict[str, object], plugins: dict[str, object], version: int, cri: bool
) -> None:
    from kata.ctl.env import toml

    inside = {**plugins, **({document.CRI[version]: {"containerd": {"snapshotter": "x"}}} if cri else {})}
    text = toml(_quoted({"version": version, **top, "plugins": inside}))
    before = tomllib.loads(text)
    assert before == {"version": version, **top, "plugins": inside}
    edited = add(text).text
    after = tomllib.loads(edited)
    assert ours(after, version) == runtime()
    assert remove(edited).text == text
    runtimes = after["plugins"][document.CRI[version]]["containerd"]
    del runtimes["runtimes"]
    if not cri:
        del after["plugins"][document.CRI[version]]
    assert after == before


def _quoted(tables: dict[str, object]) -> dict[str, object]:
    """The same with every key as TOML writes it."""
    return {
        '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"': _quoted(value) if isinstance(value, dict) else value
        for key, value in tables.items()
    }
