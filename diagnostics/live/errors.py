"""What goes wrong while a node is read piece by piece."""

from __future__ import annotations


class ReadError(Exception):
    """
    A chain or map could not be read while rules were followed.

    The text names what was read, the reason and the next step. Nothing may be concluded then: a
    chain that was not read is not an empty one.
    """
