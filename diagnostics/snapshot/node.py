"""
NodeSnapshot: everything that is known of one node, each part read when it is first asked for.

A part is a value or a Gap. Nothing ever turns a gap into "there is none".
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar, cast

from diagnostics.readers.addresses import Links, read_links
from diagnostics.readers.conntrack import Flow, read_flows
from diagnostics.readers.ipset import IpSets, read_ipset
from diagnostics.readers.ipvs import IpvsTable, read_ipvsadm_save
from diagnostics.readers.ipvs_list import read_ipvsadm_list
from diagnostics.readers.problems import LineProblem
from diagnostics.readers.recent import RecentLists, read_recent
from diagnostics.readers.routes import RouteEntry, RuleEntry, read_routes, read_rules
from diagnostics.readers.routing import Routing
from diagnostics.readers.sysctl import Sysctls, read_sysctl
from diagnostics.snapshot.mode import ModeGuess, guess_mode
from diagnostics.snapshot.parts import OBJECT_PARTS, Gap, Part, gap
from diagnostics.snapshot.source import Content, PartSource
from proxy.model.addresses import IPFamily
from proxy.model.node import read_node

if TYPE_CHECKING:
    from diagnostics.iptables.model import Ruleset
    from diagnostics.nftables.model import NftRuleset
    from diagnostics.nftables.native import NativeRules
    from diagnostics.readers.objects import ClusterObjects
    from proxy.config.types import ProxyConfig

T = TypeVar("T")
_INSTEAD = ((Part.NFT_JSON, Part.NFT_TEXT), (Part.IPVS, Part.IPVS_LIST))
_OF_PROXY = b"KUBE-"
_RULES_OF = {IPFamily.IPV4: Part.IPTABLES, IPFamily.IPV6: Part.IP6TABLES}


class NodeSnapshot:
    """
    One node; immutable, and may be used by several threads.

    Args:
        source: Where the parts come from; asked for each part once.
        name: The node's name, "" to find it in the parts.
        notes: What was found odd before, for the user.
    """

    def __init__(self, source: PartSource, name: str = "", notes: tuple[str, ...] = ()) -> None:
        self._source = source
        self._given_name = name
        self._notes = notes
        self._values: dict[object, object] = {}
        self._lock = threading.RLock()

    def _once(self, key: object, make: Callable[[], T]) -> T:
        with self._lock:
            if key not in self._values:
                self._values[key] = make()
            return cast(T, self._values[key])

    # Raw parts.

    @property
    def source(self) -> PartSource:
        """Where the parts come from."""
        return self._source

    def contents(self, part: Part) -> tuple[Content, ...] | Gap:
        """Return the files of a part as they are."""
        return self._once(part, lambda: self._source.read(part))

    def text(self, part: Part) -> str | Gap:
        """Return the text of a part, that of several files one after the other."""
        found = self.contents(part)
        if isinstance(found, Gap):
            return found
        return "\n".join(content.data.decode("utf-8", "replace") for content in found)

    def _parsed(self, key: str, part: Part, parse: Callable[[str], T]) -> T | Gap:
        def make() -> T | Gap:
            text = self.text(part)
            return text if isinstance(text, Gap) else parse(text)

        return self._once(key, make)

    # The kernel.

    def iptables(self, family: IPFamily) -> Ruleset | Gap:
        """Return the iptables rules of one family; of two backends those with the proxy's."""
        found = self.rulesets(family)
        return found if isinstance(found, Gap) else found[0]

    def rulesets(self, family: IPFamily) -> tuple[Ruleset, ...] | Gap:
        """Return the rules of each backend that there is a dump of, that with the proxy's first."""
        from diagnostics.iptables.save import read_save

        contents = self.contents(_RULES_OF[family])
        if isinstance(contents, Gap):
            return contents

        def make() -> tuple[Ruleset, ...]:
            found: dict[str, Ruleset] = {}
            for content in sorted(contents, key=lambda one: -one.data.count(_OF_PROXY)):
                read = read_save(content.data.decode("utf-8", "replace"))
                found.setdefault(read.backend or content.name, read)
            return tuple(found.values())

        return self._once(f"rulesets {family}", make)

    def nft(self) -> NftRuleset | Gap:
        """Return the nftables ruleset, from JSON if there is any, or a Gap."""
        from diagnostics.nftables.json_reader import read_json
        from diagnostics.nftables.text_reader import read_text

        def make() -> NftRuleset | Gap:
            text = self.text(Part.NFT_JSON)
            if not isinstance(text, Gap):
                return read_json(text)
            listing = self.text(Part.NFT_TEXT)
            return text if isinstance(listing, Gap) else read_text(listing)

        return self._once("nft", make)

    def natives(self, family: IPFamily, table: str) -> NativeRules | None:
        """Return the rules of nft in a table of iptables, None if nft's listing is not known."""
        from diagnostics.nftables.native import TableNatives

        tables = self.nft()
        if isinstance(tables, Gap):
            return None
        found = tables.tables.get(("ip" if family is IPFamily.IPV4 else "ip6", table))
        return None if found is None else TableNatives(found)

    def ipvs(self) -> IpvsTable | Gap:
        """Return the virtual servers, with counters of connections if only the listing is there."""

        def make() -> IpvsTable | Gap:
            text = self.text(Part.IPVS)
            if not isinstance(text, Gap):
                return read_ipvsadm_save(text)
            listing = self.text(Part.IPVS_LIST)
            return text if isinstance(listing, Gap) else read_ipvsadm_list(listing)

        return self._once("ipvs", make)

    def ipvs_counters(self) -> IpvsTable | Gap:
        """Return ``ipvsadm -Ln``: connections, or with --stats packets and bytes."""
        return self._parsed("ipvs counters", Part.IPVS_LIST, read_ipvsadm_list)

    def ipsets(self) -> IpSets | Gap:
        """Return the ipsets."""
        return self._parsed("ipsets", Part.IPSET, read_ipset)

    def links(self) -> Links | Gap:
        """Return the interfaces with their addresses."""
        return self._parsed("links", Part.ADDRESSES, read_links)

    def routing(self) -> Routing | Gap:
        """
        Return what the node does with addresses; a Gap only if neither addresses nor routes
        are known. What is missing of the two makes single answers None.
        """
        return self._once("routing", self._make_routing)

    def _make_routing(self) -> Routing | Gap:
        links = self.links()
        routes: list[RouteEntry] = []
        families = set()
        rules: dict[int, list[RuleEntry]] = {}
        for version, part in ((4, Part.ROUTES), (6, Part.ROUTES6)):
            for content in self._found(part):
                read = read_routes(content.data.decode("utf-8", "replace"), version).routes
                routes += read
                families |= {version} | {route.network.version for route in read}
        for version, part in ((4, Part.RULES), (6, Part.RULES6)):
            for content in self._found(part):
                rules.setdefault(version, [])
                rules[version] += read_rules(content.data.decode("utf-8", "replace"), version).rules
        if isinstance(links, Gap) and not families:
            return links
        return Routing(None if isinstance(links, Gap) else links, routes, families, dict(rules))

    def _found(self, part: Part) -> tuple[Content, ...]:
        contents = self.contents(part)
        return () if isinstance(contents, Gap) else contents

    def sysctls(self) -> Sysctls | Gap:
        """Return the kernel settings."""
        return self._parsed("sysctls", Part.SYSCTL, read_sysctl)

    def setting(self, name: str) -> int | None:
        """Return one kernel setting, None when it is not known or no number."""
        found = self.sysctls()
        return None if isinstance(found, Gap) else found.number(name)

    def recent(self) -> RecentLists | Gap:
        """Return what ``-m recent`` remembers."""
        return self._parsed("recent", Part.RECENT, read_recent)

    def flows(self, problems: list[LineProblem] | None = None) -> Iterator[Flow] | Gap:
        """Return the connections, read while they are walked; see ``read_flows``."""
        text = self.text(Part.CONNTRACK)
        return text if isinstance(text, Gap) else read_flows(text.splitlines(), problems)

    # The cluster.

    def objects(self) -> ClusterObjects:
        """Return the API objects; a kind that is not known is None in it, see ``object_gap``."""
        from diagnostics.readers.objects import read_objects

        def make() -> ClusterObjects:
            return read_objects(
                (content.name, content.data)
                for part in Part
                if part in OBJECT_PARTS
                for content in self._found(part)
            )

        return self._once("objects", make)

    def object_gap(self, part: Part) -> Gap:
        """Return why the objects of a part are not known."""
        found = self.contents(part)
        return found if isinstance(found, Gap) else gap(part, "the file has no such objects")

    def config(self) -> ProxyConfig | Gap:
        """Return the proxy's configuration."""
        return self._once("config", self._make_config)

    def _make_config(self) -> ProxyConfig | Gap:
        from diagnostics.readers.objects import ConfigProblem, read_config

        found = self.contents(Part.CONFIG)
        if isinstance(found, Gap):
            return self._config_in_objects() or found
        try:
            return read_config(found[0].data)
        except ConfigProblem as error:
            return gap(Part.CONFIG, f"{found[0].name}: {error}", "see kpctl config validate")

    def _config_in_objects(self) -> ProxyConfig | None:
        """What ``kubectl get configmaps -A`` tells."""
        from diagnostics.readers.objects import ConfigProblem, read_config

        for content in self._found(Part.OBJECTS):
            if b"KubeProxyConfiguration" in content.data:
                try:
                    return read_config(content.data)
                except ConfigProblem:
                    continue
        return None

    # Conclusions.

    @property
    def name(self) -> str:
        """The node's name, "" when nothing tells it."""
        return self._once("name", self._find_name)

    def _find_name(self) -> str:
        if self._given_name:
            return self._given_name
        if name := _manifest_node(self.text(Part.MANIFEST)):
            return name
        config = self.config()
        if not isinstance(config, Gap) and config.hostname_override:
            return config.hostname_override
        if name := self._named_by_address():
            return name
        host = self.text(Part.HOSTNAME)
        if not isinstance(host, Gap) and host.strip():
            return host.strip()
        names = {node.metadata.name for node in self.objects().nodes or ()}
        return next(iter(names)) if len(names) == 1 else ""

    def _named_by_address(self) -> str:
        """Return the Node that has one of the addresses; hosts are often named otherwise."""
        links = self.links()
        if isinstance(links, Gap):
            return ""
        own = {str(entry.address) for _, entry in links.addresses()}
        found = {
            node.metadata.name
            for node in self.objects().nodes or ()
            if own.intersection(read_node(node).addresses)
        }
        return next(iter(found)) if len(found) == 1 else ""

    def named(self, name: str) -> NodeSnapshot:
        """Return the same node under a name that somebody told."""
        return NodeSnapshot(self._source, name, self._notes)

    def mode(self) -> ModeGuess:
        """Return which mode the node's proxy is in."""
        return self._once("mode", self._guess_mode)

    def _guess_mode(self) -> ModeGuess:
        config = self.config()
        configured = "" if isinstance(config, Gap) else config.mode
        texts = [self.text(part) for part in (Part.IPTABLES, Part.IP6TABLES)]
        known = [text for text in texts if not isinstance(text, Gap)]
        listings = [self.text(part) for part in (Part.NFT_JSON, Part.NFT_TEXT)]
        nft = next((text for text in listings if not isinstance(text, Gap)), None)
        ipvs = self.ipvs()
        has_servers = not isinstance(ipvs, Gap) and bool(ipvs.servers)
        return guess_mode(configured, "\n".join(known) if known else None, nft, has_servers)

    def families(self) -> frozenset[IPFamily]:
        """Return the families the node has addresses of, loopback and link-local ones aside."""
        links = self.links()
        if isinstance(links, Gap):
            return frozenset()
        versions = {
            entry.address.version for _, entry in links.addresses() if entry.scope == "global"
        }
        return frozenset(IPFamily.IPV4 if version == 4 else IPFamily.IPV6 for version in versions)

    def notes(self) -> tuple[str, ...]:
        """Return what was odd about the parts read so far: encodings, several dumps of a thing."""
        with self._lock:
            found = [value for key, value in self._values.items() if isinstance(key, Part)]
        contents = [one for value in found if isinstance(value, tuple) for one in value]
        return (*self._notes, *(f"{one.name}: {one.note}" for one in contents if one.note))

    def gaps(self) -> tuple[Gap, ...]:
        """Return the gaps met so far, in the order they were met."""
        with self._lock:
            met = dict(self._values)
        for part, other in _INSTEAD:
            if other in met and not isinstance(met[other], Gap):
                met.pop(part, None)  # the same thing was read from another dump
        return tuple(dict.fromkeys(value for value in met.values() if isinstance(value, Gap)))


def _manifest_node(text: str | Gap) -> str:
    import msgspec

    if isinstance(text, Gap):
        return ""
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return ""
    node = value.get("node") if isinstance(value, dict) else None
    return node if isinstance(node, str) else ""
