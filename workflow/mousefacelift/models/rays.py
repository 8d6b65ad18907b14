"""The rays through the pixels of posed views."""

import torch
from torch import Tensor
from torch.nn import functional

from mousefacelift.models.precision import full_precision


def pixel_rays(c2w: Tensor, fxfycxcy: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Origin and direction of the ray through every pixel's centre.

    Args:
        c2w: [B, V, 4, 4] camera to world, OpenCV axes, world units.
        fxfycxcy: [B, V, 4] intrinsics in pixels; the first pixel's centre is (0.5, 0.5).
        height: image height H in pixels.
        width: image width W in pixels.

    Returns:
        origins: [B, V, 1, 1, 3] the cameras' centres, world units, float32.
        directions: [B, V, H, W, 3] unit vectors in the world, float32.
    """
    with full_precision(c2w.device):  # bf16 would move a ray by several pixels, TF32 by a quarter of one
        c2w, fxfycxcy = c2w.float(), fxfycxcy.float()
        fx, fy, cx, cy = fxfycxcy[..., None, None, :].unbind(-1)
        col = torch.arange(width, device=c2w.device) + 0.5
        row = torch.arange(height, device=c2w.device)[:, None] + 0.5
        x, y = torch.broadcast_tensors((col - cx) / fx, (row - cy) / fy)
        directions = functional.normalize(torch.stack([x, y, torch.ones_like(x)], dim=-1), dim=-1)
        directions = directions @ c2w[..., None, :3, :3].transpose(-1, -2)
        return c2w[..., None, None, :3, 3], directions
