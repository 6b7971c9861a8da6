"""Reports keep to the published JSON Schema, and say more than they did, never less."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import msgspec
import pytest

from diagnostics.trace.answer import Report, answer, report, schema
from tests.support.traces import (
    CLUSTER_CLIENT,
    ENDPOINT_OF_SVC4,
    NODE,
    OUTSIDER,
    recorded,
    traced,
    write_many_endpoints,
)

PUBLISHED = Path(__file__).parents[4] / "docs/schemas/trace-report.v1.json"
# The fields of the first version; tools rely on all of them.
FIRST = (
    "apiVersion", "kind", "packet", "verdict", "certainty",
    "endpoints", "service", "dataplane", "steps", "gaps",
)  # fmt: skip
QUESTIONS = [
    ("iptables", OUTSIDER, "172.30.0.44"),
    ("iptables", ENDPOINT_OF_SVC4, "172.30.0.44"),
    ("iptables", CLUSTER_CLIENT, "172.30.0.46"),
    ("iptables", CLUSTER_CLIENT, "172.30.0.45"),
    ("iptables", OUTSIDER, "192.0.2.77"),
    ("nftables", CLUSTER_CLIENT, "172.30.0.42"),
    ("nftables", OUTSIDER, "172.30.0.42"),
    ("ipvs", OUTSIDER, "172.30.20.1"),
    ("ipvs", NODE, "172.30.20.1"),
]


def test_the_published_schema_is_that_of_the_encoder() -> None:
    """After adding a field: scripts/write-schemas."""
    assert json.loads(PUBLISHED.read_text()) == schema()


def test_the_schema_is_strict_and_requires_the_first_fields() -> None:
    told = schema()["$defs"]["Report"]
    assert set(FIRST) <= set(told["required"])
    assert all(
        found["additionalProperties"] is False
        for found in schema()["$defs"].values()
        if found.get("type") == "object"
    )


@pytest.mark.parametrize("known", [True, False], ids=["with-names", "without-names"])
@pytest.mark.parametrize(("mode", "src", "dst"), QUESTIONS)
def test_a_report_decodes_strictly(mode: str, src: str, dst: str, known: bool) -> None:
    found, around = recorded(mode, src, dst)
    made = report(found, ["a gap"], around if known else None)
    encoded = msgspec.json.encode(made)
    decoded = msgspec.json.decode(encoded, type=Report)
    assert msgspec.to_builtins(decoded) == made
    assert tuple(made)[: len(FIRST)] == FIRST
    assert ("replies" in made, "names" in made) == (known, known)


def test_an_unknown_word_is_refused() -> None:
    found, around = recorded("ipvs", OUTSIDER, "172.30.20.1")
    wrong = report(found, [], around) | {"verdict": "lost"}
    with pytest.raises(msgspec.ValidationError, match="verdict"):
        msgspec.convert(wrong, Report)


@pytest.mark.parametrize(("mode", "src", "dst"), QUESTIONS)
def test_paths_are_all_ways_and_their_steps_complete(mode: str, src: str, dst: str) -> None:
    found, around = recorded(mode, src, dst)
    made = answer(found, [], around)
    assert sum(Fraction(path.probability) for path in made.paths) == 1
    for path, end in zip(made.paths, found.ends, strict=True):
        texts = [step.text for step in [*made.steps[: path.shared], *path.steps]]
        assert texts == [step.text for step in end.branch.steps()]


def test_chains_and_endpoints_have_names() -> None:
    found, around = recorded("iptables", OUTSIDER, "172.30.0.44")
    made = answer(found, [], around)
    assert isinstance(made.names, dict)
    assert made.names["KUBE-SVC-4SW47YFZTEDKD3PK"] == "ns4/svc4:p80"
    assert made.names["KUBE-SEP-C6EBXVWJJZMIWKLZ"] == "10.180.0.5:80, an endpoint on test-node"
    assert made.names["172.30.0.44:80"] == "ns4/svc4:p80"
    assert [one.node for one in made.endpoints] == [msgspec.UNSET, "test-node"]


def test_ipvs_names_no_service_but_the_api_does() -> None:
    found, around = recorded("ipvs", OUTSIDER, "172.30.20.1")
    assert answer(found, []).service is None
    assert answer(found, [], around).service == "ns1/svc1"


def test_a_node_port_number_names_no_service_at_other_addresses() -> None:
    found, around = recorded("ipvs", OUTSIDER, "192.0.2.77", 32258)
    assert answer(found, [], around).service is None


def test_a_report_of_many_endpoints_shares_what_they_have_in_common(tmp_path: Path) -> None:
    write_many_endpoints(tmp_path, 100)
    found, around = traced(tmp_path, OUTSIDER, "10.96.0.10")
    made = answer(found, [], around)
    assert len(made.paths) == 100
    assert all(len(path.steps) <= 3 for path in made.paths)
