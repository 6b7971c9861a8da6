"""
What holds for every trace: probabilities sum to 1, order without meaning means nothing, and no dump
that was cut, mixed up or made up brings the tracer down.

Seeds are fixed, so that a failure can be had again; each names the dump and the seed.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from diagnostics.snapshot.open import open_snapshot
from diagnostics.snapshot.parts import Gap
from diagnostics.trace.answer import report
from diagnostics.trace.question import Question, Tracer
from diagnostics.trace.report import Trace
from tests.support import golden
from tests.support.iptables_text import render

DATA = Path(golden.__file__).parents[1] / "data"
SEEDS = range(6)
_ADDRESSES = [
    {"ifname": "lo", "flags": ["LOOPBACK", "UP"], "addr_info": [
        {"family": "inet", "local": "127.0.0.1", "prefixlen": 8}]},
    {"ifname": "eth0", "flags": ["UP"], "addr_info": [
        {"family": "inet", "local": "192.168.0.2", "prefixlen": 24},
        {"family": "inet6", "local": "2001:db8::1", "prefixlen": 64}]},
]  # fmt: skip
_ROUTES = [{"dst": "default", "gateway": "192.168.0.1", "dev": "eth0", "flags": []}]


@dataclass(frozen=True, slots=True)
class Dump:
    """The files of a node, and the flows of its scenario; ``rules`` is the file with the rules."""

    name: str
    files: dict[str, str]
    rules: str
    scenario: str

    def questions(self, most: int | None = None) -> list[Question]:
        """The flows as questions."""
        flows = json.loads((DATA / "flows" / f"{self.scenario}.json").read_text())["flows"]
        return [
            Question.read(
                {"src": flow["from"]["ip"], "dst": flow["to"]["ip"],
                 "port": flow["to"]["port"], "protocol": flow["to"]["protocol"]}
            )
            for flow in flows[:most]
        ]  # fmt: skip


def _node_files() -> dict[str, str]:
    return {"ip-addr.json": json.dumps(_ADDRESSES), "ip-route.json": json.dumps(_ROUTES)}


def _iptables(name: str) -> Dump:
    rules = golden.load(name, "iptables").steps[0].rulesets
    files = {"iptables-save.txt": render(rules["iptables"])}
    files["ip6tables-save.txt"] = render(rules["ip6tables"])
    return Dump(f"{name} iptables", _node_files() | files, "iptables-save.txt", name)


def _ipvs(name: str) -> Dump:
    step = golden.load(name, "ipvs").steps[0]
    servers = "".join(
        "".join([f"-A {key}\n", *(f"-a {key.split(' -s ')[0]} -r {real}\n" for real in reals)])
        for key, reals in step.state.servers.items()
    )
    sets = "".join(
        "".join([f"create {key} {one.kind}\n", *(f"add {key} {m}\n" for m in sorted(one.members))])
        for key, one in step.state.sets.items()
    )
    files = {"ipvsadm-save.txt": servers, "ipset-save.txt": sets}
    files["iptables-save.txt"] = render(step.rulesets["iptables"])
    return Dump(f"{name} ipvs", _node_files() | files, "iptables-save.txt", name)


def _nft(name: str, form: str) -> Dump:
    file = f"nft-ruleset.{form}"
    text = (DATA / "nft" / f"{name}.{form}").read_text()
    scenario = "every-service-kind.nftables"
    return Dump(f"{name} {form}", _node_files() | {file: text}, file, scenario)


IPTABLES = [
    _iptables(name) for name in ("every-service-kind.iptables", "masquerade-normal.iptables")
]
IPVS = [_ipvs(name) for name in ("every-service-kind.iptables", "ipvs-lb-local")]
NFT_NAMES = ("every-service-kind", "kpctl-layout", "third-parties", "iptables-nft")
NFT_JSON = [_nft(name, "json") for name in NFT_NAMES]
NFT_TEXT = [_nft(name, "txt") for name in NFT_NAMES]
DUMPS = [*IPTABLES, *IPVS, *NFT_JSON, *NFT_TEXT]


def answers(directory: Path, dump: Dump, most: int | None = None) -> list[Trace]:
    """The answers to a dump's questions; each must be a whole."""
    for name, text in dump.files.items():
        (directory / name).write_text(text)
    snapshot = open_snapshot(directory).node()
    tracer = Tracer(snapshot)
    found = [tracer.ask(question) for question in dump.questions(most)]
    for trace in found:
        assert sum(end.branch.probability for end in trace.ends) == 1
        assert all(0 < one.probability <= 1 for one in trace.destinations)
        assert sum(one.probability for one in trace.destinations) <= 1
        json.dumps(report(trace, tracer.gaps(trace)))
    return found


def essence(found: Sequence[Trace]) -> list[object]:
    """What must not change with the order of a dump."""
    return [(one.verdict, one.certainty, one.destinations) for one in found]


# -- what changes nothing ---------------------------------------------------------------------


def _mixed_save(text: str, chance: random.Random) -> str:
    """Tables and chains in another order, other counters, no comments."""
    tables = re.findall(r"^\*.*?^COMMIT\n", text, re.MULTILINE | re.DOTALL)
    chance.shuffle(tables)
    return "# made by hand\n" + "".join(_mixed_table(table, chance) for table in tables)


def _mixed_table(text: str, chance: random.Random) -> str:
    lines = text.splitlines()
    chains = [line for line in lines if line.startswith(":")]
    chance.shuffle(chains)
    left: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("-A "):
            rule = re.sub(r'-m comment --comment (?:"[^"]*"|\S+) ?', "", line)
            left.setdefault(line.split()[1], []).append(f"[{chance.randrange(99)}:7] {rule}")
    rules = []
    while left:
        chain = chance.choice(sorted(left))
        rules.append(left[chain].pop(0))
        if not left[chain]:
            del left[chain]
    return "\n".join([lines[0], *chains, *rules, "COMMIT", ""])


def _mixed_json(text: str, chance: random.Random) -> str:
    """Tables, chains and elements in another order, new handles and counters, no comments."""
    objects = json.loads(text)["nftables"]
    rules = [one for one in objects if "rule" in one]
    others = [one for one in objects if "rule" not in one]
    chance.shuffle(others)
    for body in (next(iter(one.values())) for one in (*others, *rules)):
        body.pop("comment", None)
        if "handle" in body:
            body["handle"] = chance.randrange(10_000)
        if isinstance(body.get("elem"), list):
            chance.shuffle(body["elem"])
        for statement in body.get("expr", ()):
            if "counter" in statement:
                statement["counter"] = {"packets": chance.randrange(99), "bytes": 7}
    order = list(range(len(rules)))
    by_chain: dict[tuple[str, str, str], Iterator[Any]] = {}
    for rule in rules:
        by_chain.setdefault(
            _chain(rule), iter([one for one in rules if _chain(one) == _chain(rule)])
        )
    chance.shuffle(order)
    mixed = [next(by_chain[_chain(rules[at])]) for at in order]
    return json.dumps({"nftables": others + mixed})


def _chain(rule: dict[str, Any]) -> tuple[str, str, str]:
    body = rule["rule"]
    return body["family"], body["table"], body["chain"]


def _mixed_text(text: str, chance: random.Random) -> str:
    """Tables, and what is in them, in another order."""
    tables = re.findall(r"^table .*?^}\n", text, re.MULTILINE | re.DOTALL)
    chance.shuffle(tables)
    return "".join(_mixed_blocks(table, chance) for table in tables)


def _mixed_blocks(table: str, chance: random.Random) -> str:
    pattern = r"^\t(?:chain|set|map) .*?^\t}\n"
    blocks = re.findall(pattern, table, re.MULTILINE | re.DOTALL)
    head, tail = (
        table.partition("\n")[0],
        re.sub(pattern, "", table, flags=re.MULTILINE | re.DOTALL),
    )
    chance.shuffle(blocks)
    rest = [line for line in tail.splitlines()[1:-1] if line.strip()]
    return "\n".join([head, *rest, *(block.rstrip("\n") for block in blocks), "}", ""])


REORDERED: list[tuple[Dump, Callable[[str, random.Random], str]]] = [
    *((dump, _mixed_save) for dump in (*IPTABLES, *IPVS)),
    *((dump, _mixed_json) for dump in NFT_JSON),
    *((dump, _mixed_text) for dump in NFT_TEXT),
]


@pytest.mark.parametrize(("dump", "mix"), REORDERED, ids=[dump.name for dump, _ in REORDERED])
def test_order_without_meaning_changes_no_answer(
    dump: Dump, mix: Callable[[str, random.Random], str], tmp_path: Path
) -> None:
    expected = essence(answers(tmp_path, dump))
    for seed in SEEDS:
        text = mix(dump.files[dump.rules], random.Random(seed))
        assert text != dump.files[dump.rules]
        mixed = Dump(dump.name, dump.files | {dump.rules: text}, dump.rules, dump.scenario)
        assert essence(answers(tmp_path, mixed)) == expected, seed


def test_the_order_of_other_dumps_changes_no_answer(tmp_path: Path) -> None:
    for dump in IPVS:
        expected = essence(answers(tmp_path, dump))
        sets = dump.files["ipset-save.txt"].splitlines()
        created = [line for line in sets if line.startswith("create")]
        members = [line for line in sets if line.startswith("add")]
        for seed in SEEDS:
            random.Random(seed).shuffle(created)
            random.Random(seed).shuffle(members)
            text = "\n".join([*created, *members, ""])
            mixed = Dump(dump.name, dump.files | {"ipset-save.txt": text}, "", dump.scenario)
            assert essence(answers(tmp_path, mixed)) == expected, seed


# -- what must never bring it down ------------------------------------------------------------


def _lines_gone(text: str, chance: random.Random) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if chance.random() > 0.1)


def _lines_twice(text: str, chance: random.Random) -> str:
    return "".join(line * (1 + (chance.random() < 0.1)) for line in text.splitlines(keepends=True))


def _cut(text: str, chance: random.Random) -> str:
    return text[: chance.randrange(len(text) + 1)]


def _letters_changed(text: str, chance: random.Random) -> str:
    letters = list(text)
    for _ in range(30):
        letters[chance.randrange(len(letters))] = chr(chance.choice((*range(1, 127), 0xE9, 0x2028)))
    return "".join(letters)


def _numbers_changed(text: str, chance: random.Random) -> str:
    odd = ("0", "-1", "65536", "4294967296", "999999999999999999999", "0x", "")
    return re.sub(r"\d+", lambda m: chance.choice(odd) if chance.random() < 0.05 else m[0], text)


def _words_swapped(text: str, chance: random.Random) -> str:
    words = re.split(r"(\s+)", text)
    for _ in range(20):
        a, b = chance.randrange(len(words)), chance.randrange(len(words))
        words[a], words[b] = words[b], words[a]
    return "".join(words)


def _jumps_elsewhere(text: str, chance: random.Random) -> str:
    """Jumps to chains that are missing or lead back."""
    chains = [*re.findall(r"KUBE-[A-Z0-9-]+|(?<=chain )\S+", text), "MISSING", "PREROUTING"]
    return re.sub(
        r'((?:-j|-g|jump|goto) |"target": ")([\w/.:-]+)',
        lambda m: m[1] + (chance.choice(chains) if chance.random() < 0.3 else m[2]),
        text,
    )


def _matches_unknown(text: str, chance: random.Random) -> str:
    odd = ("-m u32 --u32 1", "-m nothing --at-all", "! ", "-m string")
    return re.sub(
        r"-m (?:comment|mark|tcp|udp|conntrack) |(?:ip daddr|meta mark|ct state) |\"payload\"",
        lambda m: f"{chance.choice(odd)} " if chance.random() < 0.2 else m[0],
        text,
    )


MUTATIONS = (
    _lines_gone, _lines_twice, _cut, _letters_changed, _numbers_changed, _words_swapped,
    _jumps_elsewhere, _matches_unknown,
)  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.__name__.strip("_"))
@pytest.mark.parametrize("dump", DUMPS, ids=lambda one: one.name)
def test_no_damaged_dump_brings_the_tracer_down(
    dump: Dump, mutation: Callable[[str, random.Random], str], tmp_path: Path
) -> None:
    for seed in range(4):
        chance = random.Random(seed)
        damaged = mutation(dump.files[dump.rules], chance)
        changed = Dump(dump.name, dump.files | {dump.rules: damaged}, dump.rules, dump.scenario)
        answers(tmp_path, changed, most=12)


OTHERS = {
    "ipvsadm-save.txt": IPVS[0].files["ipvsadm-save.txt"],
    "ipset-save.txt": IPVS[0].files["ipset-save.txt"],
    "ip-addr.json": json.dumps(_ADDRESSES, indent=1),
    "ip-route.json": json.dumps(_ROUTES, indent=1),
    "ip-rule.json": '[{"priority": 0, "src": "all", "table": "local"}]',
    "xt-recent.txt": "==> /proc/net/xt_recent/KUBE-SEP-A <==\nsrc=203.0.113.2 ttl: 64\n",
    "conntrack.txt": "ipv4 2 tcp 6 86399 ESTABLISHED src=10.0.0.2 dst=172.30.0.41 sport=4 dport=80"
    " src=10.180.0.1 dst=10.0.0.2 sport=80 dport=4 [ASSURED] mark=0 use=1\n",
    "services.json": json.dumps(
        {"items": list(golden.load("ipvs-lb-local", "ipvs").steps[0].objects)}, indent=1
    ),
}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.__name__.strip("_"))
@pytest.mark.parametrize("name", OTHERS)
def test_no_other_damaged_part_brings_the_tracer_down(
    name: str, mutation: Callable[[str, random.Random], str], tmp_path: Path
) -> None:
    dump = IPVS[0]
    for seed in range(4):
        damaged = mutation(OTHERS[name], random.Random(seed))
        changed = Dump(dump.name, dump.files | {name: damaged}, dump.rules, dump.scenario)
        answers(tmp_path, changed, most=6)
        snapshot = open_snapshot(tmp_path).node()
        snapshot.objects()
        flows = snapshot.flows()
        assert isinstance(flows, Gap) or list(flows) is not None
