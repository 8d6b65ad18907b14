"""Alarms of a training run: what each step's predictions look like, and when a run has failed and must stop.

The failures are known from earlier runs: the mouse drawn white, gradients that explode, a loss that goes nowhere. Each
can go on for days where nobody looks at anything but the loss.
"""

from typing import Any

import torch
from torch import Tensor

from mousefacelift.base.errors import UserError
from mousefacelift.config.train import Guards
from mousefacelift.models.gaussians import Gaussians
from mousefacelift.training.losses import mean_over

# A mouse drawn with less than this fraction of its darkness, or of the whole scale if it is white itself, is white.
WHITE = 0.1
WHITE_FLOOR = 0.01
ABSENT = -50.0  # padding, which stands for no Gaussian, has an opacity logit below this
VISIBLE = 0.04  # opacity below which a Gaussian is left out of FaceLift's .ply
LEARNED = 0.5  # squared error as a fraction of a white image's: below it the mouse is seen
DRAWN = 0.5  # opacity inside the silhouette less that outside: above it the mouse's shape is drawn
NORM = Guards.model_fields["norm"].default  # for `clear` where that alarm is off
IMPROVED = 0.99  # a loss below this times the best is a better one

STATISTICS = (
    "error", "error_foreground", "error_background", "alpha_foreground", "alpha_background", "darkness", "target_darkness",
    "white_error", "rgb_std", "opacity_used", "scale",
)  # fmt: skip


class AlarmError(UserError):
    """A training run has failed: what was seen, and what helps."""

    shared = True


@torch.no_grad()
def statistics(rgb: Tensor, alpha: Tensor, gaussians: Gaussians, target: Tensor, target_alpha: Tensor) -> Tensor:
    """The STATISTICS of a prediction, means over samples.

    "Inside" is inside the silhouette, "outside" the rest of a view.

    error, error_foreground, error_background: squared error everywhere, inside, outside.
    alpha_foreground, alpha_background: opacity that is drawn inside, outside.
    darkness, target_darkness: 1 - rgb inside, as drawn and as it should be.
    white_error: squared error of a white image.
    rgb_std: standard deviation of the grey that is drawn inside.
    opacity_used: fraction of the Gaussians with an opacity above VISIBLE.
    scale: geometric mean of the Gaussians' standard deviations, world units.

    Args:
        rgb: predicted views [B, V, 3, H, W].
        alpha: predicted opacity [B, V, H, W].
        gaussians: of B samples.
        target: true views [B, V, 3, H, W].
        target_alpha: true opacity [B, V, H, W]; the silhouette is where it exceeds 0.5.

    Returns:
        [len(STATISTICS)] float32.
    """
    inside = target_alpha > 0.5
    error = (rgb - target).square().mean(-3)
    mean = mean_over(rgb.mean(-3), inside)
    spread = mean_over((rgb.mean(-3) - mean.view(-1, 1, 1, 1)).square(), inside).sqrt()
    logit = gaussians.opacity[..., 0]
    present = logit > ABSENT  # the rest pads samples that have fewer patches
    values = [
        error.mean(),
        mean_over(error, inside).mean(),
        mean_over(error, ~inside).mean(),
        mean_over(alpha, inside).mean(),
        mean_over(alpha, ~inside).mean(),
        (1 - mean).mean(),
        1 - mean_over(target.mean(-3), inside).mean(),
        (1 - target).square().mean(),
        spread.mean(),
        mean_over((logit.sigmoid() > VISIBLE).float(), present).mean(),
        mean_over(gaussians.scaling.mean(-1), present).mean().exp(),
    ]
    return torch.stack(values).float()


class Watch:
    """Looks at every step and raises an AlarmError when the run has failed.

    Its state is plain numbers, so that a run that was killed and continues raises what the undisturbed one would have.
    """

    def __init__(self, settings: Guards):
        self.settings = settings
        self.white = 0  # steps in a row in which the mouse was drawn white
        self.skips: list[int] = []  # the skipped ones among the last 2 x `norm` steps
        self.level: float | None = None  # the loss, smoothed
        self.error = 0.0  # as a fraction of a white image's, smoothed
        self.drawn = 0.0  # opacity inside the silhouette less that outside, smoothed
        self.best: float | None = None
        self.best_step = 0

    def observe(self, step: int, values: dict[str, float], skipped: bool) -> None:
        """Look at a step.

        Args:
            step: counted from 1.
            values: loss, grad_norm and STATISTICS.
            skipped: whether the step's gradients were dropped.

        Raises:
            AlarmError: if the run has failed.
        """
        if not abs(values["loss"]) < float("inf"):
            raise AlarmError(
                f"the loss is {values['loss']} at step {step}. Lower train.learning_rate or train.clip_norm, or use "
                "train.precision: 32-true"
            )
        self._observe_norm(step, values, skipped)
        self._observe_white(step, values)
        self._observe_plateau(step, values)

    @property
    def clear(self) -> bool:
        """Whether nothing looks like the beginning of a failure, so that the present weights may be kept as good ones."""
        return not self.white and len(self.skips) * 4 < (self.settings.norm or NORM)

    def state(self) -> dict[str, Any]:
        """The watch's numbers, for a checkpoint."""
        return {name: value for name, value in vars(self).items() if name != "settings"}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue with the numbers of a checkpoint."""
        vars(self).update({name: state[name] for name in self.state()})

    def _observe_norm(self, step: int, values: dict[str, float], skipped: bool) -> None:
        # With the alarm off, skips are counted all the same: `clear` needs them.
        limit = self.settings.norm or NORM
        self.skips = [each for each in self.skips if each > step - 2 * limit] + [step] * skipped
        if self.settings.norm is not None and len(self.skips) >= limit:
            raise AlarmError(
                f"norm explosion: {len(self.skips)} of the last {2 * limit} steps up to step {step} were skipped, because "
                f"the gradients' norm was far above train.clip_norm ({values['grad_norm']:.3g} in this step). Lower "
                "train.learning_rate (1e-6 to 5e-6 for weights of FaceLift); set train.loss.lpips to 0"
            )

    def _observe_white(self, step: int, values: dict[str, float]) -> None:
        # Relative to the mouse's own darkness: a white mouse is rightly drawn white.
        limit = max(WHITE * values["target_darkness"], WHITE_FLOOR)
        self.white = self.white + 1 if values["darkness"] < limit else 0
        if self.settings.white is not None and self.white >= self.settings.white:
            cause = (
                "the training images themselves are white inside their silhouettes: look at them with `mousefacelift show`"
                if values["target_darkness"] < WHITE_FLOOR
                else "lower train.learning_rate, raise train.loss.masked_l2 and set train.loss.alpha, give 5 of 6 views as "
                "inputs, and check with `mousefacelift poc` that images and cameras agree"
            )
            raise AlarmError(
                f"white collapse: for {self.white} steps up to step {step} the mouse was drawn white (darkness "
                f"{values['darkness']:.3f} inside the silhouette, {values['target_darkness']:.3f} in the images; opacity "
                f"{values['alpha_foreground']:.2f}). What helps: {cause}"
            )

    def _observe_plateau(self, step: int, values: dict[str, float]) -> None:
        limit = self.settings.plateau
        if limit is None:
            return
        # Smoothed over a twentieth of the alarm's patience: single steps say little, but a fall must show in time.
        weight = min(1.0, 20 / limit)
        error = values["error"] / max(values["white_error"], 1e-6)
        drawn = values["alpha_foreground"] - values["alpha_background"]
        if self.level is None:
            self.level, self.error, self.drawn = values["loss"], error, drawn
        self.level += weight * (values["loss"] - self.level)
        self.error += weight * (error - self.error)
        self.drawn += weight * (drawn - self.drawn)
        if self.best is None or self.level < IMPROVED * self.best:
            self.best, self.best_step = self.level, step
        # A converged run does not fall either, so the prediction must be bad too. Its error is large, and its shape is not
        # drawn: fog of any colour is opaque everywhere, while a white mouse has little error to lose but has a shape.
        if step - self.best_step >= limit and self.error > LEARNED and self.drawn < DRAWN:
            raise AlarmError(
                f"plateau: the loss has not fallen below {self.best:.4g} since step {self.best_step}, and at step {step} the "
                f"views are drawn hardly better than by a white image (squared error {self.error:.2f} of its; opacity inside the "
                f"silhouette {self.drawn:.2f} above that outside). "
                "Give 5 of 6 views as inputs; check with `mousefacelift poc` that images and cameras agree; raise or lower "
                "train.learning_rate; or give it more time with train.guards.plateau"
            )
