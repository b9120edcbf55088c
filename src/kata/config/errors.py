"""What can go wrong with the configuration.

ConfigError
 +-- FileError ................ a file is missing, cannot be read, or is no TOML
 +-- InvalidConfigError ....... files hold keys or values that cannot be; `findings` has each
 +-- AnnotationError .......... an annotation of a pod is not enabled, not allowed or malformed; likewise
 +-- UnsupportedConfigError ... the configuration is sound, and wants what this host software cannot run
"""

from __future__ import annotations

from kata.errors import KataError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.config.finding import Finding


class ConfigError(KataError):
    """The configuration cannot be used. `findings` has each problem, the first of them is also `what`."""

    layer = "config"

    def __init__(self, what: str, *, hint: str = "", detail: str = "", findings: tuple[Finding, ...] = ()) -> None:
        super().__init__(what, hint=hint, detail=detail)
        self.findings = findings


class FileError(ConfigError):
    """A configuration file is missing, cannot be read, or is no TOML."""


class InvalidConfigError(ConfigError):
    """A key that nobody knows, a value that cannot be, or two values that exclude each other."""


class AnnotationError(ConfigError):
    """An annotation that the operator has not enabled, or one with a value that cannot be."""


class UnsupportedConfigError(ConfigError):
    """What is configured must not be left out in silence, and cannot be run here."""
