"""Reads a node's connection tracking, with whatever tells names and endpoints."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import typer

from diagnostics.cluster.names import Names
from diagnostics.cluster.plans import ObjectsMissing, load_cluster
from diagnostics.conntrack.capacity import ProxySettings
from diagnostics.conntrack.dumps import is_table_alone
from diagnostics.conntrack.facts import Facts, live_facts, live_sample, recorded_facts
from diagnostics.conntrack.growth import (
    Growth,
    Sample,
    SampleError,
    growth_between,
    read_sample,
)
from diagnostics.conntrack.limits import Limits
from diagnostics.conntrack.shares import Naming
from diagnostics.conntrack.survey import Survey, Wanted, survey
from diagnostics.conntrack.truth import Truth
from diagnostics.snapshot.archive import SnapshotError
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.parts import Gap
from diagnostics.snapshot.source import MemorySource
from kpctl.exit_codes import USAGE
from kpctl.reading import Where, environment_error, read_node
from proxy.config.defaults import default_config, with_platform_defaults
from proxy.config.durations import parse_duration
from proxy.kernel.netlink import NetlinkError

_VS_CONNTRACK = "net.ipv4.vs.conntrack"


@dataclass(frozen=True, slots=True)
class Reading:
    """What there is to work with."""

    snapshot: NodeSnapshot
    facts: Facts
    naming: Naming
    gaps: tuple[str, ...]

    @property
    def proxy(self) -> ProxySettings:
        """What the node's proxy sets, kube-proxy's defaults where that is not known."""
        found = self.snapshot.config()
        assumed = isinstance(found, Gap)
        config = default_config() if isinstance(found, Gap) else found
        return ProxySettings(with_platform_defaults(config).conntrack, assumed)


def read(where: Where) -> Reading:
    """Return the node's; ends the command when there is none to read."""
    try:
        snapshot = _snapshot(where)
        facts = recorded_facts(snapshot, Path(where.dump)) if where.dump else live_facts()
    except SnapshotError as error:
        raise environment_error(str(error)) from error
    gaps = list(facts.gaps)
    truth = None
    try:
        cluster = load_cluster(snapshot)
        truth = Truth(cluster, sees_translation=_sees_translation(snapshot))
        gaps += truth.gaps
    except ObjectsMissing as missing:
        gaps += map(str, missing.gaps)
    return Reading(snapshot, facts, Naming(Names.of(snapshot), truth), tuple(gaps))


def _snapshot(where: Where) -> NodeSnapshot:
    if where.dump and is_table_alone(Path(where.dump)):
        # As a snapshot it would be kept in memory as a whole.
        return NodeSnapshot(MemorySource({}, where.dump), where.node)
    return read_node(where)


def _sees_translation(snapshot: NodeSnapshot) -> bool:
    """Return False where IPVS is there and keeps what it translates from conntrack."""
    sysctls = snapshot.sysctls()
    return isinstance(sysctls, Gap) or sysctls.number(_VS_CONNTRACK) != 0


def walk(reading: Reading, wanted: Wanted | None = None) -> Survey:
    """Walk the table; ends the command when the kernel refuses."""
    table = reading.facts.table
    try:
        found = survey(table.entries(), reading.naming.truth, wanted)
    except NetlinkError as error:
        why = f"the kernel does not list connections ({error.strerror}): run as root"
        raise environment_error(why) from error
    except SnapshotError as error:
        raise environment_error(str(error)) from error
    found.problems, found.notes = tuple(table.problems), tuple(table.notes)
    return found


def limits_with(limits: Limits, found: Survey | None) -> Limits:
    """Return the limits with the number of entries that a dump holds, where nothing else tells."""
    if limits.count is None and found is not None:
        return replace(limits, count=found.total)
    return limits


def say_gaps(gaps: tuple[str, ...], found: Survey | None) -> None:
    """Print what is missing on stderr."""
    for gap in dict.fromkeys(gaps):
        typer.echo(f"gap: {gap}", err=True)
    for problem in (found.problems if found else ())[:10]:
        typer.echo(f"gap: {problem}", err=True)
    for note in found.notes if found else ():
        typer.echo(f"note: {note}", err=True)


def say_inexact(found: Survey | None) -> None:
    """Say on stderr by how much numbers of clients and places may be wrong."""
    if found and found.error:
        typer.echo(
            "note: there are too many different clients or places to count each; a number may be "
            f"too low by up to {found.error}",
            err=True,
        )


def growth(facts: Facts, limits: Limits, interval: str, since: str) -> Growth | None:
    """
    Return how fast the table fills: compared with a file, or after waiting.

    Ends the command when the options make no sense.
    """
    if interval and since:
        raise usage("--interval and --since: choose one of the two")
    wait_s = seconds("--interval", interval) if interval else 0.0
    if wait_s and not facts.live:
        raise usage("--interval looks twice, which a dump does not allow; compare with --since")
    now = facts.sample or _sample(facts, limits)
    if since:
        return _since(since, now, limits)
    if not wait_s or now is None:
        return None
    first = live_sample()
    time.sleep(wait_s)
    second = live_sample()
    if first is None or second is None:
        return None
    return growth_between(first, second, limits.maximum)


def _sample(facts: Facts, limits: Limits) -> Sample | None:
    return None if limits.count is None else Sample(facts.at_s, limits.count, facts.counters)


def _since(path: str, now: Sample | None, limits: Limits) -> Growth | None:
    try:
        before = read_sample(Path(path).read_bytes())
    except OSError as error:
        raise environment_error(f"--since {path}: {error.strerror}") from error
    except SampleError as error:
        raise usage(f"--since {path}: {error}") from error
    if now is None:
        return None
    found = growth_between(before, now, limits.maximum)
    if found is None:
        raise usage(f"--since {path}: was not taken before this")
    return found


def seconds(option: str, text: str) -> float:
    """Return a length of time above 0; ends the command when it is none."""
    found = parse_duration(f"{text}s" if text.replace(".", "", 1).isdigit() else text)
    if found is None or found <= 0:
        raise usage(f"{option} {text!r}: write a duration such as 10s or 2m")
    return found


def usage(text: str) -> typer.Exit:
    """Say what is wrong with the command line; raise what is returned."""
    typer.echo(f"error: {text}", err=True)
    return typer.Exit(USAGE)
