"""Settings of stage 4, sample."""

from typing import Literal

from pydantic import Field, model_validator

from mousefacelift.config.section import Fraction, Section


class SplitFractions(Section):
    """Fractions given to each split: of a capture's time, or of the number of captures or animals."""

    train: Fraction = Field(
        0.8, description="share of train: of each capture's time, or of the number of captures or animals"
    )
    val: Fraction = Field(0.1, description="share of val")
    test: Fraction = Field(0.1, description="share of test")

    @model_validator(mode="after")
    def _sums_to_one(self) -> "SplitFractions":
        if abs(self.train + self.val + self.test - 1) > 1e-6:
            raise ValueError(f"train + val + test must be 1, found {self.train + self.val + self.test:g}")
        return self


SPLITS = tuple(SplitFractions.model_fields)


class Sample(Section):
    """Which frames and views become samples, and of which split."""

    views: int = Field(
        6,
        ge=2,
        description="views per sample, ordered by azimuth; of more cameras, those that spread best around the mouse",
    )
    frames: int | None = Field(None, ge=1, description="most frames per capture; null: all")
    select: Literal["uniform", "diverse"] = Field(
        "uniform",
        description="which frames, where `frames` limits them. uniform: evenly spaced in time; diverse: as different in pose as possible",
    )
    split: Literal["block", "capture", "animal"] = Field(
        "block",
        description="what goes to one split as a whole. block: a block in time; capture: a capture; animal: all captures of an animal",
    )
    fractions: SplitFractions = SplitFractions()
    rounds: int = Field(
        1,
        ge=1,
        description="how often the blocks train, val, test follow each other; more rounds spread val and test over the session",
    )
    stratify: bool = Field(
        False,
        description="for split: block, give blocks to the splits so that each sees every kind of pose, rare ones too, instead of in turn",
    )
    gap_s: float = Field(
        0.25,
        ge=0,
        description="gap between two blocks of different splits, against leakage, s; a few seconds or more for real recordings",
    )
    min_hull_iou: Fraction = Field(
        0.4, description="a frame is rejected if a view's silhouette overlaps the visual hull less than this (IoU)"
    )
    max_cut: Fraction = Field(
        0.02,
        description="a frame is rejected if the video's edge cuts off more than this fraction of the mouse's volume in a view; the tip of a tail is less",
    )

    @model_validator(mode="after")
    def _stratifies_blocks(self) -> "Sample":
        if self.stratify and self.split != "block":
            raise ValueError(f"stratify: true is for split: block; split is {self.split}")
        return self

    @model_validator(mode="after")
    def _chooses_diverse_frames_of_more(self) -> "Sample":
        if self.select == "diverse" and self.frames is None:
            raise ValueError(
                "select: diverse chooses among more frames than it keeps: set frames to the number to keep"
            )
        return self
