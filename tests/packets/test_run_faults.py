"""``kpctl run`` when the API server or the kernel's tables are not as they should be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import stub_objects
from tests.support.apiserver import ApiServer
from tests.support.faults import body, status, stream
from tests.support.kpctl_process import KpctlNode, Running, kpctl_node, web

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]
WEB, OTHER = stub_objects.service_ip(0), stub_objects.service_ip(1)


@pytest.fixture
def node(tmp_path):
    with kpctl_node(tmp_path) as made:
        yield made


class Cluster:
    """A stub API server inside the node's namespace, and the kubeconfig that leads to it."""

    def __init__(self, node: KpctlNode, directory: Path) -> None:
        self.api = ApiServer()
        self.token = directory / "token"
        self.kubeconfig = directory / "kubeconfig"
        self.token.write_text("good")
        self._node = node
        self.api.store.put("nodes", stub_objects.node("node-0"))
        self.api.store.put("servicecidrs", stub_objects.service_cidr())
        self.add("web", WEB)

    def add(self, name: str, ip: str) -> None:
        self.api.store.put("services", stub_objects.service(name, cluster_ip=ip))
        self.api.store.put("endpointslices", stub_objects.endpoint_slice(name, ["10.180.0.1"]))

    def start(self) -> None:
        with self._node.namespace.enter():
            self.api.start()

    @contextmanager
    def followed(self) -> Iterator[Running]:
        """``kpctl run`` with this cluster as its source."""
        self.kubeconfig.write_text(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n"
            f"clusters:\n- name: c\n  cluster: {{server: {self.api.url!r}}}\n"
            "contexts:\n- name: test\n  context: {cluster: c, user: u}\n"
            f"users:\n- name: u\n  user: {{tokenFile: {str(self.token)!r}}}\n"
        )
        with self._node.config.open("a") as config:
            config.write(f"clientConnection: {{kubeconfig: {str(self.kubeconfig)!r}}}\n")
        with self._node.running(source=()) as proxy:
            yield proxy
            assert "Traceback" not in proxy.log()


@pytest.fixture
def cluster(node, tmp_path):
    made = Cluster(node, tmp_path)
    made.start()
    yield made
    made.api.stop()


# -- the API server --------------------------------------------------------------------------------


def test_services_and_changes_of_a_cluster_are_served(node, cluster) -> None:
    with cluster.followed() as proxy:
        proxy.wait_for_vips(WEB)
        cluster.add("other", OTHER)
        proxy.wait_for_vips(WEB, OTHER)
        cluster.api.store.delete("services", "default", "web")
        proxy.wait_for_vips(OTHER)
        assert proxy.terminate() == 0


def test_an_api_server_that_is_down_at_the_start_is_waited_for(node, cluster) -> None:
    cluster.api.stop()
    with cluster.followed() as proxy:
        proxy.wait_for_log(f"127.0.0.1:{cluster.api.port}")
        assert node.tables() == set()
        cluster.start()
        proxy.wait_for_vips(WEB)


def test_rules_stay_while_the_api_server_is_lost_and_what_was_missed_is_made_up(
    node, cluster
) -> None:
    with cluster.followed() as proxy:
        proxy.wait_for_vips(WEB)
        cluster.api.stop()
        proxy.wait_for_log("refused")
        assert node.vips() == {WEB}
        cluster.add("other", OTHER)
        cluster.api.store.delete("services", "default", "web")
        cluster.api.store.compact()
        cluster.start()
        proxy.wait_for_vips(OTHER)


def test_the_table_is_repaired_while_the_api_server_is_lost(node, cluster) -> None:
    with cluster.followed() as proxy:
        proxy.wait_for_vips(WEB)
        cluster.api.stop()
        node.nft_script("delete table ip kube-proxy")
        proxy.wait_for_vips(WEB)


def test_an_expired_token_is_named_and_its_successor_used(node, cluster) -> None:
    cluster.api.tokens = {"good"}
    with cluster.followed() as proxy:
        proxy.wait_for_vips(WEB)
        cluster.api.tokens = {"renewed"}
        cluster.api.cut_connections()
        proxy.wait_for_log("does not accept the credentials (Unauthorized)")
        assert node.vips() == {WEB}
        cluster.add("other", OTHER)
        cluster.token.write_text("renewed")
        proxy.wait_for_vips(WEB, OTHER)


@pytest.mark.parametrize("verb", ["list", "watch"])
@pytest.mark.parametrize(
    ("plural", "group"), [("services", ""), ("endpointslices", "discovery.k8s.io")]
)
def test_a_missing_right_is_named_with_verb_and_resource(
    node, cluster, verb, plural, group
) -> None:
    cluster.api.script(plural, verb, status(403, "forbidden"), times=3)
    with cluster.followed() as proxy:
        proxy.wait_for_log(f"not allowed to {verb} {plural}: grant the verbs list and watch")
        line = next(line for line in proxy.log().splitlines() if "not allowed" in line)
        assert f'on resource {plural} in API group \\"{group}\\"' in line
        proxy.wait_for_vips(WEB)


@pytest.mark.parametrize(
    "fault",
    [status(500), status(429, Retry_After="1"), body(b"<html>sorry</html>"), body(b'{"kind": ')],
)
def test_a_list_that_fails_is_asked_for_again(node, cluster, fault) -> None:
    cluster.api.script("services", "list", fault, times=2)
    with cluster.followed() as proxy:
        proxy.wait_for_vips(WEB)
        assert len(cluster.api.requests("services", "list")) >= 3


@pytest.mark.parametrize("fault", [stream(b"garbage\n"), stream(b'{"type":', end=False)])
def test_a_watch_that_breaks_costs_nothing(node, cluster, fault) -> None:
    cluster.api.script("services", "watch", fault, times=2)
    with cluster.followed() as proxy:
        proxy.wait_for_vips(WEB)
        proxy.wait_until(
            lambda: len(cluster.api.requests("services", "watch")) >= 3, "no further watch"
        )
        cluster.add("other", OTHER)
        proxy.wait_for_vips(WEB, OTHER)


def test_a_service_that_cannot_be_decoded_does_not_harm_the_others(node, cluster) -> None:
    bad = stub_objects.service("bad", cluster_ip="10.96.0.99")
    bad["spec"]["ports"] = "eighty"
    cluster.api.store.put("services", bad)
    with cluster.followed() as proxy:
        proxy.wait_for_vips(WEB)
        proxy.wait_for_log("default/bad")
        cluster.add("other", OTHER)
        proxy.wait_for_vips(WEB, OTHER)


# -- the kernel's tables ---------------------------------------------------------------------------

SERVICE = "element ip kube-proxy service-ips { 10.96.0.1 . tcp . 80 }"
FOREIGN = {
    "the table is deleted": "delete table ip kube-proxy",
    "everything is flushed": "flush ruleset",
    "all rules are flushed": "flush table ip kube-proxy",
    "the table is switched off": "table ip kube-proxy { flags dormant; }",
    "an element is deleted": f"delete {SERVICE}",
    "an element leads elsewhere": (
        f"delete {SERVICE}\nadd element ip kube-proxy service-ips {{ 10.96.0.1 . tcp . 80 : drop }}"
    ),
    "a rule is added in front": "insert rule ip kube-proxy services drop",
    "a set has another type": (
        "flush chain ip kube-proxy cluster-ips-check\n"
        "delete set ip kube-proxy cluster-ips\n"
        "add set ip kube-proxy cluster-ips { type ipv4_addr . inet_service; }"
    ),
    "a map has another type": (
        "flush table ip kube-proxy\nflush map ip kube-proxy service-ips\n"
        "delete map ip kube-proxy service-ips\n"
        "add map ip kube-proxy service-ips { type ipv4_addr : verdict; }"
    ),
    "a base chain is an ordinary one": (
        "flush chain ip kube-proxy nat-output\ndelete chain ip kube-proxy nat-output\n"
        "add chain ip kube-proxy nat-output"
    ),
    "a base chain drops by default": "chain ip kube-proxy filter-forward { policy drop; }",
    "a foreign chain drops everything": (
        "table ip kube-proxy {\nchain evil {\n"
        "type filter hook forward priority 0; policy drop;\n}\n}"
    ),
}


def listing(node: KpctlNode) -> str:
    """The table as people see it, without what changes by itself."""
    return node.namespace.run(
        ["nft", "-s", "list", "table", "ip", "kube-proxy"], check=False
    ).stdout


@pytest.mark.parametrize("edit", FOREIGN)
def test_a_foreign_edit_is_repaired_and_told(node: KpctlNode, edit: str) -> None:
    node.write("web.json", *web())
    with node.running() as proxy:
        proxy.wait_for_vips("10.96.0.1")
        proxy.wait_for_log("Services are served")
        before = listing(node)
        assert "cluster-ips-check" in before
        node.nft_script(FOREIGN[edit])
        proxy.wait_for_log("Another program changed the proxy's nftables table")
        proxy.wait_until(
            lambda: sorted(listing(node).splitlines()) == sorted(before.splitlines()),
            f"{edit}, and it stays so",
        )
        assert 'by="nft[' in proxy.log()
        assert "Traceback" not in proxy.log()


def test_two_programs_that_edit_in_turn_do_not_eat_the_cpu(node: KpctlNode) -> None:
    node.write("web.json", *web())
    with node.running("--v=2") as proxy:
        proxy.wait_for_vips("10.96.0.1")
        proxy.wait_for_log("Services are served")
        for _ in range(20):
            node.nft_script("insert rule ip kube-proxy services counter")
        proxy.wait_until(lambda: "counter" not in listing(node), "the foreign rules stay")
        restates = proxy.log().count('ipFamily="IPv4" fullSync=true')
        assert restates <= 6
