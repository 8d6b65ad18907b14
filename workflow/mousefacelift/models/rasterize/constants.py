"""Numbers and array layouts that the CPU rasteriser's kernels share.

numba's cache of a kernel notices changes of the kernel's own file alone: after a change here, delete __pycache__.
"""

NEAR_PLANE = 0.2
"""Gaussians whose camera z is not beyond this (world units) are not drawn."""

LOW_PASS = 0.3
"""Added to the diagonal of the projected covariance (px^2), without compensating the opacity."""

CLAMP_MARGIN = 0.15
"""The linearisation of the perspective follows a centre up to this part of the image's side beyond the border."""

MAX_ALPHA = 0.99
MIN_ALPHA = 1 / 255
MIN_TRANSMITTANCE = 1e-4

TILE_WIDTH = 8
TILE_HEIGHT = 16
TILE_PIXELS = TILE_WIDTH * TILE_HEIGHT

STEP = 16
"""Pixels of a tile are blended in runs of a multiple of this, one vector of float32 at a time."""

AHEAD = 6
"""How many Gaussians ahead of its use a row of memory is fetched."""

SPLAT = 10
"""Columns of a splat: centre x, y; precision a, shear, d; opacity; half height; red, green, blue.

With dx, dy the offset of a pixel from the centre, its squared Mahalanobis distance is a (dx + shear dy)^2 + d dy^2,
which rounding cannot make negative. The half height bounds the rows where alpha reaches 1/255.
"""

PAIR_GRADIENT = 9
"""Columns of a pair's gradient: red, green, blue; then sums over the pixels of h, h dx, h dy, h dx^2, h dx dy, h dy^2,
where h = alpha dL/dalpha, from which the gradients of opacity, centre and covariance follow."""
