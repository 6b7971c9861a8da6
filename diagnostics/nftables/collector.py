"""
Building large structures without the garbage collector in the way.

Everything that is built stays, and has no cycles; the collector would walk over all of it again and
again. Measured with 40,000 elements: 0.38 s instead of 1.0 s of CPU time.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_collector() -> Iterator[None]:
    """Keep the collector from running, unless the caller had stopped it anyway."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
