"""The documentation and the default file of the configuration are what the declarations make of them."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

from kata.config.setting import AnySetting
from kata.config.settings import SECTIONS

ROOT = Path(__file__).parents[3]
EVERY = [setting for section in SECTIONS for setting in section.settings()]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    spec = importlib.util.spec_from_file_location("settings_tool", ROOT / "tools/settings.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generating_again_changes_nothing(tool: Any) -> None:
    for path, content in tool.outputs().items():
        assert path.read_text() == content, f"{path.relative_to(ROOT)} is old: run `make settings`"


@pytest.mark.parametrize("setting", EVERY, ids=lambda setting: setting.name)
def test_every_declaration_is_sound(setting: AnySetting) -> None:
    assert setting.help.endswith(".")
    assert not (setting.ignored and setting.refused)
    assert not setting.ignored.endswith(".") and not setting.refused.endswith(".")
    for value in (setting.default, *setting.quiet, *setting.refused_values):
        text = setting.kind.to_toml(value)
        assert "\n" not in text
    assert setting.kind.from_toml(_as_toml(setting.default)) == setting.default


def _as_toml(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
