"""``kpctl run`` in mode ipvs on a kernel without IPVS: one message that says it all."""

from __future__ import annotations

import io

import pytest

from kpctl import node_proxy
from kpctl.exit_codes import ENVIRONMENT
from kpctl.node_proxy import Options, run
from kpctl.planes import ipvs as plane
from proxy.config.flags import parse_flags
from proxy.config.resolve import resolve
from proxy.kernel.ipvs import IpvsMissing
from proxy.runtime.logs import LogSettings, setup_logging


@pytest.fixture
def log():
    made = io.StringIO()
    setup_logging(LogSettings(), made)
    yield made
    setup_logging(LogSettings())


def test_a_kernel_without_ipvs_gets_one_message(monkeypatch, tmp_path, log) -> None:
    def missing() -> None:
        raise IpvsMissing

    monkeypatch.setattr(plane, "NetlinkIpvs", missing)
    monkeypatch.setattr(node_proxy, "_has_rights", lambda: True)
    monkeypatch.setattr(node_proxy, "_apply_conntrack_settings", lambda _: None)
    monkeypatch.setattr(node_proxy, "set_oom_score_adj", lambda _: "")
    config = resolve(parse_flags(("--proxy-mode=ipvs", "--hostname-override=here"))).config
    assert run(config, Options(manifests=tmp_path)) == ENVIRONMENT
    [line] = log.getvalue().splitlines()
    for part in (
        "the kernel has no IPVS",
        "modprobe -a ip_vs ip_vs_rr",
        "ip_set",
        "/etc/modules-load.d/",
        "deprecated mode ipvs since Kubernetes 1.35",
        "refuse it by default from 1.40",
        "mode nftables",
    ):
        assert part in line
    assert "Errno" not in line
