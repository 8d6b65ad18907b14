"""Settings of stage 7, evaluate."""

from typing import Literal

from pydantic import Field

from mousefacelift.config.section import Section

FIT_STEPS = 200  # twice as many gain nothing on the demo's validation split


class Evaluate(Section):
    """Metrics and pictures on views never given as input."""

    split: Literal["val", "test"] = Field("test", description="split to evaluate")
    refine_steps: int = Field(
        0,
        ge=0,
        description="gradient steps on the predicted Gaussians against the input views; 0: none. They help with three input views "
        "or more. Tables then have the model with and without them; splats and turntable are of the refined Gaussians",
        exclude_if=lambda steps: steps == 0,  # results of versions without the key stay valid
    )
    baselines: list[Literal["fit"]] = Field(
        [],
        description="baselines beside those that are always there; fit: Gaussians of each sample, optimised on its input views from "
        "the visual hull on",
        exclude_if=lambda names: not names,
    )
    fit_steps: int = Field(
        FIT_STEPS, ge=1, description="gradient steps of the baseline fit", exclude_if=lambda steps: steps == FIT_STEPS
    )
    pictures: int = Field(8, ge=0, description="side-by-side pictures, evenly spaced over the split")
    splats: int = Field(1, ge=0, description="samples whose Gaussians are written as .ply")
    turntable_frames: int = Field(72, ge=0, description="frames of the turntable video; 0: no video")
    turntable_size: int = Field(256, ge=64, multiple_of=8, description="width and height of the turntable video, px")
