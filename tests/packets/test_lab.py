"""Whole labs as a user runs them, with the proxy and real packets."""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from kpctl.lab import state
from kpctl.lab.probes import Outcome
from kpctl.lab.shop import probes
from kpctl.lab.traffic import attempt
from proxy.kernel.command import PIPE, STDOUT, run, spawn

pytestmark = [
    pytest.mark.packets,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN and CAP_SYS_ADMIN"),
]

LAB = [sys.executable, "-m", "kpctl", "lab"]


def lab_name(suffix):
    return f"test-{os.getpid()}-{suffix}"


def wait_for(condition, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def live_lab(suffix):
    """A lab that sends traffic, ready; yields its process and its record, then takes it down."""
    name = lab_name(suffix)
    process = spawn([*LAB, "run", "--name", name], stdout=PIPE, stderr=STDOUT)
    try:
        told = []
        while not told or "ready after" not in told[-1]:
            line = process.stdout.readline().decode()
            assert line, "".join(told)
            told.append(line)
        yield process, state.find(name)
    finally:
        run([*LAB, "down", "--name", name], check=False)
        process.communicate(timeout=30)


def processes_of(record):
    """The processes that were started in a lab."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"KPCTL_LAB={record.name}".encode() in environment:
                found.append(int(entry.name))
    return found


def assert_nothing_is_left(record):
    assert record.namespaces() == ()
    assert processes_of(record) == []
    assert not record.directory.exists()


def test_all_traffic_of_a_lab_goes_where_it_should():
    done = run([*LAB, "run", "--once", "-o", "json", "--name", lab_name("once")], timeout_s=120)
    report = json.loads(done.stdout)
    assert report["asExpected"] is True
    rows = {
        (row["service"], row["address"], row["from"], row["bind"]): row for row in report["probes"]
    }
    assert len(rows) == len(probes())
    assert rows["shop/catalog", "198.51.100.40", "client", None]["pods"].keys() == {
        "web-1",
        "web-2",
    }
    assert len(rows["shop/cart", "10.96.0.60", "toolbox", None]["pods"]) == 1
    assert rows["shop/checkout", "198.51.100.30", "client", "192.0.2.200"]["outcomes"] == {
        "dropped": 3
    }


def test_two_labs_run_side_by_side():
    names = [lab_name("left"), lab_name("right")]
    running = [
        spawn([*LAB, "run", "--once", "-o", "json", "--name", name], stdout=PIPE, stderr=PIPE)
        for name in names
    ]
    for name, process in zip(names, running, strict=True):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err.decode()
        assert json.loads(out)["lab"] == name


def test_a_lab_changes_nothing_of_the_host_and_leaves_nothing():
    before = socket.if_nameindex()
    with live_lab("host") as (process, record):
        assert socket.if_nameindex() == before
        assert processes_of(record)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 0, out.decode()
        assert_nothing_is_left(record)
    assert socket.if_nameindex() == before


def test_a_killed_lab_is_shown_as_dead_and_taken_down():
    with live_lab("killed") as (process, record):
        process.kill()
        process.wait()
        assert record.namespaces()
        assert processes_of(record)
        shown = run([*LAB, "status", "--name", record.name, "-o", "json"])
        assert json.loads(shown.stdout)[0]["state"] == "dead"
        run([*LAB, "down", "--name", record.name])
        assert_nothing_is_left(record)


def test_a_killed_labs_name_can_be_used_again_at_once():
    with live_lab("again") as (process, record):
        process.kill()
        process.wait()
        done = run([*LAB, "run", "--once", "--name", record.name], timeout_s=120)
        assert f"removing what lab {record.name} left behind" in done.stderr
        assert_nothing_is_left(record)


def test_another_terminal_can_look_into_a_lab_and_end_it():
    with live_lab("other") as (process, record):
        choice = ["--name", record.name]
        node = run([*LAB, "exec", *choice, "--", "ip", "-br", "addr"]).stdout
        assert "192.0.2.11/24" in node
        client = run([*LAB, "exec", *choice, "--in", "client", "--", "ip", "-br", "addr"]).stdout
        assert "192.0.2.100/24" in client
        assert run([*LAB, "exec", *choice, "--", "sh", "-c", "exit 9"], check=False).returncode == 9
        tables = run([*LAB, "exec", *choice, "--", "nft", "list", "tables"]).stdout
        assert "table ip kube-proxy" in tables
        run([*LAB, "down", *choice])
        assert process.wait(10) == 0
        assert_nothing_is_left(record)


def test_an_edited_manifest_moves_the_traffic():
    with live_lab("edited") as (_, record):
        path = record.directory / "manifests" / "shop-web.yaml"
        objects = list(yaml.safe_load_all(path.read_text()))
        for piece in objects[1:]:
            piece["endpoints"] = [
                endpoint
                for endpoint in piece["endpoints"]
                if endpoint["targetRef"]["name"] == "web-3"
            ]
        path.write_text(yaml.safe_dump_all(objects))
        probe = probes()[0]

        async def landed_on():
            sender = record.namespace(probe.role)
            seen = [await attempt(probe, sender) for _ in range(12)]
            assert {observation.outcome for observation in seen} == {Outcome.LANDED}
            return {observation.pod for observation in seen}

        wait_for(lambda: asyncio.run(landed_on()) == {"web-3"})


def test_a_proxy_that_dies_ends_the_lab_with_its_last_words():
    with live_lab("dying") as (process, record):
        (proxy,) = [
            pid
            for pid in processes_of(record)
            if b"--hostname-override" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        os.kill(proxy, signal.SIGKILL)
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 1
        assert b"error: the proxy ended with status -9" in out
        assert_nothing_is_left(record)
