"""``sysctl -a`` and files in its form: ``net.ipv4.ip_forward = 1``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from diagnostics.readers.problems import LineProblem, not_understood

# A name with slashes (net/ipv4/conf/eth0.1/rp_filter) keeps the dots of its parts; in one with dots
# they are slashes (net.ipv4.conf.eth0/1.rp_filter).
_LINE = re.compile(r"([A-Za-z][\w./@:+-]*)\s*=\s?(.*)")
_SLASHES = re.compile(r"[^./]*/")
# What sysctl(8) prints, mixed in, about keys that it may not read.
_COMPLAINTS = ("sysctl: ", "#", ";")


@dataclass(frozen=True, slots=True)
class Sysctls:
    """Values by name with dots, ``net.ipv4.ip_forward``; as printed, without spaces around."""

    values: Mapping[str, str]
    problems: tuple[LineProblem, ...] = ()

    def get(self, name: str) -> str | None:
        """Return a value, None when the dump does not have it."""
        return self.values.get(name)

    def number(self, name: str) -> int | None:
        """Return a value as a number, None when it is absent or is none."""
        try:
            return int(self.values.get(name, ""))
        except ValueError:
            return None


def read_sysctl(text: str) -> Sysctls:
    """Return the values in *text*; the last one of a name counts, as for ``sysctl -p``."""
    values: dict[str, str] = {}
    problems = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith(_COMPLAINTS):
            continue
        if match := _LINE.fullmatch(line):
            name = match[1]
            if _SLASHES.match(name):
                name = name.translate({ord("/"): ".", ord("."): "/"})
            values[name] = match[2].strip()
        else:
            problems.append(not_understood(number, "sysctl", line))
    return Sysctls(values, tuple(problems))
