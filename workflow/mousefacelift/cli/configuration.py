"""Commands for the configuration."""

import sys

import typer

app = typer.Typer()


@app.command()
def schema() -> None:
    """Print the configuration's JSON schema (config/schema.json)."""
    from mousefacelift.config.reading import json_schema

    sys.stdout.write(json_schema())
