"""
Saying what is wrong with the API connection: once at first, then ever more rarely.

Four resources are followed over one server. What concerns the server (it is down, the token
expired) is told once, not four times; what concerns one resource (missing rights) per resource.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from proxy.sources.failures import (
    ApiError,
    ConnectionFailedError,
    CredentialsError,
    GarbledError,
    UnexpectedError,
)
from proxy.sources.resources import ResourceSpec
from proxy.sources.source import Report, SourceError, SourceProblem

FIRST_REPEAT_S = 30.0
LONGEST_REPEAT_S = 3600.0
# A problem that returns within this time never went away.
FLAPPING_S = 60.0
SERVER = "server"


@dataclass(slots=True)
class _Course:
    """One problem's history: since when, how often tried, when it is told again."""

    since: float
    attempts: int = 0
    next_told: float = 0.0
    interval_s: float = FIRST_REPEAT_S
    told: bool = False
    over_since: float | None = None


class ProblemLog:
    """
    Decides when a continuing problem is told; thread-safe.

    A problem that comes back within a minute is the same one: a connection that flaps is not
    told at each turn.

    Args:
        report: Receives what is to be told.
        now: A monotonic clock, in seconds.
    """

    def __init__(self, report: Report, now: Callable[[], float]) -> None:
        self._report = report
        self._now = now
        self._courses: dict[tuple[str, str], _Course] = {}
        self._lock = threading.Lock()
        self.all_well = True
        """False while a problem is going on."""

    def failed(self, subject: str, text: str, kind: str = "") -> None:
        """
        *subject* failed, again perhaps: tell *text* at first and then after 30 s, 1 min, 2 min, …

        Args:
            subject: What ``recovered`` will be called with.
            text: What to tell.
            kind: Sets problems of one subject apart: a new kind is told at once.
        """
        now = self._now()
        with self._lock:
            self.all_well = False
            course = self._courses.get((subject, kind))
            if course is None or _is_past(course, now):
                course = self._courses[subject, kind] = _Course(since=now, next_told=now)
            course.over_since = None
            course.attempts += 1
            if now < course.next_told:
                return
            course.next_told = now + course.interval_s
            course.interval_s = min(2 * course.interval_s, LONGEST_REPEAT_S)
            course.told = True
            if course.attempts > 1:
                text = f"{text} (for {now - course.since:.0f} s, {course.attempts} attempts)"
            self._report(SourceProblem(text))

    def recovered(self, subject: str, text: str) -> None:
        """*subject* works; tell *text* if it was told that it did not."""
        now = self._now()
        with self._lock:
            for (about, _), course in self._courses.items():
                if about == subject and course.over_since is None:
                    course.over_since = now
            mine = [course for key, course in self._courses.items() if key[0] == subject]
            told = [course for course in mine if course.told]
            for course in told:
                course.told = False
            if told:
                lasted_s = now - min(course.since for course in told)
                self._report(SourceProblem(f"{text} (after {lasted_s:.0f} s)", resolved=True))
            self.all_well = all(c.over_since is not None for c in self._courses.values())


def _is_past(course: _Course, now: float) -> bool:
    return course.over_since is not None and now - course.over_since >= FLAPPING_S


def subject_of(error: SourceError, spec: ResourceSpec) -> str:
    """Return what a failure is about: the server, or one resource of it."""
    about_server = isinstance(error, ConnectionFailedError | CredentialsError) or (
        isinstance(error, ApiError) and (error.status in (401, 429) or error.status >= 500)
    )
    return SERVER if about_server else spec.plural


def kind_of(error: SourceError) -> str:
    """Return what sets failures of one subject apart."""
    return str(error.status) if isinstance(error, ApiError) else type(error).__name__


def explain(error: SourceError, url: str, verb: str, spec: ResourceSpec) -> str:
    """Return one sentence that names what failed, where, why, and what to do about it."""
    if isinstance(error, ApiError):
        return _explain_status(error, url, verb, spec)
    if isinstance(error, GarbledError):
        return (
            f"cannot read the {verb} of {spec.plural} from {url}: {error}; asking again. "
            "Check for a proxy or load balancer that cuts or rewrites responses"
        )
    if isinstance(error, UnexpectedError):
        return f"{verb} of {spec.plural} failed by a mistake in kpctl, please report it: {error}"
    if isinstance(error, CredentialsError):
        return f"no credentials for {url}: {error}; retrying, the rules in place stay"
    return (
        f"no connection to the API server at {url}: {error}; retrying, the rules in place stay. "
        "Check that the address is right and the server is up, and that this node has a route to it"
    )


def _explain_status(error: ApiError, url: str, verb: str, spec: ResourceSpec) -> str:
    group = f'"{spec.group}"'
    said = f" ({error.message})" if error.message else ""
    if error.status == 401:
        return (
            f"the API server at {url} does not accept the credentials{said}: they expired or "
            "belong to another cluster; they are read anew at each attempt. "
            "Renew the token, certificate or exec plugin's login"
        )
    if error.status == 403:
        return (
            f"not allowed to {verb} {spec.plural}: grant the verbs list and watch on resource "
            f"{spec.plural} in API group {group} to this user, for example by binding it to the "
            f"ClusterRole system:node-proxier; retrying{said}"
        )
    if error.status == 404:
        return (
            f"{url} knows no resource {spec.plural} in API group {group}: check that the address "
            f"is that of a Kubernetes API server{said}; retrying"
        )
    return f"{verb} of {spec.plural} at {url} failed with {error}{said}; retrying"
