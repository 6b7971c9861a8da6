"""What ``kpctl run --dry-run`` prints is what it would write."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from proxy.kernel.nfacct import read_counters
from tests.support import golden
from tests.support.fake_iptables import FakeIptables
from tests.support.golden import PROGRAMS, golden_node
from tests.support.iptables_text import Chain, Ruleset, differences, parse, render
from tests.support.ipvs_text import NodeState, parse_servers, parse_sets
from tests.support.ipvs_text import differences as ipvs_differences
from tests.support.kpctl_process import CONFIG, kpctl_node, web
from tests.support.xtables_programs import as_printed_here, saved

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]

NOBODY = ("setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
CASES = ("internal-policy-cluster", "internal-policy-local-two", "empty-service-refused")
COUNTER = re.compile(r"-m nfacct --nfacct-name +\S+ ")


@pytest.mark.parametrize("name", CASES)
def test_restoring_what_is_printed_gives_kube_proxys_rules(name: str, tmp_path: Path) -> None:
    case = golden.load(name, "iptables")
    step = case.steps[0]
    with golden_node(case, tmp_path) as node:
        sysctl = node.namespace.sysctl("net.ipv4.conf.all.route_localnet")
        node.write("cluster.json", *step.objects)
        source = ("--config", str(node.config), "--manifests", str(node.manifests))
        done = node.run("--dry-run", *source)
        assert done.returncode == 0, done.stderr
        for program in PROGRAMS:
            assert saved(node.namespace, program, "nft") == {}
            assert saved(node.namespace, program, "legacy") == {}
        assert node.namespace.sysctl("net.ipv4.conf.all.route_localnet") == sysctl
        with node.namespace.enter():
            assert read_counters() == {}
        *_, ipv4, ipv6 = re.split(r"^# .*\n", done.stdout, flags=re.MULTILINE)
        for program, text in (("iptables", ipv4), ("ip6tables", ipv6)):
            node.namespace.run([f"{program}-nft-restore", "--noflush"], stdin=text)
            expected = as_printed_here(_without_counters(step.rulesets[program]), program, "nft")
            assert differences(expected, saved(node.namespace, program, "nft")) == ""


@pytest.mark.parametrize("name", golden.names("ipvs"))
def test_what_is_printed_of_mode_ipvs_is_what_kube_proxy_made(name: str, tmp_path: Path) -> None:
    case = golden.load(name, "ipvs")
    step = case.steps[0]
    with golden_node(case, tmp_path) as node:
        node.write("cluster.json", *step.objects)
        source = ("--config", str(node.config), "--manifests", str(node.manifests))
        done = node.run("--dry-run", *source)
        assert done.returncode == 0, done.stderr
        told = _by_program(done.stdout)
    sets = parse_sets(told["ipset restore"])
    added = re.findall(r"addr add (\S+) dev kube-ipvs0", told["ip -batch -"])
    found = NodeState(parse_servers(told["ipvsadm --restore"]), frozenset(added), sets)
    assert ipvs_differences(step.state, found) == ""
    for program in step.rulesets:
        chains = FakeIptables()
        for text in re.split(r"(?<=COMMIT\n)", told[f"{program}-restore --noflush"])[:-1]:
            chains.restore(text)
        for table in ("nat", "filter"):
            ours = _own_chains(chains.ruleset()[table])
            assert ours == _own_chains(step.rulesets[program][table])


def _own_chains(chains: Mapping[str, Chain]) -> dict[str, tuple[str, ...]]:
    return {name: chain.rules for name, chain in chains.items() if name.startswith("KUBE-")}


@pytest.mark.parametrize("mode", ["iptables", "ipvs"])
def test_anybody_may_look_and_nothing_is_written(mode: str) -> None:
    with TemporaryDirectory(prefix="kpctl-test-") as name:  # unlike tmp_path, for all users
        directory = Path(name)
        directory.chmod(0o777)
        with kpctl_node(directory) as node:
            node.config.write_text(CONFIG.replace("nftables", mode))
            node.write("web.json", *web())
            source = ("--config", str(node.config), "--manifests", str(node.manifests))
            done = node.run("--dry-run", *source, before=NOBODY)
            assert done.returncode == 0, done.stderr
            assert "10.180.0.1:8080" in done.stdout
            for backend in ("nft", "legacy"):
                assert saved(node.namespace, "iptables", backend) == {}
            links = node.namespace.run(["ip", "-brief", "link"]).stdout
            assert [line.split()[0] for line in links.splitlines()] == ["lo"]


def _by_program(text: str) -> dict[str, str]:
    """Put together what each program is told for both families."""
    found: dict[str, str] = {}
    for part in re.split(r"^# ", text, flags=re.MULTILINE)[1:]:
        program, _, told = part.partition("\n")
        name = program.rpartition(",")[0]
        found[name] = found.get(name, "") + told
    return found


def _without_counters(rules: Ruleset) -> Ruleset:
    """Which packet counters there are cannot be known without rights."""
    return parse(COUNTER.sub("", render(rules)))
