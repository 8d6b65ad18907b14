"""Silhouettes from a segmentation network of the user's, run with onnxruntime."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mousefacelift.base.errors import UserError
from mousefacelift.config.center import Center, Onnx
from mousefacelift.recordings.captures import Capture
from mousefacelift.recordings.silhouettes.segmentation import Arena, Image, Segment, segment_frames
from mousefacelift.recordings.video import Frame, Missing


def check(capture_name: str, settings: Center) -> None:
    """Raise UserError unless `center.onnx.path` names a file."""
    path = settings.onnx.path
    if not Path(path or "").is_file():
        raise UserError(f"center.onnx.path: {path or 'is not set'}: center.masks: onnx needs a network's file")


def files(capture: Capture, settings: Center) -> dict[str, tuple[Path, ...] | Path]:
    """The network's file."""
    return {"network": Path(settings.onnx.path or "")}


def silhouettes(
    capture: Capture, view: int, frames: range, settings: Center, threads: int = 1, arena: Arena | None = None
) -> Iterator[tuple[Frame | Missing, Image]]:
    """A camera's frames in order, each with what the network finds in it."""
    return segment_frames(capture, view, frames, settings, threads, segmenter(settings.onnx))


def segmenter(settings: Onnx) -> Segment:
    """Load the network; the function returned segments one frame with it, on the CPU.

    The network takes one float32 input [1, 3, h, w]: RGB in 0..1, not normalised further. (A network that expects
    normalised values holds mean and deviation as its first layers.) h and w are those of the file; where it leaves
    them open they are `width` and `height` of the settings, or else the frame's. Its first output counts: [1, 1, h',
    w'], the mouse, or [1, C, h', w'], classes of which `channel` is the mouse; logits (sigmoid, or softmax over the
    classes, is applied) or probabilities. Frames are resized to h x w without padding, and the probability is resized
    back before the threshold.

    Args:
        settings: the section `center.onnx`.

    Returns:
        A function from a frame [H, W, 3] uint8 RGB to its silhouette [H, W] uint8, 0 or 255.

    Raises:
        UserError: onnxruntime is not installed, cannot load the file, or the network's input or output differs.
    """
    _require_onnxruntime()
    path = _network_file(settings)
    session = _session(path, settings)
    node = _input(session, path)

    def segment(image: Image) -> Image:
        height, width = image.shape[:2]
        size = (
            _side(node.shape[3], settings.width, width, "width", path),
            _side(node.shape[2], settings.height, height, "height", path),
        )
        shrinks = size[0] < width or size[1] < height
        resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        values = np.ascontiguousarray(resized.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
        probability = _probability(_run(session, node.name, values, path), settings, path)
        if probability.shape != (height, width):
            probability = cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.where(probability >= settings.threshold, np.uint8(255), np.uint8(0))

    return segment


def _require_onnxruntime() -> None:
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        raise UserError(
            "center.masks: onnx needs onnxruntime: pip install -c envs/constraints.txt -e '.[onnx]'"
        ) from None


def _network_file(settings: Onnx) -> Path:
    if settings.path is None:
        raise UserError("center.onnx.path is not set: it names the network's .onnx file")
    path = Path(settings.path)
    if not path.is_file():
        raise UserError(f"center.onnx.path: {path}: no such file")
    return path


def _session(path: Path, settings: Onnx) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = settings.threads, 1
    options.log_severity_level = 4  # what it would log it also raises
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise UserError(f"center.onnx.path: {path}: onnxruntime cannot load it: {_first_line(error)}") from None


def _input(session: Any, path: Path) -> Any:
    """The network's one input, with name and shape; open dimensions have a name or None instead of a number."""
    inputs = session.get_inputs()
    shape = inputs[0].shape if inputs else []
    if (
        len(inputs) != 1
        or inputs[0].type != "tensor(float)"
        or len(shape) != 4
        or shape[1] not in (3, None, str(shape[1]))
    ):
        found = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs) or "none"
        raise UserError(f"{path}: expected one input, tensor(float) [1, 3, h, w], found {found}")
    return inputs[0]


def _side(fixed: object, wanted: int | None, frame: int, key: str, path: Path) -> int:
    """Width or height of the network's input: the file's, the setting's, or the frame's."""
    if isinstance(fixed, int) and wanted not in (None, fixed):
        raise UserError(f"center.onnx.{key} is {wanted}, but {path} takes {fixed} only: leave {key} out")
    return fixed if isinstance(fixed, int) else wanted or frame


def _run(session: Any, name: str, values: NDArray[np.float32], path: Path) -> NDArray[np.float32]:
    """The network's output [C, h', w'] for an input [1, 3, h, w]."""
    try:
        output = np.asarray(session.run(None, {name: values})[0])
    except Exception as error:
        raise UserError(f"{path}: the network failed on an input {values.shape}: {_first_line(error)}") from None
    if output.ndim != 4 or output.shape[0] != 1 or output.dtype.kind != "f":
        raise UserError(f"{path}: expected an output [1, C, h, w] of floats, found {list(output.shape)} {output.dtype}")
    return output[0].astype(np.float32)


def _probability(output: NDArray[np.float32], settings: Onnx, path: Path) -> NDArray[np.float32]:
    """Probability of mouse [h, w] from a network's output [C, h, w]."""
    classes = len(output)
    if classes > 1 and settings.channel >= classes:
        raise UserError(
            f"center.onnx.channel is {settings.channel}, but {path} has {classes} channels, 0 to {classes - 1}"
        )
    mouse = output[settings.channel if classes > 1 else 0]
    if settings.output == "probability":
        return mouse
    if classes > 1:
        others = np.delete(output, settings.channel, axis=0)
        top = others.max(axis=0)
        mouse = mouse - (top + np.log(np.exp(others - top).sum(axis=0)))
    return np.asarray(0.5 + 0.5 * np.tanh(mouse / 2), np.float32)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
