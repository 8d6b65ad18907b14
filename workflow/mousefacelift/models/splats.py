"""Gaussians as .ply files in the layout of Inria's 3D Gaussian Splatting, which every splat viewer opens."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import atomic
from mousefacelift.models.gaussians import Gaussians

MIN_OPACITY = 0.04  # FaceLift's choices for the splats it saves
CROP = 0.91  # world units

# Raw values, as the reference viewer expects: opacity before the sigmoid, log scales, quaternion wxyz of any length.
PROPERTIES = [
    *("x", "y", "z", "nx", "ny", "nz"),
    *("f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
]


def write_ply(
    path: Path, gaussians: Gaussians, sample: int, min_opacity: float | None = MIN_OPACITY, crop: float | None = CROP
) -> int:
    """Write one sample's Gaussians, binary little endian.

    Normals are zero: Gaussians have none, but readers expect the columns.

    Args:
        path: the .ply file; it appears whole or not at all.
        gaussians: of a batch.
        sample: index in the batch.
        min_opacity: Gaussians are kept above this opacity; None keeps all.
        crop: Gaussians are kept whose centre lies in the cube +-crop, world units; None keeps all.

    Returns:
        The number of Gaussians written.
    """
    xyz, opacity = gaussians.xyz[sample], gaussians.opacity[sample]
    columns = (
        xyz,
        torch.zeros_like(xyz),
        gaussians.features[sample, :, 0],
        opacity,
        gaussians.scaling[sample],
        gaussians.rotation[sample],
    )
    kept = torch.ones(len(xyz), dtype=torch.bool, device=xyz.device)
    if min_opacity is not None:
        kept &= opacity[:, 0].sigmoid() > min_opacity
    if crop is not None:
        kept &= (xyz.abs() <= crop).all(-1)
    table = torch.cat(columns, dim=-1)[kept].detach().cpu().numpy().astype("<f4")
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}"]
    lines += [f"property float {name}" for name in PROPERTIES] + ["end_header", ""]
    with atomic(path) as temporary:
        temporary.write_bytes("\n".join(lines).encode("ascii") + table.tobytes())
    return len(table)


def read_ply(path: Path) -> dict[str, NDArray[np.float32]]:
    """Read what `write_ply` wrote.

    Args:
        path: the .ply file.

    Returns:
        An array [N] per property, by its name in PROPERTIES.

    Raises:
        UserError: the file cannot be read, or is not one that `write_ply` wrote.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    header, found, body = content.partition(b"end_header\n")
    lines = header.decode("ascii", "replace").splitlines()
    names = [line.split()[-1] for line in lines if line.startswith("property float ")]
    counts = [int(line.split()[-1]) for line in lines if line.startswith("element vertex ")]
    layout_known = found and lines[:2] == ["ply", "format binary_little_endian 1.0"] and names == PROPERTIES
    if not layout_known or len(counts) != 1 or len(body) != counts[0] * 4 * len(names):
        raise UserError(f"{path}: not a complete .ply of Gaussians in the layout this program writes")
    table = np.frombuffer(body, "<f4").reshape(counts[0], len(names))
    return dict(zip(names, table.T, strict=True))
