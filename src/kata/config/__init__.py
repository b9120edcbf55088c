"""The configuration: configuration.toml in upstream's form, its drop-ins, and what pods may change by annotations.

The door is `load`; what it promises is at the top of `kata.config.load`. The settings are declared in
`kata.config.settings`, one table for everything: loading, checks, annotations, `kata config`, the documentation and
the default file. Values never change after loading. Imported by every sandbox process: keep it light.
"""

from kata.config.errors import AnnotationError, ConfigError, FileError, InvalidConfigError, UnsupportedConfigError
from kata.config.load import check, load
from kata.config.model import Config, Origin

__all__ = [
    "AnnotationError",
    "Config",
    "ConfigError",
    "FileError",
    "InvalidConfigError",
    "Origin",
    "UnsupportedConfigError",
    "check",
    "load",
]
