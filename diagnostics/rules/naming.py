"""Which Service a rule, chain or element belongs to, by what proxies write into them."""

from __future__ import annotations

import re

_LABEL = r"[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?"
# "shop/web:http cluster IP", "masquerade traffic for shop/web:http external destinations"
_COMMENT = re.compile(rf"(?:^|for )({_LABEL}/{_LABEL}(?::[A-Za-z0-9-]+)?)(?= |$)")
_QUOTED = re.compile(r'--comment (?:"([^"\\]*)"|([^\s"]+))')
# kube-proxy's nftables chains: "endpoint-5OJB2KTY-shop/web/tcp/http__10.0.0.2/80"
_CHAIN = re.compile(r"[a-z]+-[A-Z0-9]{8}-([^/\s]+/[^/\s]+)/\w+/([^/\s_]*)")


def service_in_comment(comment: str) -> str:
    """Return the service port that a comment names, or ""."""
    found = _COMMENT.search(comment)
    return found[1] if found else ""


def service_in_rule(text: str) -> str:
    """Return the service port in the comment of an iptables rule, or ""."""
    found = _QUOTED.search(text)
    return service_in_comment(found[1] or found[2] or "") if found else ""


def service_in_chain(name: str) -> str:
    """Return the service port in the name of kube-proxy's nftables chain, or ""."""
    found = _CHAIN.match(name)
    if found is None:
        return ""
    return f"{found[1]}:{found[2]}" if found[2] else found[1]
