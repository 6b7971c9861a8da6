"""The help text of `kpctl run`, from the table of flags."""

from __future__ import annotations

import textwrap

from proxy.config.flag_table import FLAGS
from proxy.config.flag_types import Flag, FlagType, Group
from proxy.config.flags import format_value

_WIDTH = 100
_INDENT = " " * 10
_INTRODUCTION = """\
Usage: kpctl run [flags]

Serve Kubernetes Services on this node, with the configuration and flags of kube-proxy.
Flags marked with * also count when --config is given; all others are then ignored.
"""


def render_run_help() -> str:
    """Return the help text: flags by topic, with their defaults."""
    parts = [_INTRODUCTION]
    for group in Group:
        parts.append(f"{group.value}:")
        parts.extend(_entry(flag) for flag in FLAGS if flag.group is group)
        parts.append("")
    return "\n".join(parts)


def _entry(flag: Flag) -> str:
    mark = "*" if flag.with_config else " "
    names = f"-{flag.shorthand}, --{flag.name}" if flag.shorthand else f"    --{flag.name}"
    placeholder = f" {flag.type.value}" if flag.type.value else ""
    if flag.type is FlagType.VERSION:
        placeholder = f"[={flag.type.value}]"
    text = textwrap.fill(
        flag.help + _default(flag) + _deprecation(flag),
        _WIDTH,
        initial_indent=_INDENT,
        subsequent_indent=_INDENT,
        break_on_hyphens=False,
    )
    return f"{mark} {names}{placeholder}\n{text}"


def _default(flag: Flag) -> str:
    shown = format_value(flag, flag.default)
    return f" (default {shown})" if shown not in ("", "false") else ""


def _deprecation(flag: Flag) -> str:
    return f" Deprecated: use {flag.deprecated}." if flag.deprecated else ""
