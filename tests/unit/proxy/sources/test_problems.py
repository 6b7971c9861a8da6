"""Telling what is wrong: at first, then ever more rarely."""

import pytest

from proxy.sources.failures import (
    ApiError,
    ConnectionFailedError,
    CredentialsError,
    GarbledError,
    UnexpectedError,
)
from proxy.sources.problems import SERVER, ProblemLog, explain, kind_of, subject_of
from proxy.sources.resources import followed_resources

SERVICES = followed_resources("n1")[0]
URL = "https://10.0.0.1:6443"


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def told():
    return []


@pytest.fixture
def log(told, clock):
    return ProblemLog(told.append, clock)


def test_an_hour_without_api_server_is_told_seven_times(log, told, clock):
    for second in range(3600):
        clock.now = float(second)
        log.failed(SERVER, "down")

    times = [0, 30, 90, 210, 450, 930, 1890]
    assert [problem.text for problem in told] == [
        "down" if second == 0 else f"down (for {second} s, {second + 1} attempts)"
        for second in times
    ]


def test_a_new_kind_of_failure_is_told_at_once(log, told):
    log.failed(SERVER, "refused", "ConnectionFailedError")
    log.failed(SERVER, "unauthorized", "401")
    log.failed(SERVER, "refused", "ConnectionFailedError")

    assert [problem.text for problem in told] == ["refused", "unauthorized"]


def test_recovery_is_told_once_with_how_long_it_took(log, told, clock):
    log.failed(SERVER, "down")
    clock.now = 42.0
    log.recovered(SERVER, "up")
    log.recovered(SERVER, "up")

    assert (told[-1].text, told[-1].resolved) == ("up (after 42 s)", True)
    assert len(told) == 2
    assert log.all_well


def test_nothing_is_told_of_a_subject_that_never_failed(log, told):
    log.failed("services", "forbidden")
    log.recovered("nodes", "up")

    assert len(told) == 1
    assert not log.all_well


def test_a_connection_that_flaps_is_not_told_at_each_turn(log, told, clock):
    for second in range(20):
        clock.now = float(second)
        log.failed(SERVER, "down")
        log.recovered(SERVER, "up")

    assert [problem.text for problem in told] == ["down", "up (after 0 s)"]


def test_the_same_problem_a_minute_later_is_a_new_one(log, told, clock):
    log.failed(SERVER, "down")
    log.recovered(SERVER, "up")
    clock.now = 61.0
    log.failed(SERVER, "down")

    assert [problem.text for problem in told] == ["down", "up (after 0 s)", "down"]


@pytest.mark.parametrize(
    ("error", "subject"),
    [
        (ConnectionFailedError("refused"), SERVER),
        (CredentialsError("no plugin"), SERVER),
        (ApiError(401), SERVER),
        (ApiError(429), SERVER),
        (ApiError(503), SERVER),
        (ApiError(403), "services"),
        (GarbledError("half"), "services"),
    ],
)
def test_what_concerns_the_server_is_told_apart_from_what_concerns_a_resource(error, subject):
    assert subject_of(error, SERVICES) == subject


def test_kinds_tell_statuses_apart():
    assert kind_of(ApiError(403)) != kind_of(ApiError(401))
    assert kind_of(GarbledError("x")) == "GarbledError"


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (ConnectionFailedError("Connection refused"), [URL, "Connection refused", "Check that"]),
        (CredentialsError("exec plugin 'x' failed"), [URL, "exec plugin 'x' failed"]),
        (ApiError(401, "Unauthorized"), [URL, "credentials", "Renew the token"]),
        (
            ApiError(403, "Forbidden", 'User "kp" cannot watch'),
            ["watch", "resource services", 'API group ""', 'User "kp" cannot watch', "grant"],
        ),
        (ApiError(404), [URL, "no resource services", "check that the address"]),
        (ApiError(500, "InternalError", "boom"), ["500 InternalError", "boom", URL]),
        (UnexpectedError("KeyError: x"), ["KeyError: x", "please report it"]),
        (GarbledError("half a line"), ["half a line", "services", "proxy or load balancer"]),
    ],
)
def test_a_problem_says_what_where_why_and_what_next(error, parts):
    text = explain(error, URL, "watch", SERVICES)

    assert [part for part in parts if part not in text] == []
