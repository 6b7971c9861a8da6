"""Settings are applied to a tree that only looks like /proc, and taken back."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from diagnostics.conntrack.capacity import Setting
from kpctl.commands.conntrack import app
from kpctl.conntrack import reading, tune, tuning
from kpctl.conntrack.tuning import FILE, TuneError, apply, undo, undo_plan

MAX, BUCKETS = "net.netfilter.nf_conntrack_max", "net.netfilter.nf_conntrack_buckets"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "proc/sys/net/netfilter"
    folder.mkdir(parents=True)
    (folder / "nf_conntrack_max").write_text("131072\n")
    (folder / "nf_conntrack_buckets").write_text("32768\n")
    (folder / "nf_conntrack_count").write_text("300000\n")
    return tmp_path


def value(root: Path, name: str) -> int:
    return int((root / "proc/sys" / name.replace(".", "/")).read_text())


def wanted(maximum: int, buckets: int) -> list[Setting]:
    return [Setting(MAX, 131072, maximum, "room"), Setting(BUCKETS, 32768, buckets, "lists")]


def test_settings_are_applied_kept_for_restarts_and_taken_back(root: Path) -> None:
    assert not [one.problem for one in apply(wanted(262144, 65536), root) if one.problem]
    assert (value(root, MAX), value(root, BUCKETS)) == (262144, 65536)
    text = (root / FILE).read_text()
    assert f"\n{MAX} = 262144\n" in text
    assert [one.value for one in undo_plan(root)] == [131072, 32768]
    assert not [one.problem for one in undo(root) if one.problem]
    assert (value(root, MAX), value(root, BUCKETS)) == (131072, 32768)
    assert not (root / FILE).exists()


def test_tuning_twice_is_undone_at_once(root: Path) -> None:
    apply(wanted(262144, 65536), root)
    apply([Setting(MAX, 262144, 524288, "more")], root)
    text = (root / FILE).read_text()
    assert f"\n{MAX} = 524288\n" in text
    assert f"\n{BUCKETS} = 65536\n" in text
    undo(root)
    assert (value(root, MAX), value(root, BUCKETS)) == (131072, 32768)


def test_a_setting_that_is_refused_is_not_in_the_file(root: Path) -> None:
    (root / "proc/sys/net/netfilter/nf_conntrack_buckets").unlink()
    done = apply(wanted(262144, 65536), root)
    assert [bool(one.problem) for one in done] == [False, True]
    assert BUCKETS not in (root / FILE).read_text()


def test_where_everything_is_refused_no_file_is_written(root: Path) -> None:
    done = apply([Setting("net.netfilter.nf_conntrack_absent", None, 1, "x")], root)
    assert done[0].problem
    assert not (root / FILE).exists()


def test_what_somebody_else_changed_since_is_left_alone(root: Path) -> None:
    apply(wanted(262144, 65536), root)
    (root / "proc/sys/net/netfilter/nf_conntrack_max").write_text("999999\n")
    done = undo(root)
    assert (value(root, MAX), value(root, BUCKETS)) == (999999, 32768)
    assert [one.left for one in done] == [True, False]
    assert not (root / FILE).exists()


def test_buckets_that_the_kernel_rounded_up_are_still_ours(root: Path) -> None:
    apply(wanted(262144, 65000), root)
    (root / "proc/sys/net/netfilter/nf_conntrack_buckets").write_text("65024\n")
    undo(root)
    assert value(root, BUCKETS) == 32768


@pytest.mark.parametrize("text", ["net.netfilter.nf_conntrack_max = 1\n", ""])
def test_a_file_of_somebody_else_is_neither_overwritten_nor_removed(root: Path, text: str) -> None:
    (root / FILE).parent.mkdir(parents=True)
    (root / FILE).write_text(text)
    for act in (undo, lambda place: apply(wanted(262144, 65536), place)):
        with pytest.raises(TuneError, match="not written by kpctl"):
            act(root)
    assert (root / FILE).read_text() == text
    assert value(root, MAX) == 131072


def test_only_settings_of_conntrack_are_ever_taken_back(root: Path) -> None:
    (root / "proc/sys/kernel").mkdir()
    (root / "proc/sys/kernel/panic").write_text("0\n")
    apply(wanted(262144, 65536), root)
    with (root / FILE).open("a") as file:
        file.write("# before: kernel.panic = 1\n# before: net.netfilter.nf_conntrack_../x = 1\n")
    assert {one.name for one in undo(root)} == {MAX, BUCKETS}
    assert (root / "proc/sys/kernel/panic").read_text() == "0\n"


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def node(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    live = reading.live_facts
    monkeypatch.setattr(reading, "live_facts", lambda: live(root))
    monkeypatch.setattr(tune, "ROOT", root)
    monkeypatch.setenv("HOME", str(root))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    return root


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["tune", *arguments])


def test_without_yes_nothing_is_changed(node: Path) -> None:
    result = run()
    assert result.exit_code == 0
    assert f"\n{MAX} = 1048576\n" in result.stdout
    assert "nothing was changed" in result.stderr
    assert value(node, MAX) == 131072
    assert not (node / tuning.FILE).exists()


def test_with_yes_it_is_and_undo_goes_back(node: Path) -> None:
    for name in ("established", "close_wait"):
        path = node / f"proc/sys/net/netfilter/nf_conntrack_tcp_timeout_{name}"
        path.write_text("60\n")
    result = run("--yes")
    assert result.exit_code == 0, result.stderr
    assert f"{MAX} = 1048576 (was 131072)" in result.stdout
    assert value(node, MAX) == 1048576
    shown = run("--undo")
    assert f"{MAX} = 131072" in shown.stdout
    assert value(node, MAX) == 1048576
    assert run("--undo", "--yes").exit_code == 0
    assert value(node, MAX) == 131072


def test_undoing_what_was_never_done_is_one_line(node: Path) -> None:
    result = run("--undo")
    assert result.exit_code == 4
    assert "nothing was tuned" in result.stderr


def test_a_refused_setting_is_an_error_that_names_it(node: Path) -> None:
    result = run("--yes")  # the time-outs are not in this tree
    assert result.exit_code == 4
    assert "tcp_timeout_established" in result.stderr
