"""The command line: one command per stage, which a rule of the workflow calls and a person can run by hand."""

import os
import sys

import typer

from mousefacelift.base.errors import UserError
from mousefacelift.cli import comparison, configuration, experiments, gpu, masks, rigs, shards, stages, weights

app = typer.Typer(
    name="mousefacelift", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="From multi-camera videos of a mouse to a fine-tuned, evaluated GS-LRM. `snakemake --cores 8` runs all of it.",
)  # fmt: skip
for group in (stages, shards, experiments, comparison, configuration):
    app.add_typer(group.app)
app.add_typer(rigs.app, name="rig")
app.add_typer(masks.app, name="masks")
app.add_typer(weights.app, name="weights")
app.add_typer(gpu.app, name="gpu")


def main() -> None:
    """Run the command line: a user's mistake is one message and exit status 1, never a traceback."""
    # For GPU memory that is not in pieces. torch reads it when it is loaded, so it is set before any command.
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    try:
        app()
    except (UserError, OSError) as error:  # OSError: a full disk, a folder that cannot be written
        # A loader process passes its error on wrapped in its traceback.
        text = str(error).rpartition("mousefacelift.base.errors.UserError: ")[2].strip()
        if getattr(error, "shared", False) and os.environ.get("LOCAL_RANK", os.environ.get("SLURM_PROCID", "0")) != "0":
            # Only the first process reports it, after it has saved; another's bad status would have it killed before.
            sys.exit(0)
        print(f"mousefacelift: error: {text}", file=sys.stderr)
        sys.exit(getattr(error, "status", 1))
