"""
Sends the lab's traffic: one attempt of a probe is one new TCP connection or one DNS query.

Sockets are opened inside the sender's namespace and then used from the caller's event loop, so
no process is needed per sender.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket

from kpctl.lab.echo import dns_query, dns_text
from kpctl.lab.netns import Namespace
from kpctl.lab.probes import Observation, Outcome, Probe

# Nothing on the way takes a millisecond; patience is for a busy machine. A drop is only seen by
# waiting, and a packet that was dropped once is sent again by TCP only after 1 s.
PATIENCE_S = 3.0
DROP_PATIENCE_S = 0.8

_RECEIVE_BYTES = 4096
_query_ids = itertools.count()


async def attempt(probe: Probe, sender: Namespace, patience_s: float | None = None) -> Observation:
    """
    Send one probe from a namespace and report what became of it.

    Args:
        probe: What to send.
        sender: The namespace to send it from.
        patience_s: How long to wait before calling it dropped; None for the usual time.

    Raises:
        OSError: The namespace is gone, or this process is out of file descriptors.
    """
    if patience_s is None:
        patience_s = DROP_PATIENCE_S if probe.outcome is Outcome.DROPPED else PATIENCE_S
    family = socket.AF_INET6 if ":" in probe.address else socket.AF_INET
    kind = socket.SOCK_DGRAM if probe.protocol == "udp" else socket.SOCK_STREAM
    with sender.socket(family, kind) as opened:
        opened.setblocking(False)
        try:
            async with asyncio.timeout(patience_s):
                line = await _exchange(probe, opened)
            own = str(opened.getsockname()[0])
            answer = json.loads(line)
            return Observation(Outcome.LANDED, answer["pod"], own, answer["source"])
        except TimeoutError:
            return Observation(Outcome.DROPPED)
        except ConnectionRefusedError:
            return Observation(Outcome.REFUSED)
        except OSError as error:
            return Observation(Outcome.FAILED, detail=os.strerror(error.errno or 0))
        except (ValueError, KeyError):
            return Observation(Outcome.FAILED, detail="the answer is not one of the lab's pods'")


async def _exchange(probe: Probe, opened: socket.socket) -> bytes:
    """Connect, ask, and return the line of JSON that the pod answers."""
    loop = asyncio.get_running_loop()
    if probe.bind is not None:
        opened.bind((probe.bind, 0))
    await loop.sock_connect(opened, (probe.address, probe.port))
    if probe.protocol == "udp":
        query = dns_query("whoami.lab", next(_query_ids) & 0xFFFF)
        await loop.sock_sendall(opened, query)
        return dns_text(await loop.sock_recv(opened, _RECEIVE_BYTES), query) or b""
    await loop.sock_sendall(opened, b"whoami\n")
    received = b""
    while not received.endswith(b"\n"):
        more = await loop.sock_recv(opened, _RECEIVE_BYTES)
        if not more:
            break
        received += more
    with contextlib.suppress(OSError):
        opened.shutdown(socket.SHUT_RDWR)
    return received


async def healthy(node: Namespace, port: int) -> bool:
    """Whether /healthz on the node answers 200 within a second."""
    loop = asyncio.get_running_loop()
    with node.socket() as opened:
        opened.setblocking(False)
        try:
            async with asyncio.timeout(1):
                await loop.sock_connect(opened, ("127.0.0.1", port))
                await loop.sock_sendall(opened, b"GET /healthz HTTP/1.0\r\n\r\n")
                head = await loop.sock_recv(opened, _RECEIVE_BYTES)
        except OSError:  # TimeoutError is one
            return False
    return head.split(b" ", 2)[1:2] == [b"200"]
