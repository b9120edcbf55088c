"""Turns layers into one draft: each key looked up, checked and noted; later layers replace single keys.

Both of upstream's forms load, also mixed: other spellings, units and tables come to the same setting. Two tables of
hypervisors are an error, because nobody could say which one holds.
"""

from __future__ import annotations

from typing import Any

from kata.config.files import Layer, line_of
from kata.config.finding import Findings
from kata.config.index import SUBTABLES, by_key, nearest, suggest
from kata.config.kinds import BadValueError, brief
from kata.config.model import Draft, Origin
from kata.config.settings import SECTIONS, Runtime
from kata.config.settings.hypervisor import NAMES, SYNONYMS

PLAIN = tuple(section.section for section in SECTIONS if "." not in section.section)
NAMED = {"hypervisor": (*NAMES, *SYNONYMS), "agent": ("kata",)}
"""Sections whose tables have a second name, and the names there are."""


def merge(layers: list[Layer], findings: Findings) -> Draft:
    """The values of all layers. What is wrong goes to `findings`."""
    draft = Draft()
    hypervisors: dict[str, str] = {}
    for layer in layers:
        reader = LayerReader(layer, findings)
        reader.read()
        for name, value in reader.values.items():
            draft.set(by_key()[name][0], value, Origin(layer.kind, layer.path))
        for name in reader.hypervisors:
            hypervisors.setdefault(name, layer.path)
    if layers:
        draft.path = layers[0].path
        draft.drop_ins = tuple(layer.path for layer in layers[1:])
    draft.hypervisor_name = _hypervisor(draft, hypervisors, findings)
    return draft


class LayerReader:
    """Reads one file: `values` by the settings' names, and the `hypervisors` that it has tables for."""

    def __init__(self, layer: Layer, findings: Findings) -> None:
        self.layer = layer
        self.findings = findings
        self.values: dict[str, Any] = {}  # settings differ in type; each value came from its own kind
        self.said: dict[str, str] = {}
        self.hypervisors: list[str] = []

    def read(self) -> None:
        """Go through all tables."""
        for name, value in self.layer.tree.items():
            if name not in PLAIN:
                self._unknown_table(name, nearest(name, PLAIN))
            elif not isinstance(value, dict):
                self._error("", name, "it is a table, and no value", f"write [{name}]")
            elif name in NAMED:
                self._named(name, value)
            else:
                self._table(name, name, value)

    def _named(self, section: str, tables: dict[str, object]) -> None:
        for name, table in tables.items():
            shown = f"{section}.{name}"
            if name not in NAMED[section]:
                hint = nearest(name, NAMED[section]) or f"write [{section}.{NAMED[section][0]}]"
                self._unknown_table(shown, hint)
            elif not isinstance(table, dict):
                self._error(section, name, "it is a table, and no value", f"write [{shown}]")
            else:
                if section == "hypervisor":
                    self.hypervisors.append(SYNONYMS.get(name, name))
                self._table(section, shown, table)

    def _table(self, section: str, shown: str, table: dict[str, object]) -> None:
        for key, value in table.items():
            name = f"{section}.{key}"
            if name in SUBTABLES and isinstance(value, dict):
                self._table(name, f"{shown}.{key}", value)
            elif name in by_key():
                self._value(name, shown, key, value)
            else:
                self._error(shown, key, "there is no such key", suggest(section, key))

    def _value(self, name: str, shown: str, key: str, value: object) -> None:
        setting, kind = by_key()[name]
        known = setting.name
        try:
            parsed = kind.from_toml(value)
        except BadValueError as error:
            self._error(shown, key, error.why, error.hint)
            return
        if known in self.said:
            why = f"it means the same as {self.said[known]}, which this file has as well"
            self.findings.warn(f"{shown}.{key}", why, "keep one of them", self._place(shown, key))
        if known not in self.said or name == known:
            self.values[known] = parsed
        self.said.setdefault(known, f"{shown}.{key}")

    def _unknown_table(self, shown: str, hint: str) -> None:
        self.findings.error(shown, "there is no such table", hint, self._place(shown, ""))

    def _error(self, table: str, key: str, why: str, hint: str) -> None:
        self.findings.error(f"{table}.{key}" if table else key, why, hint, self._place(table, key))

    def _place(self, table: str, key: str) -> str:
        number = line_of(self.layer.text, table, key)
        return f"{self.layer.path}:{number}" if number else self.layer.path


def _hypervisor(draft: Draft, tables: dict[str, str], findings: Findings) -> str:
    """Which hypervisor it is: the table's, which `runtime.hypervisor_name` may name but not change."""
    said = draft.get(Runtime.hypervisor_name)
    chosen, where = SYNONYMS.get(said, said), draft.origin(Runtime.hypervisor_name).where
    table = next(iter(tables), "")
    if len(tables) > 1:
        places = " and ".join(f"[hypervisor.{name}] in {place}" for name, place in tables.items())
        findings.error("hypervisor", f"there are {len(tables)} tables: {places}", "keep one of them")
    elif chosen and chosen not in NAMES:
        findings.error("runtime.hypervisor_name", f"{brief(said)} is no hypervisor", nearest(chosen, NAMES), where)
    elif chosen and table and chosen != table:
        why = f"it is {chosen}, and the only table is [hypervisor.{table}]"
        findings.error("runtime.hypervisor_name", why, f"name it {table}", where)
    return table or chosen or "qemu"
