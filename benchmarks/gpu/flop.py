"""Floating-point operations that GS-LRM takes: what a measured time is compared with."""

from mousefacelift.config.train import Train
from mousefacelift.models.gslrm import CHANNELS, GSLRMConfig


def model_flop(config: GSLRMConfig, tokens: int) -> dict[str, float]:
    """Floating-point operations of a forward pass, by part of the model.

    A multiplication and its addition count as two. With width d and T tokens, a layer's four linear maps (3 + 1 + 4 + 4
    times d x d) take 2 * 12 d^2 T, and its attention (scores, then weighted sums of values) takes 4 T^2 d. For each of a
    token's p^2 pixels the embedder reads 9 values and the head writes 14. Norms, activations and rays are not counted.

    Args:
        config: of the model.
        tokens: of one sample, the free ones included.
    """
    d, pixels = config.width, config.patch**2
    image = tokens - config.free_gaussians
    return {
        "embedder": 2.0 * 9 * pixels * d * image,
        "linear": 2.0 * 12 * d**2 * tokens * config.layers,
        "attention": 4.0 * tokens**2 * d * config.layers,
        "heads": 2.0 * d * sum(CHANNELS) * (pixels * image + config.free_gaussians),
    }


def step_flop(config: GSLRMConfig, tokens: int, settings: Train) -> float:
    """Floating-point operations of one sample's forward and backward pass, counted as in `model_flop`.

    The backward pass takes two products for each one of the forward pass: a gradient of the input, and one of the
    weights or, in attention, of the other factor. Pixels, frozen weights, and layers before all that is trained need no
    gradient. Recomputation is not counted.
    """
    flop = model_flop(config, tokens)
    forward = sum(flop.values())
    if settings.adapt == "heads":
        return forward + 2 * flop["heads"]  # of their linear maps' inputs too, for the norms before them
    if settings.adapt == "lora":
        # The updates themselves, of rank r instead of width d, are left out.
        return forward + flop["linear"] + 2 * flop["attention"] + 2 * flop["heads"]
    if settings.adapt == "last_n":
        share = settings.last_n / config.layers
        return forward + 2 * (share * (flop["linear"] + flop["attention"]) + flop["heads"])
    return 3 * forward - flop["embedder"]


def token_count(config: GSLRMConfig, gaussians: int) -> int:
    """Tokens of a sample with this many Gaussians; with `skip_blank` they are fewer than its patches."""
    return config.free_gaussians + (gaussians - config.free_gaussians) // config.patch**2
