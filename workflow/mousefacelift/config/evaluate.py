"""Settings of stage 7, evaluate."""

from typing import Literal

from pydantic import Field

from mousefacelift.config.section import Section


class Evaluate(Section):
    """Metrics and pictures on views never given as input."""

    split: Literal["val", "test"] = Field("test", description="split to evaluate")
    pictures: int = Field(8, ge=0, description="side-by-side pictures, evenly spaced over the split")
    splats: int = Field(1, ge=0, description="samples whose Gaussians are written as .ply")
    turntable_frames: int = Field(72, ge=0, description="frames of the turntable video; 0: no video")
    turntable_size: int = Field(256, ge=64, multiple_of=8, description="width and height of the turntable video, px")
