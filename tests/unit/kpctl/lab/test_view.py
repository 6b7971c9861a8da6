"""Tests of kpctl.lab.view: what people and programs get to see."""

import io
import json
from collections import deque

from rich.console import Console

from kpctl.lab import view
from kpctl.lab.probes import Observation, Outcome, Probe, SourceRule, Tally
from kpctl.lab.shop import probes
from kpctl.lab.state import LabRecord

RECORD = LabRecord("lab", "abc123", 1, 2, "nftables", 0.0)
PROBE = Probe(
    "shop/web",
    "fd03::10",
    80,
    "toolbox",
    pods=frozenset({"web-1", "web-2"}),
    source=SourceRule.KEPT,
)


def tally(*seen, of=PROBE, recent=30):
    result = Tally(of, deque(maxlen=recent))
    for observation in seen:
        result.add(observation)
    return result


def landed(pod, seen_from="fd02::9"):
    return Observation(Outcome.LANDED, pod, "fd02::9", seen_from)


DROPPED = Observation(Outcome.DROPPED)


def shown(renderable, width=80):
    output = io.StringIO()
    Console(width=width, file=output).print(renderable)
    return output.getvalue()


def test_landings_are_counted_by_pod():
    assert (
        view.landing(tally(landed("web-2"), landed("web-1"), landed("web-2"))) == "web-1:1 web-2:2"
    )


def test_only_recent_landings_are_counted():
    assert view.landing(tally(landed("web-1"), landed("web-2"), recent=1)) == "web-2:1"


def test_before_the_first_attempt_there_is_nothing_to_see():
    assert view.landing(tally()) == "…"
    assert view.source(tally()) == "-"


def test_the_source_column_says_what_pods_saw():
    assert view.source(tally(landed("web-1"))) == "kept"
    assert view.source(tally(landed("web-1", "fd01::1"))) == "masq"
    assert view.source(tally(landed("web-1"), landed("web-1", "fd01::1"))) == "both"
    assert view.source(tally(DROPPED)) == "-"


def test_the_table_marks_what_goes_wrong_and_what_went_wrong():
    text = shown(
        view.traffic_table(
            [tally(landed("web-1")), tally(DROPPED), tally(DROPPED, landed("web-1")), tally()]
        )
    )
    assert [line.split()[-1] for line in text.splitlines()[1:]] == ["ok", "NO", "ok*", "…"]


def test_addresses_of_ipv6_keep_their_brackets():
    assert "[fd03::10]:80" in shown(view.traffic_table([tally(landed("web-1"))]))


def test_the_shop_fits_a_terminal_of_80_columns():
    tallies = [
        tally(*(landed(pod) for pod in sorted(probe.pods) * 8), of=probe) for probe in probes()
    ]
    lines = shown(view.traffic_table(tallies)).splitlines()
    assert len(lines) == 1 + len(tallies)
    assert not any("…" in line for line in lines[1:] if "web-1" in line)


def test_problems_are_told_below_the_table_up_to_a_limit():
    text = view.current_problems([tally(DROPPED)] * 6).plain.splitlines()
    assert text[0] == "shop/web on [fd03::10]:80 from toolbox: dropped instead of landed"
    assert text[-1] == "and 2 more"
    assert not view.current_problems([tally(landed("web-1"))])


def test_the_screen_ends_with_commands_to_try():
    text = shown(view.screen(RECORD, [tally(landed("web-1"))], several=False))
    assert "kpctl lab exec -- nft list table ip kube-proxy" in text
    assert "1 sent: 1 landed, 0 unexpected" in text


def test_commands_to_try_name_the_lab_where_there_are_several():
    assert all("--name lab" in hint for hint in view.hints(RECORD, several=True)[:-1])


def test_a_report_says_whether_all_went_as_expected():
    good = tally(landed("web-1"), landed("web-2"))
    report = json.loads(view.report_text(RECORD, [good]))
    assert report["asExpected"] is True
    assert report["probes"][0]["pods"] == {"web-1": 1, "web-2": 1}
    assert report["probes"][0]["outcomes"] == {"landed": 2}
    assert report["probes"][0]["expected"]["source"] == "kept"
    assert report["probes"][0]["problem"] == ""


def test_a_report_holds_the_first_problem_or_the_shortfall():
    report = view.report(RECORD, [tally(DROPPED, landed("web-1")), tally(landed("web-1"))])
    assert report["asExpected"] is False
    assert [row["problem"] for row in report["probes"]] == [
        "dropped instead of landed",
        "never reached web-2",
    ]


def test_problems_of_a_series_name_the_way():
    assert view.problems([tally(landed("web-1")), tally(landed("web-1"), landed("web-2"))]) == [
        "shop/web on [fd03::10]:80 from toolbox: never reached web-2"
    ]
