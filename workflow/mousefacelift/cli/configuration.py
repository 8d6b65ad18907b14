"""Commands for the configuration."""

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


def choices() -> dict[str, tuple[str, ...]]:
    """The valid names of keys whose methods register themselves."""
    from mousefacelift.recordings.silhouettes.registry import METHODS

    return {"center.masks": tuple(METHODS)}


@app.command()
def schema(
    tables: Annotated[
        Path | None,
        typer.Option(help="Document, such as config/README.md, whose tables of keys to write again instead."),
    ] = None,
) -> None:
    """Print the configuration's JSON schema (config/schema.json)."""
    from mousefacelift.config.documents import json_schema, with_tables

    if tables is None:
        sys.stdout.write(json_schema(choices()))
    else:
        tables.write_text(with_tables(tables.read_text(encoding="utf-8"), choices()), encoding="utf-8")
