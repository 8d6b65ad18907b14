"""Settings of stage 2, cameras."""

from pydantic import Field

from mousefacelift.config.section import Fraction, Section


class Cameras(Section):
    """The rig and the mouse's 3D centre in each frame."""

    max_residual_px: float = Field(
        40.0,
        gt=0,
        description="a camera whose median distance between silhouette and reprojected centre is above this stops the run",
    )
    min_hull_iou: Fraction = Field(
        0.5,
        description="a camera whose mean overlap (IoU) between silhouette and visual hull is below this stops the run",
    )
    max_shift_frames: float = Field(
        1.0, ge=0, description="a camera that is this many frames late or early, beyond doubt, stops the run"
    )
    max_shift_search: float = Field(
        15.0, gt=0, description="how many frames a camera's time is moved to find where it agrees"
    )
    max_area_ratio: float = Field(
        2.5, gt=1, description="a silhouette larger than so many times the camera's median is flagged as `large`"
    )
    voxel_mm: float = Field(2.0, gt=0, description="edge of the visual hull's voxels")
    min_views: int = Field(3, ge=2, description="usable silhouettes a frame needs for its centre to be triangulated")
