"""The flag parser."""

from typing import Any

import pytest

from proxy.config.flag_table import FLAGS
from proxy.config.flag_values import parse_value
from proxy.config.flags import format_value, parse_flags
from proxy.config.problems import FlagError
from proxy.config.schema import FIELD_BY_PATH
from proxy.config.types import VModule


@pytest.mark.parametrize(
    ("line", "given"),
    [
        ("--proxy-mode ipvs", {"proxy-mode": "ipvs"}),
        ("--proxy-mode=ipvs", {"proxy-mode": "ipvs"}),
        ("--proxy_mode=ipvs", {"proxy-mode": "ipvs"}),
        ("--cluster-cidr=", {"cluster-cidr": ""}),
        ("--cleanup", {"cleanup": True}),
        ("--cleanup=false", {"cleanup": False}),
        ("--cleanup=T", {"cleanup": True}),
        ("-v 2", {"v": 2}),
        ("-v=2", {"v": 2}),
        ("-v2", {"v": 2}),
        ("--v=2", {"v": 2}),
        ("-hv 2", {"help": True, "v": 2}),
        ("--v 1 --v 3", {"v": 3}),
        ("--oom-score-adj -5", {"oom-score-adj": -5}),
        ("--oom-score-adj 0x10", {"oom-score-adj": 16}),
        ("--oom-score-adj 010", {"oom-score-adj": 8}),
        ("--kube-api-qps 7.5", {"kube-api-qps": 7.5}),
        ("--ipvs-tcp-timeout 1h", {"ipvs-tcp-timeout": 3600.0}),
        ("--conntrack-min=0 --", {"conntrack-min": 0}),
        (
            "--nodeport-addresses 10.0.0.0/8,fd00::/8 --nodeport-addresses ::1/128",
            {"nodeport-addresses": ("10.0.0.0/8", "fd00::/8", "::1/128")},
        ),
        (
            "--feature-gates A=true,B=0 --feature-gates=B=true",
            {"feature-gates": {"A": True, "B": True}},
        ),
        ("--vmodule a=1,b=2", {"vmodule": (VModule("a", 1), VModule("b", 2))}),
        ("--healthz-bind-address 1.2.3.4:0", {"healthz-bind-address": "1.2.3.4:0"}),
        ("--healthz-bind-address fd00::1", {"healthz-bind-address": "fd00::1"}),
        ("--version", {"version": "true"}),
        ("--version=raw", {"version": "raw"}),
        ("--log-text-info-buffer-size 64Ki", {"log-text-info-buffer-size": "64Ki"}),
    ],
)
def test_accepted_lines(line: str, given: dict[str, Any]) -> None:
    assert parse_flags(line.split()).given == given


def test_an_empty_argument_is_tolerated() -> None:
    assert parse_flags(["", "--cleanup"]).given == {"cleanup": True}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--nonsense", "--nonsense: unknown flag; see --help"),
        ("--proxy-mod x", "--proxy-mod: unknown flag; did you mean --proxy-mode?"),
        ("-x", '-x: unknown shorthand "x"; see --help'),
        ("--=x", "--=x: not a flag"),
        ("---x", "---x: not a flag"),
        ("--proxy-mode", "--proxy-mode: needs a value (TEXT)"),
        ("-v", "-v: needs a value (N)"),
        ("-v two", '-v: expected an integer, got "two"'),
        ("-v=-1", "-v: expected an integer from 0 to 4294967295"),
        ("--cleanup=maybe", '--cleanup: expected true or false, got "maybe"'),
        ("--cleanup true", 'takes no arguments, got "true"'),
        ("start -- stop", 'takes no arguments, got "start", "stop"'),
        ("--oom-score-adj 99999999999", "expected an integer from -2147483648 to 2147483647"),
        ("--kube-api-qps nan", "expected a number within the range of a float32"),
        ("--kube-api-qps x", "expected a number"),
        ("--config-sync-period 30", 'expected a duration such as "30s", got "30"'),
        ("--bind-address localhost", "--bind-address: expected an IP address"),
        ("--healthz-bind-address :80", "expected IP or IP:port"),
        ("--healthz-bind-address 1.2.3.4:x", "expected a port from 0 to 65535"),
        ("--feature-gates A", 'expected Gate=true or Gate=false, got "A"'),
        ("--feature-gates A=maybe", "--feature-gates: expected true or false"),
        ("--vmodule a", 'expected pattern=N, got "a"'),
        ("--vmodule a=b", "expected an integer"),
        ('--ipvs-exclude-cidrs "a', "expected a comma list"),
        ("--log-json-info-buffer-size lots", "expected a quantity"),
        ("--version=old", "expected true, false, raw or a version"),
    ],
)
def test_refused_lines(line: str, said: str) -> None:
    with pytest.raises(FlagError) as caught:
        parse_flags(line.split())
    assert said in str(caught.value)


def test_defaults_are_answered_for_flags_that_were_not_given() -> None:
    flags = parse_flags([])
    assert (flags.text("proxy-mode"), flags["v"], flags.is_set("cleanup")) == ("", 0, False)
    assert not flags.changed("v")
    assert parse_flags(["-v=0"]).changed("v")


def test_deprecated_flags_are_reported_with_their_successor() -> None:
    (warning,) = parse_flags(["--healthz-port=1"]).warnings
    assert str(warning) == "--healthz-port: deprecated, use --healthz-bind-address"


def test_all_flags_are_listed_with_their_values() -> None:
    lines = parse_flags(["--feature-gates=B=true,A=false", "--vmodule=a=1"]).lines()
    assert len(lines) == len(FLAGS)
    names = [line.partition("=")[0] for line in lines]
    assert names == sorted(names)
    assert 'FLAG: --feature-gates="A=false,B=true"' in lines
    assert 'FLAG: --vmodule="a=1"' in lines
    assert 'FLAG: --conntrack-tcp-timeout-established="24h0m0s"' in lines


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_the_table_is_consistent(flag: Any) -> None:
    assert parse_value(flag.type, format_value(flag, flag.default)) == flag.default
    assert not flag.field or flag.field in FIELD_BY_PATH
    assert flag.field or flag.with_config  # what a file cannot say must not be ignored for it
    assert [other.name for other in FLAGS].count(flag.name) == 1
