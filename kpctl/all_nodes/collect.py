"""
Reading many nodes at a time, each for a limited time; a node that fails is gaps, never an error.

Each node has a thread. One that hangs is left behind when its time is over, with what it had read
by then; threads do not keep the process alive. A node's place is free for the next one when the
caller has taken the node, so that no more than ``concurrency`` nodes are in memory.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from diagnostics.snapshot.parts import Gap, Part, gap
from diagnostics.snapshot.source import Content, PartSource
from diagnostics.snapshot.write import CLUSTER_PARTS
from kpctl.all_nodes.api import NodesApi
from kpctl.all_nodes.debug_pods import DebugPods
from kpctl.all_nodes.execute import Container, Ran, run_in
from kpctl.all_nodes.own_pod import OwnSnapshot
from kpctl.all_nodes.plan import Plan, Target
from kpctl.all_nodes.pod_source import KERNEL_PARTS, PodReader
from proxy.sources.failures import ApiError, ConnectionFailedError, GarbledError
from proxy.sources.source import SourceError

_POD_PARTS = (*KERNEL_PARTS, Part.RECENT, Part.LEGACY, Part.METRICS)
_LOG_TIMEOUT_S = 20.0
_MOST_BROKEN = 2
Tell = Callable[[str], None]


@dataclass(slots=True)
class NodeParts:
    """
    The parts of one node, filled by its thread; a ``PartSource``.

    Attributes:
        node: The Node's name.
        seconds: How long it took.
        problem: Why something could not be read at all, "" if nothing failed.
        cluster: Where parts that belong to the cluster are read.
    """

    node: str
    cluster: PartSource | None = None
    seconds: float = 0.0
    problem: str = ""
    _parts: dict[Part, tuple[Content, ...] | Gap] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, part: Part, found: tuple[Content, ...] | Gap) -> None:
        """Remember what was found."""
        with self._lock:
            self._parts[part] = found

    def ended(self, problem: str, seconds: float) -> NodeParts:
        """Return a copy of what was read so far, which no thread changes any more."""
        with self._lock:
            return NodeParts(self.node, self.cluster, seconds, problem, dict(self._parts))

    def read(self, part: Part) -> tuple[Content, ...] | Gap:
        """As ``PartSource.read``."""
        with self._lock:
            found = self._parts.get(part)
        if found is not None:
            return found
        if self.cluster is not None and part in CLUSTER_PARTS:
            return self.cluster.read(part)
        how = f"kpctl snapshot --all-nodes --nodes {self.node}, or kpctl snapshot on the node"
        return gap(part, self.problem or "it was not asked for", how)


@contextmanager
def collecting(api: NodesApi, plan: Plan, cluster: PartSource | None, tell: Tell) -> Generator[
    Generator[NodeParts, None, None], None, None
]:  # fmt: skip
    """
    Give an iterator over the nodes of *plan*, in the order in which they are done.

    At its end, and when it is left by an exception, all debug pods are deleted.

    Args:
        api: The cluster.
        plan: What ``make_plan`` returned and the user agreed to.
        cluster: Where parts that belong to the cluster are read, None for gaps.
        tell: Told what could not be cleaned up.
    """
    choice = plan.choice
    pods = DebugPods(api, choice.namespace, choice.image, choice.timeout_s)
    try:
        yield _nodes(_Reader(api, pods, choice.timeout_s, cluster), plan)
    finally:
        for text in pods.close():
            tell(text)


def said_by(error: SourceError) -> str:
    """Return what an error says; the API server's own words where it has any."""
    return error.message if isinstance(error, ApiError) and error.message else str(error)


class _Reader:
    """Reads one node in a thread."""

    def __init__(
        self, api: NodesApi, pods: DebugPods, timeout_s: float, cluster: PartSource | None
    ) -> None:
        self._api = api
        self._pods = pods
        self.timeout_s = timeout_s
        self.cluster = cluster

    def read(self, target: Target, parts: NodeParts, deadline: float) -> str:
        """Fill *parts*; return what went wrong, "" if nothing did."""
        parts.put(Part.HOSTNAME, (Content(Part.HOSTNAME.value, f"{target.hostname}\n".encode()),))
        try:
            if target.container is not None:
                self._read_proxys(target, target.container, parts, deadline)
                return ""
            container = self._pods.start(target.node, deadline)
            try:
                self._run_programs(container, parts, deadline)
            finally:
                problem = self._pods.stop(container)
        except SourceError as error:
            return said_by(error)
        return problem

    def _read_proxys(
        self, target: Target, container: Container, parts: NodeParts, deadline: float
    ) -> None:
        self._read_log(container, parts, deadline)
        if target.own:
            own = OwnSnapshot(self._run(container, deadline), target.node)
            if own.read_into(parts.put):
                return
        self._run_programs(container, parts, deadline)

    def _read_log(self, container: Container, parts: NodeParts, deadline: float) -> None:
        left = min(_LOG_TIMEOUT_S, max(1.0, deadline - time.monotonic()))
        try:
            text = self._api.log(container.namespace, container.pod, container.name, left)
            parts.put(Part.LOG, (Content(Part.LOG.value, text),))
        except SourceError as error:
            parts.put(Part.LOG, gap(Part.LOG, f"log of pod {container}: {said_by(error)}"))

    def _run(self, container: Container, deadline: float) -> Callable[[Sequence[str]], Ran]:
        credentials = self._api.credentials
        return lambda argv: run_in(credentials, container, argv, deadline)

    def _run_programs(self, container: Container, parts: NodeParts, deadline: float) -> None:
        reader = PodReader(self._run(container, deadline))
        broken = 0
        for part in _POD_PARTS:
            try:
                parts.put(part, reader.read(part))
            except (ConnectionFailedError, GarbledError) as error:
                broken += 1
                parts.put(part, gap(part, str(error)))
                if broken == _MOST_BROKEN or time.monotonic() >= deadline:
                    raise


def _nodes(reader: _Reader, plan: Plan) -> Generator[NodeParts, None, None]:
    done: queue.SimpleQueue[tuple[NodeParts, str]] = queue.SimpleQueue()
    waiting = list(reversed(plan.targets))
    running: dict[str, tuple[NodeParts, float]] = {}
    while waiting or running:
        while waiting and len(running) < plan.choice.concurrency:
            target = waiting.pop()
            started = time.monotonic()
            parts = NodeParts(target.node, reader.cluster)
            running[target.node] = (parts, started)
            deadline = started + reader.timeout_s
            threading.Thread(
                target=_work, args=(reader, target, parts, deadline, done), daemon=True
            ).start()
        for parts, problem in _finished(done, running, reader.timeout_s):
            _, started = running[parts.node]
            yield parts.ended(problem, time.monotonic() - started)
            del running[parts.node]


def _work(
    reader: _Reader, target: Target, parts: NodeParts, deadline: float,
    done: queue.SimpleQueue[tuple[NodeParts, str]],
) -> None:  # fmt: skip
    try:
        problem = reader.read(target, parts, deadline)
    except Exception as error:  # noqa: BLE001 - one node's trouble must not end the others'
        problem = f"unexpected: {type(error).__name__}: {error}"
    done.put((parts, problem))


def _finished(
    done: queue.SimpleQueue[tuple[NodeParts, str]],
    running: dict[str, tuple[NodeParts, float]],
    timeout_s: float,
) -> list[tuple[NodeParts, str]]:
    """Wait for the next node that is done, or whose time is over; [] for one given up before."""
    first = min(started for _, started in running.values()) + timeout_s
    # A moment more than the thread's own deadline, whose message says more.
    try:
        found = done.get(timeout=max(0.0, first + 1.0 - time.monotonic()))
        return [found] if running.get(found[0].node, (None,))[0] is found[0] else []
    except queue.Empty:
        late = [parts for parts, started in running.values() if started + timeout_s <= first]
        return [(parts, f"no answer within {timeout_s:g} s") for parts in late]
