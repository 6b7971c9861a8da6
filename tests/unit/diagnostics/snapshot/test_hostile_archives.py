"""Archives that must not be trusted are refused with one sentence, and nothing is written."""

import gzip
import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from diagnostics.snapshot.archive import Limits, SnapshotError
from diagnostics.snapshot.open import open_snapshot

SYSCTL = b"net.ipv4.ip_forward = 1\n"


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""):
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size = kind, link, len(data)
    return found, data


def tar(path: Path, *members, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for info, data in (member("sysctl.txt", SYSCTL), *members):
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (member("/etc/passwd", b"x"), "absolute path"),
        (member("a/../../x.txt", b"x"), "leads out"),
        (member("..\\x.txt", b"x"), "leads out"),
        (member("C:\\x.txt", b"x"), "absolute path"),
        (member("a.txt", kind=tarfile.SYMTYPE, link="/etc/passwd"), "outside the archive"),
        (member("a/b.txt", kind=tarfile.SYMTYPE, link="../../x"), "outside the archive"),
        (member("a.txt", kind=tarfile.LNKTYPE, link="../x"), "outside the archive"),
        (member("services.json", kind=tarfile.SYMTYPE, link="sysctl.txt"), "in place of a dump"),
        (member("null", kind=tarfile.CHRTYPE), "device"),
        (member("pipe", kind=tarfile.FIFOTYPE), "device"),
    ],
)
def test_a_tar_with_a_dangerous_member_is_refused(one, why, tmp_path):
    path = tar(tmp_path / "x.tar.gz", one)
    with pytest.raises(SnapshotError, match=why) as caught:
        open_snapshot(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert [one.name for one in tmp_path.iterdir()] == ["x.tar.gz"]


def test_links_between_logs_of_an_archive_are_passed_over(tmp_path):
    path = tar(
        tmp_path / "x.tgz", member("links/a.log", kind=tarfile.SYMTYPE, link="../nodes/a.log")
    )
    assert open_snapshot(path).node().notes() == ("1 links in the archive were not followed",)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "x.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        info = tarfile.TarInfo("iptables-save.txt")
        info.size = 40 << 20
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    with pytest.raises(SnapshotError, match="more than 1048576 bytes"):
        open_snapshot(path, Limits(file_bytes=1 << 20))
    with pytest.raises(SnapshotError, match="bytes unpacked"):
        open_snapshot(path, Limits(total_bytes=1 << 20))
    with pytest.raises(SnapshotError, match="bytes of dumps"):
        open_snapshot(path, Limits(kept_bytes=1 << 20))


def test_too_many_files_are_refused(tmp_path):
    path = tar(tmp_path / "x.tar", *(member(f"f{n}.txt") for n in range(20)), mode="w")
    with pytest.raises(SnapshotError, match="more than 10 files"):
        open_snapshot(path, Limits(files=10))
    for n in range(20):
        (tmp_path / f"f{n}.txt").write_text("")
    with pytest.raises(SnapshotError, match="more than 10 files"):
        open_snapshot(tmp_path, Limits(files=10))


def test_a_header_that_would_fill_the_memory_is_refused(tmp_path):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 3 << 30
    path = tmp_path / "x.tar"
    path.write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
    with pytest.raises(SnapshotError, match="damaged"):
        open_snapshot(path)


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.95])
def test_a_truncated_archive_says_so(cut, tmp_path):
    path = tar(tmp_path / "x.tar.gz", member("iptables-save.txt", os.urandom(20000)))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * cut)])
    with pytest.raises(SnapshotError, match="truncated or damaged"):
        open_snapshot(path)


def test_a_single_compressed_bomb_is_refused(tmp_path):
    path = tmp_path / "iptables-save.txt.gz"
    path.write_bytes(gzip.compress(bytes(20 << 20)))
    with pytest.raises(SnapshotError, match="more than"):
        open_snapshot(path, Limits(file_bytes=1 << 20))


def test_zips_are_judged_alike(tmp_path):
    def build(name: str, data: bytes = b"x", mode: int = 0) -> Path:
        path = tmp_path / "x.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("sysctl.txt", SYSCTL)
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, data, zipfile.ZIP_DEFLATED)
        return path

    for name, data, mode, why in (
        ("/etc/passwd", b"x", 0, "absolute"),
        ("../x.txt", b"x", 0, "leads out"),
        ("a.txt", b"/etc/passwd", stat.S_IFLNK, "outside the archive"),
        ("a.txt", b"", stat.S_IFCHR, "device"),
        ("iptables-save.txt", bytes(4 << 20), 0, "more than"),
    ):
        with pytest.raises(SnapshotError, match=why):
            open_snapshot(build(name, data, mode), Limits(file_bytes=1 << 20))
    path = build("iptables-save.txt")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(SnapshotError, match="truncated or damaged"):
        open_snapshot(path)


def test_a_directorys_links_count_only_inside_it(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.write_bytes(SYSCTL)
    (inside / "sysctl.txt").symlink_to(outside)
    (inside / "hostname.txt").write_text("a\n")
    os.mkfifo(inside / "conntrack.txt")
    node = open_snapshot(inside).node()
    assert node.name == "a"
    assert node.notes() == ("1 links that lead outside were not followed",)
    assert node.gaps() or node.sysctls()


def test_junk_with_the_name_of_an_archive_is_damaged(tmp_path):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(b"junk" * 100)
    with pytest.raises(SnapshotError, match="damaged"):
        open_snapshot(path)
