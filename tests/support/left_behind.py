"""
A node on which kube-proxy left its recorded rules and ipsets among those of others.

The kernel may be one without IPVS: what its iptables mode and its ipsets need is there.
"""

from __future__ import annotations

import re

from kpctl.lab.netns import Namespace
from proxy.config.types import IPVS
from proxy.engine.cleanup.node import clean_ipvs, clean_tables
from proxy.engine.cleanup.outcome import Outcome
from proxy.engine.cleanup.running import Running
from proxy.kernel.xtables_backend import Kind
from tests.support import golden
from tests.support.iptables_text import Ruleset
from tests.support.ipvs_programs import write_sets
from tests.support.ipvs_text import SetState, parse_sets
from tests.support.xtables_programs import saved

_NFACCT = re.compile(r" -m nfacct --nfacct-name +\S+")  # needs objects that no rule makes
_SHARED_WITH_KUBELET = "KUBE-FIREWALL"
CASE = "every-service-kind.iptables"
BUILT_IN = {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}
# Of kubelet, network plugins, kube-router, Docker and administrators.
FOREIGN = """
*mangle
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
*nat
:CNI-HOSTPORT-MASQ - [0:0]
:DOCKER - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-MARK-DROP - [0:0]
:cali-PREROUTING - [0:0]
-A PREROUTING -m comment --comment "cali:6gwbT8clXdHdC1b1" -j cali-PREROUTING
-A PREROUTING -m comment --comment "ahead of -j KUBE-SERVICES" -j DOCKER
-A OUTPUT -m comment --comment "-j KUBE-SERVICES"
-A OUTPUT -m comment --comment "kubernetes service portals" -j DOCKER
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j CNI-HOSTPORT-MASQ
-A POSTROUTING -m comment --comment "it's \\"KUBE-POSTROUTING\\"" -j MASQUERADE
-A KUBE-MARK-DROP -j MARK --set-xmark 0x8000/0x8000
-A cali-PREROUTING -m comment --comment "KUBE-SVC-ABCDEFGHIJKLMNOP" -j RETURN
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
:KUBE-NWPLCY-ABCDEFGHIJKLMNOP - [0:0]
:KUBE-POD-FW-ABCDEFGHIJKLMNOP - [0:0]
:KUBE-ROUTER-INPUT - [0:0]
-A INPUT -j KUBE-FIREWALL
-A INPUT -m comment --comment "kube-router netpol" -j KUBE-ROUTER-INPUT
-A INPUT -j LOG --log-prefix "-j KUBE-SERVICES"
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j ACCEPT
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP
-A KUBE-ROUTER-INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-ROUTER-INPUT -g KUBE-POD-FW-ABCDEFGHIJKLMNOP
COMMIT
"""


class Host:
    """A namespace with one iptables backend in use."""

    def __init__(self, namespace: Namespace, kind: Kind) -> None:
        self.namespace = namespace
        self.kind = kind

    def restore(self, program: str, text: str) -> None:
        self.namespace.run([f"{program}-{self.kind}-restore", "--noflush"], stdin=text)

    def load(self, mode: str) -> None:
        """Put the recorded rules of kube-proxy where they are not yet."""
        step = golden.load(CASE, mode).steps[0]
        for program, ruleset in step.rulesets.items():
            self.restore(program, _restore_text(ruleset, self.saved(program)))

    def add_sets(self) -> None:
        """Put kube-proxy's recorded ipsets in place."""
        write_sets(self.namespace, golden.load(CASE, IPVS).steps[0].state)

    def sets(self) -> dict[str, SetState]:
        return parse_sets(self.namespace.run(["ipset", "save"]).stdout)

    def saved(self, program: str) -> Ruleset:
        return saved(self.namespace, program, self.kind)

    def clean(self, mode: str = "") -> Outcome:
        with self.namespace.enter():
            return clean_tables(Running(mode, self.kind))

    def clean_ipvs(self) -> Outcome:
        with self.namespace.enter():
            return clean_ipvs()

    def everything(self) -> dict[str, Ruleset]:
        return {program: self.saved(program) for program in golden.PROGRAMS}

    def unordered(self) -> dict[tuple[str, str, str], list[str]]:
        """Everything, but for the order in which jumps were added to built-in chains."""
        return {
            (program, table, name): sorted(chain.rules) if name in BUILT_IN else [*chain.rules]
            for program, ruleset in self.everything().items()
            for table, chains in ruleset.items()
            for name, chain in chains.items()
        }


def _restore_text(ruleset: Ruleset, there: Ruleset) -> str:
    """What kube-proxy would send: its chains anew, and the jumps that are not there."""
    parts = []
    for table, chains in ruleset.items():
        parts.append(f"*{table}")
        own = {c: chain for c, chain in chains.items() if c != _SHARED_WITH_KUBELET}
        parts += [f":{chain} - [0:0]" for chain in own if chain not in BUILT_IN]
        for name, chain in own.items():
            for rule in chain.rules:
                present = there.get(table, {}).get(name)
                is_there = name in BUILT_IN and present is not None and rule in present.rules
                # The kernel of the host may know ipsets, but not IPVS.
                if not is_there and "-m ipvs" not in rule:
                    parts.append(f"-A {name} {_NFACCT.sub('', rule)}")
        parts.append("COMMIT")
    return "\n".join([*parts, ""])
