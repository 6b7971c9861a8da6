"""What the table of flags says about each flag."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class FlagType(enum.Enum):
    """Type of a flag's value; the enum's value is its placeholder in the help text."""

    BOOL = ""
    INT = "INT"
    UINT = "N"
    FLOAT = "NUMBER"
    DURATION = "DURATION"
    STRING = "TEXT"
    STRINGS = "LIST"
    IP = "IP"
    IP_PORT = "IP[:PORT]"
    GATES = "GATE=BOOL,..."
    VMODULE = "PATTERN=N,..."
    QUANTITY = "QUANTITY"
    VERSION = "raw|vX.Y.Z"


class Group(enum.Enum):
    """Headings of the help text, in order."""

    GENERAL = "General"
    SOURCE = "Where the cluster state comes from"
    SERVERS = "Health and metrics servers"
    TRAFFIC = "Traffic"
    NODE_PORTS = "Node ports"
    IPTABLES = "iptables mode (sync periods and masquerading also serve nftables)"
    IPVS = "ipvs mode"
    CONNTRACK = "Connection tracking"
    LOGGING = "Logging"


@dataclass(frozen=True, slots=True)
class Flag:
    """
    One flag.

    Args:
        name: Long name without dashes.
        type: How the value is read.
        default: Value when it is not given, as the type parses it.
        help: One sentence for the help text.
        group: Heading in the help text.
        field: Field of the file that it stands for, or "".
        with_config: Whether it still counts when --config is given.
        shorthand: One letter, or "".
        deprecated: What to use instead; "" when it is not deprecated.
    """

    name: str
    type: FlagType
    default: object
    help: str
    group: Group
    field: str = ""
    with_config: bool = False
    shorthand: str = ""
    deprecated: str = ""
