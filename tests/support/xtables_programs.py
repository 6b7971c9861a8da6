"""``iptables-restore`` and ``iptables-save`` of both backends, run in a namespace."""

from __future__ import annotations

import itertools
import os
import re

from kpctl.lab.netns import Namespace
from proxy.kernel.command import run
from proxy.kernel.nfacct import create_counters
from tests.support.iptables_text import Chain, Ruleset, parse, render

RECORDED_WITH = "1.8.9"
BACKENDS = ("nft", "legacy")
_serial = itertools.count(1)


def saved(namespace: Namespace, program: str, backend: str) -> Ruleset:
    """Return what ``iptables`` or ``ip6tables`` (*program*) of a backend has in the namespace."""
    return parse(namespace.run([f"{program}-{backend}-save"]).stdout)


def restore(namespace: Namespace, program: str, backend: str, rules: Ruleset) -> None:
    """Write rules into the namespace, with the nfacct counters that they name."""
    text = render(rules)
    with namespace.enter():
        create_counters(set(re.findall(r"--nfacct-name +(\S+)", text)))
    namespace.run([f"{program}-{backend}-restore"], stdin=text)


def as_printed_here(rules: Ruleset, program: str, backend: str, sets: str = "") -> Ruleset:
    """
    Return recorded rules as the iptables of this machine prints them.

    That is what was recorded, unless its version is another one: they differ in blanks and in the
    spelling of numbers. *sets* makes the ipsets that the rules name, as ``ipset restore`` takes it.
    """
    version = run([f"{program}-{backend}", "--version"]).stdout.split()[1]
    return rules if version == f"v{RECORDED_WITH}" else printed(rules, program, backend, sets)


def printed(rules: Ruleset, program: str, backend: str, sets: str = "") -> Ruleset:
    """Return what is printed of rules that were written into an empty namespace."""
    namespace = Namespace(f"kpctl-t{os.getpid()}-print{next(_serial)}")
    namespace.create()
    try:
        if sets:
            namespace.run(["ipset", "restore"], stdin=sets)
        restore(namespace, program, backend, rules)
        return saved(namespace, program, backend)
    finally:
        namespace.delete()


def with_chain(rules: Ruleset, table: str, chain: str) -> Ruleset:
    """Return the rules and one empty chain that somebody else made."""
    return {**rules, table: {**rules[table], chain: Chain("-", ())}}
