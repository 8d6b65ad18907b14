"""Silhouettes from synthetic scenes whose truth is known, and from the demo capture with its masks withheld."""

import builtins
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from mousefacelift.base.errors import UserError
from mousefacelift.config.center import Background, Center, Onnx
from mousefacelift.recordings.recording import capture_frames
from mousefacelift.recordings.silhouettes import background, onnx
from mousefacelift.recordings.silhouettes.arena import estimate_background
from mousefacelift.recordings.silhouettes.registry import METHODS, Method, method
from mousefacelift.recordings.silhouettes.segmentation import segment_frames
from mousefacelift.recordings.video import read_frames
from support.rodent import demo_capture

WIDTH, HEIGHT = 480, 360
SETTINGS = Background()
BLACK, WHITE, GREY = (32, 30, 30), (225, 220, 215), (95, 93, 92)


def arena(brightness=150, seed=0):
    """A textured floor before a darker wall, with droppings. Floats [H, W, 3]."""
    random = np.random.default_rng(seed)
    texture = cv2.GaussianBlur(random.normal(0, 1, (HEIGHT, WIDTH)).astype(np.float32), (0, 0), 4)
    image = np.full((HEIGHT, WIDTH, 3), brightness, np.float32) * [1.0, 0.97, 0.92]
    image[:90] *= 0.6
    image *= 1 + 0.5 * texture[..., None]
    for x, y in random.integers([20, 110], [WIDTH - 20, HEIGHT - 20], (8, 2)):
        cv2.ellipse(image, (int(x), int(y)), (4, 2), int(x), 0, 360, (50, 45, 40), -1)
    return image


def mouse_mask(x, y, angle=0.0):
    """An ellipse of a body with a curved tail, [H, W] bool."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(mask, (round(x), round(y)), (42, 24), angle, 0, 360, 1, -1)
    back = np.deg2rad(angle + 180)
    along = np.linspace(0, 60, 12)
    points = np.stack([x + (38 + along) * np.cos(back), y + (38 + along) * np.sin(back) + 6 * np.sin(along / 12)], 1)
    cv2.polylines(mask, [np.rint(points).astype(np.int32)], False, 1, 5)
    return mask > 0


def film(
    positions, fur=BLACK, floor=150, noise=2.0, gain=lambda t: 1.0, shadow=0.0, reflection=0.0, grey=False, paint=None
):
    """Frames [H, W, 3] uint8 and truths [H, W] bool; positions: per frame a list of (x, y, angle), or of none."""
    random = np.random.default_rng(1)
    empty = arena(floor)
    coat = 1 + 0.1 * cv2.GaussianBlur(random.normal(0, 3, (HEIGHT, WIDTH)).astype(np.float32), (0, 0), 2)
    frames, truths = [], []
    for t, places in enumerate(positions):
        image, truth = empty.copy(), np.zeros((HEIGHT, WIDTH), bool)
        masks = [mouse_mask(*place) for place in places]
        for mask in masks:
            truth |= mask
            if shadow:
                soft = cv2.GaussianBlur(np.roll(mask, (14, 22), (0, 1)).astype(np.float32), (0, 0), 7)
                image *= 1 - shadow * soft[..., None]
            if reflection:  # mirrored at the body's lower end
                low = int(np.flatnonzero(mask.any(1))[-1])
                mirrored = np.zeros((HEIGHT, WIDTH), np.float32)
                rows = min(low, HEIGHT - 1 - low)
                mirrored[low + 1 : low + 1 + rows] = mask[low - rows + 1 : low + 1][::-1]
                image += reflection * cv2.GaussianBlur(mirrored, (0, 0), 1)[..., None] * (np.array(fur) - image)
        image[truth] = (np.array(fur) * coat[..., None])[truth]
        if paint is not None:
            image = paint(image, t)
        image = image * gain(t) + random.normal(0, noise, (HEIGHT, WIDTH, 1))
        if grey:
            image = np.repeat(image.mean(-1, keepdims=True), 3, 2)
        frames.append(np.clip(np.rint(image), 0, 255).astype(np.uint8))
        truths.append(truth)
    return frames, truths


def walk(count, x=240.0, y=225.0):
    """A mouse that goes round."""
    turns = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return [[(x + 130 * np.cos(a), y + 60 * np.sin(a), np.rad2deg(a) + 90)] for a in turns]


def iou(mask, truth):
    mask = mask > 127
    return np.count_nonzero(mask & truth) / max(np.count_nonzero(mask | truth), 1)


@pytest.fixture(scope="module")
def known():
    """The plain arena and a black mouse, as estimated from its walk; for films of other things in the same arena."""
    return estimate_background(film(walk(30))[0], SETTINGS)


def overlaps(frames, truths, settings=SETTINGS, model=None):
    segment = background.segmenter(model or estimate_background(frames, settings), settings)
    return np.array([iou(segment(frame), truth) for frame, truth in zip(frames, truths, strict=True)])


@pytest.mark.parametrize(
    ("fur", "floor", "grey"),
    [(BLACK, 150, False), (BLACK, 150, True), (WHITE, 90, False), (WHITE, 90, True), (GREY, 190, False)],
)
def test_a_mouse_is_found_dark_or_bright_in_colour_or_grey(fur, floor, grey):
    found = overlaps(*film(walk(30), fur, floor, grey=grey))
    assert found.mean() > 0.93 and found.min() > 0.88


def test_flicker_and_slow_drift_of_the_light_change_nothing():
    frames, truths = film(walk(30), gain=lambda t: 1 + 0.06 * (-1) ** t + 0.004 * t)
    assert overlaps(frames, truths).min() > 0.88


@pytest.mark.parametrize(("fur", "floor"), [(BLACK, 150), (WHITE, 90)])
def test_a_soft_shadow_is_not_mouse(fur, floor):
    assert overlaps(*film(walk(30), fur, floor, shadow=0.4)).mean() > 0.9


@pytest.mark.parametrize(("fur", "floor"), [(BLACK, 150), (WHITE, 90)])
def test_a_mirror_image_is_not_mouse(fur, floor):
    assert overlaps(*film(walk(30), fur, floor, reflection=0.4)).mean() > 0.88


@pytest.mark.parametrize("still", [0.5, 0.65])
@pytest.mark.parametrize(("fur", "floor"), [(BLACK, 150), (WHITE, 90)])
def test_a_mouse_that_sits_still_for_half_of_the_recording_is_no_part_of_the_arena(fur, floor, still):
    count = 40
    sits = round(still * count)
    frames, truths = film([[(150, 220, 20)]] * sits + walk(count - sits), fur, floor)
    median = np.abs(np.median(frames, axis=0) - arena(floor))[truths[0]]
    model = estimate_background(frames, SETTINGS)
    left = np.abs(model["background"] - arena(floor))[truths[0]]
    assert np.median(median) > 50  # the case is one that a median gets wrong
    assert np.percentile(left, 95) < 8
    assert overlaps(frames, truths, model=model).min() > 0.88


@pytest.mark.parametrize(("mouse", "fur", "floor"), [("dark", BLACK, 150), ("bright", WHITE, 90)])
def test_what_the_mouse_is_like_can_be_said(mouse, fur, floor):
    settings = Background(mouse=mouse)
    assert overlaps(*film([[(150, 220, 20)]] * 20 + walk(20), fur, floor), settings).min() > 0.88


def test_an_empty_arena_has_an_empty_mask(known):
    empty, _ = film([[]] * 12, gain=lambda t: 1 + 0.05 * (-1) ** t)
    segment = background.segmenter(estimate_background(empty, SETTINGS), SETTINGS)
    assert not any(segment(frame).any() for frame in empty)
    segment = background.segmenter(known, SETTINGS)
    assert not any(segment(frame).any() for frame in empty)


def blobs(mask):
    return cv2.connectedComponents(mask, connectivity=8)[0] - 1


def test_two_mice_are_two_blobs(known):
    frames, truths = film([[(120 + 2 * t, 200, 0), (350, 260, 90)] for t in range(4)])
    segment = background.segmenter(known, SETTINGS)
    masks = [segment(frame) for frame in frames]
    assert [blobs(mask) for mask in masks] == [2] * 4
    assert min(iou(mask, truth) for mask, truth in zip(masks, truths, strict=True)) > 0.88


def test_a_hand_that_comes_in_is_kept_and_so_is_the_mouse(known):
    def hand(image, t):
        cv2.rectangle(image, (WIDTH - 60 - 20 * t, 0), (WIDTH - 1, 330), (205, 150, 125), -1)
        return image

    frames, truths = film([[(110, 220, 0)]] * 4, paint=hand)
    segment = background.segmenter(known, SETTINGS)
    for t, (frame, truth) in enumerate(zip(frames, truths, strict=True)):
        mask = segment(frame) > 127
        assert mask[:330, WIDTH - 60 - 20 * t :].mean() > 0.95
        assert mask[truth].mean() > 0.85


@pytest.mark.parametrize(("seen", "expected"), [([2], [1, 1, 1, 1]), ([1, 2, 3], [1, 1, 2, 2])])
def test_a_flash_is_dropped_and_what_stays_is_there_from_its_second_frame(known, seen, expected):
    def thing(image, t):
        if t in seen:
            cv2.circle(image, (400, 60), 20, (250, 250, 250), -1)
        return image

    frames, _ = film([[(110 + t, 250, 0)] for t in range(4)], paint=thing)
    segment = background.segmenter(known, SETTINGS)
    assert [blobs(segment(frame)) for frame in frames] == expected


def test_history_is_one_frame():
    frames, _ = film(walk(30))
    model = estimate_background(frames, SETTINGS)
    whole, late = background.segmenter(model, SETTINGS), background.segmenter(model, SETTINGS)
    masks = [whole(frame) for frame in frames[:12]]
    late(frames[8])
    assert all(np.array_equal(late(frames[t]), masks[t]) for t in range(9, 12))


def test_the_same_frames_give_the_same_bytes_wherever_they_lie_in_memory():
    frames, _ = film(walk(16), shadow=0.3)

    def moved(frame, shift):
        buffer = np.empty(frame.size + 64, np.uint8)
        there = buffer[shift : shift + frame.size].reshape(frame.shape)
        there[:] = frame
        return there

    models = [estimate_background([moved(frame, shift) for frame in frames], SETTINGS) for shift in (0, 1, 37)]
    for name in models[0]:
        assert len({model[name].tobytes() for model in models}) == 1
    results = []
    for shift, model in zip((0, 1, 37), models, strict=True):
        segment = background.segmenter(model, SETTINGS)
        results.append(b"".join(segment(moved(frame, shift)).tobytes() for frame in frames))
    assert len(set(results)) == 1


@pytest.mark.parametrize("size", [(963, 721), (1280, 961)])
def test_large_frames_are_worked_on_at_a_smaller_scale(size):
    frames, truths = film(walk(20))
    frames = [cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR) for frame in frames]
    truths = [cv2.resize(truth.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0 for truth in truths]
    model = estimate_background(frames, SETTINGS)
    assert model["background"].shape == frames[0].shape and model["level"].shape[1] <= 800
    assert overlaps(frames, truths, model=model).min() > 0.88


def test_mistakes_are_named():
    frames, _ = film([[]] * 5)
    with pytest.raises(UserError, match="4 frames are too few"):
        estimate_background(frames[:4], SETTINGS)
    with pytest.raises(UserError, match="differ in size"):
        estimate_background([*frames[:4], frames[4][:-2]], SETTINGS)
    segment = background.segmenter(estimate_background(frames, SETTINGS), SETTINGS)
    with pytest.raises(UserError, match="480x358 px, the background 480x360"):
        segment(frames[0][:-2])


@pytest.mark.parametrize(
    ("name", "hint"), [("backgroud", "did you mean 'background'?"), ("sam", f"valid: {', '.join(METHODS)}")]
)
def test_an_unknown_method_is_an_error_that_names_the_nearest_or_all(name, hint):
    with pytest.raises(UserError) as error:
        method(name)
    assert str(error.value) == f"center.masks: unknown method {name!r}: {hint}"


def test_every_method_says_what_it_needs():
    capture = demo_capture()
    assert method("provided").files(capture, Center()) == {"masks": capture.masks}
    assert method("background").files(capture, Center(masks="background")) == {}
    settings = Center(masks="onnx", onnx=Onnx(path=__file__))
    assert method("onnx").files(capture, settings) == {"network": Path(__file__)}
    assert method("background").needs_arena and not method("provided").needs_arena and not method("onnx").needs_arena
    method("onnx").check("rodent-a", settings)
    with pytest.raises(UserError, match=r"center\.onnx\.path: is not set"):
        method("onnx").check("rodent-a", Center(masks="onnx"))


def test_a_third_method_is_one_entry(monkeypatch):
    """A method that was not there when the stage was written serves it: its check, and its silhouettes."""
    capture, settings = demo_capture(), Center.model_construct(**{**dict(Center()), "masks": "bright"})
    seen = []

    def bright(capture, view, frames, settings, threads=1, arena=None):
        return segment_frames(
            capture, view, frames, settings, threads, lambda image: (image.max(-1) > 127) * np.uint8(255)
        )

    third = Method(bright, check_files=lambda capture, settings: seen.append(capture.name))
    monkeypatch.setitem(METHODS, "bright", third)
    assert capture_frames(capture, settings) == range(200) and seen == [capture.name]
    (frame, mask), *_ = method("bright").silhouettes(capture, 0, range(1), settings)
    assert np.array_equal(mask > 0, frame.rgb().max(-1) > 127)


# A network of one layer: its last channel's logit is positive where a pixel is dark.


def network(path: Path, classes=1, size=("h", "w"), inputs=3, sigmoid=False):
    helper = pytest.importorskip(
        "onnx.helper", reason="the package onnx is not installed: it writes the test's network"
    )
    onnx_package = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    weight = np.zeros((classes, inputs, 1, 1), np.float32)
    bias = np.zeros(classes, np.float32)
    weight[-1], bias[-1] = -10, 10 * inputs * 0.3
    nodes = [helper.make_node("Conv", ["x", "weight", "bias"], ["y"])]
    if sigmoid:
        nodes.append(helper.make_node("Sigmoid", ["y"], ["z"]))
    graph = helper.make_graph(
        nodes,
        "dark",
        [helper.make_tensor_value_info("x", 1, [1, inputs, *size])],
        [helper.make_tensor_value_info("z" if sigmoid else "y", 1, [1, classes, *size])],
        [
            helper.make_tensor("weight", 1, weight.shape, weight.ravel()),
            helper.make_tensor("bias", 1, bias.shape, bias),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx_package.save(model, str(path))
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ({}, {}),
        ({"classes": 3}, {"channel": 2}),
        ({"sigmoid": True}, {"output": "probability"}),
        ({"size": (180, 240)}, {}),
        ({}, {"width": 240, "height": 180, "threads": 2}),
    ],
)
def test_a_network_of_the_users_segments(tmp_path, arguments, settings):
    path = network(tmp_path / "dark.onnx", **arguments)
    frames, truths = film(walk(2), noise=0)
    segment = onnx.segmenter(Onnx(path=path, **settings))
    for frame, truth in zip(frames, truths, strict=True):
        mask = segment(frame)
        assert mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 255}
        assert iou(mask, truth) > 0.85  # droppings are as dark


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ({"inputs": 1}, {}, "expected one input"),
        ({"classes": 2}, {"channel": 2}, "channel is 2, but .* has 2 channels"),
        ({"size": (180, 240)}, {"width": 320}, "width is 320, but .* takes 240 only"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(tmp_path, arguments, settings, message):
    path = network(tmp_path / "dark.onnx", **arguments)
    with pytest.raises(UserError, match=message):
        onnx.segmenter(Onnx(path=path, **settings))(np.zeros((60, 80, 3), np.uint8))


def test_a_missing_or_damaged_network_is_named(tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    with pytest.raises(UserError, match=r"center\.onnx\.path is not set"):
        onnx.segmenter(Onnx())
    with pytest.raises(UserError, match="no such file"):
        onnx.segmenter(Onnx(path=str(tmp_path / "none.onnx")))
    (tmp_path / "bad.onnx").write_bytes(b"not a network")
    with pytest.raises(UserError, match="cannot load it"):
        onnx.segmenter(Onnx(path=str(tmp_path / "bad.onnx")))


def test_without_onnxruntime_the_message_says_how_to_get_it(monkeypatch):
    plain = builtins.__import__

    def without(name, *arguments, **keywords):
        if name == "onnxruntime":
            raise ImportError(name)
        return plain(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install -c envs/constraints\.txt -e '\.\[onnx\]'"):
        onnx.segmenter(Onnx(path="any.onnx"))


@pytest.mark.slow
def test_the_demo_without_its_masks():
    """Every 5th frame of all six cameras against the provided masks."""
    capture = demo_capture()
    sampled = set(np.linspace(0, 199, SETTINGS.frames).astype(int))

    def mean_overlap(view):
        images = read_frames(capture.videos[view], range(200), "")
        images = {k: frame.rgb() for k, frame in images if k in sampled or k % 5 == 0}
        truths = [frame.gray() > 127 for _, frame in read_frames(capture.masks[view], range(0, 200, 5), "")]
        model = estimate_background((images[k] for k in sorted(sampled)), SETTINGS)
        return overlaps([images[k] for k in range(0, 200, 5)], truths, model=model).mean()

    with ThreadPoolExecutor(2) as pool:
        means = dict(zip(capture.cameras, pool.map(mean_overlap, range(len(capture.cameras))), strict=True))
    assert np.mean(list(means.values())) >= 0.90, means
    assert min(means.values()) >= 0.85, means
