"""Types of fields: what is accepted, and what is said about the rest."""

import pytest

from proxy.config.decode import decode_fields, show
from proxy.config.text import Mapping, parse_documents


def document(text: str) -> Mapping:
    (parsed,) = parse_documents(text)
    assert isinstance(parsed, Mapping)
    return parsed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ipvs: {syncPeriod: 30}", 'ipvs.syncPeriod: expected a duration such as "30s", got 30'),
        ("ipvs: {syncPeriod: 30 s}", 'expected a duration such as "30s", got "30 s"'),
        ("ipvs: 3", "ipvs: expected a mapping, got 3"),
        ("ipvs: []", "ipvs: expected a mapping, got a list"),
        ("mode: 5", "mode: expected a string, got 5"),
        ("mode: {a: 1}", "mode: expected a string, got a mapping"),
        ("enableProfiling: 1", "enableProfiling: expected true or false, got 1"),
        ('enableProfiling: "true"', 'expected true or false, got "true"'),
        ("oomScoreAdj: 1.5", "oomScoreAdj: expected an integer, got 1.5"),
        ("oomScoreAdj: true", "oomScoreAdj: expected an integer, got true"),
        ("oomScoreAdj: 2147483648", "an integer from -2147483648 to 2147483647, got 2147483648"),
        ("logging: {verbosity: -1}", "logging.verbosity: expected an integer from 0 to 4294967295"),
        ("logging: {flushFrequency: x}", "or an integer of nanoseconds"),
        ("logging: {options: {json: {infoBufferSize: lots}}}", "expected a quantity"),
        ("logging: {vmodule: a=1}", "logging.vmodule: expected a list of {filePattern, verbosity}"),
        ("logging: {vmodule: [3]}", "logging.vmodule[0]: expected a mapping with filePattern"),
        ("logging: {vmodule: [{x: 1}]}", "logging.vmodule[0]: expected a mapping"),
        ("logging: {vmodule: [{filePattern: 1}]}", "logging.vmodule[0].filePattern: expected"),
        ("logging: {vmodule: [{verbosity: a}]}", "logging.vmodule[0].verbosity: expected"),
        ("clientConnection: {qps: fast}", "clientConnection.qps: expected a number"),
        ("clientConnection: {qps: .nan}", "expected a number within the range of a float32"),
        ("nodePortAddresses: 10.0.0.0/8", "nodePortAddresses: expected a list of strings"),
        ("nodePortAddresses: [a, 1]", "nodePortAddresses[1]: expected a string, got 1"),
        ("featureGates: [A]", "featureGates: expected a mapping of gate names"),
        ("featureGates: {A: on it}", "featureGates.A: expected true or false"),
    ],
)
def test_a_wrong_type_is_refused_with_the_path_of_the_field(text: str, said: str) -> None:
    decoded = decode_fields(document(text))
    (problem,) = decoded.errors
    assert said in str(problem)
    assert (problem.kind, problem.line) == ("type", 1)


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("oomScoreAdj: 1e2", "oomScoreAdj", 100),
        ("clientConnection: {qps: 7}", "clientConnection.qps", 7.0),
        ("clientConnection: {qps: -1.5}", "clientConnection.qps", -1.5),
        ("logging: {flushFrequency: 5000000000}", "logging.flushFrequency", 5.0),
        ("logging: {flushFrequency: 5s}", "logging.flushFrequency", 5.0),
        (
            "logging: {options: {text: {infoBufferSize: 64}}}",
            "logging.options.text.infoBufferSize",
            "64",
        ),
        ("ipvs: {tcpTimeout: 1h}", "ipvs.tcpTimeout", 3600.0),
    ],
)
def test_accepted_spellings(text: str, path: str, value: object) -> None:
    decoded = decode_fields(document(text))
    assert (decoded.values, decoded.errors) == ({path: value}, [])


@pytest.mark.parametrize("text", ["mode: ~", "ipvs: ~", "featureGates: ~", "nodePortAddresses: ~"])
def test_null_is_the_same_as_leaving_it_out(text: str) -> None:
    decoded = decode_fields(document(text))
    assert (decoded.values, decoded.errors, decoded.warnings) == ({}, [], [])


@pytest.mark.parametrize(
    ("text", "path", "kind", "said"),
    [
        ("Mode: ipvs", "Mode", "unknown-field", 'did you mean "mode"?'),
        ("ipvs: {nonsense: 1}", "ipvs.nonsense", "unknown-field", "unknown field, ignored"),
        ("mode: a\nmode: b", "mode", "duplicate-key", "the last one counts"),
        ("featureGates: {WinDSR: true, WinDSR: true}", "featureGates.WinDSR", "duplicate-key", ""),
        (
            "featureGates: {NFTablesProxyMode: false}",
            "featureGates.NFTablesProxyMode",
            "locked",
            "",
        ),
        ("featureGates: {Foo: true}", "featureGates.Foo", "unknown-gate", ""),
    ],
)
def test_what_kube_proxy_tolerates_is_a_warning(text: str, path: str, kind: str, said: str) -> None:
    decoded = decode_fields(document(text))
    (warning,) = decoded.warnings
    assert decoded.errors == []
    assert (warning.path, said in warning.message) == (path, True)
    assert warning.kind.startswith(kind)
    assert warning.line == text.count("\n") + 1


def test_long_values_are_shortened_in_messages() -> None:
    assert len(show("x" * 1000)) < 80
