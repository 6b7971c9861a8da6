"""What a dump without its proxy's configuration tells of it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from diagnostics.cluster.inferred import infer_config
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.open import open_snapshot
from proxy.config import types
from proxy.config.defaults import default_config, with_platform_defaults
from proxy.config.types import ProxyConfig
from tests.support import golden
from tests.support.drift_faults import DATA
from tests.support.golden_snapshots import write_snapshot

KUBE_PROXY = "nft-ruleset.txt"


def inferred(node: NodeSnapshot) -> ProxyConfig:
    base = replace(default_config(), mode=node.mode().mode)
    return infer_config(node, with_platform_defaults(base))


def of_golden(name: str, tmp_path: Path, *edits: tuple[str, str]) -> ProxyConfig:
    case = golden.load(name, "iptables")
    directory = write_snapshot(case, case.steps[0], tmp_path / "node", config=False)
    for file in ("iptables-save.txt", "ip6tables-save.txt"):
        text = (directory / file).read_text()
        for pattern, replacement in edits:
            text = re.sub(pattern, replacement, text)
        (directory / file).write_text(text)
    return inferred(open_snapshot(directory).node())


def of_nftables(tmp_path: Path, *edits: tuple[str, str]) -> ProxyConfig:
    text = (DATA / "drift" / "nftables" / KUBE_PROXY).read_text()
    for pattern, replacement in edits:
        assert re.search(pattern, text), pattern
        text = re.sub(pattern, replacement, text)
    (tmp_path / KUBE_PROXY).write_text(text)
    return inferred(open_snapshot(tmp_path).node())


@pytest.mark.parametrize("name", ["drift/nftables", "drift/ipvs", "snapshots/iptables"])
def test_who_is_masqueraded_is_inferred_as_it_was_configured(name: str) -> None:
    node = open_snapshot(DATA / name).node()
    configured = node.config()
    assert isinstance(configured, ProxyConfig)
    found = inferred(node)
    assert found.detect_local == configured.detect_local
    assert found.masquerade_all == configured.masquerade_all
    assert found.iptables.masquerade_bit == configured.iptables.masquerade_bit == 14


@pytest.mark.parametrize(
    ("name", "cidrs"),
    [
        ("masquerade-normal.iptables", ("10.0.0.0/8",)),
        ("nodeport-v6-loopback-on", ("fd00:10::/64",)),
    ],
)
def test_the_cluster_cidr_is_what_cluster_ips_except(
    name: str, cidrs: tuple[str, ...], tmp_path: Path
) -> None:
    found = of_golden(name, tmp_path)
    assert found.detect_local.mode == types.CLUSTER_CIDR
    assert found.detect_local.cluster_cidrs == cidrs
    assert not found.masquerade_all


def test_masquerading_of_everything_is_a_rule_without_exception(tmp_path: Path) -> None:
    found = of_golden("masquerade-everything-without-local-detection.iptables", tmp_path)
    assert found.masquerade_all


def test_an_interface_prefix_is_a_name_with_a_plus(tmp_path: Path) -> None:
    found = of_golden("masquerade-normal.iptables", tmp_path, ("! -s 10.0.0.0/8", "! -i veth+"))
    assert found.detect_local.mode == types.INTERFACE_NAME_PREFIX
    assert found.detect_local.interface_name_prefix == "veth"


def test_a_bridge_is_a_whole_name(tmp_path: Path) -> None:
    found = of_golden("masquerade-normal.iptables", tmp_path, ("! -s 10.0.0.0/8", "! -i cni0"))
    assert found.detect_local.mode == types.BRIDGE_INTERFACE
    assert found.detect_local.bridge_interface == "cni0"


def test_the_masquerade_bit_is_that_of_the_mark(tmp_path: Path) -> None:
    found = of_golden("masquerade-normal.iptables", tmp_path, ("0x4000", "0x100000"))
    assert (found.iptables.masquerade_bit, found.nftables.masquerade_bit) == (20, 20)


def test_node_port_addresses_are_those_that_lead_to_the_node_ports(tmp_path: Path) -> None:
    found = of_golden("topology-zone-hints-used", tmp_path)
    assert found.node_port_addresses == ("192.168.0.2/32",)


@pytest.mark.parametrize(
    ("name", "answers"),
    [("nodeport-v4-loopback-on", True), ("nodeport-v4-loopback-off", False)],
)
def test_whether_node_ports_answer_on_loopback_is_told(
    name: str, answers: bool, tmp_path: Path
) -> None:
    assert of_golden(name, tmp_path).iptables.localhost_node_ports is answers


def test_nftables_names_the_addresses_of_node_ports(tmp_path: Path) -> None:
    assert "192.168.0.2/32" in of_nftables(tmp_path).node_port_addresses


@pytest.mark.parametrize(
    ("exception", "field", "value"),
    [
        ("ip saddr != 192.168.0.0/16 ", "cluster_cidrs", ("192.168.0.0/16",)),
        ('iifname != "veth*" ', "interface_name_prefix", "veth"),
        ('iifname != "cni0" ', "bridge_interface", "cni0"),
    ],
)
def test_nftables_tells_how_pods_are_recognised(
    exception: str, field: str, value: object, tmp_path: Path
) -> None:
    found = of_nftables(tmp_path, ("ip saddr != 10.0.0.0/8 ", exception))
    assert getattr(found.detect_local, field) == value
    assert not found.masquerade_all


def test_nftables_masquerades_all_where_it_excepts_nobody(tmp_path: Path) -> None:
    assert of_nftables(tmp_path, ("ip saddr != 10.0.0.0/8 ", "")).masquerade_all


def test_nftables_tells_the_masquerade_bit(tmp_path: Path) -> None:
    assert of_nftables(tmp_path, ("0x00004000", "0x00100000")).nftables.masquerade_bit == 20


def test_ipvs_tells_its_scheduler_and_where_node_ports_answer(tmp_path: Path) -> None:
    node = DATA / "drift" / "ipvs"
    for path in node.iterdir():
        if path.name != "kube-proxy-config.yaml":
            text = path.read_text()
            is_servers = path.name == "ipvsadm-save.txt"
            (tmp_path / path.name).write_text(
                text.replace("-s rr", "-s sh") if is_servers else text
            )
    found = inferred(open_snapshot(tmp_path).node())
    assert found.ipvs.scheduler == "sh"
    assert "192.168.0.2/32" in found.node_port_addresses


def test_without_rules_nothing_is_inferred(tmp_path: Path) -> None:
    (tmp_path / "iptables-save.txt").write_text("*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n")
    base = with_platform_defaults(replace(default_config(), mode="iptables"))
    found = infer_config(open_snapshot(tmp_path).node(), base)
    assert found.node_port_addresses == base.node_port_addresses
    assert found.iptables.masquerade_bit == base.iptables.masquerade_bit
    assert not found.masquerade_all
