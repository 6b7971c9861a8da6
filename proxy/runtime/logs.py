"""
Structured logs in klog's text format or as JSON lines, on the standard library's logging.

Call sites say ``log = get_logger(__name__)`` and then ``log.info("Message", key=value)``,
``log.error("Message", err=error)`` or ``log.v(2).info("Message")``. Messages are constant text;
what varies goes into keys, so that both formats can be searched. Logging never raises.
"""

from __future__ import annotations

import logging
import sys
import threading
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import TextIO

from proxy.runtime.log_format import ATTRIBUTE, JsonFormatter, KlogFormatter, LogFields

__all__ = ["LogSettings", "get_logger", "origin", "set_verbosity", "setup_logging", "verbosity"]


@dataclass(frozen=True, slots=True)
class LogSettings:
    """
    How to log.

    ``json`` chooses JSON lines over klog's text. ``verbosity`` is the highest ``v`` that is
    shown. ``vmodule`` overrides it per module: (pattern, level), where the pattern is a glob for
    a module's last name, or for its dotted name when the pattern has a dot; the first match wins.
    """

    json: bool = False
    verbosity: int = 0
    vmodule: tuple[tuple[str, int], ...] = ()


class _Gate:
    """The verbosity in force; ``generation`` changes with it, which empties the loggers' caches."""

    def __init__(self) -> None:
        self.settings = LogSettings()
        self.generation = 0
        self.lock = threading.Lock()

    def change(self, settings: LogSettings) -> None:
        with self.lock:
            self.settings = settings
            self.generation += 1

    def level_of(self, module: str) -> int:
        for pattern, level in self.settings.vmodule:
            name = module if "." in pattern else module.rpartition(".")[2]
            if fnmatchcase(name, pattern):
                return level
        return self.settings.verbosity


_gate = _Gate()


class Verbose:
    """What ``log.v(n)`` returns: true when messages of that verbosity are shown."""

    __slots__ = ("_level", "_logger")

    def __init__(self, logger: logging.Logger | None, level: int) -> None:
        self._logger = logger
        self._level = level

    def __bool__(self) -> bool:
        return self._logger is not None

    def info(self, message: str, /, **fields: object) -> None:
        """Log if shown; guard with ``if`` where computing the fields costs something."""
        if self._logger is not None:
            _emit(self._logger, logging.INFO, message, LogFields(fields, self._level))


_SILENT = Verbose(None, 0)


class StructuredLogger:
    """A named logger whose messages carry keys and values."""

    __slots__ = ("_generation", "_level", "_logger")

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)
        self._generation = -1
        self._level = 0

    def info(self, message: str, /, **fields: object) -> None:
        """Something that happens rarely and matters to whoever reads the log."""
        _emit(self._logger, logging.INFO, message, LogFields(fields))

    def warning(self, message: str, /, **fields: object) -> None:
        """Something is wrong that the proxy can live with."""
        _emit(self._logger, logging.WARNING, message, LogFields(fields))

    def error(self, message: str, /, *, err: object = None, **fields: object) -> None:
        """Something failed; *err*, if given, is the exception or the text of the reason."""
        if err is not None:
            fields = {"err": err, **fields}
        _emit(self._logger, logging.ERROR, message, LogFields(fields))

    def fatal(self, message: str, /, *, err: object = None, **fields: object) -> None:
        """Why the process is about to end; the caller ends it."""
        if err is not None:
            fields = {"err": err, **fields}
        _emit(self._logger, logging.CRITICAL, message, LogFields(fields))

    def v(self, level: int) -> Verbose:
        """A logger for messages of verbosity *level* (0 to 10), silent unless it is shown."""
        if self._generation != _gate.generation:
            self._generation = _gate.generation
            self._level = _gate.level_of(self._logger.name)
        return Verbose(self._logger, level) if level <= self._level else _SILENT


def get_logger(name: str) -> StructuredLogger:
    """Return the logger of a module; pass ``__name__``."""
    return StructuredLogger(name)


def setup_logging(settings: LogSettings, stream: TextIO | None = None) -> None:
    """
    Send every log of this process to *stream*, standard error by default.

    May be called again, which replaces the previous set-up.
    """
    _gate.change(settings)
    handler = _Handler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter() if settings.json else KlogFormatter())
    root = logging.getLogger()
    for previous in [one for one in root.handlers if isinstance(one, _Handler)]:
        root.removeHandler(previous)
    root.addHandler(handler)
    root.setLevel(logging.INFO)


def set_verbosity(level: int) -> None:
    """Change the verbosity of a running process; vmodule patterns stay."""
    current = _gate.settings
    _gate.change(LogSettings(current.json, level, current.vmodule))


def verbosity() -> int:
    """The verbosity in force where no vmodule pattern matches."""
    return _gate.settings.verbosity


def origin(error: BaseException) -> str:
    """Where an unexpected exception was raised, as ``file.py:line``; empty when unknown."""
    trace = error.__traceback__
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{PurePath(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


class _Handler(logging.StreamHandler[TextIO]):
    """A stream handler that keeps quiet when its stream is broken: there is no one to tell."""

    def handleError(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""


def _emit(logger: logging.Logger, level: int, message: str, fields: LogFields) -> None:
    """Hand one record to *logger* as coming from the caller of our caller."""
    if not logger.isEnabledFor(level):
        return
    frame = sys._getframe(2)
    code = frame.f_code
    record = logger.makeRecord(
        logger.name, level, code.co_filename, frame.f_lineno, message, (), None, code.co_name
    )
    setattr(record, ATTRIBUTE, fields)
    logger.handle(record)
