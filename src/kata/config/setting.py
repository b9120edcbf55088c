"""The declaration of one setting, and of the tables in which settings stand.

A `Section` is a table of configuration.toml; its class attributes are the settings. Read on the class
(`Hypervisor.default_vcpus`) an attribute is the declaration; read on a value (`config.hypervisor.default_vcpus`) it is
what holds for this sandbox, of the declared type. Loading, annotations, checks, `kata config`, the documentation and
the default file all come from these declarations: nothing about a setting may be said anywhere else, except for what
depends on several of them (`rules`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Generic, NoReturn, TypeVar, overload

from kata.config.kinds import Kind

T = TypeVar("T")

PREFIX = "io.katacontainers.config."
"""What the names of all annotations that change the configuration begin with."""


class Setting(Generic[T]):
    """One key of the file.

    `default`: its value, or a function that finds it. `help`: one sentence. `annotation`: True when a pod may set it
    under its own name, or other names for that (without PREFIX). `aliases`: other keys that mean the same, as
    `section.key`, with their kind where that differs. `ignored`: why setting it has no effect here (a warning, unless
    the value is the default or in `quiet`); `refused`: why a sandbox that wants it is not started;
    `refused_values`: the same for single values. `allowed_by`: the list of globs that a pod's value has to
    match. `asset`: it is a file that the VM boots from. `combine`: how a pod's value joins the operator's.
    `in_file`: False for what only annotations have. `secret`: its value is not shown.
    """

    key: str = ""
    section: str = ""

    def __init__(
        self,
        kind: Kind[T],
        default: T | Callable[[], T],
        help: str,
        *,
        annotation: bool | str | tuple[str, ...] = False,
        aliases: Mapping[str, Kind[T] | None] | tuple[str, ...] = (),
        ignored: str = "",
        refused: str = "",
        quiet: tuple[T, ...] = (),
        refused_values: Mapping[T, str] | None = None,
        allowed_by: str = "",
        asset: bool = False,
        combine: Callable[[T, T], T] | None = None,
        in_file: bool = True,
        secret: bool = False,
    ) -> None:
        self.kind = kind
        self.help = help
        self.aliases: dict[str, Kind[T]] = {
            name: (aliases[name] if isinstance(aliases, Mapping) else None) or kind for name in aliases
        }
        self.ignored = ignored
        self.refused = refused
        self.quiet = quiet
        self.refused_values = refused_values or {}
        self.allowed_by = allowed_by
        self.asset = asset
        self.combine = combine
        self.in_file = in_file
        self.secret = secret
        self._default = default
        self._annotation = annotation

    def __set_name__(self, owner: type[Section], key: str) -> None:
        self.key = key
        self.section = owner.section

    @property
    def name(self) -> str:
        """`section.key`, which is unique."""
        return f"{self.section}.{self.key}"

    @property
    def default(self) -> T:
        """The value when nobody says anything."""
        return self._default() if callable(self._default) else self._default

    @property
    def annotations(self) -> tuple[str, ...]:
        """Names of the annotations that set it, in full."""
        if isinstance(self._annotation, bool):
            return (PREFIX + self.name,) if self._annotation else ()
        names = (self._annotation,) if isinstance(self._annotation, str) else self._annotation
        return tuple(name if name.startswith("io.") else PREFIX + name for name in names)

    def why_ignored(self, value: T) -> str:
        """Why `value` has no effect here; empty when it has."""
        return self.ignored if self.ignored and value != self.default and value not in self.quiet else ""

    def why_refused(self, value: T) -> str:
        """Why a sandbox with `value` is not started; empty when it is."""
        if self.refused and value != self.default:
            return self.refused
        return self.refused_values.get(value, "") if self.refused_values else ""

    @overload
    def __get__(self, values: None, owner: type[Section]) -> Setting[T]: ...
    @overload
    def __get__(self, values: Section, owner: type[Section]) -> T: ...
    def __get__(self, values: Section | None, owner: type[Section]) -> Setting[T] | T:
        if values is None:
            return self
        found: T = values.values[self.key]
        return found


# Settings of all types stand in one table, so what is looked up by name has any type.
AnySetting = Setting[Any]


class Section:
    """The values of one table, frozen. Subclasses declare its settings; `section` is its name in theirs."""

    section: ClassVar[str] = ""
    values: Mapping[str, Any]
    __slots__ = ("values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        object.__setattr__(self, "values", MappingProxyType(dict(values)))

    @classmethod
    def settings(cls) -> Iterator[AnySetting]:
        """The declarations, in the order in which they are written."""
        for base in cls.__mro__:
            for value in vars(base).values():
                if isinstance(value, Setting):
                    yield value

    def __setattr__(self, key: str, value: object) -> NoReturn:
        raise AttributeError(f"the configuration is frozen: {self.section}.{key} cannot be set")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.values == other.values

    def __hash__(self) -> int:
        return hash(tuple(self.values.items()))

    def __repr__(self) -> str:
        changed = [s.key for s in self.settings() if self.values[s.key] != s.default]
        return f"{type(self).__name__}({', '.join(f'{key}={self.values[key]!r}' for key in changed)})"
