import logging
import threading
from dataclasses import replace

import pytest

from proxy.runtime.event_sender import EventSender
from proxy.runtime.events import EventThrottle, NodeEvents

STARTED = NodeEvents("node-a").started()


class Api:
    """Answers with the given statuses in turn, then 201; an exception is raised instead."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, namespace, content):
        assert self.gate.wait(10)
        self.requests.append((namespace, content))
        answer = self.answers.pop(0) if self.answers else 201
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def sender_for(clock):
    made = []

    def make(api, **options):
        sender = EventSender(api, "node-a", clock, **{"retry_s": (0.0, 0.0), **options})
        made.append(sender)
        return sender

    yield make
    for sender in made:
        sender.stop(10)


def numbered(number):
    return replace(STARTED, note=str(number))


def test_an_event_reaches_the_api_in_its_namespace(sender_for):
    api = Api()
    sender = sender_for(api)
    sender.record(STARTED)
    sender.stop(10)
    ((namespace, content),) = api.requests
    assert (namespace, content["reason"]) == ("default", "Starting")


def test_a_service_event_goes_to_the_service_s_namespace(sender_for):
    api = Api()
    sender = sender_for(api)
    sender.record(NodeEvents("node-a").service_health_failed("shop", "web", 1, "e"))
    sender.stop(10)
    assert api.requests[0][0] == "shop"


def test_repetitions_are_not_sent(sender_for):
    api = Api()
    sender = sender_for(api)
    for _ in range(5):
        sender.record(STARTED)
    sender.stop(10)
    assert len(api.requests) == 1


def test_recording_never_waits_and_drops_with_one_log_when_too_many_wait(sender_for, caplog):
    api = Api()
    api.gate.clear()
    sender = sender_for(api, queue_length=2, throttle=EventThrottle(per_minute=1_000))
    with caplog.at_level(logging.WARNING):
        for number in range(20):
            sender.record(numbered(number))
    assert caplog.messages == ["Events are dropped: too many wait for the API server"]
    api.gate.set()
    sender.stop(10)
    assert 1 <= len(api.requests) <= 4


@pytest.mark.parametrize("trouble", [OSError("unreachable"), 500, 503, 429, 401])
def test_a_failure_that_may_pass_is_tried_again(sender_for, caplog, trouble):
    api = Api(trouble, trouble)
    done = threading.Event()

    def post(namespace, content):
        status = api(namespace, content)
        done.set()
        return status

    answers = len(api.answers) + 1
    sender = sender_for(post)
    with caplog.at_level(logging.WARNING):
        sender.record(STARTED)
        while len(api.requests) < answers:
            assert done.wait(10) or isinstance(trouble, OSError)
            done.clear()
        sender.stop(10)
    assert len({request[1]["metadata"]["name"] for request in api.requests}) == 1
    assert caplog.messages == []


def test_an_event_is_given_up_after_some_attempts_and_the_log_has_its_text(sender_for, caplog):
    api = Api(*[OSError("unreachable")] * 3)
    sender = sender_for(api)
    with caplog.at_level(logging.WARNING):
        sender.record(numbered(1))
        sender.record(numbered(2))
        while len(api.requests) < 4:
            threading.Event().wait(0.001)
        sender.stop(10)
    assert caplog.messages == ["Event not sent"]
    assert caplog.records[0].kv.values["note"] == "1"
    assert api.requests[3][1]["note"] == "2"


def test_missing_rights_are_logged_once_with_what_to_grant(sender_for, caplog):
    api = Api(403, 403)
    sender = sender_for(api)
    with caplog.at_level(logging.WARNING):
        sender.record(numbered(1))
        sender.record(numbered(2))
        sender.stop(10)
    assert caplog.messages == ["Events cannot be written"]
    hint = caplog.records[0].kv.values["hint"]
    assert "verb create on events in apiGroup events.k8s.io" in hint
    assert len(api.requests) == 2


def test_missing_rights_are_logged_again_after_events_worked(sender_for, caplog):
    api = Api(403, 201, 403)
    sender = sender_for(api)
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            sender.record(numbered(number))
        sender.stop(10)
    assert len(caplog.messages) == 2


def test_an_event_that_exists_already_is_fine_and_a_refused_one_is_logged(sender_for, caplog):
    sender = sender_for(Api(409, 422))
    with caplog.at_level(logging.WARNING):
        sender.record(numbered(1))
        sender.record(numbered(2))
        sender.stop(10)
    assert caplog.messages == ["Event refused by the API server"]
    assert caplog.records[0].kv.values["status"] == 422


def test_stop_does_not_wait_for_an_api_that_hangs(sender_for):
    api = Api()
    api.gate.clear()
    sender = sender_for(api)
    sender.record(STARTED)
    sender.stop(0.01)
    sender.record(numbered(2))
    api.gate.set()


def test_without_events_there_is_no_thread(sender_for):
    before = threading.active_count()
    sender = sender_for(Api())
    assert threading.active_count() == before
    sender.stop()
