"""What is inside an archive may lie too: names, sizes, encodings, compression, doubles."""

import gzip
import io
import random
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest

from diagnostics.snapshot import bundle
from diagnostics.snapshot.archive import Limits, SnapshotError
from diagnostics.snapshot.open import open_snapshot
from diagnostics.snapshot.parts import Gap, Part

TEXT = "net.ipv4.ip_forward = 1\n"
SYSCTL = TEXT.encode()


def tar(path: Path, *members: tuple[str, bytes, dict], mode: str = "w:gz", **options) -> Path:
    with tarfile.open(path, mode, **options) as archive:
        for name, data, fields in (("sysctl.txt", SYSCTL, {}), *members):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(data))
    return path


def pax(**headers: str) -> dict:
    return {"pax_headers": {name.replace("_", "."): value for name, value in headers.items()}}


@pytest.mark.parametrize(
    ("member", "why"),
    [
        (("a.txt", b"x", pax(size="-5")), "size of -5 bytes"),
        (("a.txt", b"x", pax(size="99999999999999")), "bytes unpacked"),
        (("a.txt", b"x", {"pax_headers": {"path": "a\0b.txt"}}), "NUL"),
        (("a.txt", b"x", {"pax_headers": {"path": "../b.txt"}}), "leads out"),
        (("a.txt", b"x", {"pax_headers": {"path": "/b.txt"}}), "absolute"),
        (("sysctl.txt", SYSCTL, {}), "is there twice"),
        (("./sysctl.txt", SYSCTL, {}), "is there twice"),
        (("conntrack.txt", b"", {"type": tarfile.LNKTYPE, "linkname": "sysctl.txt"}), "in place"),
        (("conntrack.txt", b"", {"type": tarfile.LNKTYPE, "linkname": "/etc/shadow"}), "outside"),
        (("d", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc"}), "outside"),
        (("disk", b"", {"type": tarfile.BLKTYPE}), "device"),
        (("conntrack.txt", b"x", {"type": b"Z"}), "device"),
    ],
)
def test_a_member_that_lies_is_refused(member, why, tmp_path):
    path = tar(tmp_path / "x.tar.gz", member)
    with pytest.raises(SnapshotError, match=why) as caught:
        open_snapshot(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()


def test_sparse_members_that_make_no_sense_are_damage(tmp_path):
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9" * 12}
    path = tar(tmp_path / "x.tar.gz", ("a.txt", SYSCTL, {"pax_headers": headers}))
    with pytest.raises(SnapshotError, match="damaged"):
        open_snapshot(path)


@pytest.mark.parametrize("name", ["a\x1b[31m.txt", "a\nb/iptables-save.txt", "a\udcff.txt"])
def test_files_whose_names_would_garble_a_terminal_are_passed_over(name, tmp_path):
    options = {"format": tarfile.GNU_FORMAT}
    path = tar(tmp_path / "x.tar.gz", (name, SYSCTL, {}), **options)
    node = open_snapshot(path).node()
    assert node.notes() == ("1 files were not read: their names are no text",)
    folder = tmp_path / "d"
    (folder / Path(name).parent).mkdir(parents=True)
    (folder / name).write_bytes(SYSCTL)
    (folder / "sysctl.txt").write_bytes(SYSCTL)
    assert open_snapshot(folder).node().notes() == node.notes()


def test_a_name_in_a_message_cannot_garble_a_terminal(tmp_path):
    with pytest.raises(SnapshotError) as caught:
        open_snapshot(tar(tmp_path / "x.tar", ("/\x1b]0;x\x07", b"", {}), mode="w"))
    assert str(caught.value).isprintable()


def test_deep_folders_and_long_names_are_names_like_others(tmp_path):
    deep, long = "a/" * 5000 + "x.txt", "a" * 100_000 + ".txt"
    path = tar(tmp_path / "x.tar.gz", (deep, b"x", {}), (long, b"x", {}))
    assert not isinstance(open_snapshot(path).node().sysctls(), Gap)


@pytest.mark.parametrize("packer", ["gz", "xz", "bz2"])
def test_a_bomb_is_refused_whatever_packed_it(packer, tmp_path):
    member = ("big.pcap", bytes(30 << 20), {})
    path = tar(tmp_path / f"x.tar.{packer}", member, mode=f"w:{packer}")
    with pytest.raises(SnapshotError, match="bytes unpacked"):
        open_snapshot(path, Limits(total_bytes=8 << 20))


def test_a_bomb_within_an_archive_is_refused(tmp_path, monkeypatch):
    bomb = gzip.compress(bytes(20 << 20))
    monkeypatch.setattr(bundle, "_MOST_UNPACKED_BYTES", 30 << 20)
    members = [(f"{number}/conntrack.txt.gz", bomb, {}) for number in range(3)]
    assert open_snapshot(tar(tmp_path / "one.tar.gz", members[0])).nodes
    with pytest.raises(SnapshotError, match="bytes in compressed files"):
        open_snapshot(tar(tmp_path / "x.tar.gz", *members))


def test_a_damaged_file_within_an_archive_is_named_with_it(tmp_path):
    cut = gzip.compress(b"x" * 10_000)[:30]
    path = tar(tmp_path / "x.tar.gz", ("conntrack.txt.gz", cut, {}))
    with pytest.raises(SnapshotError, match=r"conntrack\.txt\.gz: truncated or damaged") as caught:
        open_snapshot(path)
    assert str(path) in str(caught.value)


def test_a_zip_that_lies_about_a_size_or_has_doubles_is_refused(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conntrack.txt", bytes(4 << 20))
    data = bytearray(path.read_bytes())
    field = data.rfind(b"PK\x01\x02") + 24
    data[field : field + 4] = (10).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(SnapshotError, match="damaged"):
        open_snapshot(path)
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("sysctl.txt", SYSCTL)
        archive.writestr("sysctl.txt", SYSCTL)
    with pytest.raises(SnapshotError, match="is there twice"):
        open_snapshot(path)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_text_is_read_in_every_unicode_encoding(encoding, tmp_path):
    (tmp_path / "sysctl.txt").write_bytes(TEXT.encode(encoding))
    node = open_snapshot(tmp_path).node()
    assert node.sysctls().number("net.ipv4.ip_forward") == 1
    noted = node.notes()
    assert bool(noted) is not encoding.startswith("utf-8")


def test_latin_1_is_read_and_told_of(tmp_path):
    (tmp_path / "sysctl.txt").write_bytes(SYSCTL + "net.x.y = é\n".encode("latin-1"))
    node = open_snapshot(tmp_path).node()
    assert node.sysctls().number("net.ipv4.ip_forward") == 1
    assert "no utf-8 text" in node.notes()[0]


def test_nuls_are_left_out_and_told_of(tmp_path):
    (tmp_path / "sysctl.txt").write_bytes(SYSCTL + b"\0" * 20 + SYSCTL)
    node = open_snapshot(tmp_path).node()
    assert node.sysctls().number("net.ipv4.ip_forward") == 1
    assert "has NULs" in node.notes()[0]


def test_binary_data_with_a_dumps_name_is_no_dump(tmp_path):
    (tmp_path / "iptables-save.txt").write_bytes(bytes(range(1, 256)) * 100)
    (tmp_path / "sysctl.txt").write_bytes(SYSCTL)
    assert isinstance(open_snapshot(tmp_path).node().contents(Part.IPTABLES), Gap)


@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip"])
def test_mutated_archives_are_read_or_refused_and_nothing_else(form, tmp_path):
    whole = tmp_path / f"whole.{form}"
    member = ("iptables-save.txt", b"*nat\n:KUBE-SERVICES - [0:0]\nCOMMIT\n" * 20, {})
    if form == "zip":
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("sysctl.txt", SYSCTL)
            archive.writestr(member[0], member[1])
    else:
        tar(whole, member, mode="w" if form == "tar" else "w:gz")
    generator = random.Random(form)
    path = tmp_path / f"x.{form}"
    refused = 0
    for _ in range(400):
        data = bytearray(whole.read_bytes().rstrip(b"\0") + bytes(1024))
        for _ in range(generator.randrange(1, 8)):
            data[generator.randrange(len(data) - 1000)] = generator.randrange(256)
        path.write_bytes(data)
        try:
            for node in open_snapshot(path).nodes:
                node.text(Part.SYSCTL), node.text(Part.IPTABLES)
        except SnapshotError:
            refused += 1
    assert refused
