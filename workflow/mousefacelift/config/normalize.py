"""Settings of stage 3, normalize."""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from mousefacelift.config.section import Section

UpAxis = Literal["+x", "-x", "+y", "-y", "+z", "-z"]
UP_AXES = get_args(UpAxis)


class Normalize(Section):
    """Z-up world, mouse at the origin, mean camera distance 2.7, virtual cameras that look at the mouse."""

    up: Literal["auto", "calibration", "floor", "cameras"] = Field(
        "auto",
        description="source of the world's up direction. calibration: the axis `up_axis` of its world; floor: the plane that tail and paws stand on in all frames; cameras: the images' horizontals, if the cameras are level; auto: the floor, else the cameras, or an axis of the calibration that agrees with them",
    )
    up_axis: UpAxis | tuple[float, float, float] | None = Field(
        None,
        description="for up: calibration, the direction in the calibration's world that points up, an axis or [x, y, z]; null: +z",
    )
    cameras_below: bool = Field(
        False,
        description="whether the mouse is filmed through the floor; if not, cameras that all stand below it stop the run, because the up axis is wrong",
    )
    smooth_s: float = Field(
        0.0,
        ge=0,
        le=3600,
        description="the mouse's centre is averaged over time with a Gaussian of this standard deviation, s; 0: each frame has its own",
    )
    distance: Literal["exact", "focal", "canonical"] = Field(
        "exact",
        description="distance policy. exact: cameras stay where they are; focal: each focal length grows with its camera's distance, so that the mouse is equally large in all views; canonical: every camera is moved to 2.7, an approximation",
    )
    scale: Literal["capture", "sample"] = Field(
        "capture",
        description="one scale for the whole capture, so that a mouse keeps its size, or one for each sample. With zoom: fit, sample also gives each sample its own zoom: the mouse fills every sample's views, however far from the cameras it is",
    )
    canonical_extent: float = Field(
        0.8,
        ge=0.05,
        le=5,
        description="for distance: canonical, the length of the mouse's body without its tail, world units",
    )
    zoom: Annotated[float, Field(ge=0.05, le=100)] | Literal["fit"] = Field(
        1.0,
        description="common factor on every focal length. 1: FaceLift's focal length, for its weights with distance: canonical; fit: the mouse, or its body (normalize.fit), fills the image",
    )
    fit: Literal["whole", "body"] = Field(
        "whole",
        description="what a view must hold, and what zoom: fit is fitted to. whole: the whole silhouette, with the tail; body: trunk and head, so that a tail may leave the picture. What leaves one view's picture is then marked as unknown in all views, and left out of losses and metrics",
        exclude_if=lambda fit: fit == "whole",  # or all finished runs of an older version would run again
    )
    fit_margin: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        0.05, description="for zoom: fit, the fraction of the image that stays free at each border"
    )
    fit_quantile: Annotated[float, Field(gt=0, le=1)] = Field(
        0.99,
        description="for zoom: fit, the fraction of the views that hold it; with scale: sample all views of a sample do",
    )
    image_size: int = Field(512, ge=64, multiple_of=8, description="width and height of the normalised views, px")

    @field_validator("up_axis", mode="before")
    @classmethod
    def _up_axis_is_a_direction(cls, value: Any) -> Any:
        numbers = isinstance(value, list | tuple) and all(isinstance(v, int | float) for v in value)
        if value is None or value in UP_AXES or (numbers and len(value) == 3 and any(value)):
            return value
        raise ValueError(
            f"is neither an axis ({', '.join(UP_AXES)}) nor a direction of three numbers such as [0.1, -0.99, 0]"
        )

    @model_validator(mode="after")
    def _up_axis_is_used(self) -> "Normalize":
        if self.up_axis is not None and self.up != "calibration":
            raise ValueError(f"up_axis is for up: calibration; up is {self.up}, which finds the direction itself")
        return self

    @model_validator(mode="after")
    def _canonical_keeps_the_focal_length(self) -> "Normalize":
        if self.distance == "canonical" and self.zoom != 1.0:
            raise ValueError(
                f"distance: canonical keeps FaceLift's focal length and frames the mouse by canonical_extent: set zoom: 1.0 (found {self.zoom})"
            )
        return self
