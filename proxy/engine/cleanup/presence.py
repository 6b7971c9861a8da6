"""
What the kernel has loaded, found out without loading it.

Asking the kernel by netlink for something that is a module makes it load the module, and asking
ip_tables for a table makes the table.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_MODULES = Path("/sys/module")
_BUILT_IN = "/lib/modules/{release}/modules.builtin"
_VIRTUAL_SERVERS = Path("/proc/thread-self/net/ip_vs")


def may_have_nf_tables() -> bool:
    """Return False if nf_tables is a module that is not loaded; True also when that is unknown."""
    if (_MODULES / "nf_tables").exists():
        return True
    with suppress(OSError):
        built_in = Path(_BUILT_IN.format(release=os.uname().release)).read_text()
        return "/nf_tables.ko" in built_in
    return True


def has_ip_set() -> bool:
    """Return whether the kernel knows ipsets now; its parameter shows it even when built in."""
    return (_MODULES / "ip_set").exists()


def has_ip_vs() -> bool:
    """Return whether the kernel knows virtual servers now, in the thread's network namespace."""
    return _VIRTUAL_SERVERS.exists()
