"""
The command line of `kpctl run`: kube-proxy's flags with the habits of its flag parser.

``--flag value`` and ``--flag=value``; a boolean takes its value only after ``=``; ``_`` in names
reads as ``-``; lists and maps add up when repeated; arguments that are no flags are refused.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from proxy.config.durations import format_duration
from proxy.config.flag_table import FLAG_BY_NAME, FLAG_BY_SHORTHAND, FLAGS
from proxy.config.flag_types import Flag, FlagType
from proxy.config.flag_values import parse_value
from proxy.config.problems import FlagError, Problem
from proxy.config.types import VModule

_VALUE_OPTIONAL = {FlagType.BOOL: "true", FlagType.VERSION: "true"}


@dataclass(frozen=True, slots=True)
class ParsedFlags:
    """
    A command line that parsed.

    Args:
        given: Values of the flags that were given, by name, in the order of the line.
        warnings: Deprecated flags that were given.
    """

    given: Mapping[str, object] = field(default_factory=dict)
    warnings: tuple[Problem, ...] = ()

    def changed(self, name: str) -> bool:
        """Whether the flag was given, even if with its default value."""
        return name in self.given

    def __getitem__(self, name: str) -> object:
        """Return the value of a flag, or its default."""
        return self.given[name] if name in self.given else FLAG_BY_NAME[name].default

    def text(self, name: str) -> str:
        """Return the value of a flag that holds text."""
        value = self[name]
        assert isinstance(value, str), name
        return value

    def number(self, name: str) -> float:
        """Return the value of a flag that is a number, in seconds for a duration."""
        value = self[name]
        assert isinstance(value, int | float)
        return float(value)

    def is_set(self, name: str) -> bool:
        """Return the value of a boolean flag."""
        return self[name] is True

    def lines(self) -> list[str]:
        """Return all flags with their values as ``FLAG: --name="value"``, sorted by name."""
        names = sorted(FLAG_BY_NAME)
        return [
            f'FLAG: --{name}="{format_value(FLAG_BY_NAME[name], self[name])}"' for name in names
        ]


def format_value(flag: Flag, value: object) -> str:
    """Return a flag's value as it would be written on a command line."""
    match value:
        case bool():
            return str(value).lower()
        case float():
            return format_duration(value) if flag.type is FlagType.DURATION else f"{value:g}"
        case dict():
            return ",".join(f"{gate}={str(on).lower()}" for gate, on in sorted(value.items()))
        case tuple():
            return ",".join(
                f"{item.file_pattern}={item.verbosity}" if isinstance(item, VModule) else str(item)
                for item in value
            )
        case _:
            return str(value)


def parse_flags(arguments: Sequence[str]) -> ParsedFlags:
    """
    Return the flags in *arguments* (without the program's name).

    Raises:
        FlagError: With the first flag that is unknown or has a wrong value, or the arguments
            that are no flags.
    """
    given: dict[str, object] = {}
    positional: list[str] = []
    queue = list(reversed(arguments))
    while queue:
        argument = queue.pop()
        if argument == "--":
            positional.extend(reversed(queue))
            break
        if argument.startswith("--"):
            _parse_long(argument, queue, given)
        elif argument.startswith("-") and argument != "-":
            _parse_shorthands(argument, queue, given)
        else:
            positional.append(argument)
    _refuse_positional([argument for argument in positional if argument])
    return ParsedFlags(given, tuple(_deprecations(given)))


def _refuse_positional(arguments: Sequence[str]) -> None:
    if arguments:
        message = f"takes no arguments, got {', '.join(map(json.dumps, arguments))}"
        raise FlagError([Problem("", message, "positional", list(arguments))])


def _deprecations(given: Mapping[str, object]) -> list[Problem]:
    return [
        Problem(f"--{name}", f"deprecated, use {FLAG_BY_NAME[name].deprecated}", "deprecated")
        for name in given
        if FLAG_BY_NAME[name].deprecated
    ]


def _parse_long(argument: str, queue: list[str], given: dict[str, object]) -> None:
    name, equals, text = argument[2:].partition("=")
    if not name or name.startswith("-"):
        raise _error(argument, "not a flag", "syntax")
    flag = FLAG_BY_NAME.get(name.replace("_", "-"))
    if flag is None:
        raise _unknown(name)
    _store(flag, f"--{flag.name}", text if equals else _next(flag, f"--{flag.name}", queue), given)


def _parse_shorthands(argument: str, queue: list[str], given: dict[str, object]) -> None:
    letters = argument[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        flag = FLAG_BY_SHORTHAND.get(letter)
        if flag is None:
            raise _error(argument, f'unknown shorthand "{letter}"; see --help', "unknown-flag")
        if letters.startswith("="):
            _store(flag, f"-{letter}", letters[1:], given)
            return
        if letters and flag.type not in _VALUE_OPTIONAL:
            _store(flag, f"-{letter}", letters, given)
            return
        _store(flag, f"-{letter}", _next(flag, f"-{letter}", queue), given)


def _next(flag: Flag, shown: str, queue: list[str]) -> str:
    if flag.type in _VALUE_OPTIONAL:
        return _VALUE_OPTIONAL[flag.type]
    if not queue:
        raise _error(shown, f"needs a value ({flag.type.value})", "missing-value")
    return queue.pop()


def _store(flag: Flag, shown: str, text: str, given: dict[str, object]) -> None:
    try:
        value = parse_value(flag.type, text)
    except ValueError as error:
        raise _error(shown, f"{error}, got {json.dumps(text)}", "type", text) from error
    before = given.get(flag.name)
    if isinstance(value, tuple) and isinstance(before, tuple):
        value = before + value
    elif isinstance(value, dict) and isinstance(before, dict):
        value = before | value
    given[flag.name] = value


def _unknown(name: str) -> FlagError:
    close = difflib.get_close_matches(name, [flag.name for flag in FLAGS], n=1, cutoff=0.7)
    hint = f"; did you mean --{close[0]}?" if close else "; see --help"
    return _error(f"--{name}", f"unknown flag{hint}", "unknown-flag")


def _error(path: str, message: str, kind: str, value: object = None) -> FlagError:
    return FlagError([Problem(path, message, kind, value)])
