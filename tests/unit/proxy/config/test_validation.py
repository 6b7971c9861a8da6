"""The rules of validation, and the order of complaints."""

import json
from typing import Any

import pytest

from proxy.config.convert import replace_attribute
from proxy.config.defaults import default_config
from proxy.config.file import load_text
from proxy.config.problems import Problem
from proxy.config.types import ProxyConfig, VModule
from proxy.config.validation import (
    validate_cidr_pair,
    validate_config,
    validate_host_port,
    validate_mode,
    validate_node_port_addresses,
)
from tests.support.config_cases import cases, resolved

# Names the cases use for fields that a file calls differently.
_FILE_PATH = {
    "syncPeriod": "iptables.syncPeriod",
    "minSyncPeriod": "iptables.minSyncPeriod",
    "proxyMode": "mode",
    "detectLocal.interfacePrefix": "detectLocal.interfaceNamePrefix",
    "detectLocal.interfaceName": "detectLocal.bridgeInterface",
    "detectLocal.clusterCIDRs": "clusterCIDR",
    "detectLocal.clusterCIDRs[0]": "clusterCIDR[0]",
}


def said(problems: Any) -> list[dict[str, Any]]:
    found = []
    for problem in problems:
        assert isinstance(problem, Problem)
        reason = {"kind": problem.kind, **problem.limits}
        found.append({"field": problem.path, "badValue": problem.value, "reason": reason})
    return found


def expected(case: dict[str, Any], part: str = "") -> list[dict[str, Any]]:
    complaints = []
    for error in case["expect"]["errors"]:
        field, reason = part + error["field"], dict(error["reason"])
        if "field" in reason:
            reason["field"] = _FILE_PATH[part + reason["field"]]
        complaints.append(error | {"field": _FILE_PATH.get(field, field), "reason": reason})
    return complaints


def with_part(part: dict[str, Any]) -> ProxyConfig:
    return resolved(part, default_config())


@pytest.mark.parametrize("case", cases("validation", "wholeConfig"))
def test_whole_configurations(case: dict[str, Any]) -> None:
    assert said(validate_config(resolved(case["internal"]))) == expected(case)


@pytest.mark.parametrize("case", cases("validation", "wholeConfig"))
def test_whole_files(case: dict[str, Any]) -> None:
    config = load_text(json.dumps(case["config"])).config
    # A file cannot leave the health address empty or without a port: the defaults complete it.
    completed = case["name"] == "health-address-without-port"
    assert said(validate_config(config)) == ([] if completed else expected(case))


@pytest.mark.parametrize("case", cases("validation", "iptables"))
def test_iptables_section(case: dict[str, Any]) -> None:
    problems = validate_config(with_part({"iptables": case["config"]}))
    assert said(problems) == expected(case, "iptables.")


@pytest.mark.parametrize("case", cases("validation", "ipvs"))
def test_ipvs_section(case: dict[str, Any]) -> None:
    problems = validate_config(with_part({"mode": "ipvs", "ipvs": case["config"]}))
    assert said(problems) == expected(case, "ipvs.")


@pytest.mark.parametrize("case", cases("validation", "linux"))
def test_linux_settings(case: dict[str, Any]) -> None:
    assert said(validate_config(with_part({"linux": case["config"]}))) == expected(case)


@pytest.mark.parametrize("case", cases("validation", "mode"))
def test_modes_of_linux(case: dict[str, Any]) -> None:
    assert said(validate_mode(case["mode"])) == expected(case)


@pytest.mark.parametrize("case", cases("validation", "modeWindows"))
def test_modes_of_windows(case: dict[str, Any]) -> None:
    assert said(validate_mode(case["mode"], platform="windows")) == expected(case)


@pytest.mark.parametrize("case", cases("validation", "clientConnection"))
def test_client_connection(case: dict[str, Any]) -> None:
    problems = validate_config(with_part({"clientConnection": case["config"]}))
    assert said(problems) == expected(case, "clientConnection.")


@pytest.mark.parametrize("case", cases("validation", "hostPort"))
def test_host_and_port(case: dict[str, Any]) -> None:
    assert said(validate_host_port("", case["address"])) == expected(case)


@pytest.mark.parametrize("case", cases("validation", "nodePortAddresses"))
def test_node_port_addresses(case: dict[str, Any]) -> None:
    problems = validate_node_port_addresses(case["addresses"])
    assert said(problems) == expected(case, "nodePortAddresses")


@pytest.mark.parametrize("case", cases("validation", "ipvsExcludeCIDRs"))
def test_ipvs_exclusions(case: dict[str, Any]) -> None:
    problems = validate_config(with_part({"mode": "ipvs", "ipvs": {"excludeCIDRs": case["cidrs"]}}))
    assert said(problems) == expected(case, "ipvs.excludeCIDRs")


@pytest.mark.parametrize("case", cases("validation", "detectLocal"))
def test_local_detection(case: dict[str, Any]) -> None:
    part = {"detectLocalMode": case["mode"], "detectLocal": case["config"]}
    assert said(validate_config(with_part(part))) == expected(case, "detectLocal.")


@pytest.mark.parametrize("case", cases("validation", "cidrPair"))
def test_one_cidr_or_one_of_each_family(case: dict[str, Any]) -> None:
    assert said(validate_cidr_pair("", case["cidrs"])) == expected(case)


def test_the_defaults_are_valid() -> None:
    assert validate_config(default_config()) == ()


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("iptables.masquerade_bit", 32, "iptables.masqueradeBit: must be within the range [0, 31]"),
        ("metrics_bind_address", "", 'metricsBindAddress: must be IP:port, got ""'),
        ("metrics_bind_address", "::1", "metricsBindAddress: must be IP:port"),
        ("metrics_bind_address", "[::1]:65536", "must be a port from 1 to 65535"),
        ("show_hidden_metrics_for_version", "1.34", "must be left out or 1.35"),
        ("node_port_addresses", ("primary", "10.0.0.0/8"), "can't use both"),
        ("node_port_addresses", ("10.0.0.0/255.0.0.0",), "must be a CIDR such as"),
        ("logging.flush_frequency_s", 0.0, "logging.flushFrequency: must be greater than 0"),
        ("logging.verbosity", 2**31, "logging.verbosity: must be at most 2147483647"),
        ("logging.vmodule", (VModule("", 1),), "logging.vmodule[0].filePattern: must not be empty"),
        ("logging.vmodule", (VModule("a=b", 1),), 'must not contain "=" or ","'),
        ("logging.text_split_stream", True, "needs the feature gate LoggingAlphaOptions"),
        ("detect_local.cluster_cidrs", ("10.0.0.0/8", " fd00::/64"), "clusterCIDR[1]: must be a"),
    ],
)
def test_further_rules(attribute: str, value: object, message: str) -> None:
    config = replace_attribute(default_config(), "detect_local.mode", "ClusterCIDR")
    (problem,) = validate_config(replace_attribute(config, attribute, value))
    assert message in str(problem)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("healthz_bind_address", ""),
        ("metrics_bind_address", "[::1]:1"),
        ("show_hidden_metrics_for_version", "1.35"),
        ("client_connection.qps", -1.0),
        ("nftables.masquerade_bit", 99),  # another mode's section is not looked at
        ("ipvs.tcp_timeout_s", -1.0),
    ],
)
def test_allowed_oddities(attribute: str, value: object) -> None:
    assert validate_config(replace_attribute(default_config(), attribute, value)) == ()


def test_the_section_of_the_mode_is_looked_at() -> None:
    config = replace_attribute(default_config(), "mode", "nftables")
    (problem,) = validate_config(replace_attribute(config, "nftables.masquerade_bit", 99))
    assert problem.path == "nftables.masqueradeBit"
    (period,) = validate_config(replace_attribute(config, "min_sync_period_s", 31.0))
    assert (period.path, period.limits) == (
        "nftables.syncPeriod",
        {"field": "nftables.minSyncPeriod"},
    )


def test_gates_decide_about_log_options() -> None:
    config = replace_attribute(default_config(), "logging.format", "json")
    assert validate_config(config) == ()
    without = replace_attribute(config, "feature_gates", {"LoggingBetaOptions": False})
    assert [problem.kind for problem in validate_config(without)] == ["forbidden"]
    alpha = replace_attribute(config, "feature_gates", {"LoggingAlphaOptions": True})
    assert validate_config(replace_attribute(alpha, "logging.json_split_stream", True)) == ()
    modules = replace_attribute(config, "logging.vmodule", (VModule("a", 1),))
    assert [problem.path for problem in validate_config(modules)] == ["logging.vmodule"]
