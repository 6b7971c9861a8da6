"""The clean-up thread: merging, order, rest and end. Every wait is for an event, with a limit."""

import threading
import time

import pytest

from proxy.conntrack.stale import CleanupRequest, Frontend
from proxy.kernel.conntrack import CleanupResult
from proxy.kernel.conntrack_worker import REST_FACTOR, ConntrackWorker
from proxy.model.addresses import IPFamily

LIMIT_S = 10.0


def request(number: int, family: IPFamily = IPFamily.IPV4) -> CleanupRequest:
    address = "172.30.0.10" if family is IPFamily.IPV4 else "fd00::a"
    return CleanupRequest(family, {Frontend(address, number): frozenset()})


class Cleaner:
    """Records requests; each pass ends when ``go`` is set."""

    def __init__(self) -> None:
        self.requests: list[CleanupRequest] = []
        self.started = threading.Semaphore(0)
        self.go = threading.Event()

    def __call__(self, request: CleanupRequest) -> CleanupResult:
        self.requests.append(request)
        self.started.release()
        assert self.go.wait(LIMIT_S)
        return CleanupResult(request.family, 1, 0, {}, 0.0)


class Results:
    """Collects results; ``arrived`` counts them."""

    def __init__(self) -> None:
        self.all: list[CleanupResult] = []
        self.arrived = threading.Semaphore(0)

    def __call__(self, result: CleanupResult) -> None:
        self.all.append(result)
        self.arrived.release()


@pytest.fixture
def cleaner():
    return Cleaner()


@pytest.fixture
def results():
    return Results()


@pytest.fixture
def worker(cleaner, results):
    worker = ConntrackWorker(results, cleaner)
    yield worker
    cleaner.go.set()
    worker.close(LIMIT_S)
    assert not worker._thread.is_alive()


def test_a_request_is_cleaned_and_its_result_reported(worker, cleaner, results):
    cleaner.go.set()
    worker.start()
    worker.submit(request(1))
    assert results.arrived.acquire(timeout=LIMIT_S)
    assert cleaner.requests == [request(1)]
    assert results.all[0].family is IPFamily.IPV4


def test_requests_during_a_pass_become_one_pass(worker, cleaner, results):
    worker.start()
    worker.submit(request(1))
    assert cleaner.started.acquire(timeout=LIMIT_S)
    for number in range(2, 100):
        worker.submit(request(number))
    cleaner.go.set()
    for _ in range(2):
        assert results.arrived.acquire(timeout=LIMIT_S)
    assert [len(made.frontends) for made in cleaner.requests] == [1, 98]


def test_families_are_cleaned_apart_in_the_order_they_came(worker, cleaner, results):
    cleaner.go.set()
    for number, family in ((1, IPFamily.IPV6), (2, IPFamily.IPV4), (3, IPFamily.IPV6)):
        worker.submit(request(number, family))
    worker.start()
    for _ in range(2):
        assert results.arrived.acquire(timeout=LIMIT_S)
    assert [made.family for made in cleaner.requests] == [IPFamily.IPV6, IPFamily.IPV4]
    assert len(cleaner.requests[0].frontends) == 2


def test_an_empty_request_starts_no_pass(worker, cleaner, results):
    cleaner.go.set()
    worker.submit(CleanupRequest(IPFamily.IPV6))
    worker.submit(request(1))
    worker.start()
    assert results.arrived.acquire(timeout=LIMIT_S)
    assert [made.family for made in cleaner.requests] == [IPFamily.IPV4]


def test_the_worker_rests_for_a_multiple_of_the_pass():
    times: list[tuple[float, float]] = []
    second = threading.Event()

    def clean(request: CleanupRequest) -> CleanupResult:
        started = time.monotonic()
        time.sleep(0.02)  # the work of a pass
        times.append((started, time.monotonic()))
        if len(times) == 2:
            second.set()
        return CleanupResult(request.family, 1, 0, {}, 0.02)

    worker = ConntrackWorker(lambda result: worker.submit(request(2)), clean)
    worker.start()
    worker.submit(request(1))
    assert second.wait(LIMIT_S)
    worker.close(LIMIT_S)
    assert times[1][0] - times[0][1] >= REST_FACTOR * 0.02


def test_closing_drops_what_waits_and_interrupts_the_rest(worker, cleaner, results):
    worker.start()
    worker.submit(request(1))
    assert cleaner.started.acquire(timeout=LIMIT_S)
    worker.submit(request(2))
    closer = threading.Thread(target=worker.close, args=(LIMIT_S,))
    closer.start()
    with worker._changed:
        assert worker._changed.wait_for(lambda: worker._closing, LIMIT_S)
    cleaner.go.set()
    closer.join(LIMIT_S)
    assert not closer.is_alive()
    assert cleaner.requests == [request(1)]


def test_closing_a_worker_that_never_started_returns(worker):
    worker.close()
