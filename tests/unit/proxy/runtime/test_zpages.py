import json

import pytest
import yaml

from proxy.runtime.http_message import Request
from proxy.runtime.zpages import Process, flagz, statusz


@pytest.fixture
def process(clock):
    flags = {"v": "2", "bind-address": "0.0.0.0"}
    made = Process(flags, "v0.1.0", "v1.36", clock, clock.wall_ns(), clock.monotonic_ns())
    clock.advance(3_723)
    return made


def ask(accept=None, method="GET"):
    return Request(method, "/x", headers={"accept": accept} if accept else {})


def structured(kind, version="v1beta1", media_type="application/json"):
    return f"{media_type};v={version};g=config.k8s.io;as={kind}"


@pytest.mark.parametrize("accept", [None, "*/*", "text/plain", "application/json, text/plain"])
def test_flagz_is_sorted_text_for_people(process, accept):
    answer = flagz(ask(accept), process)
    lines = answer.body.decode().split("\n")
    assert lines[:2] == ["", "kube-proxy flagz"]
    assert lines[3:] == ["bind-address: 0.0.0.0", "v: 2", ""]
    assert answer.content_type.startswith("text/plain")


def test_statusz_tells_since_when_what_runs(process):
    text = statusz(ask(), process, ["/configz", "/metrics"]).body.decode()
    assert text.startswith("\nkube-proxy statusz\n")
    assert "Started: Fri Jan  2 03:04:05 UTC 2026\nUp: 1 hr 02 min 03 sec\n" in text
    assert "Binary version: v0.1.0\nEmulation version: v1.36\nPaths: /configz /metrics\n" in text


def test_flagz_is_json_for_programs_that_name_the_kind(process):
    answer = flagz(ask(structured("Flagz")), process)
    assert answer.content_type == "application/json"
    assert answer.headers == ()
    assert json.loads(answer.body) == {
        "kind": "Flagz",
        "apiVersion": "config.k8s.io/v1beta1",
        "metadata": {"name": "kube-proxy"},
        "flags": {"bind-address": "0.0.0.0", "v": "2"},
    }


def test_statusz_is_yaml_for_programs_that_ask_for_it(process):
    accept = structured("Statusz", media_type="application/yaml")
    content = yaml.safe_load(statusz(ask(accept), process, ["/metrics"]).body)
    assert content["startTime"] == "2026-01-02T03:04:05Z"
    assert (content["kind"], content["uptimeSeconds"]) == ("Statusz", 3_723)
    assert content["paths"] == ["/metrics"]


def test_the_older_version_is_served_with_a_warning(process):
    answer = flagz(ask(structured("Flagz", "v1alpha1")), process)
    assert json.loads(answer.body)["apiVersion"] == "config.k8s.io/v1alpha1"
    ((name, value),) = answer.headers
    assert (name, value[:6]) == ("Warning", "299 - ")


@pytest.mark.parametrize(
    "accept", ["application/json", structured("Statusz"), structured("Flagz", "v2"), "image/png"]
)
def test_other_forms_are_not_acceptable_and_the_answer_names_the_right_one(process, accept):
    answer = flagz(ask(accept), process)
    assert answer.status == 406
    assert structured("Flagz").encode() in answer.body


def test_both_pages_are_read_only(process):
    assert flagz(ask(method="PUT"), process).status == 405
    assert statusz(ask(method="PUT"), process, []).status == 405
