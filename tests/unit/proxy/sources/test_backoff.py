"""Waits between attempts."""

from proxy.sources.backoff import Backoff


def test_waits_double_from_0_8_seconds_and_stay_below_30():
    backoff = Backoff(random=lambda: 0.0)

    assert [backoff.next_s() for _ in range(7)] == [0.8, 1.6, 3.2, 6.4, 12.8, 15.0, 15.0]


def test_jitter_spreads_a_wait_over_its_doubled_length_but_never_over_30_seconds():
    backoff = Backoff(random=lambda: 0.999)

    waits = [backoff.next_s() for _ in range(20)]

    assert 1.59 < waits[0] < 1.6
    assert max(waits) < 30.0


def test_success_starts_again_with_the_shortest_wait():
    backoff = Backoff(random=lambda: 0.0)
    backoff.next_s()
    backoff.next_s()

    backoff.reset()

    assert backoff.next_s() == 0.8
