"""3D Gaussians, whatever network they come from, and how views of them are drawn."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

SH_C0 = 0.28209479177387814  # the constant spherical harmonic, 1 / (2 sqrt(pi)): colour = 0.5 + SH_C0 * dc


@dataclass(frozen=True)
class Gaussians:
    """Raw Gaussians of B samples: what the network says, biases added, before the activations.

    Attributes:
        xyz: [B, N, 3] centres, world units.
        features: [B, N, 1, 3] colours as the coefficient dc of the constant spherical harmonic.
        scaling: [B, N, 3] log of the standard deviations along the rotated axes, world units.
        rotation: [B, N, 4] quaternions wxyz of any length.
        opacity: [B, N, 1] logits.
    """

    xyz: Tensor
    features: Tensor
    scaling: Tensor
    rotation: Tensor
    opacity: Tensor

    def activated(self, sample: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One sample as `rasterize` takes it.

        Args:
            sample: index in the batch.

        Returns:
            means: [N, 3] world units.
            quats: [N, 4] unit quaternions wxyz.
            scales: [N, 3] world units.
            opacities: [N] in (0, 1).
            colors: [N, 3] RGB, not clamped.
        """
        return (
            self.xyz[sample],
            functional.normalize(self.rotation[sample], dim=-1),
            self.scaling[sample].exp(),
            self.opacity[sample, :, 0].sigmoid(),
            0.5 + SH_C0 * self.features[sample, :, 0],
        )


def render(
    gaussians: Gaussians, w2c: Tensor, fxfycxcy: Tensor, width: int, height: int, rerender: bool = False
) -> tuple[Tensor, Tensor]:
    """Draw every sample's Gaussians in that sample's views over white, in float32 whatever the autocast.

    Args:
        gaussians: of B samples.
        w2c: [B, V, 4, 4] world to camera, OpenCV axes.
        fxfycxcy: [B, V, 4] intrinsics in pixels; the first pixel's centre is (0.5, 0.5).
        width: image width W in pixels.
        height: image height H in pixels.
        rerender: draw the views one by one, and keep only the Gaussians for the backward pass, which draws each again.

    Returns:
        rgb: [B, V, 3, H, W] over white.
        alpha: [B, V, H, W] accumulated opacity.

    Raises:
        ValueError: as `rasterize`.
        UserError: as `rasterize`.
    """
    from mousefacelift.models.rasterize.api import rasterize  # imports numba, which reading weights does without

    drawn = []
    with torch.autocast(w2c.device.type, enabled=False):
        for i in range(w2c.shape[0]):
            scene = gaussians.activated(i)
            if rerender:
                views = [
                    checkpoint(
                        rasterize, *scene, w2c[i, v : v + 1], fxfycxcy[i, v : v + 1], width, height,
                        use_reentrant=False, preserve_rng_state=False,
                    )
                    for v in range(w2c.shape[1])
                ]  # fmt: skip
                drawn.append(tuple(torch.cat(parts) for parts in zip(*views, strict=True)))
            else:
                drawn.append(rasterize(*scene, w2c[i], fxfycxcy[i], width, height))
    return torch.stack([rgb for rgb, _ in drawn]).movedim(-1, 2), torch.stack([alpha for _, alpha in drawn])
