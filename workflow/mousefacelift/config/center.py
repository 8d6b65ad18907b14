"""Settings of stage 1, center."""

from typing import Literal

from pydantic import Field, model_validator

from mousefacelift.config.section import Fraction, Section


class Background(Section):
    """For masks: background, how the mouse is told from the empty arena."""

    frames: int = Field(
        60,
        ge=5,
        description="frames, evenly spaced over the capture, that show the empty arena; the mouse may sit still in up to half of them",
    )
    image: str | None = Field(
        None,
        description="a picture or a video of the empty arena, instead of frames with the mouse in them; {camera} in it stands for the camera's name",
        exclude_if=lambda pattern: pattern is None,  # or all finished runs of an older version would run again
    )
    capture: str | None = Field(
        None,
        description="another capture of the table, of the same rig, whose frames are looked at too: for a mouse that hardly moves",
        exclude_if=lambda name: name is None,  # as for image
    )
    mouse: Literal["any", "dark", "bright"] = Field(
        "any", description="whether the mouse is darker or brighter than the arena; any: found region by region"
    )
    width: int = Field(640, ge=160, description="frames are processed at about this width, px")
    min_noise: float = Field(
        0.8, gt=0, description="least standard deviation of a pixel of the empty arena, grey levels of 255"
    )
    shadow: float = Field(
        0.65, ge=0, lt=1, description="a shadow or a reflection takes at most this fraction of the arena's light"
    )
    shadow_weight: float = Field(
        0.5, gt=0, description="how readily a pixel counts as shadow or reflection; a large weight loses paws"
    )
    contrast: float = Field(
        15.0,
        ge=0,
        description="a blob must differ from the arena by more than this in a quarter of it, grey levels of 255",
    )
    min_area: Fraction = Field(0.0003, description="a blob smaller than this fraction of the image is no animal")
    min_blob: Fraction = Field(0.1, description="a blob smaller than this fraction of the largest is no animal")
    max_hole: Fraction = Field(
        0.1, description="a hole up to this fraction of the mouse is filled, unless the arena shows in it"
    )

    @model_validator(mode="after")
    def _one_source(self) -> "Background":
        if self.image is not None and self.capture is not None:
            raise ValueError("image and capture both say where the empty arena is seen: set one of them")
        return self


class Onnx(Section):
    """For masks: onnx, a segmentation network of yours, run with onnxruntime."""

    path: str | None = Field(
        None,
        description="the network's .onnx file; it takes a float32 image [1, 3, H, W], RGB in 0 to 1, and returns [1, C, h, w] or [1, h, w]",
    )
    width: int | None = Field(
        None, ge=16, description="width of the network's input, px; null: what the file says, or the frame's"
    )
    height: int | None = Field(None, ge=16, description="height of the network's input, px; null: as for width")
    output: Literal["logits", "probability"] = Field("logits", description="what the network returns")
    channel: int = Field(1, ge=0, description="the mouse's channel, for a network with several classes")
    threshold: float = Field(0.5, gt=0, lt=1, description="a pixel of at least this probability is mouse")
    threads: int = Field(1, ge=1, description="threads per operator and camera")


class Center(Section):
    """Silhouettes and full-resolution crops of the mouse, from the videos."""

    # Any name: the methods register themselves in a package above this one, and the plan checks the name.
    masks: str = Field(
        "provided",
        description="source of the silhouettes; docs/captures.md describes each method",
    )
    masks_are: Literal["auto", "alpha", "inverted", "labels"] = Field(
        "auto",
        description="what provided masks hold. auto: a white mouse on black, and masks that hold something else are named; alpha: the mouse is where the picture is opaque; inverted: a black mouse on white; labels: each animal's number, 0 elsewhere",
        exclude_if=lambda kind: kind == "auto",  # or all finished runs of an older version would run again
    )
    animal: int | None = Field(
        None,
        ge=0,
        le=65534,
        description="the mouse's number in masks that hold several animals, for captures without a `label` in the table; null: the only one",
        exclude_if=lambda label: label is None,  # as for masks_are
    )
    refine: bool = Field(
        False,
        description="whether silhouettes are corrected by the hull of the other cameras and by the pixels; for one animal in a recording",
        exclude_if=lambda refined: not refined,  # as for masks_are
    )
    background: Background = Background()
    onnx: Onnx = Onnx()
    stride: int = Field(1, ge=1, description="every n-th video frame is a candidate; 10 to 50 for hours of video")
    chunk_frames: int = Field(300, ge=1, description="video frames per job")
    margin_px: int = Field(16, ge=4, description="pixels kept around the silhouette in a crop")
    min_area_px: int = Field(200, ge=1, description="a silhouette of fewer pixels counts as empty")
    timing: Literal["rate", "index", "timestamp"] = Field(
        "rate",
        description="which instant a frame shows. rate: timestamps must keep a constant rate, which reveals dropped frames; index: the n-th frame is instant n whatever its timestamp, as with a hardware trigger; timestamp: the frame nearest to n / fps after the first, for rates that vary",
    )
    on_bad_frame: Literal["error", "skip"] = Field(
        "error",
        description="what happens when a frame is missing or cannot be decoded. error: the run stops; skip: the frame is dropped with a reason",
    )
    blob_fraction: Fraction = Field(
        0.1,
        description="a view with a second blob larger than this fraction of the largest is flagged `several blobs`, unless the blob is thin like a piece of tail",
    )
    min_sharpness: float = Field(
        0.0,
        ge=0,
        description="a view is flagged `unsharp` if the variance of the Laplacian inside its silhouette is below this",
    )
