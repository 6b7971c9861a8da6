"""
When the kernel refuses the table as a whole it says little more than "no such file". This module
finds out what it lacks: it tries everything the table contains, piece by piece, in a network
namespace that nobody uses, and names the kernel option and the module of what was refused.

    OSError
    └── Undetermined   the pieces could not be tried; nothing is known
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from proxy.kernel.netlink import NetlinkError
from proxy.kernel.nftables import NetlinkNft, TransactionRejected
from proxy.kernel.trials import NETLINK, NF_TABLES, Part, Trial, trials
from proxy.model.addresses import IPFamily

PROBE_LIMIT_S = 10.0
WHY_LIMIT_S = 0.09

_CLONE_NEWNET = 0x40000000  # linux/sched.h
# What the kernel answers to what it does not know; anything else (rights, memory) proves nothing.
_UNKNOWN_TO_KERNEL = frozenset(
    {errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT}
)


@dataclass(frozen=True, slots=True)
class Missing:
    """
    A feature the kernel refused.

    Attributes:
        feature: nft's words for it, e.g. ``masquerade fully-random``.
        kernel_option: e.g. ``CONFIG_NFT_MASQ``.
        error: the kernel's words.
        module: what modprobe loads for it; "" where the option cannot be a module.
        since: "" or the Linux release that first had the feature.
    """

    feature: str
    kernel_option: str
    error: str
    module: str = ""
    since: str = ""


class Undetermined(OSError):
    """Why it is not known what the kernel has; ``strerror`` is a clause for the operator."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(number, reason)
        self.reason = reason


@dataclass(slots=True)
class _Findings:
    """What the probing thread found so far; it only ever adds."""

    missing: list[Missing] = field(default_factory=list)
    problem: Undetermined | None = None
    finished: bool = False


def probe(family: IPFamily, limit_s: float = PROBE_LIMIT_S) -> tuple[Missing, ...]:
    """
    Try everything the data plane needs in a scratch network namespace.

    The calling process's namespace and tables are not touched, and nothing is left behind.

    Args:
        family: whose table to try.
        limit_s: return after about this many seconds, with what was found by then.

    Returns:
        What was refused, in the order of use; what merely depends on it is left out. Empty when
        the kernel has everything.

    Raises:
        Undetermined: nothing was found missing, and not everything could be tried.
    """
    findings = _explore(trials(family), family, limit_s)
    if not findings.missing:
        _raise_if_incomplete(findings, limit_s)
    return tuple(findings.missing)


def explain(missing: Iterable[Missing]) -> str:
    """Return a sentence for each missing feature, with the next step; "" for none."""
    return " ".join(map(_sentence, missing))


def why_refused(family: IPFamily) -> str:
    """
    Return what the kernel lacks for a family's table, for the log; "" when nothing is missing.

    Takes at most 0.1 s and never raises for what the kernel answers: when the pieces cannot be
    tried, the text says so and what to look at instead.
    """
    try:
        findings = _explore(trials(family), family, WHY_LIMIT_S)
        if not findings.missing:
            _raise_if_incomplete(findings, WHY_LIMIT_S)
    except Undetermined as error:
        return _unknown(family, error)
    text = explain(tuple(findings.missing))
    return text if findings.finished else f"{text} There may be more: not everything was tried."


def _sentence(item: Missing) -> str:
    kernel = f"a kernel with {item.kernel_option}"
    if item.since:
        kernel += f" and of Linux {item.since} or later"
    step = f"use {kernel}."
    if item.module:
        step = f"run 'modprobe {item.module}' on the node, and if that does not help {step}"
    return f"The kernel refuses '{item.feature}' ({item.error}): {step}"


def _unknown(family: IPFamily, error: Undetermined) -> str:
    parts = [trial.part for trial in trials(family)]
    options = " ".join(sorted({part.option for part in parts}))
    modules = " ".join(sorted({part.module for part in parts if part.module}))
    return (
        f"It is unknown whether the kernel lacks something: {error.reason}. Check that "
        f"/boot/config-{os.uname().release} has {options}, and that 'modprobe -a {modules}' works "
        "on the node."
    )


def _raise_if_incomplete(findings: _Findings, limit_s: float) -> None:
    if findings.problem:
        raise findings.problem
    if not findings.finished:
        raise Undetermined(errno.ETIMEDOUT, f"trying it took longer than {limit_s:g} s")


# -- the probing thread ----------------------------------------------------------------------


def _explore(wanted: Sequence[Trial], family: IPFamily, limit_s: float) -> _Findings:
    # A thread of its own, because a network namespace belongs to a thread and ends with it.
    findings = _Findings()
    deadline = time.monotonic() + limit_s
    thread = threading.Thread(
        target=_work, args=(wanted, family, deadline, findings), name="nft-probe", daemon=True
    )
    try:
        thread.start()
    except RuntimeError as error:
        raise Undetermined(errno.EAGAIN, str(error)) from error
    thread.join(max(0.0, deadline - time.monotonic()))
    return findings


def _work(wanted: Sequence[Trial], family: IPFamily, deadline: float, findings: _Findings) -> None:
    try:
        _enter_scratch_namespace()
        with contextlib.closing(NetlinkNft(family)) as port:
            _try_all(wanted, port, deadline, findings)
    except Undetermined as error:
        findings.problem = error
    except OSError as error:
        # INVARIANT: every refusal of a trial is handled in _try_all, so this is the socket.
        _judge("netfilter over netlink", NETLINK, error, findings)


def _enter_scratch_namespace() -> None:
    """Move the calling thread, and no other, into a new network namespace."""
    import ctypes  # a proxy that works never needs it

    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) == 0:
        return
    number = ctypes.get_errno()
    reason = f"cannot make a network namespace to try it in ({os.strerror(number)})"
    if number == errno.EPERM:
        reason += ", which needs CAP_SYS_ADMIN"
    raise Undetermined(number, reason)


def _try_all(
    wanted: Sequence[Trial], port: NetlinkNft, deadline: float, findings: _Findings
) -> None:
    lost: set[str] = set()
    for trial in wanted:
        if time.monotonic() >= deadline:
            return
        if not lost.isdisjoint(trial.needs):
            lost.add(trial.feature)
            continue
        try:
            port.apply(trial.requests)
        except TransactionRejected as error:
            lost.add(trial.feature)
            _judge(trial.feature, trial.part, error, findings)
        except OSError as error:
            # No request was refused but the whole transaction: there is no nf_tables.
            _judge("nf_tables", NF_TABLES, error, findings)
            return
    findings.finished = True


def _judge(feature: str, part: Part, error: OSError, findings: _Findings) -> None:
    """Add a refusal to what is missing, or where it proves nothing, note why."""
    number, words = error.errno or errno.EIO, error.strerror or str(error)
    if number in _UNKNOWN_TO_KERNEL:
        findings.missing.append(Missing(feature, part.option, words, part.module, part.since))
    elif isinstance(error, NetlinkError) and number == errno.EPERM:
        findings.problem = Undetermined(number, f"trying it needs CAP_NET_ADMIN ({words})")
    else:
        findings.problem = Undetermined(number, f"'{feature}' could not be tried ({words})")
