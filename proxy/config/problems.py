"""
What can be wrong with a configuration, said the same way by every part that looks at it.

A `Problem` names the field, what is wrong and where; whether it stops the proxy is decided by
the list it stands in (errors or warnings), not by the problem itself.

    ConfigurationError
    ├── UnreadableFile        the file cannot be read: the environment is at fault
    ├── InvalidConfiguration  the content cannot be used
    └── FlagError             the command line cannot be used
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Problem:
    """
    One thing that is wrong with a configuration.

    Args:
        path: Field as it is written in a file (``ipvs.syncPeriod``), a flag (``--proxy-mode``),
            or "" when the whole text is meant.
        message: What is wrong and what was expected, without the path.
        kind: Stable machine-readable reason, for example ``range``, ``cidr``, ``unknown-field``.
        value: The offending value as it would be written in a file.
        limits: Parameters of the kind: ``min``, ``max``, ``field`` or ``allowed``.
        line: Line in the file, from 1, or None when it is unknown.
    """

    path: str
    message: str
    kind: str
    value: object = None
    limits: Mapping[str, object] = field(default_factory=dict)
    line: int | None = None

    def __str__(self) -> str:
        """Return ``path: message (line N)``."""
        prefix = f"{self.path}: " if self.path else ""
        suffix = f" (line {self.line})" if self.line is not None else ""
        return f"{prefix}{self.message}{suffix}"


class ConfigurationError(Exception):
    """The configuration cannot be used; ``problems`` has at least one entry."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


class UnreadableFile(ConfigurationError):
    """A file could not be read or written."""


class InvalidConfiguration(ConfigurationError):
    """A file does not hold a usable configuration; ``warnings`` are its lesser problems."""

    def __init__(self, problems: Sequence[Problem], warnings: Sequence[Problem] = ()) -> None:
        self.warnings = tuple(warnings)
        super().__init__(problems)


class FlagError(ConfigurationError):
    """The command line does not parse."""
