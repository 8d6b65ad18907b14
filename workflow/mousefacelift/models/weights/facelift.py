"""What FaceLift's checkpoints hold beside the model, and what they do not say of it."""

import math
import re
from collections import Counter
from dataclasses import replace
from typing import Any

from mousefacelift.models.gslrm import GSLRM, GSLRMConfig

# FaceLift's trainer keeps the networks of its losses inside the model; they are not trained and not needed here.
FROZEN = ("loss_calculator.perceptual_loss_module.", "loss_calculator.lpips_loss_module.")


def infer_config(shapes: dict[str, tuple[int, ...]]) -> GSLRMConfig:
    """Read the sizes of a model off its tensors' shapes: width, layers, patch, free Gaussians.

    Everything else is as in FaceLift's models: head width 64, or for a width that is no multiple of it the largest power
    of two that divides the width, and the defaults of `GSLRMConfig`. Sizes that the shapes do not tell, or that no model
    has, are FaceLift's too.

    Args:
        shapes: the shapes of a state dict's tensors by name; names may be wrong or missing.

    Returns:
        The config that fits most of the tensors.
    """
    # Where all names have the same prefix, the model is still known, and the message can name what is wrong with them.
    starts = Counter(name.partition("transformer_layers.")[0] for name in shapes if "transformer_layers." in name)
    prefix = starts.most_common(1)[0][0] if starts else ""
    shapes = {name.removeprefix(prefix): shape for name, shape in shapes.items()}
    sizes: dict[str, Any] = {}
    # Every tensor of one dimension belongs to a LayerNorm. The most frequent length outvotes a wrong one.
    lengths = Counter(shape[0] for shape in shapes.values() if len(shape) == 1)
    if lengths:
        sizes["width"] = lengths.most_common(1)[0][0]
    layers = {int(m[1]) for name in shapes if (m := re.match(r"transformer_layers\.(\d{1,6})\.", name))}
    if layers:
        # A gap in the numbering is a missing layer; a number far off is a wrong name.
        sizes["layers"] = max(layers) + 1 if max(layers) < 2 * len(layers) else len(layers)
    for name, axis, per_pixel in (("pixel_gaussian_decoder.1.weight", 0, 14), ("patch_embedder.1.weight", 1, 9)):
        shape = shapes.get(name, ())
        if len(shape) == 2 and per_pixel * (side := math.isqrt(shape[axis] // per_pixel)) ** 2 == shape[axis]:
            sizes["patch"] = side
    free = shapes.get("gaussian_position_embeddings", ())
    if len(free) == 2:
        sizes["free_gaussians"] = free[0]
    sizes = {name: value for name, value in sizes.items() if 1 <= value <= GSLRM.largest[name]}
    width = sizes.get("width", GSLRMConfig.width)
    sizes["head_width"] = math.gcd(width, GSLRMConfig.head_width)
    return replace(GSLRMConfig(), **sizes)
