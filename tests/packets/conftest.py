"""What packet tests need of the machine, and what they must not leave on it."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.packets.flows.site import remove_abandoned

_TOOLS = ("ip", "nft")


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Skip unless network namespaces can be made; remove those of test runs that were killed."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need CAP_NET_ADMIN and CAP_SYS_ADMIN: run as root")
    for tool in _TOOLS:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    if os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw0":  # one of them is enough
        remove_abandoned()
