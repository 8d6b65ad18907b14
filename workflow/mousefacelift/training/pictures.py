"""Held-out views of the validation split as a run draws them, for those who watch it."""

from collections.abc import Iterable
from typing import Any

import matplotlib
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor
from torch.nn import functional

SAMPLES = 4  # pictured, spread evenly over the split
VIEWS = 2  # of each
SIZE = 256  # px, at most
GAP = 2  # px of white between two pictures
ERROR_SCALE = 0.5  # the error that is drawn brightest, as in the pictures of `evaluate`


def pictured(samples: int) -> set[int]:
    """The places in a split of so many samples that are pictured: the same in every validation."""
    return {place * samples // min(SAMPLES, samples) for place in range(min(SAMPLES, samples))}


def strip(rgb: Tensor, image: Tensor) -> np.ndarray:
    """A column per held-out view: the image, below it the prediction, below that the error.

    Args:
        rgb: predicted views [V, 3, S, S]; clamped to [0, 1].
        image: true views [V, 3, S, S] in [0, 1].

    Returns:
        uint8 [H, W, 3], of at most VIEWS views of at most SIZE px. The error is the mean over the colours, from black to
        yellow at ERROR_SCALE and above.
    """
    image, rgb = (_small(views[:VIEWS]) for views in (image, rgb.clamp(0, 1)))
    error = ((image - rgb).abs().mean(1) / ERROR_SCALE).clamp(0, 1)
    shown = [_bytes(image.movedim(1, -1)), _bytes(rgb.movedim(1, -1)), _heat(error.cpu().numpy())]
    return np.concatenate([np.concatenate([_framed(view) for view in views], axis=1) for views in shown])


def log_picture(loggers: Iterable[Any], strips: list[np.ndarray], step: int) -> None:
    """Give the loggers that take pictures a grid of strips, side by side."""
    grid = np.concatenate(strips, axis=1)
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image("held_out", grid, step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image("held_out", [grid], step)


def _small(views: Tensor) -> Tensor:
    factor = -(-views.shape[-1] // SIZE)
    return functional.avg_pool2d(views.float(), factor) if factor > 1 else views.float()


def _bytes(views: Tensor) -> np.ndarray:
    found: np.ndarray = (views * 255).round().to(torch.uint8).cpu().numpy()
    return found


def _heat(error: np.ndarray) -> np.ndarray:
    colours: np.ndarray = matplotlib.colormaps["magma"](error, bytes=True)[..., :3]
    return colours


def _framed(view: np.ndarray) -> np.ndarray:
    return np.pad(view, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)
