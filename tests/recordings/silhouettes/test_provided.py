"""Masks that the captures table names, whatever they hold."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from mousefacelift.base.errors import UserError
from mousefacelift.config.center import Center
from mousefacelift.recordings.recording import capture_frames
from mousefacelift.recordings.silhouettes.provided import identities, identity, silhouettes
from support.maskfiles import (
    FRAMES,
    H,
    W,
    blob,
    capture_of,
    image_folder,
    npy,
    npz,
    numbers,
    other,
    rle,
    sam2,
    stack,
)
from support.rodent import write_video


def white(k):
    return blob(k).astype(np.uint8) * 255


def found(capture, **settings):
    """The silhouettes of all frames, as the stage reads them."""
    values = Center(min_area_px=50, **settings)
    assert len(capture_frames(capture, values)) == len(FRAMES)
    return [mask > 127 for _, mask in silhouettes(capture, 0, FRAMES, values)]


def error(capture, **settings):
    with pytest.raises(UserError) as caught:
        found(capture, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def is_blob(masks):
    np.testing.assert_array_equal(masks, stack())
    return True


@pytest.fixture
def folder(tmp_path):
    """Makes a capture whose masks are images: folder(make, name)."""

    def make_folder(make, name="{:05d}.png", **more):
        return capture_of(tmp_path, image_folder(tmp_path / "masks", make, name), **more)

    return make_folder


@pytest.fixture
def film(tmp_path):
    """Makes a capture whose masks are a lossless video."""
    return lambda make, **more: capture_of(
        tmp_path, write_video(tmp_path / "masks.mkv", [make(k) for k in FRAMES], "gray"), **more
    )


def test_of_labels_the_one_of_the_table_or_of_the_settings_is_the_mouse(film):
    capture = film(numbers)
    np.testing.assert_array_equal(found(capture, masks_are="labels", animal=2), stack(other))
    assert is_blob(found(replace(capture, label=1), animal=2))


def test_several_labels_without_a_choice_are_named(film):
    said = error(film(numbers), masks_are="labels")
    assert "capture m, camera 1: the masks hold" in said
    assert "values 0, 1 and 2 in " in said
    assert "labels 1, 2: say which is the mouse in the table's column 'label' or in center.animal" in said


def test_a_single_label_is_the_mouse(film):
    assert is_blob(found(film(lambda k: blob(k).astype(np.uint8) * 3), masks_are="labels"))


def test_a_second_label_is_found_below_and_above_the_first(film):
    """Wherever it comes: the larger number may have been there alone before."""

    def swapped(k):
        return blob(k).astype(np.uint8) * (2 if k == 0 else 1) + other(k) * np.uint8(2)

    for make in (numbers, swapped):
        assert "labels 1, 2: say which is the mouse" in error(film(make), masks_are="labels")


@pytest.mark.parametrize("method", ["background", "onnx"])
def test_an_animal_cannot_be_chosen_where_no_masks_number_them(film, method):
    capture = film(white, label=1)
    with pytest.raises(UserError, match=rf"center\.masks: {method} finds one animal"):
        capture_frames(capture, Center(masks=method))


def test_black_and_white_from_a_lossy_video_codec_is_a_mask(tmp_path):
    path = write_video(tmp_path / "m.mp4", [white(k) for k in FRAMES], "yuv420p", codec="libx264")
    assert np.mean(np.array(found(capture_of(tmp_path, path))) != stack()) < 0.01


def test_two_animals_of_which_each_chunk_shows_one_are_known_before_the_first(film):
    capture = film(lambda k: blob(k).astype(np.uint8) * (1 if k < 3 else 2))
    with pytest.raises(UserError, match=r"camera 1: the masks hold .*labels 1, 2: say which is the mouse"):
        capture_frames(capture, Center(masks_are="labels"))


def test_a_label_that_no_mask_holds_is_an_error_with_the_labels_there(film):
    assert "holds the animal 7; the labels there are 1, 2" in error(film(numbers), animal=7)


def test_an_animal_that_is_not_there_yet_is_no_error(film):
    late = Center(min_area_px=50, animal=2)
    (_, mask), *_ = silhouettes(film(numbers), 0, range(1), late)
    assert not mask.any()


def test_identities_hold_all_animals_of_a_frame(film):
    capture = film(numbers, label=2)
    for k, (_, ids) in enumerate(identities(capture, 0, FRAMES, Center())):
        assert ids.dtype == np.uint16
        np.testing.assert_array_equal(ids, numbers(k))
    assert identity(capture, Center()) == 2


def test_identities_of_plain_masks_are_one_mouse(film):
    capture = film(white)
    for k, (_, ids) in enumerate(identities(capture, 0, FRAMES, Center())):
        np.testing.assert_array_equal(ids, blob(k))
    assert identity(capture, Center()) == 1


def test_an_animal_may_have_the_number_0_where_each_has_a_mask_of_its_own(tmp_path):
    capture = capture_of(tmp_path, sam2(tmp_path / "m.json", ids=(0, 1)), label=0)
    assert is_blob(found(capture))
    (_, ids), *_ = identities(capture, 0, range(1, 2), Center())
    np.testing.assert_array_equal(ids == identity(capture, Center()), blob(1))
    np.testing.assert_array_equal(ids == 1, other(1))


def test_labels_above_255_are_read_from_16_bits(folder):
    capture = folder(lambda k: blob(k) * np.uint16(300) + other(k) * np.uint16(1000))
    assert is_blob(found(capture, animal=300))
    np.testing.assert_array_equal(found(capture, animal=1000), stack(other))


@pytest.mark.parametrize("value", [200, 255])
def test_white_on_black_is_a_mask_in_any_common_image(folder, value):
    assert is_blob(found(folder(lambda k: np.where(blob(k), value, 0).astype(np.uint8))))


def palette_image(k, colours, values=numbers):
    image = Image.fromarray(values(k), "P")
    image.putpalette([*colours, *[0] * (768 - len(colours))])
    return image


def test_of_a_palette_the_numbers_are_labels_and_the_colours_are_named(folder):
    capture = folder(lambda k: palette_image(k, [0, 0, 0, 128, 0, 0, 0, 128, 0]))
    assert is_blob(found(capture, animal=1))
    np.testing.assert_array_equal(found(capture, masks_are="labels", animal=2), stack(other))
    said = error(capture)
    assert "frame 1: the mask holds the colours (0, 0, 0) in " in said
    assert ", which stand for the values 0, 1 and 2 in " in said
    assert "center.masks_are: labels" in said


@pytest.mark.parametrize("name", ["{:05d}.png", "{:05d}.jpg"])
def test_a_small_animal_in_another_colour_is_not_taken_for_a_part_of_the_mouse(tmp_path, name):
    mouse = np.zeros((300, 400), np.uint8)
    mouse[20:280, 20:300] = 255
    small = np.zeros_like(mouse)
    small[100:110, 340:350] = 255  # a seven-hundredth of the mouse's area
    masks = image_folder(tmp_path / "m", lambda k: np.dstack([0 * mouse, small, mouse]), name)
    assert "the mask holds the colours" in error(capture_of(tmp_path, masks, (400, 300)))
    alone = image_folder(tmp_path / "n", lambda k: np.dstack([0 * mouse, 0 * mouse, mouse]), name)
    (mask, *_) = found(capture_of(tmp_path, alone, (400, 300)))
    assert np.mean(mask != (mouse > 0)) < 0.002


def test_a_palette_of_black_and_white_is_a_mask(folder):
    assert is_blob(
        found(folder(lambda k: palette_image(k, [0, 0, 0, 255, 255, 255], lambda k: blob(k).astype(np.uint8))))
    )


def test_one_bit_per_pixel_is_a_mask(folder):
    assert is_blob(found(folder(lambda k: Image.fromarray(blob(k)))))


def test_16_bits_of_black_and_white_are_a_mask(folder):
    assert is_blob(found(folder(lambda k: blob(k) * np.uint16(65535))))


def test_a_red_mouse_on_black_is_a_mask_and_its_soft_edge_counts_from_the_middle_on(folder):
    def red(k):
        soft = cv2.GaussianBlur(white(k), (5, 5), 1)
        return np.dstack([0 * soft, 0 * soft, soft])

    masks = found(folder(red))
    np.testing.assert_array_equal(masks, [cv2.GaussianBlur(white(k), (5, 5), 1) > 127 for k in FRAMES])


@pytest.mark.parametrize(
    ("colour", "said"),
    [
        (
            lambda k: np.dstack([np.tile(np.arange(W) + k, (H, 1)), np.full((H, W), 80), np.full((H, W), 70)]),
            "hold a picture",
        ),
        (lambda k: np.full((H, W, 3), 255), "are 255 everywhere"),
        (lambda k: np.zeros((H, W, 3)), "are 0 everywhere"),
    ],
    ids=["picture", "white", "black"],
)
def test_a_shape_in_the_alpha_channel_is_found_and_read_if_the_user_says_so(folder, colour, said):
    capture = folder(lambda k: np.dstack([colour(k), white(k)]).astype(np.uint8))
    assert is_blob(found(capture, masks_are="alpha"))
    message = error(capture)
    assert "camera 1, frame 0: the shape is in the mask's alpha channel (opaque in 1" in message
    assert f"{said}: set center.masks_are: alpha" in message


@pytest.mark.parametrize("alpha", [np.full((H, W), 255), white(0)], ids=["opaque", "the mask again"])
def test_an_alpha_channel_that_says_nothing_else_is_passed_over(folder, alpha):
    shape = white(0)
    masks = found(folder(lambda k: np.dstack([shape, shape, shape, alpha]).astype(np.uint8)))
    np.testing.assert_array_equal(masks, [blob(0)] * len(FRAMES))


def test_masks_without_an_alpha_channel_say_so(folder):
    assert "frame 0: the mask has no alpha channel" in error(folder(white), masks_are="alpha")


def test_an_alpha_channel_in_a_video_is_read(tmp_path):
    import av

    path = tmp_path / "m.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=20)
        stream.height, stream.width, stream.pix_fmt = H, W, "bgra"
        for k in FRAMES:
            image = np.dstack([np.full((H, W, 3), 60, np.uint8), white(k)])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgba").reformat(format="bgra")))
        container.mux(stream.encode())
    capture = capture_of(tmp_path, path)
    assert is_blob(found(capture, masks_are="alpha"))
    assert "set center.masks_are: alpha" in error(capture)


def test_a_black_mouse_on_white_is_named_and_read_if_the_user_says_so(film):
    capture = film(lambda k: 255 - white(k))
    assert is_blob(found(capture, masks_are="inverted"))
    said = error(capture)
    assert "camera 1, frame 0: the masks look inverted (values 0 and 255 in 1" in said
    assert "set center.masks_are: inverted" in said


def test_masks_that_are_right_are_not_inverted(film):
    assert "right as they are" in error(film(white), masks_are="inverted")


def test_one_mask_that_has_leaked_is_not_taken_for_inverted_ones(film):
    masks = found(film(lambda k: 255 - white(k) if k == 0 else white(k)))
    np.testing.assert_array_equal(masks[1:], stack()[1:])


@pytest.mark.parametrize(
    "mask",
    [
        np.full((H, W), 255, np.uint8),
        np.zeros((H, W), np.uint8),
        np.pad(np.full((H, W - 6), 255, np.uint8), ((0, 0), (0, 6))),
        np.pad(np.full((H - 20, W - 2), 255, np.uint8), ((20, 0), (1, 1))),
    ],
    ids=["full", "empty", "all but one side", "lower part"],
)
def test_a_mouse_that_fills_the_frame_or_none_is_no_mistake(film, mask):
    np.testing.assert_array_equal(found(film(lambda k: mask)), [mask > 127] * len(FRAMES))


def test_a_mouse_that_comes_late_is_no_mistake(film):
    masks = found(film(lambda k: white(k) if k > 3 else np.zeros((H, W), np.uint8)))
    assert not np.any(masks[:4]) and masks[4].any()


def test_void_around_labels_is_not_taken_for_the_mouse(film):
    void = cv2.dilate(white(0), np.ones((9, 9))) > 0
    said = error(film(lambda k: np.where(blob(0), 1, np.where(void, 255, 0)).astype(np.uint8)))
    assert "values 0, 1 and 255 in " in said and "several animals or classes: set center.masks_are: labels" in said


def test_labels_saved_as_jpeg_are_named_and_no_key_is_promised_to_help(folder):
    capture = folder(lambda k: blob(k).astype(np.uint8), "{:05d}.jpg")
    said = error(capture)
    assert "frame 0: the mask holds values 0" in said
    assert "as JPEG they are no longer exact" in said and "masks_are" not in said
    assert "JPEG does not keep the labels' values: write them as PNG" in error(capture, masks_are="labels")


def test_a_jpeg_of_black_and_white_is_a_mask(folder):
    masks = found(folder(white, "{:05d}.jpg"))
    assert np.mean(np.array(masks) != stack()) < 0.002


def test_what_a_lossy_codec_leaves_in_an_empty_arena_is_no_label(tmp_path):
    ghost = [white(0), *[np.where(blob(0), 2, 0).astype(np.uint8)] * 4]
    path = write_video(tmp_path / "m.mkv", ghost, "yuvj420p", codec="mjpeg")
    capture = capture_of(tmp_path, path)
    *_, last = found(capture)
    assert not last.any()
    masks = [mask for _, mask in silhouettes(capture, 0, range(1, 5), Center(min_area_px=50))]
    assert not np.any(np.array(masks) > 127)


def test_a_picture_of_the_mouse_on_black_is_no_mask(film):
    texture = np.random.default_rng(0).integers(40, 120, (H, W)).astype(np.uint8)
    said = error(film(lambda k: np.where(blob(k), texture, 0)))
    assert "much of it neither black nor white, but mouse is what is above 127" in said


def test_an_array_of_0_and_1_is_a_mask_until_another_value_comes(tmp_path):
    assert is_blob(found(capture_of(tmp_path, npy(tmp_path / "m.npy", stack().astype(np.int64)))))
    said = error(capture_of(tmp_path, npy(tmp_path / "n.npy", stack(numbers))))
    assert "frame 1: the mask holds values 0, 1 and 2 in" in said and "center.masks_are: labels" in said


@pytest.mark.parametrize(
    ("video", "masks"), [((2 * W, 2 * H), 1), ((W // 2, H // 2), 1), ((3 * W // 2, 3 * H // 2), 1)]
)
def test_masks_of_another_size_are_enlarged_or_reduced_if_the_ratio_is_exact(tmp_path, video, masks):
    capture = capture_of(tmp_path, npz(tmp_path / "m.npz", masks=stack()), video)
    for k, mask in enumerate(found(capture, animal=None)):
        assert mask.shape == video[::-1]
        assert abs(mask.mean() - blob(k).mean()) < 0.02


def test_a_half_size_mask_of_2x2_blocks_is_the_whole_mask(tmp_path):
    capture = capture_of(tmp_path, npz(tmp_path / "m.npz", masks=stack()), (2 * W, 2 * H))
    np.testing.assert_array_equal(found(capture), stack().repeat(2, axis=1).repeat(2, axis=2))


@pytest.mark.parametrize("size", [(W + 2, H), (W, H + 1), (10 * W, 10 * H)])
def test_masks_of_another_shape_are_refused_with_both_sizes(tmp_path, size):
    said = error(capture_of(tmp_path, npz(tmp_path / "m.npz", masks=stack()), size))
    assert f"camera 1: the video is {size[0]}x{size[1]} px, its masks {W}x{H}" in said


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "the masks hold labels 1, 2: say which is the mouse in the table's column 'label' or in center.animal"),
        ({"animal": 3}, "the masks do not hold the animal 3; labels there: 1, 2"),
        ({"masks_are": "alpha"}, "center.masks_are: alpha does not go with masks of numbered animals"),
    ],
)
def test_a_file_that_lists_its_animals_is_checked_before_any_mask_is_read(tmp_path, settings, said):
    path = sam2(tmp_path / "m.json")
    assert said in error(capture_of(tmp_path, path), **settings)


def test_0_is_no_animal_of_an_image_of_labels(film):
    assert "in these masks 0 is where no animal is" in error(film(numbers), animal=0)


def test_a_mask_that_its_file_lacks_is_missing(tmp_path):
    path = sam2(tmp_path / "m.json", rle)
    import json

    content = json.loads(path.read_text())
    del content["2"]
    path.write_text(json.dumps(content))
    kept = Center(animal=1, on_bad_frame="skip")
    frames = [type(frame).__name__ for frame, _ in silhouettes(capture_of(tmp_path, path), 0, FRAMES, kept)]
    assert frames == ["Frame", "Frame", "Missing", "Frame", "Frame"]
