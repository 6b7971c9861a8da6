"""``kpctl run --dry-run`` prints what would be written, needs nothing, and ends."""

from __future__ import annotations

import io
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kpctl import dry_run as module
from kpctl.dry_run import dry_run
from kpctl.exit_codes import ENVIRONMENT, OK
from proxy.backends.iptables import names
from proxy.config.defaults import default_config
from proxy.config.types import IPTABLES
from proxy.model.addresses import IPFamily
from proxy.runtime.logs import LogSettings, setup_logging
from tests.support.fake_iptables import FakeIptables
from tests.support.kpctl_process import service, web

V4, V6 = IPFamily.IPV4, IPFamily.IPV6
CONFIG = replace(default_config(), mode=IPTABLES, hostname_override="node-0")


@pytest.fixture(autouse=True)
def log():
    made = io.StringIO()
    setup_logging(LogSettings(), made)
    yield made
    setup_logging(LogSettings())


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    body = {"kind": "List", "apiVersion": "v1", "items": [*web(), service("none", "10.96.0.2")]}
    (tmp_path / "web.json").write_text(json.dumps(body))
    return tmp_path


def sections(text: str) -> dict[str, str]:
    """The restore input of each family."""
    parts = text.split("# ip")[1:]
    return {part.partition("\n")[0].rpartition(" ")[2]: part.partition("\n")[2] for part in parts}


@pytest.mark.usefixtures("nothing_installed")
def test_iptables_rules_of_a_fresh_start_are_printed_for_each_family(
    manifests, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(module, "supported_families", lambda: (V4, V6))
    assert dry_run(CONFIG, "", manifests) == OK
    text = capsys.readouterr().out
    assert text.startswith("# iptables-restore --noflush, IPv4\n*")
    assert "\n# ip6tables-restore --noflush, IPv6\n*" in text
    printed = sections(text)
    kernel = FakeIptables()
    kernel.restore(printed["IPv4"])
    assert kernel.leads_to(names.SERVICES) == {"10.180.0.1:8080"}
    assert any("ns/none" in rule for rule in kernel.rules("filter", names.SERVICES))
    assert kernel.rules("nat", "OUTPUT")
    FakeIptables().restore(printed["IPv6"])
    assert "10.180.0.1" not in printed["IPv6"]


def test_an_api_server_that_does_not_answer_is_named_and_ends_it(log, capsys) -> None:
    started = time.monotonic()
    assert dry_run(CONFIG, "http://127.0.0.1:9", None, patience_s=0.5) == ENVIRONMENT
    assert time.monotonic() - started < 10
    *_, last = log.getvalue().splitlines()
    assert last.startswith("E")
    assert "the API server at http://127.0.0.1:9 did not list" in last
    assert "within 0.5 s" in last
    assert all(word in last for word in ("Service", "EndpointSlice", "Node", "--manifests"))
    assert capsys.readouterr().out == ""


def test_the_server_of_a_kubeconfig_is_named(log, tmp_path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    cluster = {"name": "c", "cluster": {"server": "https://127.0.0.1:9"}}
    context = {"name": "x", "context": {"cluster": "c"}}
    content = {"clusters": [cluster], "contexts": [context], "current-context": "x"}
    kubeconfig.write_text(json.dumps(content))
    connection = replace(CONFIG.client_connection, kubeconfig=str(kubeconfig))
    config = replace(CONFIG, client_connection=connection)
    assert dry_run(config, "", None, patience_s=0.5) == ENVIRONMENT
    assert "the API server at https://127.0.0.1:9 did not list" in log.getvalue()
