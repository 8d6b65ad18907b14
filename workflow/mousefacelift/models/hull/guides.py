"""What the hull says of each pixel, for a network that is guided by it."""

import torch
from torch import Tensor

from mousefacelift.models.hull.api import intervals
from mousefacelift.models.hull.constants import INSIDE, SHARE
from mousefacelift.models.hull.splats import colours, log_scales, logits

MARGIN = 0.01  # world units by which a ray's interval of the hull is widened

# Places in what is known of a pixel: the ray's nearest point and direction, and what `guides` returns.
FRONT, BACK, VALID, START, SCALE, LOGIT = (slice(6 + i, 7 + i) for i in range(6))
COLOUR = slice(12, 15)
PLACE = slice(15, 16)  # and in a residual model, what `sweep.sweep` returns


@torch.no_grad()
def guides(
    image: Tensor, alpha: Tensor, c2w: Tensor, fxfycxcy: Tensor, unknown: Tensor | None, nearest: Tensor, directions: Tensor
) -> list[Tensor]:  # fmt: skip
    """What the visual hull says of each pixel, as `models.hull.surface` draws it.

    Returns:
        [B, V, H, W, 1, 1, 1, 1, 1, 1 and 3] float32: front and back of its ray's interval; whether it has one; the
        distance of its Gaussian from MARGIN before the front; its log scale; its opacity's logit; its colour.
    """
    image, alpha, c2w, fxfycxcy = (tensor.float() for tensor in (image, alpha, c2w, fxfycxcy))
    found = intervals(alpha, c2w, torch.linalg.inv(c2w), fxfycxcy, unknown)
    front, back, valid = (each[..., None].float() for each in found)
    valid = valid * (alpha[..., None] > INSIDE)
    share = SHARE if alpha.shape[1] > 1 else 0.5
    start = share * (back - front)
    scale = log_scales(nearest + (front + start) * directions, c2w, fxfycxcy)
    return [front, back, valid, start + MARGIN, scale, logits(alpha[..., None]), colours(image, alpha)]
