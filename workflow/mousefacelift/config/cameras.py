"""Settings of stage 2, cameras."""

from pydantic import Field

from mousefacelift.config.section import Fraction, Section


class Cameras(Section):
    """The rig and the mouse's 3D centre in each frame."""

    max_residual_px: float = Field(
        40.0,
        gt=0,
        description="a camera whose median distance between the silhouette's centre and the reprojected 3D centre is above this stops the run; raw px",
    )
    min_hull_iou: Fraction = Field(
        0.5,
        description="a camera whose mean overlap (IoU) between silhouette and visual hull is below this stops the run; a good rig has 0.9",
    )
    max_shift_frames: float = Field(
        1.0, ge=0, description="a camera that is clearly more than this many frames late or early stops the run"
    )
    max_shift_search: float = Field(
        15.0,
        gt=0,
        description="frames by which a camera's time is moved, either way, to find where it agrees with the others",
    )
    max_area_ratio: float = Field(
        2.5,
        gt=1,
        description="a silhouette larger than this many times the camera's median is flagged `large`: another animal, a hand",
    )
    voxel_mm: float = Field(2.0, gt=0, description="edge length of the visual hull's voxels, mm")
    min_views: int = Field(
        3, ge=2, description="fewest usable silhouettes from which a frame's 3D centre is triangulated"
    )
