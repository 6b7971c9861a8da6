"""
`kpctl config`: judge a configuration file, show what it amounts to, show the defaults.

Exit codes: 0 usable, 1 findings, 2 wrong command line, 4 the file cannot be read.
"""

from __future__ import annotations

import enum
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer

from proxy.config.convert import config_from_values, render_yaml, to_v1alpha1
from proxy.config.defaults import with_defaults, with_platform_defaults
from proxy.config.file import load_file
from proxy.config.flags import parse_flags
from proxy.config.problems import FlagError, InvalidConfiguration, Problem, UnreadableFile
from proxy.config.resolve import Resolution, resolve
from proxy.config.types import ProxyConfig
from proxy.config.validation import validate_config

FINDINGS = 1
USAGE = 2
ENVIRONMENT = 4

app = typer.Typer(
    name="config",
    help="Check and show the proxy's configuration.",
    no_args_is_help=True,
)


class ReportFormat(enum.StrEnum):
    """How findings are printed."""

    TABLE = "table"
    JSON = "json"


class ConfigFormat(enum.StrEnum):
    """How a configuration is printed."""

    YAML = "yaml"
    JSON = "json"


class Platform(enum.StrEnum):
    """The operating system a file is meant for."""

    LINUX = "linux"
    WINDOWS = "windows"


class Mode(enum.StrEnum):
    """A data plane."""

    NFTABLES = "nftables"
    IPTABLES = "iptables"
    IPVS = "ipvs"


@app.command()
def validate(
    file: Annotated[str, typer.Argument(help="KubeProxyConfiguration, or its ConfigMap.")],
    strict: Annotated[
        bool, typer.Option("--strict", help="Unknown fields, duplicates and dead gates fail too.")
    ] = False,
    output: Annotated[ReportFormat, typer.Option("-o", "--output")] = ReportFormat.TABLE,
    platform: Annotated[
        Platform, typer.Option("--os", help="Operating system of the file's nodes.")
    ] = Platform.LINUX,
) -> None:
    """Report everything that is wrong with a configuration file."""
    warnings: Sequence[Problem] = ()
    try:
        loaded = load_file(file)
    except UnreadableFile as error:
        raise _fail(error.problems, ENVIRONMENT) from error
    except InvalidConfiguration as error:
        errors: Sequence[Problem] = error.problems
        warnings = error.warnings
    else:
        warnings = loaded.warnings
        # The platform defaults are Linux'; on Windows an empty mode stays empty and valid.
        on_linux = platform is Platform.LINUX
        config = with_platform_defaults(loaded.config) if on_linux else loaded.config
        errors = validate_config(config, platform=platform.value)
    if strict:
        errors, warnings = (*errors, *warnings), ()
    _report(file, errors, warnings, output)
    raise typer.Exit(FINDINGS if errors else 0)


@app.command(context_settings={"ignore_unknown_options": True})
def view(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE] [FLAGS]...", help="A file, and any flags of kpctl run."),
    ] = None,
    output: Annotated[ConfigFormat, typer.Option("-o", "--output")] = ConfigFormat.YAML,
) -> None:
    """Show the configuration that a file and flags amount to, complete with defaults."""
    given = list(arguments or ())
    if given and not given[0].startswith("-"):
        given[0:1] = ["--config", given[0]]
    with _exit_codes():
        resolution = resolve(parse_flags(given))
    _say("warning", resolution.warnings)
    _say("error", resolution.errors)
    _print_config(resolution.config, output)
    raise typer.Exit(_code(resolution))


@app.command()
def defaults(
    mode: Annotated[Mode, typer.Option(help="Data plane to show the defaults of.")] = Mode.IPTABLES,
    output: Annotated[ConfigFormat, typer.Option("-o", "--output")] = ConfigFormat.YAML,
) -> None:
    """Show the configuration of a file that names nothing but the mode."""
    config = config_from_values(with_defaults({"mode": mode.value}))
    _print_config(with_platform_defaults(config), output)


def _code(resolution: Resolution) -> int:
    return FINDINGS if resolution.errors else 0


@contextmanager
def _exit_codes() -> Iterator[None]:
    try:
        yield
    except UnreadableFile as error:
        raise _fail(error.problems, ENVIRONMENT) from error
    except InvalidConfiguration as error:
        _say("warning", error.warnings)
        raise _fail(error.problems, FINDINGS) from error
    except FlagError as error:
        raise _fail(error.problems, USAGE) from error


def _fail(problems: Sequence[Problem], code: int) -> typer.Exit:
    _say("error", problems)
    return typer.Exit(code)


def _say(severity: str, problems: Sequence[Problem]) -> None:
    for problem in problems:
        typer.echo(f"{severity}: {problem}", err=True)


def _print_config(config: ProxyConfig, output: ConfigFormat) -> None:
    as_json = output is ConfigFormat.JSON
    text = json.dumps(to_v1alpha1(config), indent=2) if as_json else render_yaml(config)
    typer.echo(text.rstrip("\n"))


def _report(
    file: str, errors: Sequence[Problem], warnings: Sequence[Problem], output: ReportFormat
) -> None:
    findings = [("error", problem) for problem in errors]
    findings += [("warning", problem) for problem in warnings]
    if output is ReportFormat.JSON:
        typer.echo(json.dumps(_as_json(file, findings), indent=2, default=str))
    elif stdout_is_terminal() and findings:
        _print_table(findings)
    else:
        for severity, problem in findings:
            typer.echo(f"{severity}: {problem}")
    if output is ReportFormat.TABLE:
        typer.echo(f"{file}: {_summary(len(errors), len(warnings))}")


def stdout_is_terminal() -> bool:
    """Whether a person is likely to read what is printed."""
    return sys.stdout.isatty()


def _as_json(file: str, findings: Sequence[tuple[str, Problem]]) -> dict[str, object]:
    return {
        "apiVersion": "kpctl.io/v1",
        "kind": "ConfigReport",
        "file": file,
        "valid": all(severity != "error" for severity, _ in findings),
        "findings": [
            {
                "severity": severity,
                "path": problem.path,
                "kind": problem.kind,
                "message": problem.message,
                "value": problem.value,
                "line": problem.line,
            }
            for severity, problem in findings
        ],
    }


def _print_table(findings: Sequence[tuple[str, Problem]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("SEVERITY", "LINE", "FIELD", "MESSAGE", box=None, pad_edge=False)
    for severity, problem in findings:
        line = str(problem.line) if problem.line is not None else ""
        style = "red" if severity == "error" else "yellow"
        texts = (Text(cell) for cell in (line, problem.path, problem.message))
        table.add_row(Text(severity, style), *texts)
    Console().print(table)


def _summary(errors: int, warnings: int) -> str:
    if not errors and not warnings:
        return "valid"
    verdict = "not valid" if errors else "valid"
    return f"{verdict}, {_count(errors, 'error')}, {_count(warnings, 'warning')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
