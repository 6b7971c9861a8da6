"""Time as a value that is handed in, so that nothing here has to be tested by waiting."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where time comes from: one clock to print, one to measure with."""

    def wall_ns(self) -> int:
        """Nanoseconds since the epoch; may jump when the machine's time is set."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since an arbitrary moment; never goes backwards."""


class SystemClock:
    """The machine's clocks."""

    def wall_ns(self) -> int:
        """See Clock."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """See Clock."""
        return time.monotonic_ns()


# What Go prints for a time that was never set; clients of /healthz know it.
NEVER = "0001-01-01T00:00:00Z"


def rfc3339_nano(wall_ns: int) -> str:
    """
    Return nanoseconds since the epoch as RFC 3339 in the local time zone.

    The fraction has up to nine digits without trailing zeros, and is absent when it is zero.
    """
    seconds, fraction = divmod(wall_ns, 1_000_000_000)
    local = time.localtime(seconds)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", local)
    if fraction:
        text += f".{fraction:09d}".rstrip("0")
    return text + _offset(local.tm_gmtoff // 60)


def rfc3339_micro(wall_ns: int) -> str:
    """Return nanoseconds since the epoch as the API's MicroTime: UTC, six digits."""
    moment = datetime.fromtimestamp(wall_ns // 1_000_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{wall_ns % 1_000_000_000 // 1000:06d}Z"


def rfc3339(wall_ns: int) -> str:
    """Return nanoseconds since the epoch as the API's Time: UTC, whole seconds."""
    return f"{datetime.fromtimestamp(wall_ns // 1_000_000_000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _offset(minutes: int) -> str:
    """A zone offset as RFC 3339 writes it; *minutes* east of Greenwich."""
    if minutes == 0:
        return "Z"
    hours, rest = divmod(abs(minutes), 60)
    return f"{'-' if minutes < 0 else '+'}{hours:02d}:{rest:02d}"
