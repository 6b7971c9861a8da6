"""Noticing changed content of the configuration file."""

import os
from pathlib import Path

import pytest

from proxy.config.watch import FileWatch


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.conf"
    path.write_text("a")
    return path


def touch(path: Path, seconds: int) -> None:
    os.utime(path, (seconds, seconds))


def test_an_untouched_file_has_not_changed(file: Path) -> None:
    assert not FileWatch(str(file)).changed()


def test_new_content_is_a_change_until_it_is_undone(file: Path) -> None:
    watch = FileWatch(str(file))
    file.write_text("b")
    touch(file, 1)
    assert watch.changed()
    assert watch.changed()
    file.write_text("a")
    touch(file, 2)
    assert not watch.changed()


def test_the_same_content_written_again_is_no_change(file: Path) -> None:
    watch = FileWatch(str(file))
    touch(file, 1)
    assert not watch.changed()


def test_a_removed_file_is_no_change_and_its_return_is_judged(file: Path) -> None:
    watch = FileWatch(str(file))
    file.unlink()
    assert not watch.changed()
    file.write_text("longer")
    assert watch.changed()


def test_the_symlink_swap_of_a_config_map_volume_is_noticed(tmp_path: Path) -> None:
    for revision in ("1", "2"):
        (tmp_path / revision).mkdir()
        (tmp_path / revision / "config.conf").write_text(revision)
    (tmp_path / "..data").symlink_to("1")
    (tmp_path / "config.conf").symlink_to("..data/config.conf")
    watch = FileWatch(str(tmp_path / "config.conf"))
    (tmp_path / "..data_tmp").symlink_to("2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert watch.changed()


def test_a_file_that_appears_later_becomes_the_baseline(tmp_path: Path) -> None:
    watch = FileWatch(str(tmp_path / "late"))
    assert not watch.changed()
    (tmp_path / "late").write_text("a")
    assert not watch.changed()
    (tmp_path / "late").write_text("changed")
    assert watch.changed()


def test_a_path_that_cannot_be_read_has_not_changed(file: Path) -> None:
    watch = FileWatch(str(file))
    file.unlink()
    file.mkdir()
    assert not watch.changed()
