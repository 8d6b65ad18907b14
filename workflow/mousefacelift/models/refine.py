"""Gaussians of one moment, optimised on its input views: the refinement of a prediction, and a fit without a network.

Kerbl et al. (2023), 3D Gaussian Splatting for Real-Time Radiance Field Rendering: Adam, and one learning rate for each kind of
parameter. Nothing is added or removed on the way: there is a Gaussian for every pixel of the silhouettes already.
"""

from dataclasses import fields

import torch
from torch import Tensor

from mousefacelift.models.gaussians import SH_C0, Gaussians, render
from mousefacelift.models.precision import full_precision

# What changes of a Gaussian are counted in, beside the centre's, which are counted in its own mean standard deviation: RGB, log
# units, parts of a quaternion, and 4 of an opacity's logit.
UNITS = {"features": 1 / SH_C0, "scaling": 1.0, "rotation": 1.0, "opacity": 4.0}
# Adam's rates in these units. Tens of steps have to do here what thousands do in 3DGS: those of colour and rotation are four
# times theirs, of centre and opacity eight times, of scale sixteen times. Chosen on the demo's validation split, as PRIOR: with
# four, four and eight times, twice as many steps are needed.
RATES = {"xyz": 0.08, "features": 0.003, "scaling": 0.08, "rotation": 0.004, "opacity": 0.1}
PRIOR = 3e-4
ALPHA = 0.1  # weight of the silhouettes' error, as in training
DRAWN = 1 / 255  # the rasterisers skip what has less opacity


def refine(
    gaussians: Gaussians,
    image: Tensor,
    alpha: Tensor,
    w2c: Tensor,
    fxfycxcy: Tensor,
    steps: int,
    prior: float = PRIOR,
    unknown: Tensor | None = None,
) -> Gaussians:
    """Bring Gaussians closer to the views that they were made of, by gradient steps.

    The loss of a step is the mean squared error of the views, ALPHA times that of their silhouettes, and `prior` times the mean
    squared distance of each kind of parameter from where it began, in its unit (UNITS). Nothing is drawn at random: on a
    CPU the result is the same every time; a GPU adds gradients up in any order, so the last digits differ.

    A Gaussian that no view can show, because a guide or padding took its opacity away, stays as it is.

    Args:
        gaussians: of B samples; not changed.
        image: [B, V, 3, H, W] the input views in [0, 1], over white.
        alpha: [B, V, H, W] their silhouettes in [0, 1].
        w2c: [B, V, 4, 4] world to camera, OpenCV axes.
        fxfycxcy: [B, V, 4] intrinsics in pixels; the first pixel's centre is (0.5, 0.5).
        steps: of the optimiser; with 0 the Gaussians are returned as they are.
        prior: weight of the distance from the given Gaussians.
        unknown: [B, V, H, W] bool, pixels of the input views that nothing is known of, and nothing is fitted to; None without any.

    Returns:
        As many Gaussians, in their order and on their device, without a gradient.
    """
    if not steps:
        return gaussians
    # Predictions are often made in inference mode, whose tensors no gradient can pass.
    with torch.inference_mode(False), torch.enable_grad(), full_precision(image.device):
        given = {field.name: getattr(gaussians, field.name).detach().clone() for field in fields(Gaussians)}
        targets = image.detach().clone(), alpha.detach().clone()
        cameras = w2c.detach().clone(), fxfycxcy.detach().clone()
        known = torch.ones_like(targets[1]) if unknown is None else (~unknown).to(alpha.dtype)
        for sample in range(len(image)):
            drawn = given["opacity"][sample, :, 0].sigmoid() >= DRAWN
            if not drawn.any():
                continue
            start = {name: tensor[sample, drawn] for name, tensor in given.items()}
            one = slice(sample, sample + 1)
            views = tuple(tensor[one] for tensor in (*targets, *cameras, known))
            for name, tensor in _optimise(start, views, steps, prior).items():
                given[name][sample, drawn] = tensor
        return Gaussians(**given)


def _optimise(start: dict[str, Tensor], views: tuple[Tensor, ...], steps: int, prior: float) -> dict[str, Tensor]:
    """The steps of one sample.

    Args:
        start: N >= 1 Gaussians by the names of `Gaussians`, [N, ...].
        views: image, alpha, w2c and fxfycxcy, as `refine` takes them, and 0 where nothing is known or 1, [1, V, H, W].
        steps: of the optimiser.
        prior: as for `refine`.

    Returns:
        As `start`.
    """
    image, alpha, w2c, fxfycxcy, known = views
    size = image.shape[-1]
    units = UNITS | {"xyz": start["scaling"].exp().mean(-1, keepdim=True)}
    # What is optimised is the change in these units: a centre's step is as long for every size of image and world.
    change = {name: torch.zeros_like(tensor, requires_grad=True) for name, tensor in start.items()}
    optimizer = torch.optim.Adam([{"params": [change[name]], "lr": rate} for name, rate in RATES.items()], eps=1e-15)

    def changed() -> dict[str, Tensor]:
        return {name: start[name] + units[name] * change[name] for name in start}

    for _ in range(steps):
        rgb, opacity = render(Gaussians(**{k: v[None] for k, v in changed().items()}), w2c, fxfycxcy, size, size)
        wrong, outside = (rgb - image) * known[:, :, None], (opacity - alpha) * known
        loss = wrong.square().mean() + ALPHA * outside.square().mean()
        loss = loss + prior * torch.stack([each.square().mean() for each in change.values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return changed()
