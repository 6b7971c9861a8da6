"""How a lab looks: a table, a summary, lines for terminals that are none, and JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from kpctl.lab.probes import Outcome, Tally
from kpctl.lab.state import LabRecord
from proxy.kernel.command import find_tool

# A table that is not on a terminal has no width to respect.
PLAIN_WIDTH = 120
_SHOWN_PROBLEMS = 4


def traffic_table(tallies: Sequence[Tally]) -> Table:
    """One row per probe: where its recent attempts went, and whether that is as it should be."""
    # It fits 80 columns as long as all goes well; then one column gives way.
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for heading in ("SERVICE", "FRONTEND", "FROM", "LANDS ON", "SRC", ""):
        table.add_column(heading, no_wrap=heading != "LANDS ON", overflow="fold")
    for tally in tallies:
        probe = tally.probe
        table.add_row(
            probe.service,
            Text(probe.frontend),  # the brackets of IPv6 are no markup
            probe.sender,
            landing(tally),
            source(tally),
            _verdict(tally),
        )
    return table


def landing(tally: Tally) -> str:
    """Where the recent attempts went: ``web-1:9 web-2:12``, ``refused:4``, ``…`` before any."""
    recent = Counter(seen.pod or seen.outcome.value for seen in tally.recent)
    return " ".join(f"{where}:{number}" for where, number in sorted(recent.items())) or "…"


def source(tally: Tally) -> str:
    """What the pods saw as the source lately: kept, masq, both, or nothing."""
    landed = [seen for seen in tally.recent if seen.outcome is Outcome.LANDED]
    kinds = {seen.masqueraded for seen in landed}
    if len(kinds) == 2:
        return "both"
    return {True: "masq", False: "kept"}[kinds.pop()] if kinds else "-"


def _verdict(tally: Tally) -> Text:
    if not tally.sent:
        return Text("…", "dim")
    if tally.problem:
        return Text("NO", "bold red")
    return Text("ok*", "yellow") if tally.unexpected else Text("ok", "green")


def current_problems(tallies: Sequence[Tally]) -> Text:
    """Why the latest attempts of probes marked NO were not as expected; the first few of them."""
    wrong = [f"{tally.probe.way}: {tally.problem}" for tally in tallies if tally.problem]
    more = [f"and {len(wrong) - _SHOWN_PROBLEMS} more"] if len(wrong) > _SHOWN_PROBLEMS else []
    return Text("\n".join([*wrong[:_SHOWN_PROBLEMS], *more]), "red")


def summary(tallies: Sequence[Tally]) -> str:
    """All attempts in one line: ``480 sent: 400 landed, 40 dropped, 40 refused, 0 unexpected``."""
    outcomes = sum((tally.outcomes for tally in tallies), Counter[Outcome]())
    parts = [f"{number} {outcome.value}" for outcome, number in outcomes.most_common()]
    unexpected = sum(tally.unexpected for tally in tallies)
    return f"{outcomes.total()} sent: {', '.join([*parts, f'{unexpected} unexpected'])}"


# What shows the rules of each mode.
_LISTINGS = {
    "nftables": "nft list table ip kube-proxy",
    "iptables": "iptables-save -t nat",
    "ipvs": "ipvsadm -Ln",
}


def title(record: LabRecord) -> str:
    """The lab in one line."""
    return f"kpctl lab {record.name}: mode {record.mode}, namespaces {record.prefix}*"


def hints(record: LabRecord, *, several: bool) -> list[str]:
    """Commands to try while the lab runs; *several* labs need to be told apart."""
    choice = f" --name {record.name}" if several else ""
    run = f"kpctl lab exec{choice}"
    curl = [f"{run} -- curl -s 10.96.0.10", f"{run} --in client -- curl -s 192.0.2.11:30080"]
    return [
        *(curl if find_tool("curl") else []),
        f"{run} -- {_LISTINGS[record.mode]}",
        f"edit {record.directory}/manifests/shop-web.yaml",
    ]


def screen(record: LabRecord, tallies: Sequence[Tally], *, several: bool) -> Group:
    """What a terminal shows while the lab runs; the hints come last."""
    return Group(
        Text(title(record), "bold"),
        traffic_table(tallies),
        *([wrong] if (wrong := current_problems(tallies)) else []),
        Text(f"{summary(tallies)}; Ctrl-C ends it", "dim"),
        Text("try: " + "\n     ".join(hints(record, several=several)), "cyan"),
    )


def problems(tallies: Sequence[Tally]) -> list[str]:
    """What went otherwise than it should in a finished series, one line per probe; mostly none."""
    return [f"{tally.probe.way}: {problem}" for tally in tallies if (problem := _problem(tally))]


def report(record: LabRecord, tallies: Sequence[Tally]) -> dict[str, Any]:
    """
    A finished series as JSON values.

    ``asExpected`` is true when no probe has a ``problem``; ``pods`` and ``outcomes`` count
    attempts; ``source`` is what pods saw (kept, masq, both, or -).
    """
    return {
        "apiVersion": "kpctl.io/v1",
        "kind": "LabReport",
        "lab": record.name,
        "mode": record.mode,
        "asExpected": not problems(tallies),
        "probes": [_row(tally) for tally in tallies],
    }


def report_text(record: LabRecord, tallies: Sequence[Tally]) -> str:
    """:func:`report` as text."""
    return json.dumps(report(record, tallies), indent=2)


def _row(tally: Tally) -> dict[str, Any]:
    probe = tally.probe
    return {
        "service": probe.service,
        "address": probe.address,
        "port": probe.port,
        "protocol": probe.protocol.upper(),
        "from": probe.role,
        "bind": probe.bind,
        "expected": {
            "outcome": probe.outcome.value,
            "pods": sorted(probe.pods),
            "source": probe.source.value,
            "sticky": probe.sticky,
        },
        "sent": tally.sent,
        "outcomes": {outcome.value: number for outcome, number in tally.outcomes.items()},
        "pods": dict(sorted(tally.pods.items())),
        "source": source(tally),
        "unexpected": tally.unexpected,
        "problem": _problem(tally),
    }


def _problem(tally: Tally) -> str:
    return tally.first_problem or tally.shortfall()
