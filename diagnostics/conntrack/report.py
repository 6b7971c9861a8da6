"""What is known of a connection table as JSON; field names are those of Kubernetes' style."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from diagnostics.conntrack.assess import Notice
from diagnostics.conntrack.capacity import Capacity, Size
from diagnostics.conntrack.counters import MEANINGS, Counters
from diagnostics.conntrack.explain import Explanation, Today
from diagnostics.conntrack.facts import Facts
from diagnostics.conntrack.growth import Growth
from diagnostics.conntrack.limits import Limits
from diagnostics.conntrack.model import protocol_name
from diagnostics.conntrack.shares import (
    Naming,
    Share,
    endpoint_shares,
    of_services,
    service_shares,
    source_shares,
)
from diagnostics.conntrack.stale_rows import StaleRow
from diagnostics.conntrack.survey import Survey, state_names
from diagnostics.readers.conntrack import Flow, FlowTuple
from proxy.conntrack.stale import Reason

Json = dict[str, Any]
API_VERSION = "kpctl.io/v1"


@dataclass(frozen=True, slots=True)
class Status:
    """All that ``status`` tells; ``survey`` None: the table could not be walked."""

    facts: Facts
    limits: Limits
    survey: Survey | None
    naming: Naming
    growth: Growth | None
    notices: tuple[Notice, ...]
    gaps: tuple[str, ...]


def status_report(status: Status, most: int) -> Json:
    """Return ``status -o json``; *most* is how many of each kind of share are listed."""
    found, naming = status.survey, status.naming
    counters = status.facts.counters
    walked: Json = {"walked": found is not None}
    if found is not None:
        walked |= {
            "entries": found.total,
            "unreplied": found.unreplied(),
            "notAssured": found.droppable(),
            "ofServices": of_services(found, naming),
            "tooLowByAtMost": found.error,
            "states": [
                {"protocol": protocol_name(protocol), "state": state, "count": count}
                for protocol, state, count in state_names(found)
            ],
            "services": [_share(one) for one in service_shares(found, naming, most)],
            "endpoints": [_share(one) for one in endpoint_shares(found, naming, most)],
            "sources": [_share(one) for one in source_shares(found, naming, most)],
            "stale": stale_totals(found) if naming.truth else None,
        }
    return {
        "apiVersion": API_VERSION,
        "kind": "ConntrackStatus",
        "time": status.facts.at_s,
        "table": limits_report(status.limits),
        "counters": dict(counters.values) if counters else None,
        "meanings": _meanings(counters),
        "growth": growth_report(status.growth),
        "content": walked,
        "findings": [notice_report(one) for one in status.notices],
        "gaps": list(status.gaps),
    }


def _meanings(counters: Counters | None) -> Json:
    return {
        name: {"what": one.what, "cause": one.cause, "remedy": one.remedy}
        for name, one in MEANINGS.items()
        if counters and counters.get(name)
    }


def limits_report(limits: Limits) -> Json:
    """Return size, use and time-outs; null is what is not known."""
    memory = None
    if limits.count is not None and limits.buckets is not None:
        memory = limits.memory(limits.count, limits.buckets)
    return {
        "count": limits.count,
        "max": limits.maximum,
        "use": limits.use,
        "buckets": limits.buckets,
        "meanListLength": limits.list_length,
        "bytesPerEntry": limits.bytes_per_entry,
        "memoryBytes": memory,
        "accounting": limits.accounting,
        "timestamps": limits.timestamps,
        "timeoutsSeconds": dict(limits.timeouts_s),
    }


def growth_report(growth: Growth | None) -> Json | None:
    """Return what two samples tell, null for one."""
    if growth is None:
        return None
    return {
        "intervalSeconds": growth.interval_s,
        "entriesPerSecond": growth.per_second,
        "fullInSeconds": growth.full_in_s,
        "counters": dict(growth.grown.values) if growth.grown else None,
    }


def notice_report(notice: Notice) -> Json:
    """Return a notice."""
    return {
        "name": notice.name,
        "level": notice.level,
        "text": notice.text,
        "cause": notice.cause,
        "remedy": notice.remedy,
        "proof": notice.proof,
    }


def stale_totals(found: Survey) -> list[Json]:
    """Return how many stale entries there are for each protocol and reason."""
    return [
        {"protocol": protocol_name(protocol), "reason": reason_name(reason), "count": count}
        for (protocol, reason), count in found.stale_total.most_common()
    ]


def reason_name(reason: Reason) -> str:
    """Return ``NotServing`` for NOT_SERVING."""
    return "".join(word.capitalize() for word in reason.name.split("_"))


def _share(share: Share) -> Json:
    named = {"service": share.what, "place": share.place, "owner": share.owner}
    known: Json = {name: value for name, value in named.items() if value}
    if share.protocol:
        known["protocol"] = protocol_name(share.protocol)
    return known | {"count": share.count}


def audit_report(
    rows: Sequence[StaleRow], found: Survey, gaps: Iterable[str], deletion: Json | None
) -> Json:
    """Return ``audit -o json``; *deletion* is what became of the rows, None without --delete."""
    return {
        "apiVersion": API_VERSION,
        "kind": "ConntrackAudit",
        "entries": found.total,
        "stale": stale_totals(found),
        "listed": len(rows),
        "items": [_stale_row(row) for row in rows],
        "deletion": deletion,
        "gaps": list(gaps),
    }


def _stale_row(row: StaleRow) -> Json:
    return {
        "reason": reason_name(row.reason),
        "why": row.reason.value,
        "service": row.service,
        "endpoint": row.owner,
        "client": row.client,
        "bytesPerSecond": row.rate,
        "rateMeasured": row.measured,
        "entry": flow_report(row.flow),
    }


def flow_report(flow: Flow) -> Json:
    """Return an entry; null is what the kernel did not tell."""
    return {
        "protocol": protocol_name(flow.protocol),
        "state": flow.state,
        "flags": sorted(flow.flags),
        "secondsLeft": flow.timeout_s,
        "original": _direction(flow.original),
        "reply": _direction(flow.reply),
        "mark": flow.mark,
        "zone": flow.zone,
        "id": flow.identity,
    }


def _direction(ends: FlowTuple) -> Json:
    return {
        "source": ends.source,
        "sourcePort": ends.source_port,
        "destination": ends.destination,
        "destinationPort": ends.destination_port,
        "packets": ends.packets,
        "bytes": ends.bytes,
    }


def explain_report(one: Explanation) -> Json:
    """Return ``explain -o json``."""
    return {
        "apiVersion": API_VERSION,
        "kind": "ConntrackExplanation",
        "entry": flow_report(one.flow),
        "ageSeconds": one.detail.age_s,
        "bytesPerSecond": one.detail.rate,
        "service": one.service,
        "client": one.client,
        "endpoint": one.endpoint,
        "rewritten": list(one.rewritten),
        "states": list(one.states),
        "verdict": one.verdict,
        "reason": reason_name(one.reason) if one.reason else "",
        "why": list(one.why),
        "clear": one.clear,
        "rules": today_report(one.today),
        "gaps": list(one.gaps),
    }


def today_report(today: Today | None) -> Json | None:
    """Return what rules do now, null where they are not known."""
    if today is None:
        return None
    return {
        "text": today.text,
        "endpointReachable": today.reached,
        "steps": [
            {
                "hook": step.hook,
                "table": step.table,
                "chain": step.chain,
                "place": step.place,
                "text": step.text,
                "why": step.why,
            }
            for step in today.steps
        ],
    }


def capacity_report(
    advice: Capacity, limits: Limits, growth: Growth | None, gaps: Sequence[str]
) -> Json:
    """Return ``capacity -o json``; memory is that of a full table."""
    return {
        "apiVersion": API_VERSION,
        "kind": "ConntrackCapacity",
        "table": limits_report(limits),
        "growth": growth_report(growth),
        "expected": {"entries": advice.expected, "basis": advice.basis},
        "present": _size(advice.present),
        "advised": _size(advice.advised),
        "bytesPerEntry": advice.bytes_per_entry,
        "settings": [
            {
                "name": one.name,
                "present": one.present,
                "value": one.value,
                "differs": one.differs,
                "why": one.why,
            }
            for one in advice.settings
        ],
        "remarks": list(advice.remarks),
        "gaps": list(gaps),
    }


def _size(size: Size | None) -> Json | None:
    if size is None:
        return None
    return {
        "entries": size.entries,
        "buckets": size.buckets,
        "memoryBytes": size.memory_bytes,
        "meanListLength": size.list_length,
    }
