"""
Names of iptables' own options and of the modules' options that are understood here.

A module's entry gives the number of words after each option. An option that is not listed takes all
words up to the next one that looks like an option.
"""

from __future__ import annotations

MATCH = frozenset(("-m", "--match"))
JUMP = frozenset(("-j", "--jump"))
GOTO = frozenset(("-g", "--goto"))
COUNTERS = frozenset(("-c", "--set-counters"))

# Options that need no module, by their usual name.
BASIC = {
    "-s": "-s",
    "--source": "-s",
    "--src": "-s",
    "-d": "-d",
    "--destination": "-d",
    "--dst": "-d",
    "-i": "-i",
    "--in-interface": "-i",
    "-o": "-o",
    "--out-interface": "-o",
    "-p": "-p",
    "--protocol": "-p",
    "--proto": "-p",
    "-f": "-f",
    "--fragment": "-f",
}

# /etc/protocols, as far as rules name them; 0 is all.
PROTOCOLS = {
    "all": 0,
    "ip": 0,
    "icmp": 1,
    "igmp": 2,
    "ipencap": 4,
    "ipip": 4,
    "tcp": 6,
    "udp": 17,
    "dccp": 33,
    "ipv6": 41,
    "ipv6-route": 43,
    "ipv6-frag": 44,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "ipv6-icmp": 58,
    "icmpv6": 58,
    "ipv6-nonxt": 59,
    "ipv6-opts": 60,
    "ospf": 89,
    "pim": 103,
    "ipcomp": 108,
    "vrrp": 112,
    "l2tp": 115,
    "sctp": 132,
    "mh": 135,
    "ipv6-mh": 135,
    "udplite": 136,
}

_PORTS = {"--sport": 1, "--source-port": 1, "--dport": 1, "--destination-port": 1}
_MARK = {"--mark": 1}
_NAT = {"--random": 0, "--random-fully": 0, "--persistent": 0}

MATCHES: dict[str, dict[str, int]] = {
    "tcp": {**_PORTS, "--tcp-flags": 2, "--syn": 0, "--tcp-option": 1},
    "udp": _PORTS,
    "udplite": _PORTS,
    "sctp": {**_PORTS, "--chunk-types": 2},
    "dccp": {**_PORTS, "--dccp-types": 1, "--dccp-option": 1},
    "multiport": {
        "--sports": 1,
        "--source-ports": 1,
        "--dports": 1,
        "--destination-ports": 1,
        "--ports": 1,
    },
    "icmp": {"--icmp-type": 1},
    "icmp6": {"--icmpv6-type": 1, "--icmp6-type": 1},
    "comment": {"--comment": 1},
    "conntrack": dict.fromkeys(
        (
            "--ctstate",
            "--ctproto",
            "--ctorigsrc",
            "--ctorigdst",
            "--ctreplsrc",
            "--ctrepldst",
            "--ctorigsrcport",
            "--ctorigdstport",
            "--ctreplsrcport",
            "--ctrepldstport",
            "--ctstatus",
            "--ctexpire",
            "--ctdir",
        ),
        1,
    ),
    "state": {"--state": 1},
    "mark": _MARK,
    "connmark": _MARK,
    "addrtype": {"--src-type": 1, "--dst-type": 1, "--limit-iface-in": 0, "--limit-iface-out": 0},
    "statistic": {"--mode": 1, "--probability": 1, "--every": 1, "--packet": 1},
    "recent": {
        **dict.fromkeys(("--set", "--rcheck", "--update", "--remove"), 0),
        **dict.fromkeys(("--reap", "--rttl", "--rsource", "--rdest"), 0),
        **dict.fromkeys(("--seconds", "--hitcount", "--name", "--mask"), 1),
    },
    "set": {
        "--match-set": 2,
        "--return-nomatch": 0,
        "--update-counters": 0,
        "--update-subcounters": 0,
    },
    "physdev": {
        "--physdev-in": 1,
        "--physdev-out": 1,
        "--physdev-is-in": 0,
        "--physdev-is-out": 0,
        "--physdev-is-bridged": 0,
    },
    "ipvs": {
        "--ipvs": 0,
        **dict.fromkeys(("--vproto", "--vaddr", "--vport"), 1),
        **dict.fromkeys(("--vdir", "--vmethod", "--vportctl"), 1),
    },
    "nfacct": {"--nfacct-name": 1},
    "iprange": {"--src-range": 1, "--dst-range": 1},
    "limit": {"--limit": 1, "--limit-burst": 1},
    "hashlimit": {
        **dict.fromkeys(("--hashlimit", "--hashlimit-upto", "--hashlimit-above"), 1),
        **dict.fromkeys(("--hashlimit-burst", "--hashlimit-mode", "--hashlimit-name"), 1),
    },
}

TARGETS: dict[str, dict[str, int]] = {
    "REJECT": {"--reject-with": 1},
    "MARK": dict.fromkeys(
        ("--set-xmark", "--set-mark", "--and-mark", "--or-mark", "--xor-mark"), 1
    ),
    "CONNMARK": {
        **dict.fromkeys(("--set-xmark", "--set-mark", "--and-mark", "--or-mark", "--xor-mark"), 1),
        **dict.fromkeys(("--nfmask", "--ctmask", "--mask"), 1),
        **dict.fromkeys(("--save-mark", "--restore-mark"), 0),
    },
    "DNAT": {"--to-destination": 1, **_NAT},
    "SNAT": {"--to-source": 1, **_NAT},
    "MASQUERADE": {"--to-ports": 1, **_NAT},
    "REDIRECT": {"--to-ports": 1, **_NAT},
    "TPROXY": {"--on-port": 1, "--on-ip": 1, "--tproxy-mark": 1},
    "LOG": {"--log-prefix": 1, "--log-level": 1},
    "NFLOG": {"--nflog-prefix": 1, "--nflog-group": 1},
}

# Extensions after which the next rule is asked. HMARK is missing: its mark cannot be foretold.
CONTINUING = frozenset(
    (
        "AUDIT",
        "CHECKSUM",
        "CLASSIFY",
        "CONNSECMARK",
        "DSCP",
        "ECN",
        "FLOWOFFLOAD",
        "HL",
        "IDLETIMER",
        "LED",
        "LOG",
        "NFLOG",
        "RATEEST",
        "SECMARK",
        "SET",
        "TCPMSS",
        "TCPOPTSTRIP",
        "TEE",
        "TOS",
        "TRACE",
        "TTL",
        "ULOG",
    )
)
# Extensions that are known not to be chains, but whose effect is not.
UNFORESEEABLE = frozenset(("CLUSTERIP", "DNPT", "HMARK", "MIRROR", "NETMAP", "SNPT", "SYNPROXY"))
