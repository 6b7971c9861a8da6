"""
The parts of a node, read by programs that are run in a pod with the node's network namespace.

No shell is used: the images of kube-proxy have the programs for rules and next to nothing else.
What an image lacks is a gap that says so. As on the node itself, ipset and ipvsadm are only
started where the kernel shows that there is something to list: they load modules otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from diagnostics.snapshot.bundle import best_dump
from diagnostics.snapshot.parts import FACTS, RULE_PARTS, Gap, Part, gap
from diagnostics.snapshot.source import Content
from kpctl.all_nodes.execute import Ran

Run = Callable[[Sequence[str]], Ran]
"""Runs a program in the pod to its end; raises SourceError when that is not possible."""

_ASK_OTHERS = ("kubectl", "curl")
KERNEL_PARTS = tuple(
    part for part in Part if FACTS[part].command and FACTS[part].command[0] not in _ASK_OTHERS
)
"""What programs tell, in the order in which they are run."""

OTHER_IMAGE = "use --debug-pods, with an --image that has it"
_BACKENDS = {
    Part.IPTABLES: ("iptables-nft-save", "iptables-legacy-save"),
    Part.IP6TABLES: ("ip6tables-nft-save", "ip6tables-legacy-save"),
}
_LOADED = {
    Part.IPVS: "/proc/net/ip_vs",
    Part.IPVS_LIST: "/proc/net/ip_vs",
    Part.IPSET: "/sys/module/ip_set",
}
_CONNTRACK_FILE = "/proc/net/nf_conntrack"
_RECENT_FOLDER = "/proc/net/xt_recent"
_FILES_AT_ONCE = 200
_PROXYS = b"KUBE-"
_USES_SETS = b"--match-set"


class PodReader:
    """
    Reads parts in one pod; not thread-safe.

    Args:
        run: Runs a program there.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._met: dict[Part, tuple[Content, ...] | Gap] = {}

    def read(self, part: Part) -> tuple[Content, ...] | Gap:
        """As ``PartSource.read``, for ``KERNEL_PARTS`` and RECENT; raises what ``run`` raises."""
        if part in _BACKENDS:
            found = self._rules(part)
        elif part is Part.NFT_TEXT and not isinstance(
            self._met.get(Part.NFT_JSON, None), Gap | None
        ):
            found = gap(part, f"{Part.NFT_JSON.value} has the same rules", "it is not needed")
        elif part in _LOADED:
            found = self._if_loaded(part)
        elif part is Part.CONNTRACK:
            found = self._conntrack()
        elif part is Part.RECENT:
            found = self._recent()
        elif part in KERNEL_PARTS:
            found = self._command(part)
        else:
            found = gap(part, "no program in a pod tells it", "run kpctl snapshot on the node")
        self._met[part] = found
        return found

    def _command(self, part: Part, argv: Sequence[str] = ()) -> tuple[Content, ...] | Gap:
        argv = argv or FACTS[part].command
        ran = self._run(argv)
        # sysctl ends with 1 when a single key may not be read.
        if ran.code == 0 or (part is Part.SYSCTL and ran.code == 1 and ran.stdout):
            return (Content(part.value, ran.stdout),)
        how = OTHER_IMAGE if ran.absent else f"see what it says there: {' '.join(argv)}"
        return gap(part, ran.why(argv), how)

    def _rules(self, part: Part) -> tuple[Content, ...] | Gap:
        """The pod's default backend of iptables may be the one that the node does not use."""
        found = self._command(part)
        if not isinstance(found, Gap) and _PROXYS in found[0].data:
            return found
        dumps = [] if isinstance(found, Gap) else list(found)
        for program in _BACKENDS[part]:
            other = self._command(part, (program, "-c"))
            if not isinstance(other, Gap):
                dumps.append(Content(program, other[0].data))
        if not dumps:
            return found
        best = best_dump(dumps, part)
        return (Content(part.value, best.data, best.note),)

    def _if_loaded(self, part: Part) -> tuple[Content, ...] | Gap:
        loaded = self._is_there(_LOADED[part])
        if loaded is None and part is Part.IPSET:
            # A rule that asks a set proves that the module is there.
            loaded = self._rules_use_sets() or None
        if loaded is None:
            why = f"the image has no ls to tell whether {_LOADED[part]} is there"
            return gap(part, why, OTHER_IMAGE)
        if not loaded:
            return (Content(part.value, b"", f"{_LOADED[part]} is absent: there are none"),)
        return self._command(part)

    def _is_there(self, path: str) -> bool | None:
        ran = self._run(("ls", "-d", path))
        if ran.code == 0:
            return True
        return False if not ran.absent and "no such file" in ran.stderr.lower() else None

    def _rules_use_sets(self) -> bool:
        dumps = [self._met.get(part) for part in RULE_PARTS]
        contents = [one for dump in dumps if isinstance(dump, tuple) for one in dump]
        return any(_USES_SETS in content.data for content in contents)

    def _conntrack(self) -> tuple[Content, ...] | Gap:
        found = self._command(Part.CONNTRACK)
        if isinstance(found, Gap):
            ran = self._run(("cat", _CONNTRACK_FILE))
            if ran.code == 0:
                return (Content(Part.CONNTRACK.value, ran.stdout),)
        return found

    def _recent(self) -> tuple[Content, ...] | Gap:
        there = self._is_there(_RECENT_FOLDER)
        if there is None:
            return gap(
                Part.RECENT, f"the image has no ls to look into {_RECENT_FOLDER}", OTHER_IMAGE
            )
        listed = self._run(("ls", _RECENT_FOLDER)) if there else Ran(b"", "", 0)
        if listed.code:
            return gap(Part.RECENT, listed.why(("ls", _RECENT_FOLDER)), OTHER_IMAGE)
        paths = [f"{_RECENT_FOLDER}/{name}" for name in listed.stdout.decode("utf-8").split()]
        text = b""
        for first in range(0, len(paths), _FILES_AT_ONCE):
            argv = ("tail", "-v", "-n", "+1", *paths[first : first + _FILES_AT_ONCE])
            ran = self._run(argv)
            if ran.code:
                return gap(Part.RECENT, ran.why(argv[:4]), OTHER_IMAGE)
            text += ran.stdout + b"\n"
        return (Content(Part.RECENT.value, text),)
