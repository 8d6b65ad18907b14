"""Draw 3D Gaussians: one function, gsplat on CUDA tensors and the numba rasteriser on CPU tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from mousefacelift.base.errors import UserError
from mousefacelift.gpu.extension import ready
from mousefacelift.models.rasterize.constants import LOW_PASS, NEAR_PLANE
from mousefacelift.models.rasterize.cpu import CpuRasterizer

MOST_PAIRS = 2**31 - 1  # of a Gaussian and a tile in one call of gsplat, which numbers them in 32 bits


def rasterize(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    w2c: Tensor,
    fxfycxcy: Tensor,
    width: int,
    height: int,
    background: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Draw N Gaussians in V views over a grey background; differentiable in the five Gaussian tensors.

    Every Gaussian is projected with the affine approximation of EWA splatting (Zwicker et al. 2001) and blended
    front to back by camera z (Kerbl et al. 2023): alpha = min(0.99, opacity * exp(-q / 2)) with q its squared
    Mahalanobis distance to the pixel's centre in the projected covariance + 0.3 px^2; an alpha below 1/255 is skipped,
    and a pixel is finished before the Gaussian that would bring its transmittance below 1e-4.

    Args:
        means: [N, 3] centres, world units.
        quats: [N, 4] rotations wxyz, of any length.
        scales: [N, 3] standard deviations along the rotated axes, world units, > 0.
        opacities: [N] in (0, 1).
        colors: [N, 3] RGB; clamped below at 0, never above.
        w2c: [V, 4, 4] world to camera, OpenCV axes (+x right, +y down, +z forward).
        fxfycxcy: [V, 4] intrinsics in pixels; the first pixel's centre is (0.5, 0.5).
        width: image width W in pixels.
        height: image height H in pixels.
        background: grey level behind the Gaussians.

    Returns:
        rgb: [V, H, W, 3] colours over the background.
        alpha: [V, H, W] opacity accumulated in every pixel.
        Both are float32, or float64 on the CPU if all Gaussian tensors are float64.

    Raises:
        ValueError: a tensor has the wrong shape or dtype, or tensors live on different devices.
        UserError: the tensors are on CUDA, and gsplat is not installed or its extension cannot be compiled.
    """
    gaussians = {"means": means, "quats": quats, "scales": scales, "opacities": opacities, "colors": colors}
    cameras = {"w2c": w2c, "fxfycxcy": fxfycxcy}
    _check(gaussians | cameras, width, height)
    float64 = means.device.type == "cpu" and all(tensor.dtype == torch.float64 for tensor in gaussians.values())
    dtype = torch.float64 if float64 else torch.float32
    # In half precision the projected covariance and the transmittance lose the picture: autocast ends here.
    means, quats, scales, opacities, colors = (tensor.to(dtype) for tensor in gaussians.values())
    scene = means, quats, scales, opacities, colors.clamp_min(0)
    with torch.autocast(means.device.type, enabled=False):
        if means.device.type == "cuda":
            ready(torch.get_num_threads())
            return _gsplat(scene, w2c.to(dtype), fxfycxcy.to(dtype), width, height, background)
        return CpuRasterizer.apply(width, height, background, w2c, fxfycxcy, *scene)


def _gsplat(
    scene: tuple[Tensor, ...], w2c: Tensor, fxfycxcy: Tensor, width: int, height: int, background: float
) -> tuple[Tensor, Tensor]:
    """`rasterize` by gsplat (Ye et al. 2025); it clamps alpha at 0.999 instead of 0.99."""
    if not len(scene[0]):  # gsplat 1.5.3 divides by the number of Gaussians
        return w2c.new_full((len(w2c), height, width, 3), background), w2c.new_zeros(len(w2c), height, width)
    from gsplat import rasterization

    fx, fy, cx, cy = fxfycxcy.unbind(-1)
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    intrinsics = torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one], -1).reshape(-1, 3, 3)
    rgb, alpha, about = rasterization(
        *scene,  # means, quats, scales, opacities, colors
        viewmats=w2c,
        Ks=intrinsics,
        width=width,
        height=height,
        near_plane=NEAR_PLANE,
        eps2d=LOW_PASS,
        packed=False,
        rasterize_mode="classic",
        backgrounds=w2c.new_full((len(w2c), 3), background),
    )
    if len(about.get("flatten_ids", ())) > MOST_PAIRS:
        raise UserError(
            f"the Gaussians touch {len(about['flatten_ids']):.3g} tiles in {len(w2c)} views together, more than gsplat can count: "
            "set train.rerender, or lower train.image_size"
        )
    return rgb, alpha[..., 0]


def _check(tensors: dict[str, Tensor], width: int, height: int) -> None:
    """Raise ValueError for a tensor that `rasterize` cannot take; gsplat and numba would name none."""
    count = len(tensors["means"]) if tensors["means"].ndim else 0
    views = len(tensors["w2c"]) if tensors["w2c"].ndim else 0
    shapes = {
        "means": (count, 3),
        "quats": (count, 4),
        "scales": (count, 3),
        "opacities": (count,),
        "colors": (count, 3),
        "w2c": (views, 4, 4),
        "fxfycxcy": (views, 4),
    }
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != shapes[name]:
            raise ValueError(
                f"rasterize: {name} has shape {tuple(tensor.shape)}, expected {shapes[name]} "
                f"({count} Gaussians by the length of means, {views} views by the length of w2c)"
            )
        if not tensor.is_floating_point():
            raise ValueError(f"rasterize: {name} has dtype {tensor.dtype}, expected a floating-point dtype")
    devices = {name: str(tensor.device) for name, tensor in tensors.items()}
    if len(set(devices.values())) > 1:
        raise ValueError(f"rasterize: all tensors must be on one device, got {devices}")
    device = tensors["means"].device.type
    if device not in ("cpu", "cuda"):
        raise ValueError(f"rasterize: tensors on {device} cannot be drawn; move them to the CPU or to CUDA")
    for name, tensor in list(tensors.items())[-2:]:
        if tensor.requires_grad:
            raise ValueError(f"rasterize: {name} requires a gradient, but cameras are not optimised; detach it")
    if width < 1 or height < 1:
        raise ValueError(f"rasterize: the image is {width} x {height} px; both sides must be at least 1")
