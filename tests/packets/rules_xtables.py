"""Small iptables rule sets, each about one thing that rules may ask or do; as rules_nft.py."""

from __future__ import annotations

from tests.packets.cluster import NODE_IP, POD
from tests.packets.rules_nft import ONE, TWO, VIP

Rules = tuple[str, ...]


def xtables(
    *nat: str,
    filters: Rules = (),
    post: Rules = (),
    raw: Rules = (),
    mangle: Rules = (),
    chains: Rules = (),
    policy: str = "ACCEPT",
) -> str:
    """
    Return what iptables-restore takes.

    Rules without a chain go into FORWARD (*filters*), POSTROUTING (*post*), or else both into
    PREROUTING and OUTPUT; *chains* are more of the nat table, *policy* is that of FORWARD.
    """
    own = tuple(rule for rule in nat if rule.startswith("-A"))
    both = tuple(rule for rule in nat if not rule.startswith("-A"))
    translating = {"PREROUTING": (*both, *own), "OUTPUT": both, "POSTROUTING": post}
    return "".join(
        [
            _table("raw", {"PREROUTING": raw, "OUTPUT": raw}),
            _table("mangle", {"PREROUTING": mangle, "OUTPUT": mangle}),
            _table("nat", translating, chains),
            _table("filter", {"FORWARD": filters}, policy=policy),
        ]
    )


def _table(name: str, hooks: dict[str, Rules], chains: Rules = (), policy: str = "ACCEPT") -> str:
    lines = [f"*{name}", *(f":{hook} {policy} [0:0]" for hook in hooks)]
    lines += [f":{chain} - [0:0]" for chain in chains]
    for hook, rules in hooks.items():
        lines += [rule if rule.startswith("-A") else f"-A {hook} {rule}" for rule in rules]
    return "\n".join([*lines, "COMMIT", ""])


V = f"-d {VIP}/32"
A1, A2 = (f"-j DNAT --to-destination {at}" for at in (ONE, TWO))
P1, P2 = f"-p tcp {A1}", f"-p udp {A1}"
XTABLES = {
    "a limit that was not reached": xtables(
        f"{V} -m limit --limit 100/min --limit-burst 90 -p tcp {A1}"
    ),
    "states": xtables(
        f"{V} {P1}",
        f"{V} {P2}",
        filters=(
            "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-p tcp -m conntrack --ctstate NEW -j ACCEPT",
            "-j DROP",
        ),
    ),
    "invalid": xtables(f"{V} {P1}", filters=("-m conntrack --ctstate INVALID -j DROP",)),
    "not invalid": xtables(f"{V} {P1}", filters=("-m conntrack ! --ctstate INVALID -j DROP",)),
    "translated": xtables(f"{V} {P1}", filters=("-m conntrack --ctstate DNAT -j DROP",)),
    "ct fields": xtables(
        f"{V} {P1}",
        filters=(
            f"-p tcp -m conntrack --ctorigdst {VIP} --ctorigdstport 80 --ctdir ORIGINAL -j DROP",
        ),
    ),
    "ct fields of a network": xtables(
        f"{V} {P1}", filters=("-m conntrack --ctorigdst 172.30.0.0/24 -j DROP",)
    ),
    "ct fields, negated": xtables(
        f"{V} {P1}", filters=("-m conntrack ! --ctorigdst 172.30.0.0/24 -j DROP",)
    ),
    "ct source network": xtables(
        f"{V} {P1}", filters=("-m conntrack --ctorigsrc 10.0.0.0/8 -j DROP",)
    ),
    "ct reply": xtables(f"{V} {P1}", filters=(f"-m conntrack --ctreplsrc {ONE.ip} -j DROP",)),
    "ct reply destination": xtables(
        f"{V} {P1}", filters=(f"-m conntrack --ctrepldst {POD} -j DROP",)
    ),
    "ct reply ports": xtables(
        f"{V} {P1}", filters=("-p tcp -m conntrack --ctreplsrcport 8080 -j DROP",)
    ),
    "ct status none": xtables(f"{V} {P1}", filters=("-m conntrack --ctstatus NONE -j DROP",)),
    "ct proto": xtables(f"{V} {P1}", f"{V} {P2}", filters=("-m conntrack --ctproto 17 -j DROP",)),
    "multiport": xtables(
        f"{V} -p tcp -m multiport --dports 22,70:90 {A1}",
        f"{V} -p udp -m multiport ! --dports 22,70:90 {A1}",
    ),
    "multiport any": xtables(f"{V} -p tcp -m multiport --ports 80 {A1}"),
    "iprange": xtables(
        "-m iprange --dst-range 172.30.0.1-172.30.0.20"
        f" -m iprange ! --src-range 10.0.0.0-10.255.255.255 -p tcp {A1}"
    ),
    "addrtype": xtables(
        f"-m addrtype --dst-type LOCAL -p tcp --dport 8081 {A1}",
        f"{V} -m addrtype ! --dst-type LOCAL -p tcp {A1}",
    ),
    "addrtype src": xtables(f"{V} -m addrtype --src-type LOCAL -p tcp {A1}"),
    "nth": xtables(
        f"{V} -p tcp -m statistic --mode nth --every 2 --packet 0 {A1}", f"{V} -p tcp {A2}"
    ),
    "not nth": xtables(
        f"{V} -p tcp -m statistic --mode nth ! --every 2 --packet 0 {A1}", f"{V} -p tcp {A2}"
    ),
    "recent": xtables(
        f"{V} -p tcp -m recent --name A --rcheck --seconds 600 {A1}",
        f"{V} -p tcp -m recent --name A --set {A1}",
    ),
    "physdev": xtables(
        f"{V} -p tcp -m physdev --physdev-is-in {A1}",
        f"{V} -p tcp -m physdev ! --physdev-is-bridged {A2}",
    ),
    "physdev named": xtables(f"{V} -p tcp -m physdev --physdev-in eth0 {A1}", f"{V} -p tcp {A2}"),
    "notrack": xtables(f"{V} {P1}", raw=("-p tcp -j CT --notrack",)),
    "marks": xtables(
        f"{V} -p tcp -m mark --mark 0x5/0xf {A1}",
        f"{V} -p udp -m mark ! --mark 0x5/0xf {A1}",
        mangle=(
            "-j MARK --set-xmark 0x15/0xffffffff",
            "-p udp -j MARK --and-mark 0xf0",
            "-j MARK --or-mark 0x100",
        ),
    ),
    "connmark": xtables(
        f"{V} -p tcp -m connmark --mark 0x5/0xf {A1}",
        mangle=("-j MARK --set-mark 0x15", "-j CONNMARK --save-mark --nfmask 0xf --ctmask 0xff"),
    ),
    "restored mark": xtables(
        f"{V} -p tcp -m mark --mark 0x5 {A1}",
        mangle=("-j CONNMARK --set-mark 0x5", "-j CONNMARK --restore-mark"),
    ),
    "goto": xtables(
        f"{V} -p tcp -j OUTER",
        f"{V} -p tcp {A2}",
        "-A OUTER -g INNER",
        f"-A OUTER -p tcp {A1}",
        "-A INNER -j RETURN",
        chains=("OUTER", "INNER"),
    ),
    "goto from a built-in chain": xtables(
        "-p tcp -g INNER", f"{V} -p tcp {A2}", "-A INNER -p udp -j RETURN", chains=("INNER",)
    ),
    "return in a built-in chain": xtables(
        f"{V} {P1}", filters=("-i pods0 -o pods0 -j RETURN", "-j ACCEPT"), policy="DROP"
    ),
    "netmap": xtables("-d 172.30.0.0/24 -p tcp -j NETMAP --to 10.180.0.0/24"),
    "redirect": xtables("-p tcp --dport 8081 -j REDIRECT --to-ports 8082"),
    "dnat without port": xtables(f"{V} -p tcp -j DNAT --to-destination 10.180.0.3"),
    "snat": xtables(f"{V} {P1}", post=(f"-d {ONE.ip} -p tcp -j SNAT --to-source {NODE_IP}",)),
    "continues": xtables(
        "-j LOG",
        f"{V} {P1}",
        filters=("-p tcp --syn -j TCPMSS --set-mss 1300",),
        mangle=("-p tcp -j CHECKSUM --checksum-fill",),
    ),
    "interfaces": xtables(
        f"-A PREROUTING {V} -i eth+ -p tcp {A1}",
        f"-A PREROUTING {V} ! -i eth0 -p tcp {A2}",
        filters=("-m conntrack --ctstate NEW ! -o pods0 -j DROP",),
    ),
    "tcp flags": xtables(f"{V} -p tcp --syn {A1}", f"{V} -p tcp ! --syn {A2}"),
    "tcp flags subset": xtables(f"{V} -p tcp --tcp-flags SYN,ACK,FIN SYN {A1}"),
    "protocol negated": xtables(f"{V} ! -p tcp -j DNAT --to-destination {ONE.ip}"),
    "only the kernel knows": xtables(
        f"{V} -p tcp -m length --length 10:20 {A1}", f"{V} -p tcp {A2}"
    ),
    "owner": xtables(
        f"{V} {P1}", mangle=("-A OUTPUT -m owner --uid-owner 0 -j MARK --set-mark 1",)
    ),
    "connlimit": xtables(f"{V} -p tcp -m connlimit --connlimit-above 1000 -j ACCEPT", f"{V} {P1}"),
    "u32": xtables(f"{V} -p tcp -m u32 --u32 6&0xFF=0x6 {A1}"),
    "quota": xtables(f"{V} -p tcp -m quota --quota 100000 {A1}"),
    "socket": xtables(f"{V} {P1}", mangle=("-A PREROUTING -m socket -j MARK --set-mark 1",)),
    "ttl": xtables(f"{V} -p tcp -m ttl --ttl-gt 2 {A1}"),
    "reject": xtables(
        f"{V} {P1}",
        f"{V} {P2}",
        filters=("-p tcp -j REJECT --reject-with tcp-reset", "-p udp -j REJECT"),
    ),
}
