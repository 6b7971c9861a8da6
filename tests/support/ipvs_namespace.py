"""Network namespaces for tests of one port of the IPVS data plane."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager

from kpctl.lab.netns import Namespace, create_all, delete_all
from tests.packets.flows.site import PREFIX

_serial = itertools.count(1)


@contextmanager
def entered_namespace() -> Iterator[Namespace]:
    """Make a network namespace and move the calling thread into it; it vanishes at the end."""
    made = Namespace(f"{PREFIX}{os.getpid()}-port{next(_serial)}")
    create_all([made])
    try:
        with made.enter():
            yield made
    finally:
        delete_all([made])
