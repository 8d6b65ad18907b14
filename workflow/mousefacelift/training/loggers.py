"""Where a training run logs to: its table, TensorBoard, and if asked for Weights & Biases."""

import importlib
import importlib.util
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import atomic
from mousefacelift.training.finetuning import FineTuning
from mousefacelift.training.metrics_table import MetricsTable


def require_wandb(project: str | None) -> None:
    """Raise UserError if Weights & Biases is asked for and not installed."""
    if project is not None and importlib.util.find_spec("wandb") is None:
        raise UserError(
            "train.wandb needs the package wandb, which is not installed: pip install -c envs/constraints.txt -e "
            "'.[wandb]'; or set it to null"
        )


@contextmanager
def open_loggers(module: FineTuning, table: MetricsTable, checkpoint: Path, out_dir: Path) -> Iterator[list[Logger]]:
    """The loggers of a run that goes on after the module's step; they are closed at the end, also after an error.

    Args:
        module: set to the step after which the run goes on.
        table: of the run's metrics.
        checkpoint: last.ckpt of the run; the name of its W&B run lies beside it.
        out_dir: folder for TensorBoard's and W&B's files.

    Raises:
        UserError: if W&B does not answer, or does not know the user.
    """
    # purge_step hides what a killed run logged after its last checkpoint.
    tensorboard = TensorBoardLogger(out_dir, name="tensorboard", version="", purge_step=module.step + 1)
    if module.settings.wandb is None:
        yield [table, tensorboard]
        return
    wandb_logger = _wandb(module, checkpoint, out_dir)
    try:
        yield [table, tensorboard, wandb_logger]
    finally:
        if module.data.rank == 0:
            # Send what is left now: a cluster may end the machine with the job.
            wandb_logger.experiment.finish(exit_code=int(sys.exc_info()[0] is not None))


def _wandb(module: FineTuning, checkpoint: Path, out_dir: Path) -> WandbLogger:
    settings, first = module.settings, module.data.rank == 0
    logger = WandbLogger(
        project=settings.wandb, name=settings.run, id=_wandb_id(checkpoint) if first else None, save_dir=out_dir,
        resume="allow", config=settings.model_dump(mode="json"),
    )  # fmt: skip
    if first:
        wandb = importlib.import_module("wandb")  # an extra, which is imported only when asked for
        try:
            logger.experiment  # noqa: B018  # begins the run, before the first step
        except wandb.Error as error:
            raise UserError(
                f"train.wandb: Weights & Biases does not begin a run ({error}). Log in with `wandb login`; or set WANDB_MODE=offline "
                "in the environment and send the run later with `wandb sync`; or set train.wandb: null"
            ) from None
    return logger


def _wandb_id(checkpoint: Path) -> str:
    """The name of a run on W&B: one for all restarts, another where the checkpoints were deleted."""
    path = checkpoint.with_name("wandb-run")
    if not path.exists():
        with atomic(path) as temporary:
            temporary.write_text(secrets.token_hex(8), encoding="utf-8")
    return path.read_text(encoding="utf-8")
