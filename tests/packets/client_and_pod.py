"""A node between a client and a pod, without a proxy: rules are what a test loads."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

from kpctl.lab.netns import Namespace, create_all, delete_all, link

CLIENT, POD, VIP, NODE = "10.0.2.2", "10.0.1.2", "10.96.0.10", "10.0.2.1"

NFT_RULES = """
table ip proxy {
  map services { type ipv4_addr . inet_service : verdict; elements = { 10.96.0.10 . 80 : goto lb } }
  chain prerouting {
    type nat hook prerouting priority -100
    ip daddr . tcp dport vmap @services
  }
  chain output {
    type nat hook output priority -100
    ip daddr . tcp dport vmap @services
  }
  chain lb {
    meta mark set 0x4000 meta l4proto tcp dnat to 10.0.1.2:8080 comment "shop/web:http"
  }
  chain postrouting {
    type nat hook postrouting priority 100
    meta mark 0x4000 masquerade
  }
}
table inet firewall {
  chain forward {
    type filter hook forward priority 0; policy accept;
    tcp dport 81 drop
    tcp dport 82 reject with tcp reset
  }
}
"""
IPTABLES_RULES = """*nat
-A PREROUTING -d 10.96.0.10 -p tcp --dport 80 -m comment --comment "shop/web:http" -j DNAT --to-destination 10.0.1.2:8080
COMMIT
*filter
-A FORWARD -p tcp --dport 81 -j DROP
COMMIT
"""  # noqa: E501 - as iptables-save writes it


class Net:
    """A node between a client and a pod, which listens on TCP 8080 and answers on UDP 9000."""

    def __init__(self, name: str) -> None:
        self.node, self.client, self.pod = (Namespace(f"{name}{end}") for end in "ncp")
        self._sockets: list[socket.socket] = []

    @property
    def all(self) -> list[Namespace]:
        return [self.node, self.client, self.pod]

    def up(self) -> None:
        create_all(self.all)
        for number, (other, device) in enumerate(((self.pod, "pod"), (self.client, "eth0")), 1):
            link(self.node, device, other, "uplink")
            self.node.ip([f"addr add 10.0.{number}.1/24 dev {device}"])
            other.ip(
                [
                    f"addr add 10.0.{number}.2/24 dev uplink",
                    f"route add default via 10.0.{number}.1",
                ]
            )
        self.node.ip(["route add 10.96.0.0/16 dev pod"])
        self.node.set_sysctls({"net.ipv4.ip_forward": "1"})
        listening = self.pod.socket()
        listening.bind((POD, 8080))
        listening.listen(64)
        answering = self.pod.socket(kind=socket.SOCK_DGRAM)
        answering.bind((POD, 9000))
        self._sockets += [listening, answering]
        threading.Thread(target=_echo, args=(answering,), daemon=True).start()

    def down(self) -> None:
        for opened in self._sockets:
            with closing(opened):
                _wake(opened)
        delete_all(self.all)

    def call(self, address: str = VIP, port: int = 80) -> None:
        """Try to open a connection from the client."""
        with self.client.socket() as opened:
            opened.settimeout(0.3)
            opened.connect_ex((address, port))

    @contextmanager
    def calling(self, address: str = VIP, port: int = 80) -> Iterator[None]:
        """Open connections all the time."""
        ended = threading.Event()

        def calls() -> None:
            while not ended.wait(0.05):
                self.call(address, port)

        thread = threading.Thread(target=calls)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _echo(answering: socket.socket) -> None:
    while True:
        try:
            data, peer = answering.recvfrom(100)
        except OSError:
            return
        if not data:
            return
        answering.sendto(data, peer)


def _wake(opened: socket.socket) -> None:
    if opened.type is socket.SOCK_DGRAM:
        opened.sendto(b"", opened.getsockname())
