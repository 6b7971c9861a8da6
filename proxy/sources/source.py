"""What every source of cluster state offers, and how it tells that something is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from proxy.model.events import SourceEvent

Sink = Callable[[SourceEvent], None]


class SourceError(Exception):
    """
    A source cannot do what was asked; the text names the thing, the place and the next step.

    Subclasses: ConfigurationError (nothing will change by waiting), and in ``failures``
    ApiError, ConnectionFailedError and GarbledError (worth another try).
    """


class ConfigurationError(SourceError):
    """What the user gave cannot be used: a missing directory, a broken kubeconfig."""


@dataclass(frozen=True, slots=True)
class SourceProblem:
    """
    One sentence for the log about the source itself, or about the end of a problem.

    ``resolved`` is True when the sentence says that an earlier problem is over.
    """

    text: str
    resolved: bool = False


Report = Callable[[SourceProblem], None]


class Source(Protocol):
    """
    Delivers cluster state to a sink until it is stopped.

    Events of one resource arrive in the order they happened, the first of them is a
    ``Replaced``; resources are independent of each other. The sink is called from the source's
    own threads and must be thread-safe and quick, such as ``queue.SimpleQueue.put``.
    """

    def start(self, sink: Sink) -> None:
        """
        Begin delivering; returns at once.

        Raises:
            ConfigurationError: The source can never work as configured.
        """

    def stop(self) -> None:
        """End delivery; no event arrives after this returned. Idempotent."""
