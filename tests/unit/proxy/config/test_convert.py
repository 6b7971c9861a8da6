"""File fields to the resolved shape and back."""

import json
from typing import Any

import pytest
import yaml

from proxy.config.convert import render_yaml, to_v1alpha1
from proxy.config.defaults import default_config, with_platform_defaults
from proxy.config.file import load_text
from proxy.config.schema import FIELDS
from tests.support.config_cases import HEADER, cases


@pytest.mark.parametrize("case", cases("defaults", "fileRoundTrip"))
def test_a_file_is_written_back_complete(case: dict[str, Any]) -> None:
    assert to_v1alpha1(load_text(json.dumps(case["config"])).config) == case["expect"]


@pytest.mark.parametrize(
    ("mode", "sync", "minimum"),
    [("iptables", 11.0, 1.0), ("ipvs", 12.0, 2.0), ("nftables", 13.0, 3.0), ("", 11.0, 1.0)],
)
def test_periods_come_from_and_go_to_the_section_of_the_mode(
    mode: str, sync: float, minimum: float
) -> None:
    sections = "".join(
        f"{name}: {{syncPeriod: 1{n}s, minSyncPeriod: {n}s}}\n"
        for n, name in enumerate(("iptables", "ipvs", "nftables"), start=1)
    )
    config = load_text(f"{HEADER}mode: {mode or '~'}\n{sections}").config
    assert (config.sync_period_s, config.min_sync_period_s) == (sync, minimum)
    document: Any = to_v1alpha1(config)
    written = {n: document[n]["syncPeriod"] for n in ("iptables", "ipvs", "nftables")}
    own = mode or "iptables"
    assert written.pop(own) == f"{sync:.0f}s"
    assert set(written.values()) == {"0s"}


@pytest.mark.parametrize(
    ("mode", "expected"), [("iptables", True), ("ipvs", True), ("nftables", False)]
)
def test_masquerade_all_of_ipvs_is_in_the_iptables_section(mode: str, expected: bool) -> None:
    config = load_text(f"{HEADER}mode: {mode}\niptables: {{masqueradeAll: true}}\n").config
    document: Any = to_v1alpha1(config)
    assert config.masquerade_all is expected
    assert document["iptables"]["masqueradeAll"] is expected


@pytest.mark.parametrize(("mode", "bit"), [("iptables", 5), ("ipvs", 5), ("nftables", 6)])
def test_the_masquerade_bit_is_that_of_the_mode(mode: str, bit: int) -> None:
    bits = "iptables: {masqueradeBit: 5}\nnftables: {masqueradeBit: 6}\n"
    assert load_text(f"{HEADER}mode: {mode}\n{bits}").config.masquerade_bit == bit


def test_the_cluster_cidr_is_split_untrimmed_and_joined_again() -> None:
    config = load_text(f'{HEADER}clusterCIDR: "10.0.0.0/8, fd00::/64"\n').config
    assert config.detect_local.cluster_cidrs == ("10.0.0.0/8", " fd00::/64")
    assert to_v1alpha1(config)["clusterCIDR"] == "10.0.0.0/8, fd00::/64"


def test_a_list_given_as_empty_is_written_back_as_empty() -> None:
    config = load_text(f"{HEADER}nodePortAddresses: []\nipvs: {{excludeCIDRs: ~}}\n").config
    document: Any = to_v1alpha1(config)
    assert document["nodePortAddresses"] == []
    assert document["ipvs"]["excludeCIDRs"] is None


def test_optional_fields_appear_only_when_they_are_set() -> None:
    optional = {field.path.partition(".")[0] for field in FIELDS if field.omit_empty} - {"logging"}
    assert optional == {"featureGates", "windowsRunAsService"}
    assert not optional & to_v1alpha1(default_config()).keys()
    given = load_text(
        f"{HEADER}featureGates: {{WinDSR: true}}\nwindowsRunAsService: true\n"
        "logging: {vmodule: [{filePattern: a, verbosity: 1}], options: {text: {splitStream: true}}}"
    )
    document: Any = to_v1alpha1(given.config)
    assert document["featureGates"] == {"WinDSR": True}
    assert document["windowsRunAsService"] is True
    assert document["logging"]["vmodule"] == [{"filePattern": "a", "verbosity": 1}]
    assert document["logging"]["options"]["text"]["splitStream"] is True


def test_what_is_written_can_be_read_again() -> None:
    config = with_platform_defaults(default_config())
    text = render_yaml(config)
    loaded = load_text(text)
    assert list(yaml.safe_load(text)) == sorted(yaml.safe_load(text))
    assert (loaded.config, loaded.warnings) == (config, ())
