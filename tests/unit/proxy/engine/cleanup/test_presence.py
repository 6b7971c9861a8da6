"""What is loaded is found out from files, so that asking loads nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.engine.cleanup import presence


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in place of /sys/module, /lib/modules and /proc/net."""
    monkeypatch.setattr(presence, "_MODULES", tmp_path)
    monkeypatch.setattr(presence, "_BUILT_IN", str(tmp_path / "modules.builtin"))
    monkeypatch.setattr(presence, "_VIRTUAL_SERVERS", tmp_path / "ip_vs")
    return tmp_path


def test_a_loaded_module_is_seen(system: Path) -> None:
    (system / "nf_tables").mkdir()
    (system / "modules.builtin").write_text("")
    assert presence.may_have_nf_tables()


def test_a_module_that_is_not_loaded_is_not_there(system: Path) -> None:
    (system / "modules.builtin").write_text("kernel/net/netfilter/nfnetlink.ko\n")
    assert not presence.may_have_nf_tables()


def test_a_built_in_module_is_there(system: Path) -> None:
    (system / "modules.builtin").write_text("kernel/net/netfilter/nf_tables.ko\n")
    assert presence.may_have_nf_tables()


@pytest.mark.usefixtures("system")
def test_where_nothing_tells_the_kernel_is_asked() -> None:
    assert presence.may_have_nf_tables()


def test_ipsets_and_virtual_servers_show_themselves(system: Path) -> None:
    assert not presence.has_ip_set()
    assert not presence.has_ip_vs()
    (system / "ip_set").mkdir()
    (system / "ip_vs").touch()
    assert presence.has_ip_set()
    assert presence.has_ip_vs()
