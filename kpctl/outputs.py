"""Output formats that several commands share."""

from __future__ import annotations

import enum
from typing import Annotated

import typer


class Output(enum.StrEnum):
    """Text for people, JSON for programs."""

    TEXT = "text"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("-o", "--output", help="Output format.")]


def print_json(value: object) -> None:
    """Print one JSON object on one line."""
    import msgspec

    typer.echo(msgspec.json.encode(value).decode())
