"""What is in force on the node and therefore stays when leftovers are removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a mode that does not use iptables does without these modules
    from proxy.kernel.iptables import RecentPids
    from proxy.kernel.xtables_backend import Kind


@dataclass(frozen=True, slots=True)
class Running:
    """
    What is in force and therefore stays.

    Attributes:
        mode: NFTABLES, IPTABLES or IPVS; "" for none of them, so that all goes.
        kind: the iptables backend the mode writes with; what the other one has goes. Without it
            the mode's rules stay in both.
        pids: told of the programs started here, so that a monitor knows their edits as its own.
    """

    mode: str = ""
    kind: Kind | None = None
    pids: RecentPids | None = None
