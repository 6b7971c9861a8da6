"""How a Service's endpoints look: as columns, and as a JSON object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from diagnostics.endpoints.kernel import Kernel, KernelReport, TargetKey
from diagnostics.endpoints.model import (
    EndpointReport,
    FrontendReport,
    PoolUse,
    PortReport,
    Reason,
    Why,
)
from kpctl.columns import columns

API_VERSION, KIND = "kpctl.io/v1", "EndpointReport"
_NONE = "-"


@dataclass(frozen=True, slots=True)
class View:
    """
    What is known of a Service's endpoints on one node.

    Attributes:
        behind: who is behind an address, by its text; without unknown ones.
        ignored: why no proxy serves the Service, None when they do.
        kernel: None when it was not asked for.
    """

    service: str
    node: str
    mode: str
    endpoints: tuple[EndpointReport, ...]
    ports: tuple[PortReport, ...]
    behind: dict[str, str]
    ignored: Why | None = None
    undetermined: str = ""
    kernel: KernelReport | None = None
    gaps: tuple[str, ...] = ()

    def kernel_of(self, one: EndpointReport) -> Kernel:
        """Return what the kernel makes of an endpoint."""
        if self.kernel is None or not (one.target and one.service_port):
            return Kernel.NOT_ASKED
        return self.kernel.of(one.target, one.service_port, one.protocol, planned=one.used)

    def strangers(self) -> list[TargetKey]:
        """Return places that the kernel sends calls to though no slice has them."""
        listed = {(one.target, one.service_port, one.protocol) for one in self.endpoints}
        found = self.kernel.by_target if self.kernel else {}
        extra = (key for key, what in found.items() if what is Kernel.EXTRA)
        return sorted(key for key in extra if key not in listed)

    @property
    def differs(self) -> bool:
        """Whether the kernel does something else than planned."""
        return self.kernel is not None and bool(self.kernel.differences)

    @property
    def unknown(self) -> bool:
        """Whether something that decides could not be read."""
        if self.undetermined or (self.kernel is not None and self.kernel.unknown):
            return True
        return any(self.kernel_of(one) is Kernel.UNKNOWN for one in self.endpoints)


def short_lines(view: View, *, wide: bool) -> Iterator[str]:
    """Yield a line for each endpoint that is used."""
    rows = [("ENDPOINT", "PORT", "NODE", "POOLS", *(("SLICE", "BEHIND") if wide else ()))]
    for one in view.endpoints:
        more = (one.slice_name, view.behind.get(one.address, _NONE)) if wide else ()
        node, pools = one.node_name or _NONE, ",".join(one.pools)
        rows.append((one.target, _port(one), node, pools, *more))
    if len(rows) > 1:
        yield from columns(rows)


def long_lines(view: View, *, wide: bool) -> Iterator[str]:
    """Yield the whole explanation: addresses, frontends with their pools, and the kernel."""
    heading = ("ENDPOINT", "PORT", "NODE", "CONDITIONS", "PLAN", "KERNEL")
    more = ("SLICE", "BEHIND", "HINTS") if wide else ()
    rows: list[tuple[str, ...]] = [(*heading, *more, "WHY")]
    rows += [_row(view, one, wide=wide) for one in view.endpoints]
    for target, name, protocol in view.strangers():
        port = f"{name.partition(':')[2]}/{protocol}".lstrip("/")
        filler = (_NONE,) * len(more)
        why = "no slice has it, but the kernel sends calls there"
        rows.append((target, port, _NONE, _NONE, "no", Kernel.EXTRA.value, *filler, why))
    if len(rows) > 1:
        yield from columns(rows)
        yield ""
    for served in view.ports:
        yield from _port_lines(served)
    yield from _kernel_lines(view)
    yield _sentence(view)


def _row(view: View, one: EndpointReport, *, wide: bool) -> tuple[str, ...]:
    kernel = view.kernel_of(one)
    place = one.target or f"{one.address or '(none)'}:{one.port or _NONE}"
    row: tuple[str, ...] = (
        place,
        _port(one),
        one.node_name or _NONE,
        _conditions(one),
        ",".join(one.pools) or "no",
        _NONE if kernel is Kernel.NOT_ASKED else kernel.value,
    )
    if wide:
        hints = [f"zone {name}" for name in one.zone_hints]
        hints += [f"node {name}" for name in one.node_hints]
        row += (one.slice_name, view.behind.get(one.address, _NONE), ",".join(hints) or _NONE)
    return (*row, _why(one, wide=wide))


def _port(one: EndpointReport) -> str:
    return f"{one.port_name}/{one.protocol}".lstrip("/") if one.port is not None else _NONE


def _conditions(one: EndpointReport) -> str:
    named = (("ready", one.ready), ("serving", one.serving), ("terminating", one.terminating))
    return ",".join(name for name, holds in named if holds) or "none"


def _why(one: EndpointReport, *, wide: bool) -> str:
    if one.cluster == one.local:
        return one.cluster.text
    pools = (("cluster", one.cluster), ("local", one.local))
    telling = [(name, pool) for name, pool in pools if wide or not _is_unused(pool)]
    if len(telling) == 1:
        return telling[0][1].text
    return "; ".join(f"{name}: {pool.text}" for name, pool in telling)


def _is_unused(pool: PoolUse) -> bool:
    return any(why.reason is Reason.POOL_UNUSED for why in pool.whys)


def _port_lines(port: PortReport) -> Iterator[str]:
    yield f"{port.name} ({port.family}, {port.protocol})"
    for frontend in port.frontends:
        yield f"  {_frontend(frontend)}"
    if port.topology:
        yield f"  {port.topology} hints are followed"
    if port.hints:
        yield f"  {port.hints}"
    for note in port.notes:
        yield f"  note: {note}"


def _frontend(frontend: FrontendReport) -> str:
    said = []
    for gets, group in groupby(frontend.reach, key=lambda reach: reach.gets):
        what = f"the {gets} pool" if gets in ("cluster", "local") else gets
        said.append(f"{', '.join(reach.client for reach in group)}: {what}")
    ranges = " (only from its source ranges)" if frontend.restricted else ""
    kind = "" if frontend.text.startswith("nodePort") else f"{frontend.kind} "
    return f"{kind}{frontend.text}{ranges} gives {'; '.join(said)}"


def _kernel_lines(view: View) -> Iterator[str]:
    clients: dict[tuple[str, str, str], list[str]] = {}
    for one in view.kernel.differences if view.kernel else ():
        clients.setdefault((one.frontend, one.expected, one.actual), []).append(one.client)
    for (frontend, expected, actual), kinds in clients.items():
        who = f"kernel differs at {frontend} for {', '.join(kinds)}"
        yield f"{who}: it {actual}; by the plan it {expected}"


def _sentence(view: View) -> str:
    if view.ignored is not None:
        return f"{view.service} has no endpoint on any node: {view.ignored.text}."
    used = len({(one.target, one.service_port) for one in view.endpoints if one.used})
    said = f"{view.service}: {used} of {len(view.endpoints)} entries are used on this node"
    if view.differs:
        return f"{said}; the kernel differs."
    if view.unknown:
        why = view.undetermined or "the kernel's rules could not be followed"
        return f"{said} as far as is known: {why}."
    return f"{said}; the kernel agrees."


def as_json(view: View) -> dict[str, Any]:
    """Return the whole view; ``kernel`` is null when it was not asked for."""
    kernel = view.kernel
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "service": view.service,
        "node": view.node,
        "mode": view.mode,
        "ignored": view.ignored._asdict() if view.ignored else None,
        "endpoints": [_endpoint(view, one) for one in view.endpoints],
        "ports": [_port_object(port) for port in view.ports],
        "kernel": kernel
        and {
            "agrees": None if view.unknown and not view.differs else not view.differs,
            "differences": [
                {
                    "servicePort": one.service_port,
                    "protocol": one.protocol,
                    "client": one.client,
                    "frontend": one.frontend,
                    "planned": one.expected,
                    "actual": one.actual,
                }
                for one in kernel.differences
            ],
            "notInSlices": [
                {"target": target, "servicePort": port, "protocol": protocol}
                for target, port, protocol in view.strangers()
            ],
        },
        "undetermined": view.undetermined,
        "gaps": list(view.gaps),
    }


def _endpoint(view: View, one: EndpointReport) -> dict[str, Any]:
    return {
        "slice": one.slice_name,
        "addressType": one.address_type,
        "address": one.address,
        "port": one.port,
        "portName": one.port_name,
        "protocol": one.protocol,
        "target": one.target,
        "servicePort": one.service_port,
        "nodeName": one.node_name,
        "behind": view.behind.get(one.address, ""),
        "conditions": {
            "ready": one.ready,
            "serving": one.serving,
            "terminating": one.terminating,
        },
        "hints": {"zones": list(one.zone_hints), "nodes": list(one.node_hints)},
        "plan": one.used,
        "kernel": view.kernel_of(one).value,
        "pools": {"cluster": _pool(one.cluster), "local": _pool(one.local)},
    }


def _pool(pool: PoolUse) -> dict[str, Any]:
    return {"used": pool.used, "why": [why._asdict() for why in pool.whys]}


def _port_object(port: PortReport) -> dict[str, Any]:
    return {
        "name": port.name,
        "family": port.family,
        "protocol": port.protocol,
        "frontends": [
            {
                "kind": frontend.kind,
                "frontend": frontend.text,
                "restricted": frontend.restricted,
                "clients": {reach.client: reach.gets for reach in frontend.reach},
            }
            for frontend in port.frontends
        ],
        "topology": port.topology,
        "hints": port.hints,
        "notes": list(port.notes),
    }
