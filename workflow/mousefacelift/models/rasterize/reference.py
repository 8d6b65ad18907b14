"""The renderer's model written plainly: every pixel sees every Gaussian, in float64, gradients by autograd.

`rasterize` must agree with this. Memory grows with V * H * W * N: for tests on small scenes only.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rasterize_reference(
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
    """Draw Gaussians as `rasterize` does; its arguments and results, but always in float64."""
    means, quats, scales, opacities, colors = (tensor.double() for tensor in (means, quats, scales, opacities, colors))
    axes = rotation_matrices(quats) * scales[:, None, :]
    scene = means, axes @ axes.mT, opacities, colors.clamp_min(0)
    views = [
        _draw_view(scene, pose, lens, width, height, background)
        for pose, lens in zip(w2c.double(), fxfycxcy.double(), strict=True)
    ]
    rgb, alpha = zip(*views, strict=True)
    return torch.stack(rgb), torch.stack(alpha)


def rotation_matrices(quats: Tensor) -> Tensor:
    """Rotations [N, 3, 3] of quaternions wxyz [N, 4] of any length; the identity for a zero quaternion."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def project(
    means: Tensor, covariances: Tensor, w2c: Tensor, fxfycxcy: Tensor, width: int, height: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Project Gaussians into one view.

    The perspective is linearised at each centre (EWA splatting, Zwicker et al. 2001). Where a centre lies far outside
    the image the linearisation is taken at 30 % of the half field of view beyond the border (Kerbl et al. 2023, with
    gsplat's treatment of an off-centre principal point): further out it would blow up.

    Args:
        means: [N, 3] centres, world units.
        covariances: [N, 3, 3] world units^2.
        w2c: [4, 4] world to camera, OpenCV axes.
        fxfycxcy: [4] intrinsics in pixels; the first pixel's centre is (0.5, 0.5).
        width: image width in pixels.
        height: image height in pixels.

    Returns:
        centers: [N, 2] px.
        covariances: [N, 2, 2] px^2, low-pass included.
        z: [N] camera z, world units.
    """
    fx, fy, cx, cy = fxfycxcy
    rotation = w2c[:3, :3]
    x, y, z = (means @ rotation.T + w2c[:3, 3]).unbind(-1)
    centers = torch.stack([fx * x / z + cx, fy * y / z + cy], -1)
    margin_x, margin_y = 0.15 * width / fx, 0.15 * height / fy
    slope_x = (x / z).clamp(-cx / fx - margin_x, (width - cx) / fx + margin_x)
    slope_y = (y / z).clamp(-cy / fy - margin_y, (height - cy) / fy + margin_y)
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        [torch.stack([fx / z, zero, -fx * slope_x / z], -1), torch.stack([zero, fy / z, -fy * slope_y / z], -1)], -2
    )
    linear = jacobian @ rotation
    return centers, linear @ covariances @ linear.mT + 0.3 * torch.eye(2, dtype=z.dtype), z


def _draw_view(
    scene: tuple[Tensor, ...], w2c: Tensor, fxfycxcy: Tensor, width: int, height: int, background: float
) -> tuple[Tensor, Tensor]:
    """One view of means, covariances, opacities and colours: rgb [H, W, 3] and alpha [H, W]."""
    means, covariances, opacities, colors = scene
    # Front to back, without what is not beyond the near plane.
    z = means.detach() @ w2c[2, :3] + w2c[2, 3]
    order = torch.argsort(z, stable=True)
    order = order[z[order] > 0.2]
    centers, covariances, _ = project(means[order], covariances[order], w2c, fxfycxcy, width, height)

    # The squared Mahalanobis distance of every pixel's centre to every Gaussian.
    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=z.dtype), torch.arange(width, dtype=z.dtype), indexing="ij"
    )
    pixels = torch.stack([columns, rows], -1) + 0.5
    offsets = pixels[:, :, None] - centers
    distance = torch.einsum("hwni,nij,hwnj->hwn", offsets, torch.linalg.inv(covariances), offsets)
    # What is nearly transparent is skipped, and a pixel is finished before it would be opaque.
    alpha = (opacities[order] * torch.exp(-distance / 2)).clamp_max(0.99)
    alpha = alpha * (alpha >= 1 / 255)
    alpha = alpha * (torch.cumprod(1 - alpha, -1) >= 1e-4)
    clear = torch.ones(height, width, 1, dtype=z.dtype)
    transmittance = torch.cumprod(torch.cat([clear, 1 - alpha], -1), -1)
    rgb = (alpha * transmittance[..., :-1]) @ colors[order] + transmittance[..., -1:] * background
    return rgb, 1 - transmittance[..., -1]
