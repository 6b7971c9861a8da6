"""Snapshot directories made of recorded nodes (tests/data/golden), for commands that read one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import ip_interface
from pathlib import Path

from tests.support.golden import PROGRAMS, Case, Step
from tests.support.iptables_text import Ruleset

_FILES = {
    "Service": "services.json",
    "EndpointSlice": "endpointslices.json",
    "Node": "nodes.json",
}


def write_snapshot(case: Case, step: Step, directory: Path, *, config: bool = True) -> Path:
    """Write a step of a case in iptables mode as a snapshot, with the configuration or without."""
    directory.mkdir()
    for kind, name in _FILES.items():
        items = [one for one in step.objects if one["kind"] == kind]
        content = {"kind": f"{kind}List", "apiVersion": "v1", "items": items}
        (directory / name).write_text(json.dumps(content))
    for program in PROGRAMS:
        text = _saved(step.rulesets[program]) if program in step.rulesets else ""
        (directory / f"{program}-save.txt").write_text(text)
    (directory / "ip-addr.json").write_text(json.dumps(_links(case.interfaces)))
    (directory / "hostname.txt").write_text(case.config["hostnameOverride"] + "\n")
    if config:
        (directory / "kube-proxy-config.yaml").write_text(json.dumps(case.config))
    return directory


def _saved(ruleset: Ruleset) -> str:
    lines = []
    for table, chains in ruleset.items():
        lines.append(f"*{table}")
        lines += [f":{name} {chain.policy} [0:0]" for name, chain in chains.items()]
        lines += [f"-A {name} {rule}" for name, chain in chains.items() for rule in chain.rules]
        lines.append("COMMIT")
    return "\n".join(lines) + "\n"


def _links(interfaces: Mapping[str, tuple[str, ...]]) -> list[dict[str, object]]:
    all_of_them = {"lo": ("127.0.0.1/8", "::1/128"), **interfaces}
    return [
        {"ifindex": number, "ifname": name, "flags": ["UP"], "addr_info": [*map(_address, texts)]}
        for number, (name, texts) in enumerate(all_of_them.items(), start=1)
    ]


def _address(text: str) -> dict[str, object]:
    one = ip_interface(text)
    scope = "host" if one.ip.is_loopback else "link" if one.ip.is_link_local else "global"
    family = "inet" if one.version == 4 else "inet6"
    return {
        "family": family,
        "local": str(one.ip),
        "prefixlen": one.network.prefixlen,
        "scope": scope,
    }
