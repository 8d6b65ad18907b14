import re
from dataclasses import replace

import cv2
import h5py
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mousefacelift.artifacts.center import Flag
from mousefacelift.base.errors import UserError
from mousefacelift.config.center import Center
from mousefacelift.recordings.recording import capture_frames, chunk_ranges
from mousefacelift.recordings.video import Frame, read_frames
from mousefacelift.shards.images import decode_crop
from mousefacelift.stages.center import SUPPORT_DIRECTIONS, center, measure
from support.rodent import demo_capture, record, write_video

SETTINGS = Center()
FRAMES = range(100, 104)


def ellipse(shape=(480, 640), middle=(300, 200), axes=(80, 40), angle=25):
    """A mask that is symmetric about the centre of the pixel in column and row `middle`."""
    rows, cols = np.indices(shape)
    x, y, turn = cols - middle[0], rows - middle[1], np.deg2rad(angle)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    return (255 * ((along / axes[0]) ** 2 + (across / axes[1]) ** 2 <= 1)).astype(np.uint8)


def noise(shape=(480, 640)):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def measured(mask, settings=SETTINGS):
    return measure(Frame(noise(mask.shape)), mask, settings)[0]


def test_the_centre_of_an_ellipse_is_its_middle():
    np.testing.assert_allclose(measured(ellipse()).center_px, [300.5, 200.5], atol=0.002)


def test_a_thin_tail_hardly_drags_the_centre():
    body = ellipse(angle=0)
    mask = body.copy()
    cv2.line(mask, (370, 200), (590, 320), 255, 5)
    plain = np.argwhere(mask)[:, ::-1].mean(axis=0) - np.argwhere(body)[:, ::-1].mean(axis=0)
    dragged = measured(mask).center_px - measured(body).center_px
    assert np.linalg.norm(plain) > 15
    assert np.linalg.norm(dragged) < 0.2 * np.linalg.norm(plain)


def test_a_silhouettes_place_in_the_frame_moves_its_measures_and_does_not_change_them():
    one, two = measured(ellipse(middle=(300, 200))), measured(ellipse(middle=(237, 311)))
    shift = np.array([-63, 111])
    np.testing.assert_allclose(two.center_px - one.center_px, shift, atol=1e-9)
    np.testing.assert_allclose(two.support_px - one.support_px, np.broadcast_to(shift, (SUPPORT_DIRECTIONS, 2)))
    assert (two.window[0] - one.window[0], two.window[1] - one.window[1]) == tuple(shift)
    assert two.area_px == one.area_px == (ellipse() > 0).sum()


def test_support_points_are_the_outermost_corners_of_the_pixels():
    mask = ellipse()
    cv2.line(mask, (370, 230), (590, 320), 255, 5)
    found = measured(mask).support_px
    rows, cols = np.nonzero(mask)
    corners = np.concatenate([np.stack([cols + dx, rows + dy], axis=1) for dx in (0, 1) for dy in (0, 1)])
    assert {tuple(p) for p in found.tolist()} <= {tuple(p) for p in corners.tolist()}
    for k, point in enumerate(found):
        angle = 2 * np.pi * k / SUPPORT_DIRECTIONS
        direction = np.array([np.cos(angle), np.sin(angle)])
        assert point @ direction == pytest.approx((corners @ direction).max(), abs=1e-9)


def test_the_crop_is_the_silhouette_with_its_margin_at_full_resolution():
    mask, image = ellipse(), noise()
    found, rgb, alpha = measure(Frame(image), mask, SETTINGS)
    crop = np.dstack([rgb, alpha])
    x, y, w, h = cv2.boundingRect(mask)
    margin = SETTINGS.margin_px
    assert found.window == (x - margin, y - margin, w + 2 * margin, h + 2 * margin)
    assert crop.shape == (h + 2 * margin, w + 2 * margin, 4)
    x, y, w, h = found.window
    np.testing.assert_array_equal(crop[..., 3], mask[y : y + h, x : x + w])
    inside = crop[..., 3] > 0
    np.testing.assert_array_equal(crop[inside][:, :3], image[y : y + h, x : x + w][inside])
    assert not crop[~inside].any(), "RGB outside the silhouette is not zero"
    assert found.flags == 0


def test_near_the_frames_edge_the_margin_is_cut_and_the_flag_is_not_set():
    mask = ellipse(middle=(90, 200), angle=0)  # 10 px from the left edge
    found, crop, _ = measure(Frame(noise()), mask, SETTINGS)
    assert found.flags == 0
    assert found.window[0] == 0
    assert crop.shape[1] == found.window[2] == 90 + 80 + 1 + 16


@pytest.mark.parametrize("middle", [(60, 240), (580, 240), (320, 20), (320, 460)])
def test_a_silhouette_at_any_edge_of_the_frame_is_clipped(middle):
    assert measured(ellipse(middle=middle, angle=0)).flags == Flag.CLIPPED


def test_a_small_or_absent_silhouette_is_empty_and_has_no_crop():
    square = np.zeros((100, 100), np.uint8)
    square[40:50, 40:60] = 255
    assert measured(square).flags == 0
    square[40, 40] = 0
    for mask in (square, np.zeros_like(square)):
        found, crop, _ = measure(Frame(noise((100, 100))), mask, SETTINGS)
        assert found.flags == Flag.EMPTY
        assert np.isnan(found.center_px).all()
        assert np.isnan(found.support_px).all()
        assert crop.size == 0
        assert found.window == (0, 0, 0, 0)


def test_grey_mask_values_count_from_128_on():
    mask = np.zeros((100, 100), np.uint8)
    mask[20:60, 20:40], mask[20:60, 40:60] = 128, 127
    assert measured(mask).area_px == 800


def test_a_second_blob_is_flagged_when_it_is_large_and_kept_in_either_case():
    mask = ellipse()
    cv2.circle(mask, (500, 400), 8, 255, -1)  # a fiftieth of the ellipse
    small = measured(mask)
    cv2.circle(mask, (500, 400), 30, 255, -1)  # more than a quarter
    large = measured(mask)
    assert (small.flags, large.flags) == (0, Flag.SEVERAL_BLOBS)
    assert large.area_px == (mask > 0).sum()
    assert measured(mask, Center(blob_fraction=0.5)).flags == 0


def test_a_piece_of_tail_is_no_second_animal():
    mask = ellipse(angle=0)
    cv2.line(mask, (400, 220), (600, 330), 255, 8)  # a sixth of the ellipse, and thin
    assert measured(mask).flags == 0
    cv2.circle(mask, (500, 100), 30, 255, -1)
    assert measured(mask).flags == Flag.SEVERAL_BLOBS


def test_sharpness_falls_with_blur_and_is_judged_inside_the_silhouette():
    mask, image = ellipse(), noise()
    blurred = cv2.GaussianBlur(image, (0, 0), 2)
    sharp, soft = (measure(Frame(i), mask, SETTINGS)[0].sharpness for i in (image, blurred))
    assert soft < sharp / 20
    elsewhere = np.where(mask[..., None] > 0, 100, image).astype(np.uint8)
    assert measure(Frame(elsewhere), mask, SETTINGS)[0].sharpness == 0
    limit = Center(min_sharpness=(sharp + soft) / 2)
    assert measure(Frame(image), mask, limit)[0].flags == 0
    assert measure(Frame(blurred), mask, limit)[0].flags == Flag.UNSHARP


def test_a_silhouette_too_thin_to_judge_has_no_sharpness():
    mask = np.zeros((100, 400), np.uint8)
    mask[50:53, 20:380] = 255
    assert measured(mask).sharpness == 0


@given(st.integers(1, 2000), st.integers(1, 60), st.integers(1, 400))
@example(305, 10, 303)
@example(200, 150, 100)
def test_every_stride_th_frame_is_in_exactly_one_chunk(frames, stride, chunk_frames):
    chunks = chunk_ranges(range(frames), Center(stride=stride, chunk_frames=chunk_frames))
    assert [f for chunk in chunks for f in chunk] == list(range(0, frames, stride))
    assert all(len(chunk) > 0 and chunk[-1] - chunk[0] < chunk_frames for chunk in chunks)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Four frames of cameras 1 and 2 of the demo."""
    return record(tmp_path_factory.mktemp("short"), FRAMES, views=range(2))


def test_a_chunks_file_holds_what_measure_says_of_each_frame_and_view(short, tmp_path):
    settings = Center(stride=2, chunk_frames=2)
    center(short, 1, tmp_path / "0001.h5", settings, threads=2)
    with h5py.File(tmp_path / "0001.h5") as file:
        assert (file.attrs["stage"], file.attrs["capture"], file.attrs["chunk"]) == ("center", "short", 1)
        assert file.attrs["fps"] == 20
        assert list(file.attrs["cameras"]) == ["1", "2"]
        assert file.attrs["size"].tolist() == [[1152, 1024]] * 2
        assert file["frame"][()].tolist() == [2]
        np.testing.assert_allclose(file["time_s"][()], [0.1])
        for v in range(2):
            ((_, image),) = read_frames(short.videos[v], range(2, 3), "")
            ((_, mask),) = read_frames(short.masks[v], range(2, 3), "")
            truth, rgb, alpha = measure(image, mask.gray(), settings)
            for name in ("center_px", "area_px", "support_px", "sharpness", "flags", "window"):
                np.testing.assert_array_equal(file[name][0, v], getattr(truth, name))
            np.testing.assert_array_equal(
                decode_crop(file["crop_zstd"][0, v], truth.window[2:], ""), np.dstack([rgb, alpha])
            )


def test_the_tables_rate_overrides_the_videos(short, tmp_path):
    center(replace(short, fps=50.0), 0, tmp_path / "0.h5", SETTINGS)
    with h5py.File(tmp_path / "0.h5") as file:
        np.testing.assert_allclose(file["time_s"][()], np.arange(4) / 50)


def test_an_empty_view_is_stored_as_such(short, tmp_path):
    masks = [np.zeros((1024, 1152), np.uint8)] * 4
    capture = replace(short, masks=(short.masks[0], write_video(tmp_path / "empty.mkv", masks, "gray")))
    center(capture, 0, tmp_path / "0.h5", SETTINGS)
    with h5py.File(tmp_path / "0.h5") as file:
        assert file["flags"][:, 1].tolist() == [Flag.EMPTY] * 4
        assert np.isnan(file["center_px"][:, 1]).all()
        assert len(file["crop_zstd"][0, 1]) == 0
        assert len(file["crop_zstd"][0, 0]) > 0


def blank(path, count, size=(1024, 1152)):
    return write_video(path, [np.zeros(size, np.uint8)] * count, "gray")


@pytest.mark.parametrize(
    ("change", "chunk", "message"),
    [
        (lambda c, p: replace(c, videos=(c.videos[0], blank(p / "v.mkv", 3))), 0,
         r"capture short: the cameras' videos differ in their number of frames \(camera 1: 4, camera 2: 3\)"),
        (lambda c, p: replace(c, masks=(c.masks[0], blank(p / "m.mkv", 4, (512, 576)))), 0,
         r"capture short, camera 2: the video is 1152x1024 px, its masks 576x512 \(.*m\.mkv\)"),
        (lambda c, p: replace(c, masks=(c.masks[0], blank(p / "m.mkv", 3))), 0,
         r"capture short, camera 2: the video has 4 frames, its masks 3 \(.*m\.mkv\)"),
        (lambda c, p: replace(c, masks=(blank(p / "m.mkv", 5), c.masks[1])), 0,
         r"capture short, camera 1: the video has 4 frames, its masks 5 \(.*m\.mkv\)"),
        (lambda c, p: c, 1, "capture short: chunk 1 is beyond its 1 chunks"),
        (lambda c, p: replace(c, videos=(c.videos[0], p / "none.mkv")), 0, r"none\.mkv: cannot be opened as a video"),
    ],
    ids=["lengths", "mask size", "short masks", "long masks", "chunk", "missing"],
)  # fmt: skip
def test_a_capture_that_does_not_fit_together_is_named_and_nothing_is_written(short, tmp_path, change, chunk, message):
    output = tmp_path / "out" / "0.h5"
    with pytest.raises(UserError, match=message):
        center(change(short, tmp_path), chunk, output, SETTINGS)
    assert not output.parent.exists() or not list(output.parent.iterdir())


def test_masks_that_end_early_are_an_error_in_any_chunk(short, tmp_path):
    capture = replace(short, masks=(short.masks[0], blank(tmp_path / "m.mkv", 1)))
    with pytest.raises(UserError, match=r"capture short, camera 2: the video has 4 frames, its masks 1 \(.*m\.mkv\)"):
        center(capture, 0, tmp_path / "0.h5", Center(chunk_frames=2))
    assert [p.name for p in tmp_path.iterdir()] == ["m.mkv"]


SKIP = Center(on_bad_frame="skip")


def test_a_short_video_costs_its_frames_alone_if_bad_frames_are_skipped(short, tmp_path, capsys):
    images = [frame.rgb() for _, frame in read_frames(short.videos[1], range(3), "")]
    capture = replace(short, videos=(short.videos[0], write_video(tmp_path / "v.mkv", images, "bgr0")))
    assert capture_frames(capture, SKIP) == range(4)
    center(capture, 0, tmp_path / "0.h5", SKIP)
    with h5py.File(tmp_path / "0.h5") as file:
        assert file["flags"][:, 1].tolist() == [0, 0, 0, Flag.MISSING | Flag.EMPTY]
        assert file["flags"][:, 0].tolist() == [0] * 4
        assert len(file["crop_zstd"][3, 1]) == 0
    said = capsys.readouterr().err
    assert re.search(r"camera 2: 1 of 4 frames are missing:\n  .*v\.mkv: frame 3: the video ends after frame 2", said)


def test_a_frame_without_a_mask_is_missing_too(short, tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    for k, frame in read_frames(short.masks[1], range(4), ""):
        if k != 2:
            cv2.imwrite(str(folder / f"{k:05d}.png"), frame.gray())
    capture = replace(short, masks=(short.masks[0], folder))
    center(capture, 0, tmp_path / "0.h5", SKIP)
    center(short, 0, tmp_path / "1.h5", SKIP)
    with h5py.File(tmp_path / "0.h5") as file, h5py.File(tmp_path / "1.h5") as truth:
        assert file["flags"][:, 1].tolist() == [0, 0, Flag.MISSING | Flag.EMPTY, 0]
        np.testing.assert_array_equal(file["center_px"][3], truth["center_px"][3])
    with pytest.raises(
        UserError, match=r"capture short, camera 2: .*no image 2; center\.on_bad_frame: skip would drop"
    ):
        center(capture, 0, tmp_path / "0.h5", SETTINGS)


def test_labels_are_no_masks(short, tmp_path):
    masks = [(frame.gray() > 127).astype(np.uint8) for _, frame in read_frames(short.masks[1], range(4), "")]
    capture = replace(short, masks=(short.masks[0], write_video(tmp_path / "labels.mkv", masks, "gray")))
    with pytest.raises(UserError, match=r"camera 2, frame 0: the mask holds 0 and 1, but mouse is what is above 127"):
        center(capture, 0, tmp_path / "0.h5", SETTINGS)
    noise = [np.random.default_rng(k).integers(0, 4, (1024, 1152)).astype(np.uint8) for k in range(4)]
    capture = replace(short, masks=(short.masks[0], write_video(tmp_path / "noise.mkv", noise, "gray")))
    center(capture, 0, tmp_path / "0.h5", SETTINGS)  # a lossy mask of an empty arena


def test_a_capture_without_masks_says_what_to_do(short, tmp_path):
    with pytest.raises(UserError, match=r"capture short: .*column 'masks' is empty.*center\.masks: background"):
        center(replace(short, masks=()), 0, tmp_path / "0.h5", SETTINGS)


def test_images_need_a_frame_rate(short, tmp_path):
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((4, 4), np.uint8))
    with pytest.raises(UserError, match=r"images state no frame rate: give it in the table's column 'fps'"):
        capture_frames(replace(short, videos=(tmp_path, tmp_path)), SETTINGS)


def test_a_large_silhouettes_centre_is_exact_to_a_thousandth_of_its_size():
    large = measured(ellipse((1000, 1400), (700, 500), (420, 230)))
    np.testing.assert_allclose(large.center_px, [700.5, 500.5], atol=0.8)


def test_a_failure_while_writing_leaves_no_half_file(short, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(h5py.File, "create_dataset", full)
    output = tmp_path / "0.h5"
    output.write_bytes(b"an earlier run's file")
    with pytest.raises(OSError, match="no space"):
        center(short, 0, output, SETTINGS)
    assert output.read_bytes() == b"an earlier run's file"
    assert [p.name for p in tmp_path.iterdir()] == ["0.h5"]


def test_the_demos_silhouettes_hold_the_projected_centre_of_the_mouse():
    from support.rodent import ground_truth, project_raw

    capture = demo_capture()
    for v in (0, 4):
        ((_, mask),) = read_frames(capture.masks[v], range(100, 101), "")
        mask = mask.gray()
        found = measured(mask)
        centre = project_raw(ground_truth()["center"][100:101], v)[0] + 0.5
        assert mask[round(found.center_px[1]), round(found.center_px[0])] == 255
        assert np.linalg.norm(found.center_px - centre) < 20


def test_an_unknown_way_to_find_the_mouse_is_named(short, tmp_path):
    with pytest.raises(UserError, match=r"center\.masks: unknown method 'magic'"):
        center(short, 0, tmp_path / "0000.h5", SETTINGS.model_copy(update={"masks": "magic"}))
