"""
``kpctl rules``: how many rules there are, for whom, which do nothing, and how many there will be.

Exit codes: 0 done, 1 findings at or above ``--fail-on``, 2 wrong command line, 3 there were no
rules to count, or no objects to predict from, 4 the dump cannot be read.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kpctl.exit_codes import FINDINGS, OK, UNDETERMINED, USAGE
from kpctl.reading import (
    ContextOption,
    DumpOption,
    KubeconfigOption,
    NodeOption,
    Where,
    read_node,
)

if TYPE_CHECKING:
    from diagnostics.rules.model import Inventory
    from diagnostics.rules.predict import Prediction

_GROWTH = re.compile(r"(\d+(?:\.\d+)?)%(?:/month)?")
_MOST_GROWN = 1_000_000


class Output(enum.StrEnum):
    """Output formats."""

    TABLE = "table"
    JSON = "json"


class Level(enum.StrEnum):
    """From which level on findings make the command fail."""

    ERROR = "error"
    WARNING = "warning"


def rules(  # noqa: PLR0913, PLR0917 - one for each option
    dump: DumpOption = "",
    predict: Annotated[
        bool, typer.Option("--predict", help="How many there will be, and what they cost.")
    ] = False,
    services: Annotated[
        int, typer.Option("--services", min=0, max=1_000_000, help="Instead of the API's.")
    ] = 0,
    endpoints: Annotated[
        int, typer.Option("--endpoints", min=0, max=1000, help="Of each Service.")
    ] = 3,
    growth: Annotated[
        str, typer.Option("--growth", metavar="N%/month", help="Of Services and endpoints.")
    ] = "0%",
    months: Annotated[int, typer.Option("--months", min=0, max=120)] = 0,
    fail_on: Annotated[Level, typer.Option("--fail-on", help="Exit 1 from here on.")] = Level.ERROR,
    kubeconfig: KubeconfigOption = "",
    context: ContextOption = "",
    node: NodeOption = "",
    output: Annotated[Output, typer.Option("-o", "--output", help="Format.")] = Output.TABLE,
) -> None:
    """Count the rules in the kernel by chain and Service, and find those that do nothing."""
    where = Where(dump, kubeconfig, context, node)
    if not predict:
        if services or months:
            raise _wrong("--services and --months belong to --predict")
        raise typer.Exit(_count(where, output, fail_on))
    monthly = _read_growth(growth)
    if services and services * (1 + monthly) ** months > _MOST_GROWN:
        raise _wrong(f"--growth {growth} makes more than {_MOST_GROWN:,} Services; fewer --months")
    raise typer.Exit(_predict(where, (services, endpoints), (monthly, months), output))


def _wrong(text: str) -> typer.Exit:
    typer.echo(f"error: {text}", err=True)
    return typer.Exit(USAGE)


def _read_growth(text: str) -> float:
    found = _GROWTH.fullmatch(text)
    if found is None:
        raise _wrong(f"--growth {text}: expected a percentage of a month, as 10%/month")
    return float(found[1]) / 100


def _count(where: Where, output: Output, fail_on: Level) -> int:
    from diagnostics.rules.inventory import relevant_gaps, take_inventory
    from diagnostics.rules.report import rules_report
    from kpctl.rules_view import inventory_lines

    snapshot = read_node(where)
    inventory = take_inventory(snapshot)
    gaps = list(map(str, relevant_gaps(snapshot)))
    for gap in gaps:
        typer.echo(f"gap: {gap}", err=True)
    if inventory is None:
        typer.echo("error: there are no rules to count", err=True)
        return UNDETERMINED
    if output is Output.JSON:
        _print_json(rules_report(inventory, gaps))
    else:
        typer.echo("\n".join(inventory_lines(inventory)))
    return FINDINGS if _fails(inventory, fail_on) else OK


def _fails(inventory: Inventory, fail_on: Level) -> bool:
    if fail_on is Level.WARNING:
        return bool(inventory.findings)
    return any(one.level == Level.ERROR.value for one in inventory.findings)


def _predict(where: Where, size: tuple[int, int], growth: tuple[float, int], output: Output) -> int:
    from diagnostics.cluster.plans import ObjectsMissing
    from diagnostics.rules.inventory import relevant_gaps
    from diagnostics.rules.predict import predict_size, predict_snapshot

    if size[0]:
        return _print_prediction(predict_size(*size, *growth), (), output)
    snapshot = read_node(where)
    try:
        predictions = predict_snapshot(snapshot, *growth)
    except ObjectsMissing as error:
        for gap in error.gaps:
            typer.echo(f"gap: {gap}", err=True)
        typer.echo("error: no Services to predict from; say how many: --services N", err=True)
        return UNDETERMINED
    gaps = list(map(str, relevant_gaps(snapshot, prediction=True)))
    return _print_prediction(predictions, gaps, output)


def _print_prediction(
    predictions: Sequence[Prediction], gaps: Sequence[str], output: Output
) -> int:
    from diagnostics.rules.report import prediction_report
    from kpctl.rules_view import prediction_lines

    if output is Output.JSON:
        _print_json(prediction_report(predictions, gaps))
    else:
        typer.echo("\n".join(prediction_lines(predictions)))
    for gap in gaps:
        typer.echo(f"gap: {gap}", err=True)
    return OK


def _print_json(value: dict[str, Any]) -> None:
    import msgspec

    typer.echo(msgspec.json.encode(value).decode())
