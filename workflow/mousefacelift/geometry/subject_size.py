"""How large a subject is in its pictures and in its world, beside the subjects that FaceLift's weights know."""

import numpy as np
from numpy.typing import NDArray

from mousefacelift.geometry.camera import Array

# Share of the image's area that heads cover in FaceLift's training views, in the mean. How wide they are is not known.
FACELIFT_SHARE = 0.326
# Shares that weights bear: within a factor of four in area, which is two in length. It is a rule of thumb.
BORNE = 4.0

# What makes a mouse larger for weights that know large subjects: said alike wherever a mouse is found to be small.
LARGER = (
    "normalize.distance: canonical with zoom: 1.0 (world.json names the canonical_extent that fills the picture), or "
    "normalize.zoom: fit, larger still with fit: body; `snakemake poc` compares them for given weights"
)


def silhouette_size(alpha: NDArray[np.uint8]) -> Array:
    """Measure silhouettes in their views.

    Args:
        alpha: [V, H, W]; inside is above 127.

    Returns:
        [V, 2]: share of the image's area, and the silhouette's width over the image's; 0 without a silhouette.
    """
    inside = alpha > 127
    columns = np.any(inside, axis=1)
    width = columns.shape[1]
    first, last = columns.argmax(axis=1), width - columns[:, ::-1].argmax(axis=1)
    wide = np.where(np.any(columns, axis=1), last - first, 0) / width
    return np.stack([inside.mean(axis=(1, 2)), wide], axis=-1)


def disc_diameter(share: Array | float) -> Array:
    """The diameter of a disc that covers a share of a square image's area, over the image's width.

    Unlike a silhouette's width it is known of FaceLift's subjects, and does not depend on a thin tail.
    """
    return np.sqrt(4 * np.asarray(share, np.float64) / np.pi)


def world_diameter(
    share: Array | float, width_px: Array | float, distance: Array | float, focal: Array | float
) -> Array:
    """The same in world units, of a subject at a camera's distance.

    Args:
        share: of the image's area.
        width_px: square root of the image's area, px.
        distance: of the camera from the subject, world units.
        focal: px.
    """
    return np.asarray(disc_diameter(share) * width_px * distance / focal)
