"""
``ipset save`` and ``ipset list``: sets, and whether they hold what a packet has.

Reading only sorts the lines by set; the entries of a set are understood when it is first asked,
because one trace asks few of them. Lookups follow the kernel: the most specific entry decides, so
that ``nomatch`` makes a hole in a network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from diagnostics.readers.ipset_index import EntryIndex, build_index
from diagnostics.readers.problems import LineProblem, not_understood

_FAMILIES = {"inet": 4, "inet6": 6}


class IpSet:
    """
    One set; immutable.

    Attributes:
        name, type: ``KUBE-CLUSTER-IP``, ``hash:ip,port``.
        options: Those of its creation by name: family, timeout, range, netmask …
        entries: As printed, without ``add NAME``, with their options (``timeout 30 nomatch``).
    """

    def __init__(
        self, name: str, type_: str, options: Mapping[str, str], others: Mapping[str, IpSet]
    ) -> None:
        self.name = name
        self.type = type_
        self.options = options
        self.entries: list[str] = []
        self._others = others
        self._index: EntryIndex | None = None

    @property
    def version(self) -> int | None:
        """4 or 6, None for sets without a family."""
        return _FAMILIES.get(self.options.get("family", ""))

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def problems(self) -> tuple[LineProblem, ...]:
        """Entries that are not understood; reads them all."""
        return () if self.type == "list:set" else tuple(self._indexed.problems)

    @property
    def _indexed(self) -> EntryIndex:
        if self._index is None:
            self._index = build_index(self.type, self.options, self.entries)
        return self._index

    def contains(self, fields: Sequence[object]) -> bool | None:
        """
        Return whether an entry matches; None when that cannot be told.

        Args:
            fields: One for each part of the set's type, in its order: an address for ip and net,
                ``(protocol, port)`` or a port number for port, an interface name for iface, a
                number for mark, text for mac. None stands for a value that is not known.
        """
        return self._contains(fields, frozenset())

    def _contains(self, fields: Sequence[object], above: frozenset[str]) -> bool | None:
        if self.type != "list:set":
            return self._indexed.contains(fields)
        answers: list[bool | None] = []
        for entry in self.entries:
            member = self._others.get(entry.partition(" ")[0])
            if member is None or member.name in above:
                answers.append(None)
            else:
                answers.append(member._contains(fields, above | {self.name}))
        if True in answers:
            return True
        return None if None in answers else False


@dataclass(frozen=True, slots=True)
class IpSets:
    """All sets by name; ``problems`` are of lines, those of entries are with their set."""

    by_name: Mapping[str, IpSet]
    problems: tuple[LineProblem, ...] = ()

    def __iter__(self) -> Iterator[IpSet]:
        return iter(self.by_name.values())

    def get(self, name: str) -> IpSet | None:
        """Return a set, None when there is none of that name."""
        return self.by_name.get(name)

    def contains(self, name: str, fields: Sequence[object]) -> bool | None:
        """Return what ``IpSet.contains`` says; None also for a set that is not there."""
        found = self.by_name.get(name)
        return None if found is None else found.contains(fields)


def read_ipset(text: str) -> IpSets:
    """Return the sets in the output of ``ipset save`` or ``ipset list``."""
    first = text.lstrip()[:5]
    return _read_list(text) if first == "Name:" else _read_save(text)


def _read_save(text: str) -> IpSets:
    sets: dict[str, IpSet] = {}
    problems = []
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split(" ", 2)
        if len(parts) == 3 and parts[0] == "add" and parts[1] in sets:
            sets[parts[1]].entries.append(parts[2])
        elif len(parts) == 3 and parts[0] == "create":
            type_, _, options = parts[2].partition(" ")
            sets[parts[1]] = IpSet(parts[1], type_, _options(options), sets)
        elif line.strip() and not line.startswith("#") and line.strip() != "COMMIT":
            problems.append(not_understood(number, "ipset save", line))
    return IpSets(sets, tuple(problems))


def _options(text: str) -> dict[str, str]:
    words = text.split()
    found: dict[str, str] = {}
    flags = {"counters", "comment", "skbinfo", "forceadd"}
    position = 0
    while position < len(words):
        if words[position] in flags:
            found[words[position]] = ""
            position += 1
        else:
            found[words[position]] = words[position + 1] if position + 1 < len(words) else ""
            position += 2
    return found


def _read_list(text: str) -> IpSets:
    sets: dict[str, IpSet] = {}
    problems = []
    name = type_ = ""
    members: IpSet | None = None
    for number, line in enumerate(text.splitlines(), 1):
        key, colon, value = line.partition(": ")
        if key == "Name" and colon:
            name, members = value.strip(), None
        elif line.rstrip() == "Members:" and name in sets:
            members = sets[name]
        elif members is not None and line.strip():
            members.entries.append(line.strip())
        elif key == "Type" and colon:
            type_ = value.strip()
            sets[name] = IpSet(name, type_, {}, sets)
        elif key == "Header" and colon:
            sets[name] = IpSet(name, type_, _options(value), sets)
        elif line.strip() and not colon:
            problems.append(not_understood(number, "ipset list", line))
    return IpSets(sets, tuple(problems))
