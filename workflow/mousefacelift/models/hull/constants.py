"""The numbers of the intervals, which both implementations share, and of the surface inside them."""

from torch import Tensor

RANGE = 1.8  # world units: a ray is searched within this of its point nearest to the world's origin, as in GS-LRM
STEPS_PER_PIXEL = 2  # a pixel's width at the origin, in the finest view, is this many steps
MOST_STEPS = 16  # per pixel of an image row: a camera close to the origin must not make the steps endless
FOREGROUND = 0.1  # a pixel with at least this opacity has an interval
INSIDE = 0.5  # a pixel with more than this opacity is inside its view's silhouette
NEAR = 1e-6  # world units: what lies no farther in front of a camera is behind it

# The surface that the hull alone suggests; chosen on the demo's validation split.
SHARE = 0.25  # of the interval, from its front: where the surface is looked for
SPLAT = 0.4  # standard deviation of a pixel's Gaussian, in widths of the pixel at its depth
OPACITY = 0.95  # of a Gaussian whose pixel is wholly inside the silhouette


def possible(alpha: Tensor, unknown: Tensor | None) -> Tensor:
    """Where each view's silhouette may be, [B, I, S, S] bool: it cannot tell in its unknown pixels, so it carves nothing there.

    Args:
        alpha: [B, I, S, S] silhouettes in [0, 1].
        unknown: [B, I, S, S] bool, pixels of which nothing is known; None without any.
    """
    return alpha > INSIDE if unknown is None else (alpha > INSIDE) | unknown


def least_agreement(others: int) -> int:
    """How many of the other views must agree on a point where not all do: more than half of them."""
    return min(others, others // 2 + 1)
