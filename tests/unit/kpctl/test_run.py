"""``kpctl run`` as its users start and end it; each test has a network namespace of its own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.kpctl_process import CONFIG, KpctlNode, kpctl_node, service, web
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces: run as root"),
]
NOBODY = ("setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
OURS = {"table ip kube-proxy", "table ip6 kube-proxy"}


@pytest.fixture
def node():
    with TemporaryDirectory(prefix="kpctl-test-") as name:  # unlike tmp_path, for all users
        directory = Path(name)
        directory.chmod(0o777)
        with kpctl_node(directory) as made:
            yield made


def only_line(text: str) -> str:
    """Return the one line of *text*."""
    [line] = text.strip().splitlines()
    return line


# -- answers without a proxy -----------------------------------------------------------------------


def test_help_lists_the_flags(node: KpctlNode) -> None:
    done = node.run("--help")
    assert done.returncode == 0
    assert "--nodeport-addresses" in done.stdout
    assert "--manifests" in done.stdout
    assert done.stderr == ""


def test_version_is_kube_proxys(node: KpctlNode) -> None:
    done = node.run("--version")
    assert done.returncode == 0
    assert only_line(done.stdout).startswith("Kubernetes v1.")


@pytest.mark.parametrize("before", [(), NOBODY])
def test_the_configuration_can_be_written_by_anybody(node: KpctlNode, before) -> None:
    target = node.config.with_name("written.yaml")
    done = node.run("--config", str(node.config), "--write-config-to", str(target), before=before)
    assert done.returncode == 0, done.stderr
    assert "mode: nftables" in target.read_text()
    assert node.tables() == set()


def test_a_place_that_cannot_be_written_is_named(node: KpctlNode) -> None:
    done = node.run("--write-config-to", "/proc/absent/file.yaml")
    assert done.returncode == 4
    assert "cannot write /proc/absent/file.yaml: No such file or directory" in only_line(
        done.stderr
    )


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--bogus", "--bogus: unknown flag"),
        ("--v=abc", "--v: expected an integer"),
        ("--config", "--config: "),
        ("--iptables-sync-period=5", "--iptables-sync-period: "),
    ],
)
def test_a_wrong_flag_is_a_usage_error(node: KpctlNode, flag, says) -> None:
    done = node.run(flag)
    assert done.returncode == 2
    assert says in done.stderr.splitlines()[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mode: warp", "mode: "),
        ("iptables: {masqueradeBit: 99}", "iptables.masqueradeBit: "),
        ("configSyncPeriod: soon", "configSyncPeriod: "),
        ("mode: [nftables", "config.yaml: "),
        ("nodePortAddresses: [10.0.0.0/99]", "nodePortAddresses"),
    ],
)
def test_a_wrong_configuration_is_refused_with_the_place(node: KpctlNode, text, says) -> None:
    node.config.write_text(CONFIG.replace("mode: nftables\n", "") + text + "\n")
    done = node.run("--config", str(node.config), "--manifests", str(node.manifests))
    assert done.returncode == 1
    problems = [line for line in done.stderr.splitlines() if '"command failed"' in line]
    assert len(problems) == 1, done.stderr
    assert says in problems[0]
    assert "Traceback" not in done.stderr
    assert node.tables() == set()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--config", "/absent.yaml"), "/absent.yaml"),
        (("--manifests", "/absent"), "/absent: No such file or directory; check --manifests"),
        (("--kubeconfig", "/absent.conf", "--conntrack-max-per-core=0"), "/absent.conf"),
    ],
)
def test_a_missing_file_is_named(node: KpctlNode, flags, says) -> None:
    # A configuration file would outweigh --kubeconfig.
    config = ("--config", str(node.config)) if "--manifests" in flags else ()
    done = node.run(*config, *flags)
    assert done.returncode == 1
    assert says in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("flag", ["--init-only", "--cleanup", "--v=1"])
def test_without_net_admin_the_missing_right_is_named(node: KpctlNode, flag) -> None:
    source = ("--config", str(node.config), "--manifests", str(node.manifests))
    done = node.run(flag, *source, before=NOBODY)
    assert done.returncode == 4
    assert "CAP_NET_ADMIN" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_init_only_makes_settings_and_no_table(node: KpctlNode) -> None:
    done = node.run("--config", str(node.config), "--init-only")
    assert done.returncode == 0
    assert "--init-only" in done.stderr
    assert node.tables() == set()
    close_wait = node.namespace.sysctl("net.netfilter.nf_conntrack_tcp_timeout_close_wait")
    assert close_wait.strip() == "3600"


def test_cleanup_deletes_only_the_proxys_tables(node: KpctlNode) -> None:
    node.nft_script("table ip kube-proxy { }\ntable ip6 kube-proxy { }\ntable inet kube-proxy { }")
    node.nft_script("table ip firewall { }")
    done = node.run("--cleanup")
    assert done.returncode == 0
    assert node.tables() == {"table inet kube-proxy", "table ip firewall"}
    assert node.run("--cleanup").returncode == 0


@pytest.mark.parametrize("before", [(), NOBODY])
def test_a_dry_run_prints_what_nft_accepts_and_writes_nothing(node: KpctlNode, before) -> None:
    node.write("web.json", *web(), service("empty", "10.96.0.2"))
    source = ("--config", str(node.config), "--manifests", str(node.manifests))
    done = node.run("--dry-run", *source, before=before)
    assert done.returncode == 0, done.stderr
    assert node.tables() == set()
    assert '10.96.0.1 . tcp . 80 comment "ns/web"' in done.stdout
    node.namespace.run(["nft", "-c", "-f", "-"], stdin=done.stdout)
    assert node.tables() == set()
    node.nft_script(done.stdout)
    assert node.vips() == {"10.96.0.1"}


# -- a running proxy -------------------------------------------------------------------------------


def test_sigterm_ends_it_and_the_rules_stay(node: KpctlNode) -> None:
    node.write("web.json", *web())
    with node.running() as proxy:
        proxy.wait_for_vips("10.96.0.1")
        assert proxy.terminate() == 0
        assert "Traceback" not in proxy.log()
    assert node.tables() == OURS
    assert node.vips() == {"10.96.0.1"}


def test_sigterm_ends_it_while_it_waits_for_the_api_server(node: KpctlNode) -> None:
    with node.running(source=("--master", "http://127.0.0.1:9")) as proxy:
        proxy.wait_for_log("127.0.0.1:9")
        assert proxy.terminate() == 0
        assert "Traceback" not in proxy.log()


def test_manifests_are_followed(node: KpctlNode) -> None:
    node.write("web.json", *web())
    with node.running() as proxy:
        proxy.wait_for_vips("10.96.0.1")
        node.write("more.json", *web("more", "10.96.0.2"))
        proxy.wait_for_vips("10.96.0.1", "10.96.0.2")
        (node.manifests / "web.json").unlink()
        proxy.wait_for_vips("10.96.0.2")


def test_a_changed_configuration_file_ends_it(node: KpctlNode) -> None:
    with node.running() as proxy:
        proxy.wait_for_log("Services are served")
        node.config.write_text(CONFIG + "clusterCIDR: 10.0.0.0/8\n")
        assert proxy.wait() == 1
        assert "configuration file was updated" in proxy.log()
    assert node.tables() == OURS


def test_health_metrics_and_debug_pages_answer(node: KpctlNode) -> None:
    node.write("web.json", *web())
    with node.running() as proxy:
        proxy.wait_for_vips("10.96.0.1")
        eventually(lambda: node.get("/livez", 10256)[0] == 200)
        assert node.get("/proxyMode", 10249) == (200, "nftables")
        assert "kubeproxy_sync_proxy_rules_duration_seconds_count" in node.get("/metrics", 10249)[1]
        status, why = node.get("/debug/why/ns/web", 10249)
        assert status == 200
        assert json.loads(why)["families"]["IPv4"]["ports"]["TCP"]["inKernel"] is True


@pytest.mark.parametrize("field", ["healthzBindAddress", "metricsBindAddress"])
def test_a_port_that_is_taken_does_not_keep_services_from_being_served(node, field) -> None:
    node.write("web.json", *web())
    node.config.write_text(CONFIG + f"{field}: 127.0.0.1:7777\n")
    with node.namespace.socket() as taken:
        taken.bind(("127.0.0.1", 7777))
        taken.listen()
        with node.running() as proxy:
            proxy.wait_for_vips("10.96.0.1")
            proxy.wait_for_log("127.0.0.1:7777")
            assert "address already in use" in proxy.log()
            taken.close()
            path = "/livez" if field.startswith("healthz") else "/proxyMode"

            def answers() -> bool:
                try:
                    return node.get(path, 7777)[0] == 200
                except OSError:
                    return False

            proxy.wait_until(answers, "the port is not taken over when it is free")


@pytest.mark.parametrize("field", ["healthzBindAddress", "metricsBindAddress"])
def test_a_port_that_is_taken_is_fatal_when_asked_for(node: KpctlNode, field) -> None:
    node.config.write_text(CONFIG + f"{field}: 127.0.0.1:7777\nbindAddressHardFail: true\n")
    with node.namespace.socket() as taken:
        taken.bind(("127.0.0.1", 7777))
        taken.listen()
        with node.running() as proxy:
            assert proxy.wait() == 1
            last = proxy.log().strip().splitlines()[-1]
            assert "command failed" in last
            assert "127.0.0.1:7777" in last
            assert "Traceback" not in proxy.log()


# -- malformed objects -----------------------------------------------------------------------------

MALFORMED = {
    "a port of the wrong type": ({"ports": "eighty"}, "ports"),
    "an absurd port": (
        {"ports": [{"port": 99999, "protocol": "TCP"}]},
        "spec.ports[0].port: 99999",
    ),
    "a negative port": ({"ports": [{"port": -1, "protocol": "TCP"}]}, "spec.ports[0].port: -1"),
    "an unknown protocol": (
        {"ports": [{"port": 80, "protocol": "QUIC"}]},
        "spec.ports[0].protocol: 'QUIC'",
    ),
    "an address that is none": ({"clusterIP": "10.96.0.999"}, "10.96.0.999"),
    "an unknown affinity": ({"sessionAffinity": "Cookie"}, "spec.sessionAffinity: 'Cookie'"),
    "an unknown policy": ({"internalTrafficPolicy": "Zone"}, "internalTrafficPolicy: 'Zone'"),
    "an absurd time-out": (
        {
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10**9}},
        },
        "timeoutSeconds: 1000000000",
    ),
    "a source range that is none": (
        {"loadBalancerSourceRanges": ["everybody"]},
        "loadBalancerSourceRanges[0]: 'everybody'",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_service_is_reported_and_all_others_are_served(node: KpctlNode, case) -> None:
    spec, says = MALFORMED[case]
    node.write("bad.json", service("bad", "10.96.0.66", **spec))
    node.write("web.json", *web())
    with node.running() as proxy:
        proxy.wait_for_vips("10.96.0.1")
        proxy.wait_for_log(says)
        line = next(line for line in proxy.log().splitlines() if says in line)
        assert "ns/bad" in line
        assert "Traceback" not in proxy.log()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("bad.yaml", "kind: Service\nmetadata: {name: a\n", "bad.yaml"),
        ("bad.json", '{"kind": "Service", ', "bad.json"),
        ("bad.yaml", "kind: Service\nmetadata: {name: a, name: b}\n", "bad.yaml"),
        ("bad.yaml", "- just\n- a list\n", "bad.yaml"),
        ("bad.yaml", "apiVersion: v1\nkind: Service\nspec: {}\n", "bad.yaml"),
    ],
)
def test_a_malformed_file_is_reported_and_all_others_are_served(node, name, text, says) -> None:
    node.write(name, text)
    node.write("web.json", *web())
    with node.running() as proxy:
        proxy.wait_for_vips("10.96.0.1")
        proxy.wait_for_log(says)
        assert "Traceback" not in proxy.log()


def test_a_thousand_endpoints_in_a_slice_are_served(node: KpctlNode) -> None:
    from tests.support.kpctl_process import endpoint_slice

    addresses = [f"10.180.{n // 250}.{n % 250 + 1}" for n in range(1000)]
    big = service("big", "10.96.0.9", type="NodePort", sessionAffinity="ClientIP")
    node.write("big.json", big, endpoint_slice("big", *addresses))
    node.write("web.json", *web())
    with node.running() as proxy:
        proxy.wait_for_vips("10.96.0.1", "10.96.0.9")
        assert len(node.nft.elements("kube-proxy", "endpoints")) == 1001
        assert "E1" not in [line[:2] for line in proxy.log().splitlines()]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"addressType": "FQDN"}, ""),
        ({"addressType": "Carrier"}, ""),
        ({"endpoints": [{"addresses": ["10.180.0.999"]}]}, "10.180.0.999"),
        ({"endpoints": {"addresses": []}}, "endpoints"),
        ({"ports": [{"name": "", "port": 99999, "protocol": "TCP"}]}, "99999"),
        ({"endpoints": [{"addresses": ["10.180.0.1"], "conditions": "fine"}]}, "conditions"),
    ],
)
def test_a_malformed_slice_is_reported_and_all_others_are_served(node, fields, says) -> None:
    from tests.support.kpctl_process import endpoint_slice

    node.write("bad.json", service("bad", "10.96.0.66"), endpoint_slice("bad", **fields))
    node.write("web.json", *web())
    with node.running() as proxy:
        proxy.wait_for_vips("10.96.0.1")
        proxy.wait_for_log(says)
        assert "Traceback" not in proxy.log()
