"""
Tests that need a kernel with IPVS: `make ipvs` runs them in user-mode Linux (tests/uml).

They are no part of a run without arguments; elsewhere they are skipped unless the kernel has IPVS.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kpctl.lab.netns import Namespace
from tests.packets.flows.site import remove_abandoned
from tests.support.ipvs_namespace import entered_namespace

_HERE = Path(__file__).parent
_IPVS = Path("/proc/net/ip_vs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0 and _IPVS.exists():
        return
    reason = "IPVS: the kernel has no ip_vs loaded, or this is not root; run `make ipvs`"
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Remove the namespaces of test runs that were killed."""
    remove_abandoned()


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """A network namespace that the test runs in."""
    with entered_namespace() as made:
        yield made
