"""What a rule looks at or computes: fields, concatenations, masks, hashes, map look-ups."""

from __future__ import annotations

import re

from diagnostics.nftables.constants import number
from diagnostics.nftables.data_types import Json
from diagnostics.nftables.tokens import Unparsed, Words
from diagnostics.nftables.values import atom, parse_items, parse_value


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TRANSPORT = frozenset({"sport", "dport", "checksum", "length", "sequence", "ackseq", "doff"})
_FIELDS = {
    "ip": _words("version hdrlength dscp ecn length id frag-off ttl protocol checksum saddr daddr"),
    "ip6": _words("version dscp ecn flowlabel length nexthdr hoplimit saddr daddr"),
    "tcp": _TRANSPORT | {"flags", "window", "urgptr", "reserved"},
    "udp": _TRANSPORT,
    "udplite": _TRANSPORT | {"csumcov"},
    "sctp": _TRANSPORT | {"vtag"},
    "dccp": _TRANSPORT | {"type"},
    "th": frozenset({"sport", "dport"}),
    "icmp": _words("type code checksum id sequence gateway mtu"),
    "icmpv6": _words(
        "type code checksum parameter-problem packet-too-big mtu id sequence max-delay"
    ),
    "ether": frozenset({"saddr", "daddr", "type"}),
    "vlan": frozenset({"id", "dei", "cfi", "pcp", "type"}),
    "arp": frozenset({"htype", "ptype", "hlen", "plen", "operation"}),
    "esp": frozenset({"spi", "sequence"}),
    "ah": frozenset({"spi", "sequence", "nexthdr", "hdrlength"}),
    "comp": frozenset({"cpi", "nexthdr", "flags"}),
    "igmp": frozenset({"type", "checksum", "mrt", "group"}),
}
_EXTENSION_HEADERS = {
    "frag": frozenset({"nexthdr", "reserved", "frag-off", "reserved2", "more-fragments", "id"}),
    "hbh": frozenset({"nexthdr", "hdrlength"}),
    "dst": frozenset({"nexthdr", "hdrlength"}),
    "mh": frozenset({"nexthdr", "hdrlength", "type", "reserved", "checksum"}),
}
_META_ALONE = _words(
    "mark iif oif iifname oifname iiftype oiftype skuid skgid nftrace rtclassid pkttype cpu "
    "iifgroup oifgroup cgroup"
)
_META = _META_ALONE | _words(
    "length nfproto l4proto protocol priority random secpath ibrname obrname ibrpvid ibrvproto "
    "sdif sdifname time day hour iifkind oifkind secmark"
)
_CT_KEYS = _words(
    "state direction status mark expiration helper label l3proto protocol saddr daddr proto-src "
    "proto-dst packets bytes avgpkt zone id event timeout expectation secmark"
)
_FIB_FLAGS = frozenset({"saddr", "daddr", "mark", "iif", "oif"})
_FIB_RESULTS = frozenset({"type", "oif", "oifname"})
_RT_KEYS = frozenset({"classid", "nexthop", "mtu", "ipsec"})
_TCP_OPTION_FIELDS = _words("size kind length count left right tsval tsecr")
_OPERATORS = {
    "&": "&", "and": "&", "|": "|", "or": "|", "^": "^", "xor": "^",
    "<<": "<<", "lshift": "<<", ">>": ">>", "rshift": ">>",
}  # fmt: skip
_RAW = re.compile(r"@([a-z]+),(\d+),(\d+)", re.ASCII)


def starts_expression(words: Words) -> bool:
    """Return whether an expression, not a constant, comes next."""
    word, following = words.peek(), words.peek(1)
    if word in _FIELDS:
        return following in _FIELDS[word] or following == "option"
    if word in ("meta", "ct", "fib", "numgen", "jhash", "symhash", "rt", "socket", "exthdr"):
        return True
    return word in _META_ALONE or word in _EXTENSION_HEADERS or bool(_RAW.fullmatch(word))


def parse_expression(words: Words) -> Json:
    """Take an expression, with the map look-up behind it if there is one."""
    key = parse_key(words)
    if words.skip("map"):
        return {"map": {"key": key, "data": parse_table(words)}}
    return key


def parse_key(words: Words) -> Json:
    """Take an expression without look-up: one part or a concatenation."""
    first = _computed(words)
    if words.peek() != ".":
        return first
    parts = [first]
    while words.skip("."):
        parts.append(_computed(words))
    return {"concat": parts}


def parse_table(words: Words) -> Json:
    """Take what a map look-up looks in: ``@name`` or ``{ key : data, … }``."""
    if words.peek().startswith("@"):
        return words.take()
    return {"set": parse_items(words)}


def _computed(words: Words) -> Json:
    if words.skip("("):
        found = _computed(words)
        words.expect(")")
    else:
        found = _primary(words)
    while words.peek() in _OPERATORS:
        operator = _OPERATORS[words.take()]
        found = {operator: [found, _operand(words)]}
    return found


def _operand(words: Words) -> Json:
    if starts_expression(words):
        return _primary(words)
    if words.peek() == "(":
        return parse_value(words)
    return atom(words.take())


def _primary(words: Words) -> Json:
    word = words.take()
    if word == "tcp" and words.skip("option"):
        return _tcp_option(words)
    if word in _FIELDS:
        return {"payload": {"protocol": word, "field": words.one_of(_FIELDS[word])}}
    if word in _EXTENSION_HEADERS:
        field = words.one_of(_EXTENSION_HEADERS[word])
        return {"exthdr": {"name": word, "field": field}}
    if word in _META_ALONE:
        return {"meta": {"key": word}}
    parser = _PARSERS.get(word)
    return parser(words) if parser else _raw_payload(word)


def _raw_payload(word: str) -> Json:
    match = _RAW.fullmatch(word)
    if match is None:
        raise Unparsed
    return {"payload": {"base": match[1], "offset": int(match[2]), "len": int(match[3])}}


def _tcp_option(words: Words) -> Json:
    found = {"name": words.take()}
    if words.peek() in _TCP_OPTION_FIELDS:
        found["field"] = words.take()
    return {"tcp option": found}


def _meta(words: Words) -> Json:
    return {"meta": {"key": words.one_of(_META)}}


def _ct(words: Words) -> Json:
    direction = words.take() if words.peek() in ("original", "reply") else None
    family = f"{words.take()} " if words.peek() in ("ip", "ip6") else ""
    found = {"key": family + words.one_of(_CT_KEYS)}
    return {"ct": found | ({"dir": direction} if direction else {})}


def _fib(words: Words) -> Json:
    flags = [words.one_of(_FIB_FLAGS)]
    while words.skip("."):
        flags.append(words.one_of(_FIB_FLAGS))
    return {"fib": {"result": words.one_of(_FIB_RESULTS), "flags": flags}}


def _numgen(words: Words) -> Json:
    mode = words.one_of(("random", "inc"))
    words.expect("mod")
    modulus = words.integer()
    return {"numgen": {"mode": mode, "mod": modulus, "offset": _offset(words)}}


def _offset(words: Words) -> int:
    return words.integer() if words.skip("offset") else 0


def _jhash(words: Words) -> Json:
    key = parse_key(words)
    words.expect("mod")
    found: dict[str, Json] = {"mod": words.integer()}
    if words.peek() == "seed" and number(words.peek(1)) is not None:
        words.take()
        found["seed"] = words.integer()
    offset = _offset(words)
    return {"jhash": found | {"expr": key} | ({"offset": offset} if offset else {})}


def _symhash(words: Words) -> Json:
    words.expect("mod")
    modulus, offset = words.integer(), _offset(words)
    return {"symhash": {"mod": modulus} | ({"offset": offset} if offset else {})}


def _rt(words: Words) -> Json:
    family = words.take() if words.peek() in ("ip", "ip6") else None
    found = {"key": words.one_of(_RT_KEYS)}
    return {"rt": found | ({"family": family} if family else {})}


def _socket(words: Words) -> Json:
    return {"socket": {"key": words.one_of(("transparent", "mark", "wildcard"))}}


def _exthdr(words: Words) -> Json:
    return {"exthdr": {"name": words.one_of(frozenset(_EXTENSION_HEADERS) | {"rt"})}}


_PARSERS = {
    "meta": _meta,
    "ct": _ct,
    "fib": _fib,
    "numgen": _numgen,
    "jhash": _jhash,
    "symhash": _symhash,
    "rt": _rt,
    "socket": _socket,
    "exthdr": _exthdr,
}
