"""Flags, file and defaults together."""

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.config.defaults import default_config, with_platform_defaults
from proxy.config.file import load_text
from proxy.config.flags import parse_flags
from proxy.config.problems import FlagError, UnreadableFile
from proxy.config.resolve import Resolution, config_from_flags, resolve
from tests.support.config_cases import HEADER, cases, resolved


def run(*arguments: str, file: str | None = None) -> Resolution:
    line = list(arguments) if file is None else ["--config", "FILE", *arguments]
    return resolve(parse_flags(line), load=lambda _: load_text(file or ""))


@pytest.mark.parametrize("case", cases("defaults", "flags"))
def test_flags_become_configuration(case: dict[str, Any]) -> None:
    config = run(*case["flags"]).config
    # Laying the expected fields over the result changes nothing: they are there already.
    assert resolved(case["expect"], config) == config


@pytest.mark.parametrize("case", cases("defaults", "flagsAndFile"))
def test_flags_and_file_together(case: dict[str, Any]) -> None:
    file = json.dumps(case["config"]) if case["config"] else None
    expected = resolved(case["expect"], with_platform_defaults(default_config()))
    assert run(*case["flags"], file=file).config == expected


@pytest.mark.parametrize("case", cases("defaults", "hostnameOverride"))
def test_the_hostname_flag_wins_over_the_file(case: dict[str, Any]) -> None:
    line = (f"--hostname-override={case['flag']}",)
    file = f"{HEADER}hostnameOverride: foo\n"
    if "error" in case["expect"]:
        with pytest.raises(FlagError, match="--hostname-override: is blank"):
            run(*line, file=file)
    else:
        assert run(*line, file=file).config.hostname_override == case["expect"]["hostname"]


@pytest.mark.parametrize("case", cases("defaults", "deprecatedPortFlags"))
def test_port_flags_complete_addresses(case: dict[str, Any]) -> None:
    line = []
    for server in ("healthz", "metrics"):
        line.append(f"--{server}-bind-address={case[server]['address']}")
        line.append(f"--{server}-port={case[server]['port']}")
    config = run(*line).config
    found = {"healthz": config.healthz_bind_address, "metrics": config.metrics_bind_address}
    assert found == case["expect"]


def test_the_file_alone_decides_the_hostname_without_the_flag() -> None:
    assert run(file=f"{HEADER}hostnameOverride: foo\n").config.hostname_override == "foo"


def test_every_flag_that_a_file_makes_ignored_is_named() -> None:
    line = ("--proxy-mode=nftables", "--master=http://x", "-v=1", "--masquerade-all")
    resolution = run(*line, file=f"{HEADER}mode: ipvs\n")
    assert resolution.config.mode == "ipvs"
    assert {warning.path for warning in resolution.warnings} == {"--proxy-mode", "--masquerade-all"}
    assert "set mode in FILE instead" in str(resolution.warnings)


def test_warnings_of_the_file_and_deprecations_are_kept() -> None:
    warnings = run("--healthz-port=1", file=f"{HEADER}nonsense: 1\n").warnings
    assert [warning.kind for warning in warnings] == ["deprecated", "unknown-field", "ignored-flag"]


def test_a_gate_flag_without_effect_is_a_warning() -> None:
    (warning,) = run("--feature-gates=NFTablesProxyMode=false").warnings
    assert warning.path == "--feature-gates.NFTablesProxyMode"


@pytest.mark.parametrize(
    ("line", "sync", "minimum"),
    [
        ("--proxy-mode=nftables --iptables-sync-period=36s --ipvs-sync-period=16s", 36.0, 1.0),
        ("--proxy-mode=ipvs --iptables-sync-period=36s", 30.0, 1.0),
        ("--proxy-mode=ipvs --ipvs-min-sync-period=2s", 30.0, 2.0),
        ("--iptables-min-sync-period=0s", 30.0, 0.0),
    ],
)
def test_period_flags_of_the_mode_count(line: str, sync: float, minimum: float) -> None:
    config = run(*line.split()).config
    assert (config.sync_period_s, config.min_sync_period_s) == (sync, minimum)


def test_an_empty_address_flag_keeps_the_default() -> None:
    line = ("--bind-address=", "--healthz-bind-address=", "--metrics-bind-address=")
    assert config_from_flags(parse_flags(line)) == default_config()


def test_an_ipv6_bind_address_flag_leaves_the_servers_on_ipv4() -> None:
    config = run("--bind-address=::1").config
    assert config.bind_address == "::1"
    assert config.healthz_bind_address == "0.0.0.0:10256"


def test_port_0_switches_the_health_server_off_but_not_the_metrics_server() -> None:
    assert run("--healthz-port=0").config.healthz_bind_address == ""
    assert run("--healthz-port=0").errors == ()
    (error,) = run("--metrics-port=0").errors
    assert error.path == "metricsBindAddress"


def test_masquerade_all_counts_in_every_mode() -> None:
    for mode in ("iptables", "ipvs", "nftables"):
        assert run("--masquerade-all", f"--proxy-mode={mode}").config.masquerade_all


def test_an_empty_cluster_cidr_flag_means_none() -> None:
    resolution = run("--cluster-cidr=")
    assert (resolution.config.detect_local.cluster_cidrs, resolution.errors) == ((), ())


def test_an_invalid_configuration_resolves_with_its_errors() -> None:
    (error,) = run("--iptables-masquerade-bit=99").errors
    assert error.path == "iptables.masqueradeBit"


def test_a_missing_file_is_an_environment_error(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile):
        resolve(parse_flags([f"--config={tmp_path / 'absent'}"]))


def test_the_flags_of_every_table_of_the_manual_resolve() -> None:
    line = (
        "--proxy-mode=ipvs --kubeconfig=/k --cluster-cidr=10.244.0.0/16 --hostname-override=n "
        "--bind-address=0.0.0.0 --healthz-bind-address=0.0.0.0:10256 "
        "--metrics-bind-address=127.0.0.1:10249 --iptables-sync-period=30s "
        "--iptables-min-sync-period=1s --iptables-masquerade-bit=14 "
        "--iptables-localhost-nodeports=true --ipvs-scheduler=rr --ipvs-sync-period=30s "
        "--ipvs-min-sync-period=2s --ipvs-strict-arp=false --ipvs-tcp-timeout=0 "
        "--ipvs-tcpfin-timeout=0 --ipvs-udp-timeout=0 --ipvs-exclude-cidrs=10.9.0.0/16 "
        "--nodeport-addresses=10.0.0.0/8"
    )
    resolution = run(*line.split())
    assert (resolution.errors, resolution.warnings) == ((), ())
    assert resolution.config.ipvs.exclude_cidrs == ("10.9.0.0/16",)
