"""
Every flag of kube-proxy, and the few that only kpctl has, as one table.

Parsing, the effect on the configuration, the warnings about ignored flags and the help text all
come from here.
"""

from __future__ import annotations

from collections.abc import Mapping

from proxy.config.flag_types import Flag
from proxy.config.flags_process import PROCESS_FLAGS
from proxy.config.flags_traffic import TRAFFIC_FLAGS

FLAGS: tuple[Flag, ...] = PROCESS_FLAGS + TRAFFIC_FLAGS
FLAG_BY_NAME: Mapping[str, Flag] = {flag.name: flag for flag in FLAGS}
FLAG_BY_SHORTHAND: Mapping[str, Flag] = {flag.shorthand: flag for flag in FLAGS if flag.shorthand}
