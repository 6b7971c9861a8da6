"""The stub API server itself: what the tests and benchmarks rely on."""

import json
import subprocess
import sys
import urllib.request

import pytest

from tests.support import stub_objects


def ask(api, method, path, body=None):
    request = urllib.request.Request(
        api.url + path, json.dumps(body).encode() if body is not None else None, method=method
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


@pytest.fixture
def services(api):
    for index in range(5):
        api.store.put("services", stub_objects.service(f"s{index}"))
    return api


def test_pages_come_from_one_snapshot(services):
    first = ask(services, "GET", "/api/v1/services?limit=4")
    services.store.put("services", stub_objects.service("s9"))
    token = first["metadata"]["continue"]
    second = ask(services, "GET", f"/api/v1/services?limit=4&continue={token}")

    assert len(first["items"]) == 4
    assert len(second["items"]) == 2
    assert first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]
    assert "continue" not in second["metadata"]


def test_a_list_from_the_cache_ignores_the_limit(services):
    whole = ask(services, "GET", "/api/v1/services?limit=4&resourceVersion=0")

    assert len(whole["items"]) == 6


def test_objects_are_written_patched_read_and_deleted(api):
    path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    ask(api, "POST", path, stub_objects.endpoint_slice("s", ["10.1.0.1"]))
    patch = {"endpoints": [{"addresses": ["10.1.0.2"]}]}
    patched = ask(api, "PATCH", f"{path}/s-abcde", patch)
    read = ask(api, "GET", f"{path}/s-abcde")
    read["endpoints"] = []
    replaced = ask(api, "PUT", f"{path}/s-abcde", read)
    ask(api, "DELETE", f"{path}/s-abcde")

    assert patched["endpoints"] == patch["endpoints"]
    assert patched["ports"][0]["port"] == 8080
    assert replaced["endpoints"] == []
    assert int(replaced["metadata"]["resourceVersion"]) > int(
        patched["metadata"]["resourceVersion"]
    )
    assert api.store.get("endpointslices", "default", "s-abcde") is None


def test_a_watch_ends_with_a_bookmark_at_its_timeout(services):
    since = services.store.version - 2
    url = f"/api/v1/services?watch=1&resourceVersion={since}&timeoutSeconds=0.1"
    with urllib.request.urlopen(f"{services.url}{url}&allowWatchBookmarks=true") as response:
        events = [json.loads(line) for line in response]

    assert [event["type"] for event in events] == ["ADDED", "ADDED", "BOOKMARK"]
    assert events[-1]["object"]["metadata"]["resourceVersion"] == str(services.store.version)


def test_it_serves_as_a_process_of_its_own():
    command = [sys.executable, "-m", "tests.support.apiserver", "--services", "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().split()[-1]
            with urllib.request.urlopen(f"{url}/api/v1/services", timeout=10) as response:
                items = json.load(response)["items"]
        finally:
            process.terminate()

    assert [item["metadata"]["name"] for item in items] == ["svc-0", "svc-1", "svc-2"]


def test_addresses_of_fifty_thousand_services_are_distinct_and_valid():
    services = {stub_objects.service_ip(index) for index in range(50_000)}
    endpoints = {stub_objects.endpoint_ip(index) for index in range(150_000)}

    assert (len(services), len(endpoints)) == (50_000, 150_000)
    assert all(int(part) < 256 for address in endpoints for part in address.split("."))
