"""Settings of stage 1, center."""

from typing import Literal

from pydantic import Field

from mousefacelift.config.section import Fraction, Section


class Background(Section):
    """For masks: background, how the mouse is told from the empty arena."""

    frames: int = Field(60, ge=5, description="frames, uniform over the capture, in which the empty arena is found")
    mouse: Literal["any", "dark", "bright"] = Field(
        "any", description="the mouse is darker or brighter than the arena; any: find out, region by region"
    )
    width: int = Field(640, ge=160, description="frames are worked on at about this width, px")
    min_noise: float = Field(
        0.8, gt=0, description="least standard deviation of a pixel of the empty arena, grey levels of 255"
    )
    shadow: float = Field(
        0.65, ge=0, lt=1, description="a shadow or a reflection takes at most this fraction of the arena's light"
    )
    shadow_weight: float = Field(
        0.5, gt=0, description="larger: what may be shadow or reflection is sooner taken for it, and paws are lost"
    )
    contrast: float = Field(
        15.0, ge=0, description="a quarter of a blob differs from the arena by more than this, grey levels of 255"
    )
    min_area: Fraction = Field(0.0003, description="a smaller blob, as a fraction of the image, is no animal")
    min_blob: Fraction = Field(0.1, description="a smaller blob, as a fraction of the largest, is no animal")
    max_hole: Fraction = Field(
        0.1, description="a hole up to this fraction of the mouse is filled, unless the arena is seen in it"
    )


class Onnx(Section):
    """For masks: onnx, a segmentation network of yours, run with onnxruntime."""

    path: str | None = Field(
        None, description="the network's .onnx file: float32 [1, 3, h, w] RGB in 0..1 to [1, 1 or classes, h, w]"
    )
    width: int | None = Field(
        None, ge=16, description="width of its input, px; null: what the file says, or the frame's"
    )
    height: int | None = Field(None, ge=16, description="height of its input, px; null: as for width")
    output: Literal["logits", "probability"] = Field("logits", description="what the network puts out")
    channel: int = Field(1, ge=0, description="channel of the mouse, of a network with several classes")
    threshold: float = Field(0.5, gt=0, lt=1, description="a pixel at least this probable is mouse")
    threads: int = Field(1, ge=1, description="threads per operator and camera")


class Center(Section):
    """Silhouettes and full-resolution crops of the mouse, from the videos."""

    masks: Literal["provided", "background", "onnx"] = Field(
        "provided",
        description="where silhouettes come from: the table's mask files, the difference to the empty arena, or a network",
    )
    background: Background = Background()
    onnx: Onnx = Onnx()
    stride: int = Field(1, ge=1, description="every n-th video frame is a candidate")
    chunk_frames: int = Field(300, ge=1, description="video frames per job")
    margin_px: int = Field(16, ge=4, description="pixels kept around the silhouette in a crop")
    min_area_px: int = Field(200, ge=1, description="a smaller silhouette counts as empty")
    timing: Literal["rate", "index", "timestamp"] = Field(
        "rate",
        description="which instant a frame is of: by a constant rate, by its number (hardware trigger), or by its timestamp",
    )
    on_bad_frame: Literal["error", "skip"] = Field(
        "error", description="a frame that is missing or cannot be decoded stops the run, or is dropped with a reason"
    )
    blob_fraction: Fraction = Field(
        0.1,
        description="a second blob larger than this fraction of the largest, unless it is thin, is flagged as `several blobs`",
    )
    min_sharpness: float = Field(
        0.0, ge=0, description="variance of the Laplacian inside the silhouette below which a view is flagged `unsharp`"
    )
