"""Tests of kpctl.lab.state: names, liveness and what is left of dead labs."""

import os
import sys

import pytest

from kpctl.lab import state
from kpctl.lab.netns import Namespace
from kpctl.lab.state import LabError, claim, find, forget, process_start, records
from proxy.kernel.command import spawn


@pytest.fixture(autouse=True)
def state_dir(tmp_path, monkeypatch):
    monkeypatch.setattr(state, "STATE_DIR", tmp_path / "labs")
    return tmp_path / "labs"


def kill_owner(record):
    """Make a record look as if its process had ended and its id had been given to another."""
    path = record.directory / "lab.json"
    path.write_text(path.read_text().replace(str(record.started), str(record.started - 1)))


def test_a_claimed_lab_is_found_and_alive():
    record = claim("shop", "nftables")
    assert find("shop") == record == find(None)
    assert record.alive()
    assert record.pid == os.getpid()
    assert record.namespace("web-1") == Namespace(f"kpctl-{record.ident}-web-1")


def test_a_taken_name_is_refused_and_left_alone(state_dir):
    record = claim("shop", "nftables")
    with pytest.raises(LabError, match="kpctl lab down --name shop") as raised:
        claim("shop", "nftables")
    assert raised.value.exit_code == 1
    assert records() == (record,)
    assert [path.name for path in state_dir.iterdir()] == ["shop"]


def test_without_a_name_the_first_free_one_is_taken():
    assert [claim(None, "nftables").name for _ in range(3)] == ["lab", "lab-2", "lab-3"]


def test_two_labs_share_no_namespace_name():
    assert claim(None, "nftables").prefix != claim(None, "nftables").prefix


@pytest.mark.parametrize("name", ["", "Shop", "a/b", "..", "-a", "a-", "x" * 33, "a b"])
def test_a_name_that_cannot_be_a_directory_is_a_usage_error(name):
    for use in (lambda: claim(name, "nftables"), lambda: find(name)):
        with pytest.raises(LabError, match="--name") as raised:
            use()
        assert raised.value.exit_code == 2


def test_a_lab_whose_process_id_was_recycled_is_dead():
    record = claim("shop", "nftables")
    kill_owner(record)
    assert not find("shop").alive()


def test_the_only_running_lab_is_meant_even_if_dead_ones_are_left():
    kill_owner(claim("dead", "nftables"))
    alive = claim("shop", "nftables")
    assert find(None) == alive


def test_a_single_dead_lab_is_meant_when_none_runs():
    record = claim("dead", "nftables")
    kill_owner(record)
    assert find(None).name == "dead"


def test_several_running_labs_must_be_told_apart():
    claim("a", "nftables")
    claim("b", "nftables")
    with pytest.raises(LabError, match="several labs: a, b; choose one with --name") as raised:
        find(None)
    assert raised.value.exit_code == 2


def test_without_any_lab_the_next_step_is_told():
    with pytest.raises(LabError, match="kpctl lab run"):
        find(None)
    with pytest.raises(LabError, match="no lab 'shop'"):
        find("shop")
    assert records() == ()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"ident": "a"}'])
def test_a_damaged_record_is_a_dead_lab_without_namespaces(text):
    record = claim("shop", "nftables")
    (record.directory / "lab.json").write_text(text)
    (damaged,) = records()
    assert damaged.name == "shop"
    assert not damaged.alive()
    assert damaged.namespaces() == ()


def test_a_forgotten_lab_frees_its_name():
    record = claim("shop", "nftables")
    forget(record)
    forget(record)
    assert records() == ()
    assert claim("shop", "nftables").name == "shop"


def test_namespaces_of_no_known_lab_are_orphans(monkeypatch, tmp_path):
    record = claim("shop", "nftables")
    for name in (f"{record.prefix}node-1", "kpctl-012345-node-1", "kpctl-other-thing", "cni-1"):
        (tmp_path / name).touch()
    monkeypatch.setattr("kpctl.lab.netns.NETNS_DIR", tmp_path)
    assert state.orphans() == (Namespace("kpctl-012345-node-1"),)
    assert record.namespaces() == (Namespace(f"{record.prefix}node-1"),)


def test_an_ended_process_has_no_start_time_not_even_as_a_zombie():
    process = spawn([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert process_start(process.pid) is None
    process.wait()
    assert process_start(process.pid) is None


def test_a_process_with_an_odd_name_has_a_start_time(tmp_path):
    program = tmp_path / "a) b (c"
    program.symlink_to("/bin/sleep")
    with spawn([str(program), "60"]) as process:
        assert process_start(process.pid) >= process_start(os.getpid())
        process.kill()
