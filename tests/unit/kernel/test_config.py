"""Configuration fragments."""

from __future__ import annotations

from pathlib import Path

import pytest

from kata.kernel import config
from kata.kernel.errors import ConfigError


def test_a_fragment_is_read() -> None:
    text = '# words\n\nCONFIG_A=y\nCONFIG_B="x y"\n# CONFIG_C is not set\nCONFIG_D=64\n'
    assert config.parse(text) == {"CONFIG_A": "y", "CONFIG_B": '"x y"', "CONFIG_C": "n", "CONFIG_D": "64"}


@pytest.mark.parametrize("line", ["CONFIG_A", "config_a=y", "A=y", "CONFIG_A =y"])
def test_a_line_that_is_no_option_is_refused(line: str) -> None:
    with pytest.raises(ConfigError, match="no option"):
        config.parse(f"CONFIG_X=y\n{line}\n")


def test_rendering_is_undone_by_reading() -> None:
    options = {"CONFIG_B": '"t"', "CONFIG_A": "n", "CONFIG_C": "y"}
    assert config.parse(config.render(options)) == options


@pytest.mark.parametrize(
    ("asked", "found", "names"),
    [
        ({"CONFIG_A": "y"}, {"CONFIG_A": "y", "CONFIG_Z": "y"}, []),
        ({"CONFIG_A": "y"}, {}, ["CONFIG_A"]),
        ({"CONFIG_A": "y"}, {"CONFIG_A": "m"}, ["CONFIG_A"]),
        ({"CONFIG_A": "n"}, {}, []),
        ({"CONFIG_A": "n"}, {"CONFIG_A": "y"}, ["CONFIG_A"]),
    ],
)
def test_what_kconfig_dropped_is_told(asked: dict[str, str], found: dict[str, str], names: list[str]) -> None:
    assert [entry.option for entry in config.dropped(asked, found)] == names


def test_our_fragments_are_sound_and_say_each_option_once() -> None:
    seen: dict[str, Path] = {}
    for file in config.choose(()):
        assert file.read_text().startswith("# "), f"{file.name} does not say what it is for"
        for option, value in config.parse(file.read_text(), file.name).items():
            assert option not in seen, f"{option} is in {seen.get(option)} and {file}"
            assert value != "m", "the tuned kernel has no modules"
            seen[option] = file
    assert len(seen) > 100


def test_base_comes_first_and_unknown_names_are_refused(tmp_path: Path) -> None:
    assert config.choose(["serial", "base"])[0].name == "base.conf"
    own = tmp_path / "own.conf"
    own.write_text("CONFIG_OWN=y\n")
    assert config.join(config.choose([str(own)])) == {"CONFIG_OWN": "y"}
    with pytest.raises(ConfigError, match="nonesuch"):
        config.choose(["nonesuch"])
