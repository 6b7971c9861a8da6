"""Pictures: the same graph in three languages."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from kpctl.trace_output.dot import dot
from kpctl.trace_output.graph import BAD, ENDPOINT, GOOD, MORE, Arrow, Box, Graph, graph
from kpctl.trace_output.mermaid import mermaid
from kpctl.trace_output.show import show
from kpctl.trace_output.svg import svg
from tests.support.traces import (
    CLUSTER_CLIENT,
    ENDPOINT_OF_SVC4,
    OUTSIDER,
    SNAPSHOTS,
    recorded,
    traced,
    write_many_endpoints,
    write_rules,
)

EXPECTED = SNAPSHOTS.parent / "trace_output"
SVG = "{http://www.w3.org/2000/svg}"
MASQUERADED = ("iptables", OUTSIDER, "172.30.0.44")
HOSTILE = Graph(
    'a "title" & <b>',
    (Box("n0", "client", 'x"y', ["<script>"]), Box("n1", "good", "back\\slash", ["a & b"])),
    (Arrow("n0", "n1", '"1/2"', maybe=True), Arrow("n1", "n0", "reply", back=True)),
)


@pytest.mark.parametrize(("form", "draw"), [("dot", dot), ("mermaid", mermaid), ("svg", svg)])
def test_a_picture_of_a_recorded_node_is_as_expected(form: str, draw) -> None:
    made = draw(graph(*recorded(*MASQUERADED)))
    assert made == (EXPECTED / f"iptables-masqueraded.{form}").read_text()


@pytest.mark.parametrize(
    ("mode", "src", "dst"),
    [
        MASQUERADED,
        ("iptables", ENDPOINT_OF_SVC4, "172.30.0.44"),
        ("nftables", CLUSTER_CLIENT, "172.30.0.42"),
        ("ipvs", OUTSIDER, "172.30.20.1"),
    ],
)
def test_every_endpoint_has_a_box_and_every_box_is_reached(mode: str, src: str, dst: str) -> None:
    found, around = recorded(mode, src, dst)
    made = graph(found, around)
    boxes = [box.title for box in made.boxes if box.kind == ENDPOINT]
    assert boxes == [f"{one.address}:{one.port}" for one in found.destinations]
    reached = {arrow.end for arrow in made.arrows if not arrow.back}
    assert {box.name for box in made.boxes} - reached == {"n0"}
    assert any(box.kind == GOOD for box in made.boxes)


def test_an_end_leads_nowhere_but_back(tmp_path: Path) -> None:
    write_rules(
        tmp_path,
        "-A FORWARD -m string --string x --algo bm -j DROP",
        "-A FORWARD -m time --timestart 01:00 -j REJECT --reject-with icmp-host-prohibited",
    )
    made = graph(*traced(tmp_path, OUTSIDER, "10.96.0.10"))
    ends = {box.name for box in made.boxes if box.kind in (BAD, GOOD)}
    assert len(ends) == 3
    assert not [arrow for arrow in made.arrows if arrow.start in ends]


def test_many_endpoints_become_one_box_that_leads_on(tmp_path: Path) -> None:
    write_many_endpoints(tmp_path, 50)
    found, around = traced(tmp_path, OUTSIDER, "10.96.0.10")
    made = graph(found, around)
    (more,) = [box for box in made.boxes if box.kind == MORE]
    assert more.title == "47 more alike"
    assert [arrow for arrow in made.arrows if arrow.start == more.name]
    assert len(graph(found, around, everything=True).boxes) > 50


def test_svg_is_well_formed_and_needs_nothing_from_elsewhere() -> None:
    text = svg(graph(*recorded(*MASQUERADED)))
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert "prefers-color-scheme: dark" in text
    assert "@import" not in text


def test_boxes_of_svg_do_not_overlap(tmp_path: Path) -> None:
    write_many_endpoints(tmp_path, 20)
    found, around = traced(tmp_path, OUTSIDER, "10.96.0.10")
    root = ElementTree.fromstring(svg(graph(found, around, everything=True)))
    boxes = [
        tuple(float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        for rect in root.iter(f"{SVG}rect")
        if "x" in rect.attrib
    ]
    assert len(boxes) > 20
    for number, (x, y, width, height) in enumerate(boxes):
        for x2, y2, width2, height2 in boxes[:number]:
            apart = x + width <= x2 or x2 + width2 <= x or y + height <= y2 or y2 + height2 <= y
            assert apart


def test_text_cannot_break_out_of_svg() -> None:
    root = ElementTree.fromstring(svg(HOSTILE))
    assert root.find(f"{SVG}title").text == 'a "title" & <b>'
    assert not list(root.iter(f"{SVG}script"))


def test_text_cannot_break_out_of_dot() -> None:
    made = dot(HOSTILE)
    assert 'label="x\\"y\\n<script>"' in made
    assert 'label="back\\\\slash\\na & b"' in made
    assert 'n0 -> n1 [label="\\"1/2\\"",style=dashed];' in made


def test_text_cannot_break_out_of_mermaid() -> None:
    made = mermaid(HOSTILE)
    assert 'n0["x#quot;y<br/>#lt;script#gt;"]:::client' in made
    assert 'title: "a \\"title\\" & <b>"' in made


@pytest.mark.parametrize(
    ("form", "begin"), [("dot", "digraph"), ("mermaid", "---\n"), ("svg", "<svg ")]
)
def test_pictures_are_printed_as_they_are(
    capsys: pytest.CaptureFixture[str], form: str, begin: str
) -> None:
    show(*recorded(*MASQUERADED), form)
    assert capsys.readouterr().out.startswith(begin)
