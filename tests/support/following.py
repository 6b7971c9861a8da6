"""A KubernetesSource under test: what it delivered, what it told, and waiting for either."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from proxy.model.events import Removed, Replaced, Resource, SourceEvent, Upserted
from proxy.sources.client import Client
from proxy.sources.credentials import ApiLocation, Credentials
from proxy.sources.kubernetes import KubernetesSource
from proxy.sources.resources import followed_resources
from proxy.sources.source import SourceProblem
from tests.support.apiserver import ApiServer
from tests.support.waiting import eventually

PATIENCE_S = 10.0
NODE = "node-0"


class Following:
    """Collects events and problems of one source; ``wait_…`` fail after 10 s."""

    def __init__(self, location: ApiLocation) -> None:
        self._news = threading.Condition()
        self.events: list[SourceEvent] = []
        self.problems: list[SourceProblem] = []
        self.requests: list[tuple[str, str, str, float]] = []
        self.credentials = Credentials(location)
        self.client = Client(
            self.credentials, "kpctl/test", lambda *request: self.requests.append(request)
        )
        self.source = KubernetesSource(
            self.client, self.credentials, followed_resources(NODE), self._told
        )

    def __enter__(self) -> Following:
        self.source.start(self._sink)
        return self

    def __exit__(self, *_: object) -> None:
        self.source.stop()

    def _sink(self, event: SourceEvent) -> None:
        with self._news:
            self.events.append(event)
            self._news.notify_all()

    def _told(self, problem: SourceProblem) -> None:
        with self._news:
            self.problems.append(problem)
            self._news.notify_all()

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        with self._news:
            if not self._news.wait_for(condition, PATIENCE_S):
                raise AssertionError(f"{what}: {self.events[-5:]} {self.problems}")

    def wait_synced(self, resource: Resource, times: int = 1) -> Replaced:
        """Wait for the n-th complete list of a resource and return it."""
        self.wait_until(lambda: len(self.lists(resource)) >= times, f"no list of {resource}")
        return self.lists(resource)[times - 1]

    def wait_all_synced(self) -> None:
        for resource in Resource:
            self.wait_synced(resource)

    def wait_problem(self, part: str, resolved: bool = False) -> SourceProblem:
        def found() -> list[SourceProblem]:
            return [p for p in self.problems if part in p.text and p.resolved == resolved]

        self.wait_until(lambda: bool(found()), f"nothing told of {part!r}")
        return found()[0]

    def lists(self, resource: Resource) -> list[Replaced]:
        return [e for e in self.events if isinstance(e, Replaced) and e.resource is resource]

    def names(self, resource: Resource) -> set[str]:
        """Return the names of the objects that the events so far leave."""
        state: set[str] = set()
        for event in list(self.events):
            if isinstance(event, Replaced) and event.resource is resource:
                state = {obj.metadata.name for obj in event.objects}
            elif isinstance(event, Upserted) and type(event.obj).__name__ == resource.value:
                state.add(event.obj.metadata.name)
            elif isinstance(event, Removed) and event.resource is resource:
                state.discard(event.name)
        return state

    def wait_names(self, resource: Resource, names: set[str]) -> None:
        self.wait_until(lambda: self.names(resource) == names, f"{resource} are not {names}")

    def wait_watching(self, api: ApiServer, plural: str) -> None:
        """Wait until the server has an open watch of *plural*."""
        eventually(lambda: api.store.watchers(plural), PATIENCE_S)


def kubeconfig(path: Path, server: str, user: str = "{}", cluster: str = "") -> ApiLocation:
    """Write a kubeconfig; *user* is a YAML flow mapping, *cluster* what follows the server."""
    path.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: test\n"
        f"clusters:\n- name: c\n  cluster: {{server: {server!r}{cluster}}}\n"
        "contexts:\n- name: test\n  context: {cluster: c, user: u}\n"
        f"users:\n- name: u\n  user: {user}\n"
    )
    return ApiLocation(kubeconfig=str(path))
