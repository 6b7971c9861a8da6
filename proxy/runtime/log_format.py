"""How a log record becomes a line: klog's text format, and the JSON lines of Kubernetes."""

from __future__ import annotations

import enum
import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePath

import msgspec

# The attribute of a LogRecord that carries the structured fields: LogFields or, from modules that
# use the standard library's loggers with ``extra={"kv": {...}}``, a mapping.
ATTRIBUTE = "kv"

_LETTERS = {
    logging.DEBUG: "I",
    logging.INFO: "I",
    logging.WARNING: "W",
    logging.ERROR: "E",
    logging.CRITICAL: "F",
}
_SHORT_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    '"': '\\"',
    "\\": "\\\\",
}


@dataclass(frozen=True, slots=True)
class LogFields:
    """The keys and values of a message, and the verbosity it was logged with."""

    values: Mapping[str, object] = field(default_factory=dict)
    verbosity: int = 0


class KlogFormatter(logging.Formatter):
    """
    ``Lmmdd hh:mm:ss.uuuuuu PPPPPPP file.py:line] "message" key="value" number=2``.

    Records of other libraries have no fields: their text is printed bare, as klog prints its
    unstructured messages, and an exception with them is added to the line as ``err``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._second = -1
        self._stamp = ""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        fields = _fields(record)
        if fields is not None:
            text = quote(record.getMessage())
            values = fields.values
        else:
            text = record.getMessage().replace("\n", "\\n")
            values = _foreign_values(record)
        pairs = "".join(f" {key}={value_text(value)}" for key, value in values.items())
        letter = _LETTERS.get(record.levelno, "I")
        stamp = self._time(record.created)
        where = f"{PurePath(record.pathname).name}:{record.lineno}"
        return f"{letter}{stamp} {os.getpid():>7} {where}] {text}{pairs}"

    def _time(self, created: float) -> str:
        """``mmdd hh:mm:ss.uuuuuu`` in local time; the part up to the second is kept."""
        second = int(created)
        if second != self._second:
            self._stamp = time.strftime("%m%d %H:%M:%S", time.localtime(second))
            self._second = second
        return f"{self._stamp}.{int((created - second) * 1_000_000):06d}"


class JsonFormatter(logging.Formatter):
    """``{"ts":ms,"caller":"dir/file.py:1","msg":"…","v":0,…}``; errors have no ``v``."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        path = PurePath(record.pathname)
        line: dict[str, object] = {
            "ts": round(record.created * 1000, 3),
            "caller": f"{path.parent.name}/{path.name}:{record.lineno}",
        }
        line["msg"] = record.getMessage()
        fields = _fields(record) or LogFields(_foreign_values(record))
        if record.levelno < logging.ERROR:
            line["v"] = fields.verbosity
        line.update(fields.values)
        return _to_json(line)


def value_text(value: object) -> str:
    """Return a value as klog prints it after ``key=``."""
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, BaseException):
        value = str(value) or type(value).__name__
    if isinstance(value, str):
        return _block(value) if "\n" in value else quote(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    return _to_json(value)


def quote(text: str) -> str:
    """Return *text* in double quotes with Go's escapes."""
    if text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(char: str) -> str:
    if char in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _block(text: str) -> str:
    """Several lines, each after a tab, between ``<`` and ``>``."""
    lines = "".join(f"\t{line}\n" for line in text.removesuffix("\n").split("\n"))
    return f"<\n{lines} >"


def _to_json(value: object) -> str:
    """JSON of anything: what has no JSON form is shown as its text."""
    with suppress(TypeError, ValueError, RecursionError):
        return msgspec.json.encode(value, enc_hook=_as_text).decode()
    with suppress(TypeError, ValueError, RecursionError):
        # Undecodable bytes in a string have no UTF-8, but an escape.
        return json.dumps(value, default=_as_text)
    return quote(str(value))


def _as_text(value: object) -> object:
    if isinstance(value, BaseException):
        return str(value) or type(value).__name__
    return str(value)


def _fields(record: logging.LogRecord) -> LogFields | None:
    """The fields of a structured message; None for an unstructured one."""
    fields = getattr(record, ATTRIBUTE, None)
    if isinstance(fields, Mapping):
        return LogFields(fields)
    return fields if isinstance(fields, LogFields) else None


def _foreign_values(record: logging.LogRecord) -> Mapping[str, object]:
    """The exception that a record of another library carries, without its trace."""
    if record.exc_info and record.exc_info[1] is not None:
        return {"err": record.exc_info[1]}
    return {}
