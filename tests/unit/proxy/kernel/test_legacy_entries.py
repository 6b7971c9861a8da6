"""Entries of a legacy table, laid out as the kernel lays them out."""

from __future__ import annotations

import struct

import pytest

from proxy.kernel.legacy_entries import read_content, user_defined

OFFSETS_AT = 88  # of IPv4
HEAD = OFFSETS_AT + 24
ACCEPT, RETURN = -2, -5


class Blob:
    """Builds entries one behind the other."""

    def __init__(self) -> None:
        self.data = bytearray()

    def entry(self, name: bytes, rest: bytes, matches: int = 0) -> int:
        """Add an entry with *matches* bytes before its target; return its offset."""
        start, to_target = len(self.data), HEAD + matches
        target = struct.pack("=H29sB", 32 + len(rest), name, 0) + rest
        body = bytearray(to_target) + target
        struct.pack_into("=HH", body, OFFSETS_AT, to_target, len(body))
        self.data += body
        return start

    def verdict(self, number: int, matches: int = 0) -> int:
        return self.entry(b"", struct.pack("=i4x", number), matches)

    def head(self, chain: str) -> int:
        """Begin a chain; return where its first entry will be."""
        self.entry(b"ERROR", chain.encode().ljust(32, b"\0"))
        return len(self.data)

    def view(self) -> memoryview:
        return memoryview(bytes(self.data))


def table() -> tuple[Blob, dict[str, tuple[int, int]]]:
    """INPUT: a jump to KUBE-A and a LOG; OUTPUT: a rule without target; KUBE-A, KUBE-B."""
    sizes = Blob()
    sizes.verdict(0, 40)
    sizes.entry(b"LOG", bytes(40))
    sizes.verdict(0)
    sizes.verdict(0)
    sizes.verdict(0)
    kube_a = sizes.head("KUBE-A")

    blob = Blob()
    first = blob.verdict(kube_a, 40)
    blob.entry(b"LOG", bytes(40))
    input_policy = blob.verdict(ACCEPT)
    fall_through = len(blob.data)
    blob.verdict(fall_through + HEAD + 40)
    output_policy = blob.verdict(ACCEPT)
    assert blob.head("KUBE-A") == kube_a
    kube_b = kube_a + 3 * (HEAD + 40) + HEAD + 64
    blob.verdict(kube_b)
    blob.verdict(RETURN)
    blob.verdict(RETURN)
    assert blob.head("KUBE-B") == kube_b
    blob.verdict(RETURN)
    blob.entry(b"ERROR", b"ERROR".ljust(32, b"\0"))
    return blob, {"INPUT": (first, input_policy), "OUTPUT": (fall_through, output_policy)}


def test_rules_are_counted_without_policies_and_ends_of_chains() -> None:
    blob, bounds = table()
    content = read_content(blob.view(), OFFSETS_AT, bounds)
    assert content.rules == {"INPUT": 2, "OUTPUT": 1, "KUBE-A": 2, "KUBE-B": 0}


def test_only_jumps_of_built_in_chains_are_told() -> None:
    blob, bounds = table()
    assert read_content(blob.view(), OFFSETS_AT, bounds).jumps == {("INPUT", "KUBE-A")}


def test_user_defined_chains_have_names() -> None:
    blob, _ = table()
    assert list(user_defined(blob.view(), OFFSETS_AT)) == ["KUBE-A", "KUBE-B"]


def test_a_table_of_policies_only_has_no_rules() -> None:
    blob = Blob()
    start = blob.verdict(ACCEPT)
    blob.entry(b"ERROR", b"ERROR".ljust(32, b"\0"))
    content = read_content(blob.view(), OFFSETS_AT, {"PREROUTING": (start, start)})
    assert content == ({"PREROUTING": 0}, frozenset())


def test_an_entry_without_length_does_not_hang_the_reader() -> None:
    with pytest.raises(OSError, match="without length"):
        read_content(memoryview(bytes(400)), OFFSETS_AT, {"INPUT": (0, 0)})
