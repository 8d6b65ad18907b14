"""Gaussians and cameras like those of GS-LRM on a mouse, without a network."""

import math

import torch

DISTANCE = 2.7
BODY = torch.tensor([0.30, 0.16, 0.14])
"""Half axes of the body in world units; at a focal length of 4 image sides its length fills 9/10 of the width."""

FOCAL = 4.0
"""Focal length in image sides."""


def look_at_origin(azimuth: float, elevation: float) -> torch.Tensor:
    azimuth, elevation = math.radians(azimuth), math.radians(elevation)
    away = torch.tensor(
        [math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)]
    )
    right = torch.tensor([-math.sin(azimuth), math.cos(azimuth), 0])
    w2c = torch.eye(4)
    w2c[:3, :3] = torch.stack([right, torch.linalg.cross(-away, right), -away])
    w2c[2, 3] = DISTANCE
    return w2c


def ring(views: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """w2c [V, 4, 4] and fxfycxcy [V, 4] of cameras around the body, whose images have `side` px."""
    w2c = torch.stack([look_at_origin(360 / max(views, 6) * view, 20 + 15 * (view % 2)) for view in range(views)])
    return w2c, torch.tensor([FOCAL * side, FOCAL * side, side / 2, side / 2]).repeat(views, 1)


def pixel_aligned_scene(kind: str, side: int, inputs: int, views: int) -> list[torch.Tensor]:
    """Arguments of `rasterize`: one Gaussian per pixel of `inputs` images, and the first `views` of six cameras.

    "initial" is GS-LRM before training: every opacity is 0.12, standard deviations are 1 to 4 px. "trained" has its
    Gaussians on a mouse-sized body, a fair part of them opaque, and those of background pixels nearly transparent.
    """
    generator = torch.Generator().manual_seed(0)
    w2c, fxfycxcy = ring(6, side)
    focal = FOCAL * side
    ticks = (torch.arange(side) + 0.5 - side / 2) / focal
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    rays = torch.nn.functional.normalize(torch.stack([x, y, torch.ones_like(x)], -1).reshape(-1, 3), dim=-1)
    means, on_body = [], []
    for pose in w2c[:inputs]:
        directions, origin = rays @ pose[:3, :3], -pose[:3, :3].T @ pose[:3, 3]
        a, b = ((directions / BODY) ** 2).sum(-1), (directions * origin / BODY**2).sum(-1)
        under_root = b**2 - a * (((origin / BODY) ** 2).sum() - 1)
        hit = under_root > 0
        depth = torch.where(hit, (-b - under_root.clamp_min(0).sqrt()) / a, DISTANCE)
        depth += 0.02 * torch.randn(depth.shape, generator=generator)
        means.append(origin + directions * depth[:, None])
        on_body.append(hit)
    means, on_body = torch.cat(means), torch.cat(on_body)
    spread, logits = torch.randn(len(means), 3, generator=generator), torch.randn(len(means), generator=generator)
    pixel = DISTANCE / focal
    if kind == "initial":
        scales, opacities = pixel * 2 * torch.exp(0.35 * spread), torch.full_like(logits, 0.12)
    else:
        scales = pixel * 0.8 * torch.exp(0.4 * spread)
        opacities = torch.sigmoid(torch.where(on_body, 1 + 1.5 * logits, logits - 5.5))
    quats, colors = torch.randn(len(means), 4, generator=generator), torch.rand(len(means), 3, generator=generator)
    return [means, quats, scales, opacities, colors, w2c[:views], fxfycxcy[:views]]
