"""
What runs in a pod of the lab: says which pod answered, and from which address it was asked.

Runs as a program of its own, on the standard library alone and without asyncio, so that a pod is
up within some 20 ms. Every TCP connection stays open and each line of text is answered by one line
of JSON, ``{"pod": "web-1", "source": "10.244.1.9"}``; an HTTP request gets that line as its body.
A UDP datagram is answered by the same line, a DNS query (RFC 1035) by a TXT record that holds it.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import struct
import sys

_DNS_HEADER = struct.Struct("!6H")
_DNS_RESPONSE = 0x8000
_TXT = 16
_CLASS_IN = 1
_RECEIVE_BYTES = 4096


def reply(pod: str, source: str) -> bytes:
    """The answer to a peer at *source*; an IPv4 address mapped into IPv6 is shown as IPv4."""
    return json.dumps({"pod": pod, "source": source.removeprefix("::ffff:")}).encode()


def dns_query(name: str, ident: int) -> bytes:
    """A DNS query for the TXT record of *name*; *ident* is 0..65535."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    header = _DNS_HEADER.pack(ident, 0x0100, 1, 0, 0, 0)
    return header + labels + b"\0" + struct.pack("!2H", _TXT, _CLASS_IN)


def dns_answer(query: bytes, text: bytes) -> bytes | None:
    """
    The response that answers *query* by one TXT record; None if it is no well-formed DNS query.

    Args:
        query: A datagram.
        text: At most 255 bytes.

    """
    if len(query) < _DNS_HEADER.size:
        return None
    ident, flags, questions, *others = _DNS_HEADER.unpack_from(query)
    if flags & _DNS_RESPONSE or questions != 1 or others[:2] != [0, 0]:
        return None
    end = _DNS_HEADER.size
    while end < len(query) and query[end]:
        end += 1 + query[end]
    end += 1 + 4  # the root label, then type and class
    if end > len(query):
        return None
    header = _DNS_HEADER.pack(ident, _DNS_RESPONSE | flags & 0x0100 | 0x0080, 1, 1, 0, 0)
    # 0xC00C points back to the name in the question; a record that must not be cached.
    record = struct.pack("!HHHIHB", 0xC00C, _TXT, _CLASS_IN, 0, len(text) + 1, len(text)) + text
    return header + query[_DNS_HEADER.size : end] + record


def dns_text(response: bytes, query: bytes) -> bytes | None:
    """The text in a response made by :func:`dns_answer` for *query*; None if it is not one."""
    start = len(query) + 13  # behind the question: name pointer, type, class, TTL, two lengths
    if response[:2] != query[:2] or len(response) <= start:
        return None
    return response[start:]


def http_response(body: bytes) -> bytes:
    """A complete HTTP/1.0 response."""
    head = f"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body) + 1}"
    return head.encode() + b"\r\nConnection: close\r\n\r\n" + body + b"\n"


def _serve_datagram(server: socket.socket, pod: str) -> None:
    """Answer one datagram."""
    data, peer = server.recvfrom(_RECEIVE_BYTES)
    text = reply(pod, peer[0])
    server.sendto(dns_answer(data, text) or text + b"\n", peer)


def _serve_stream(connection: socket.socket, pod: str) -> bool:
    """Answer what has arrived; False when the connection is over."""
    data = connection.recv(_RECEIVE_BYTES)
    text = reply(pod, connection.getpeername()[0])
    if data.startswith((b"GET ", b"HEAD ", b"POST ")):
        connection.sendall(http_response(text))
        return False
    connection.sendall((text + b"\n") * data.count(b"\n"))
    return bool(data)


def _listen(protocol: str, port: int) -> socket.socket:
    """A socket on every address of both families."""
    kind = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}[protocol]
    server = socket.socket(socket.AF_INET6, kind)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("::", port))
    if protocol == "tcp":
        server.listen(128)
    return server


def serve(pod: str, ports: list[tuple[str, int]]) -> None:
    """Answer on the (protocol, port) pairs until killed."""
    selector = selectors.DefaultSelector()
    for protocol, port in ports:
        selector.register(_listen(protocol, port), selectors.EVENT_READ, protocol)
    while True:
        for key, _ in selector.select():
            assert isinstance(key.fileobj, socket.socket)
            try:
                _serve_ready(selector, key.fileobj, key.data, pod)
            except OSError as error:
                # One peer's reset, or an ICMP error on a UDP socket, is no reason to stop.
                sys.stderr.write(f"{pod}: {error}\n")
                if key.data == "connection":
                    selector.unregister(key.fileobj)
                    key.fileobj.close()


def _serve_ready(
    selector: selectors.BaseSelector, ready: socket.socket, role: str, pod: str
) -> None:
    """Act on one readable socket: a listener, a UDP socket or a connection."""
    if role == "udp":
        _serve_datagram(ready, pod)
    elif role == "tcp":
        connection, _ = ready.accept()
        connection.settimeout(1)
        selector.register(connection, selectors.EVENT_READ, "connection")
    elif not _serve_stream(ready, pod):
        selector.unregister(ready)
        ready.close()


def main() -> None:
    """Parse ``--pod NAME PROTOCOL:PORT…`` and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pod", required=True)
    parser.add_argument("port", nargs="+", help="tcp:8080 or udp:53")
    options = parser.parse_args()
    pairs = [text.split(":") for text in options.port]
    serve(options.pod, [(protocol, int(port)) for protocol, port in pairs])


if __name__ == "__main__":
    main()
