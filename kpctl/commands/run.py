"""``kpctl run``: kube-proxy's command line in front of the engine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from kpctl.exit_codes import ENVIRONMENT, FINDINGS, OK, USAGE
from kpctl.version import kubernetes_version
from proxy.config.convert import render_yaml
from proxy.config.file import write_file
from proxy.config.flags import ParsedFlags, parse_flags
from proxy.config.problems import ConfigurationError, FlagError, Problem
from proxy.config.resolve import Resolution, resolve
from proxy.config.types import ProxyConfig
from proxy.config.watch import FileWatch
from proxy.runtime.logs import LogSettings, get_logger, setup_logging

log = get_logger(__name__)


def run(arguments: Sequence[str]) -> int:
    """Run the node proxy with kube-proxy's *arguments*; return the exit code."""
    try:
        flags = parse_flags(arguments)
    except FlagError as error:
        print(f"Error: {error}\nSee 'kpctl run --help'.", file=sys.stderr)  # noqa: T201 - as pflag
        return USAGE
    if flags.is_set("help"):
        from proxy.config.flag_help import render_run_help

        print(render_run_help(), end="")  # noqa: T201 - the answer itself
        return OK
    if flags.text("version") != "false":
        print(f"Kubernetes {kubernetes_version()}")  # noqa: T201 - kube-proxy's answer
        return OK
    return _run(flags)


def _run(flags: ParsedFlags) -> int:
    path = flags.text("config")
    watch = FileWatch(path) if path else None
    try:
        resolution = resolve(flags)
    except ConfigurationError as error:
        setup_logging(LogSettings())
        for problem in error.problems:
            log.error("command failed", err=_text(problem, path))
        return FINDINGS
    config = resolution.config
    setup_logging(_log_settings(config))
    for problem in resolution.warnings:
        log.warning("Configuration", problem=_text(problem, ""))
    for line in flags.lines():
        log.v(1).info(line)
    if resolution.errors:
        for problem in resolution.errors:
            log.error("command failed", err=f"failed validate: {_text(problem, path)}")
        return FINDINGS
    return _act(flags, resolution, watch)


def _act(flags: ParsedFlags, resolution: Resolution, watch: FileWatch | None) -> int:
    from kpctl import node_proxy

    config = resolution.config
    if target := flags.text("write-config-to"):
        try:
            write_file(target, render_yaml(config))
        except ConfigurationError as error:
            log.error("command failed", err=error)
            return ENVIRONMENT
        log.info("Wrote configuration", file=target)
        return OK
    if flags.is_set("cleanup"):
        return node_proxy.clean_up(config)
    manifests = Path(flags.text("manifests")) if flags.text("manifests") else None
    if flags.is_set("dry-run"):
        from kpctl.dry_run import dry_run

        return dry_run(config, flags.text("master"), manifests)
    options = node_proxy.Options(
        master=flags.text("master"),
        manifests=manifests,
        init_only=flags.is_set("init-only"),
        watch=watch,
        drain_limit_s=flags.number("ipvs-graceful-termination-timeout"),
        flags={name: value for name, _, value in map(_flag_line, flags.lines())},
    )
    return node_proxy.run(config, options)


def _flag_line(line: str) -> tuple[str, str, str]:
    name, separator, value = line.removeprefix("FLAG: --").partition("=")
    return name, separator, value.strip('"')


def _text(problem: Problem, path: str) -> str:
    text = str(problem)
    return f"{path}: {text}" if path and path not in text else text


def _log_settings(config: ProxyConfig) -> LogSettings:
    logging = config.logging
    return LogSettings(
        json=logging.format == "json",
        verbosity=logging.verbosity,
        vmodule=tuple((item.file_pattern, item.verbosity) for item in logging.vmodule),
    )
