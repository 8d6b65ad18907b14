"""Parts of a network whose outputs are changes of the visual hull's own Gaussians.

Tokens see a patch as a whole. The edge of the mouse and its depth are finer than a patch: they are in what `hull.sweep` finds
of each pixel. So a perceptron of pixels stands before the tokens, and another one after them.
"""

import torch
from torch import Tensor, nn

from mousefacelift.models.hull.sweep import FEATURES

CHANNELS = (3, 3, 3, 4, 1)  # raw values of a Gaussian: xyz, colour dc, scale, rotation (wxyz), opacity
HIDDEN = 64  # width of the perceptrons
DETAIL = 16  # values that the tokens are told of each pixel
CONTEXT = 16  # values that the tokens say of each pixel
MOST_FOREGROUND = 0.25  # of an image's pixels: how many are taken for the mouse's in the forecast of memory


class ResidualEmbedder(nn.Module):
    """What the hull and the other views say of a patch.

    Args:
        width: d, of a token.
        patch: p, side of a patch in pixels.
    """

    def __init__(self, width: int, patch: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, DETAIL))
        self.linear = nn.Linear((3 + DETAIL) * patch**2, width, bias=False)

    def start(self) -> None:
        """Draw the perceptron's weights: those of the transformer's matrices are too small for so narrow ones."""
        _draw(self.mlp)

    def forward(self, interval: Tensor, shown: Tensor, place: Tensor) -> Tensor:
        """To be added to the patches' tokens: [B, T, d].

        Args:
            interval: [B, T, p*p, 3] front, back and whether there is an interval.
            shown: [F, FEATURES] of the F pixels of the foreground.
            place: [B, T*p*p] the row of `shown` for each pixel; -1 for the background.
        """
        detail = _of_all(self.mlp(shown), place).view(*interval.shape[:3], DETAIL)
        return self.linear(torch.cat([interval, detail], dim=-1).flatten(2))


class ResidualHead(nn.Module):
    """What is to change of the hull's Gaussians.

    Args:
        width: d, of a token.
        patch: p, side of a patch in pixels.
    """

    def __init__(self, width: int, patch: int):
        super().__init__()
        self.layernorm = nn.LayerNorm(width, bias=False)
        self.linear = nn.Linear(width, CONTEXT * patch**2, bias=False)
        self.direct = nn.Linear(width, sum(CHANNELS) * patch**2, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(FEATURES + CONTEXT, HIDDEN), nn.GELU(),
            nn.Linear(HIDDEN, HIDDEN), nn.GELU(),
            nn.Linear(HIDDEN, sum(CHANNELS)),
        )  # fmt: skip

    def start(self) -> None:
        """Draw the perceptron's weights, and let it change nothing: an untrained model draws the hull's own Gaussians."""
        _draw(self.mlp)
        nn.init.zeros_(self.direct.weight)
        nn.init.zeros_(self.mlp[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.mlp[-1].bias)  # type: ignore[arg-type]

    def forward(self, tokens: Tensor, shown: Tensor, place: Tensor) -> Tensor:
        """Raw outputs [B, T*p*p, 14], 0 for the background.

        Args:
            tokens: [B, T, d].
            shown: [F, FEATURES] of the F pixels of the foreground.
            place: [B, T*p*p] the row of `shown` for each pixel; -1 for the background.
        """
        tokens = self.layernorm(tokens)
        foreground = place >= 0
        row = place[foreground]
        context = self.linear(tokens).view(*place.shape, CONTEXT)
        context = context.new_zeros(len(shown), CONTEXT).index_put((row,), context[foreground])
        # Without the direct way from the tokens, the demo's validation is 0.7 dB worse after 300 steps.
        direct = self.direct(tokens).view(*place.shape, sum(CHANNELS))
        return direct * foreground[..., None] + _of_all(self.mlp(torch.cat([context, shown], dim=-1)), place)


def head_bytes(pixels: int) -> int:
    """What both perceptrons keep for the backward pass, of all pixels of a step."""
    foreground = MOST_FOREGROUND * pixels
    kept = FEATURES + (FEATURES + CONTEXT) + 6 * HIDDEN + DETAIL  # their inputs, and both sides of each GELU
    return int(4 * (kept * foreground + (CONTEXT + DETAIL + sum(CHANNELS)) * pixels))


def _draw(mlp: nn.Sequential) -> None:
    for module in mlp:
        if isinstance(module, nn.Linear):
            module.reset_parameters()


def _of_all(values: Tensor, place: Tensor) -> Tensor:
    """[F, C] of the foreground -> [B, P, C] of all pixels, in float32; place [B, P]; 0 for the background."""
    foreground = (place >= 0).nonzero(as_tuple=True)
    return values.new_zeros(*place.shape, values.shape[-1]).index_put(foreground, values[place[foreground]])
