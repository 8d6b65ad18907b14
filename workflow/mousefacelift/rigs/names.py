"""Names of cameras: their order, what files tell of them, and which camera of a rig belongs to which video."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import ArrayLike

from mousefacelift.base.errors import UserError
from mousefacelift.geometry.camera import Camera, Rig
from mousefacelift.rigs.checks import warn


def names_from_files(paths: Sequence[str]) -> list[str]:
    """One camera name per image path: the file's name without extension, or its folder's where those are not unique.

    cam1/0001.png and cam2/0001.png are cameras cam1 and cam2. Backslashes separate folders too.
    """
    files = [PurePosixPath(path.replace("\\", "/")) for path in paths]
    stems = [file.stem for file in files]
    folders = [file.parent.name for file in files]
    return folders if len(set(stems)) < len(stems) and all(folders) and len(set(folders)) == len(folders) else stems


def match_cameras(
    rig: Rig, names: Sequence[str], sizes: ArrayLike, where: str, aliases: Mapping[str, str] | None = None
) -> Rig:
    """Find a capture's cameras in a rig.

    A capture's camera is the rig's of the same name; else of the same name in other case; else the only one where one name
    ends in the other at a boundary: "1" is "Camera1", "cam_1" or "hires_cam1", but not "cam11".

    Args:
        rig: the calibrated cameras.
        names: of the capture's V cameras.
        sizes: [V, 2] width and height of their videos, px.
        where: begins errors.
        aliases: the rig's name for a capture's name, where the rule above does not find it.

    Returns:
        The capture's cameras in its order, with the videos' sizes.

    Raises:
        UserError: a camera is missing or ambiguous (both sides are listed), its image size differs from its video's, or
            its principal point lies outside the image along both axes.
    """
    both = f"the capture has {', '.join(names)}; the calibration has {', '.join(camera.name for camera in rig)}"
    matched = []
    for name, (width, height) in zip(names, np.asarray(sizes).tolist(), strict=True):
        found = _candidates(rig, name, (aliases or {}).get(name))
        if len(found) != 1:
            problem = f"could be any of {', '.join(c.name for c in found)}" if found else "is not in the calibration"
            raise UserError(f"{where}: camera {name!r} {problem}: {both}")
        (camera,) = found
        size, video = (camera.width, camera.height), (int(width), int(height))
        here = f"{where}: camera {name!r} (calibration {camera.name!r})"
        if camera.width and size != video:
            raise UserError(
                f"{here}: calibrated at {size[0]}x{size[1]} px, but the video has {video[0]}x{video[1]} px: is this "
                "calibration of another resolution?"
            )
        cx, cy = camera.K[:2, 2]
        outside = [not 0 < cx < video[0], not 0 < cy < video[1]]
        if any(outside):
            problem = (
                f"{here}: principal point ({cx:.1f}, {cy:.1f}) lies outside the {video[0]}x{video[1]} px video: is this "
                "calibration of another resolution?"
            )
            # Along one axis it occurs: narrow fields of view determine it badly, and focal length and pose make up for it.
            if all(outside):
                raise UserError(problem)
            warn(problem)
        matched.append(replace(camera, name=name, width=video[0], height=video[1]))
        used = [c for c in names[: len(matched) - 1] if _candidates(rig, c, (aliases or {}).get(c))[0] is camera]
        if used:
            raise UserError(
                f"{where}: cameras {used[0]!r} and {name!r} are both the calibration's {camera.name!r}: {both}"
            )
    return tuple(matched)


def _candidates(rig: Rig, name: str, alias: str | None) -> list[Camera]:
    if alias is not None:
        return [camera for camera in rig if camera.name == alias]
    for same in (str.__eq__, lambda a, b: a.casefold() == b.casefold(), _ends_at_boundary):
        found = [camera for camera in rig if same(camera.name, name)]
        if found:
            return found
    return []


def _ends_at_boundary(a: str, b: str) -> bool:
    """Whether the longer name ends in the shorter one where a word or a number begins."""
    long, short = (a, b) if len(a) > len(b) else (b, a)
    if not short or not long.casefold().endswith(short.casefold()):
        return False
    before, first = long[: -len(short)][-1:], long[-len(short)]
    if before.isdigit() or first.isdigit():
        return before.isdigit() != first.isdigit()
    return not (before.isalpha() and first.isalpha()) or (before.islower() and first.isupper())
