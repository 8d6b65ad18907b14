import re
import wave
from fractions import Fraction
from functools import partial
from itertools import pairwise

import av
import cv2
import numpy as np
import pytest

from mousefacelift.base.errors import UserError
from mousefacelift.recordings.video import Missing, Probe, _parts, first_image, length, probe, read_frames
from support.rodent import demo_capture, write_video

BITS, BLOCK = 7, 16
LENGTH = 60
WHERE = "capture c, camera 3"
FFV1 = {"codec": "ffv1", "pixel_format": "gray"}
# B-frames, so that packets are not in the order of display, and a key frame every 12: most starts are inside a group.
H264 = {
    "codec": "libx264",
    "pixel_format": "yuv420p",
    "options": {"x264-params": "bframes=3:b-adapt=0:keyint=12:min-keyint=12:scenecut=0"},
}


def picture(index):
    """A frame that says which one it is: its index in binary, one block of pixels for each bit."""
    bits = [(index >> bit) & 1 for bit in range(BITS)]
    return np.kron(np.array([bits, [1 - b for b in bits]]), np.full((BLOCK, BLOCK), 255)).astype(np.uint8)


def read_index(image):
    grey = image if image.ndim == 2 else image.mean(axis=2)
    means = grey.reshape(2, BLOCK, BITS, BLOCK).mean(axis=(1, 3))
    bits = (means > 128).astype(int)
    assert (bits[0] != bits[1]).all(), "the code is not readable"
    return int(bits[0] @ (1 << np.arange(BITS)))


def record(path, codec, pixel_format, options=None, frames=range(LENGTH), rate=20, stamp=lambda packet: None, lost=0):
    """A video of coded frames; frames: their timestamps, so that a missing one is a dropped frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = BITS * BLOCK, 2 * BLOCK, pixel_format
        packets = []
        for index in frames:
            frame = av.VideoFrame.from_ndarray(picture(index), "gray")
            frame.pts = index
            frame.time_base = Fraction(1, rate)
            packets += stream.encode(frame)
        packets += stream.encode()
        for packet in packets[lost:]:
            stamp(packet)
            container.mux(packet)
    return path


def indices(path, frames, **options):
    """The index that each frame shows; None where a frame is missing."""
    found = list(read_frames(path, frames, WHERE, **options))
    assert [index for index, _ in found] == list(frames)
    return [None if isinstance(frame, Missing) else read_index(frame.gray()) for _, frame in found]


def reasons(path, frames, **options):
    """Why frames are missing, by index."""
    return {i: f.reason for i, f in read_frames(path, frames, WHERE, **options) if isinstance(f, Missing)}


@pytest.fixture(scope="module")
def lossless(tmp_path_factory):
    return record(tmp_path_factory.mktemp("video") / "a.mkv", **FFV1)


@pytest.fixture(scope="module", params=["mp4", "mkv"])
def compressed(request, tmp_path_factory):
    path = record(tmp_path_factory.mktemp("video") / f"a.{request.param}", **H264)
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    assert any(a.pts > b.pts for a, b in pairwise(packets)), "there are no B-frames"
    assert sum(p.is_keyframe for p in packets) == LENGTH / 12
    return path


def test_every_frame_is_the_one_asked_for_in_lossless_video(lossless):
    for start in range(0, LENGTH, 7):
        assert indices(lossless, range(start, LENGTH, 9)) == list(range(start, LENGTH, 9))


@pytest.mark.parametrize("threads", [1, 3])
def test_every_frame_is_the_one_asked_for_in_compressed_video_from_any_start(compressed, threads):
    for start in range(LENGTH):
        wanted = range(start, min(start + 9, LENGTH), 4)
        assert indices(compressed, wanted, threads=threads) == list(wanted)
    assert indices(compressed, range(LENGTH)) == list(range(LENGTH))


def test_a_file_that_is_sought_behind_the_frame_asked_for_is_read_from_its_start(compressed, monkeypatch):
    seek = av.container.InputContainer.seek

    class Sought:
        def __init__(self, container):
            self._container = container

        def __getattr__(self, name):
            return getattr(self._container, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._container.close()

        def seek(self, target, **options):
            seek(self._container, 2 * target, **options)

    monkeypatch.setattr("mousefacelift.recordings.video.open_video", lambda path: Sought(av.open(str(path))))
    assert indices(compressed, range(20, 26)) == list(range(20, 26))


@pytest.mark.parametrize("suffix", ["avi", "ts", "mov"])
def test_other_containers_are_read_frame_for_frame(tmp_path, suffix):
    path = record(tmp_path / f"a.{suffix}", **H264)
    assert length(path, "rate", None) == LENGTH
    for start in (0, 13, 29, 52):
        assert indices(path, range(start, LENGTH, 7)) == list(range(start, LENGTH, 7))


def test_a_rate_that_timestamps_cannot_hold_exactly_is_followed(tmp_path):
    path = record(tmp_path / "a.mkv", **FFV1, rate=30)  # Matroska rounds to milliseconds
    for start in (0, 1, 29, 58):
        assert indices(path, range(start, LENGTH)) == list(range(start, LENGTH))


def test_a_video_whose_first_timestamp_is_not_zero_still_starts_at_frame_0(tmp_path):
    def later(packet):
        packet.pts += 1000
        packet.dts += 1000

    path = record(tmp_path / "a.mkv", **FFV1, stamp=later)
    assert indices(path, range(0, 20, 3)) == list(range(0, 20, 3))
    assert indices(path, range(31, 34)) == [31, 32, 33]


def test_frames_are_converted_on_demand(lossless):
    frame = next(read_frames(lossless, range(5, 6), WHERE))[1]
    assert frame.rgb().shape == (2 * BLOCK, BITS * BLOCK, 3)
    assert (frame.height, frame.width) == (2 * BLOCK, BITS * BLOCK)
    np.testing.assert_array_equal(frame.gray(), picture(5))


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "gray", "bgr0", "yuv420p10le"])
def test_a_window_of_a_frame_is_that_part_of_the_whole(tmp_path, pixel_format):
    noise = np.random.default_rng(0).integers(0, 256, (46, 58, 3), np.uint8)
    codec = "mjpeg" if pixel_format == "yuvj420p" else "ffv1"
    path = write_video(tmp_path / "a.mkv", [noise], pixel_format, codec=codec)
    frame = next(read_frames(path, range(1), WHERE))[1]
    whole = frame.rgb()
    for x, y, w, h in ((0, 0, 58, 46), (3, 5, 7, 9), (4, 2, 20, 30), (57, 45, 1, 1), (1, 0, 57, 46)):
        np.testing.assert_array_equal(frame.rgb((x, y, w, h)), whole[y : y + h, x : x + w])


def test_no_frames_are_wanted_and_none_come(lossless):
    assert list(read_frames(lossless, range(0), WHERE)) == []


def test_frames_without_usable_timestamps_are_counted_from_the_start(tmp_path):
    def forget(packet):
        packet.pts = packet.dts = 0

    path = record(tmp_path / "a.mp4", **H264, stamp=forget)
    with av.open(str(path)) as container:
        assert len({p.pts for p in container.demux(video=0) if p.size}) <= 2, "the file has timestamps"
    for start in (0, 5, 30, 59):
        assert indices(path, range(start, LENGTH, 6)) == list(range(start, LENGTH, 6))
    late = reasons(path, range(50, LENGTH + 1))
    assert late == {LENGTH: f"{WHERE}: {path}: frame {LENGTH}: the video ends after frame {LENGTH - 1}"}


def test_the_demos_own_videos_are_such_files_and_are_read_frame_for_frame():
    path = demo_capture().videos[2]
    wanted = range(3, 24, 5)
    with av.open(str(path)) as container:
        stamps = [p.pts for p in container.demux(video=0) if p.size]
    with av.open(str(path)) as container:
        truth = {n: f.to_ndarray(format="rgb24") for n, f in zip(range(24), container.decode(video=0), strict=False)}
    assert set(stamps) == {0}
    for index, frame in read_frames(path, wanted, WHERE):
        np.testing.assert_array_equal(frame.rgb(), truth[index])


@pytest.mark.parametrize("kind", [FFV1, H264], ids=["ffv1", "h264"])
@pytest.mark.parametrize("start", [0, 15, 23])
def test_a_dropped_frame_is_missing_and_those_after_it_are_in_their_place(tmp_path, kind, start):
    path = record(tmp_path / "a.mkv", **kind, frames=[i for i in range(LENGTH) if i != 23])
    wanted = range(start, LENGTH)
    assert indices(path, wanted) == [None if i == 23 else i for i in wanted]
    (reason,) = reasons(path, wanted).values()
    assert re.match(r"capture c, camera 3: .*a\.mkv: frame 23: no frame has its time: frames were dropped", reason)


def test_a_dropped_frame_that_nobody_wants_is_no_matter(tmp_path):
    path = record(tmp_path / "a.mkv", **FFV1, frames=[i for i in range(LENGTH) if i != 23])
    assert indices(path, range(0, LENGTH, 2)) == list(range(0, LENGTH, 2))


def test_a_short_video_names_the_frames_it_lacks(lossless):
    found = reasons(lossless, range(50, 64, 4))
    assert list(found) == [62]
    assert "camera 3" in found[62] and "frame 62: the video ends after frame 59" in found[62]


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_of_a_truncated_file_the_rest_is_missing_or_it_cannot_be_opened(tmp_path, suffix):
    whole = record(tmp_path / f"whole.{suffix}", **(FFV1 if suffix == "mkv" else H264)).read_bytes()
    for share in (0.2, 0.5, 0.8):
        path = tmp_path / f"cut{share}.{suffix}"
        path.write_bytes(whole[: int(share * len(whole))])
        try:
            seen = indices(path, range(LENGTH))
        except UserError as error:
            assert f"cut{share}.{suffix}: cannot be opened" in str(error)
            continue
        there = [i for i in seen if i is not None]
        assert 0 < len(there) < LENGTH
        assert there == list(range(len(there)))


@pytest.mark.parametrize(("frame", "part"), [(24, 1 / 3), (36, 1 / 3), (28, 0)])  # two key frames; a container's header
@pytest.mark.parametrize("threads", [1, 3])
def test_what_damage_inside_a_file_spoils_is_missing_and_the_rest_is_right(tmp_path, frame, part, threads):
    path = record(tmp_path / "damaged.mkv", **H264)
    with av.open(str(path)) as container:
        position, size = next((p.pos, p.size) for p in container.demux(video=0) if p.pts == frame * 50)
    begin = position + 5 + int(part * size)
    content = bytearray(path.read_bytes())
    content[begin : begin + 20] = bytes(range(100, 120))
    path.write_bytes(content)
    wanted = range(13, LENGTH)
    seen = dict(zip(wanted, indices(path, wanted, threads=threads), strict=True))
    assert {k for k, i in seen.items() if i not in (None, k)} == set(), "a wrong picture is given out as right"
    assert seen[frame] is None
    assert all(seen[k] == k for k in range(13, frame - 6))
    if part:  # behind a damaged header of the container nothing may be found any more
        assert all(seen[k] == k for k in range(frame + 12, LENGTH))
    assert re.search(rf"camera 3: .*damaged\.mkv: frame {frame}( is damaged)?: ", reasons(path, wanted)[frame])


def test_a_file_whose_first_key_frame_is_lost_has_no_frames_before_the_next(tmp_path):
    path = record(tmp_path / "a.mkv", **H264, lost=1)
    try:
        seen = indices(path, range(20))
    except UserError as error:
        assert re.search(r"camera 3: .*frame", str(error))
    else:
        assert seen[:5] == [None] * 5


def test_timestamps_off_the_constant_rate_are_an_error_that_says_what_to_set(tmp_path):
    def faster(packet):
        packet.time_base = Fraction(1, 30)

    path = record(tmp_path / "a.mkv", **FFV1, rate=20, stamp=faster)
    with pytest.raises(
        UserError, match=r"camera 3: .*the rate varies\. .*center\.timing: index; .*center\.timing: timestamp"
    ):
        indices(path, range(10))


JITTER = [round(50 * k + 12 * np.sin(5 * k)) for k in range(LENGTH)]


def wobble(packet):
    """Milliseconds as a computer's clock would stamp them, up to a quarter of an interval off."""
    packet.pts = packet.dts = JITTER[packet.pts]
    packet.time_base = Fraction(1, 1000)


@pytest.mark.parametrize("start", [0, 17, 44])
def test_triggered_frames_are_taken_in_their_order_whatever_their_timestamps(tmp_path, start):
    def gaps(packet):
        packet.pts = packet.dts = packet.pts * 50 + 200 * (packet.pts > 20)
        packet.time_base = Fraction(1, 1000)

    path = record(tmp_path / "a.mkv", **FFV1, stamp=gaps)
    assert indices(path, range(start, LENGTH, 3), timing="index") == list(range(start, LENGTH, 3))
    assert length(path, "index", None) == LENGTH


@pytest.mark.parametrize("start", [0, 17, 44])
def test_by_timestamp_an_index_is_an_instant(tmp_path, start):
    path = record(tmp_path / "a.mkv", **FFV1, stamp=wobble)
    assert indices(path, range(start, LENGTH, 3), timing="timestamp", fps=20) == list(range(start, LENGTH, 3))
    # Instants half as far apart: every other has a frame, or one within half of their interval.
    seen = indices(path, range(2 * LENGTH - 1), timing="timestamp", fps=40)
    assert seen[::2] == list(range(LENGTH))
    # Twice as far apart: every other frame.
    assert indices(path, range(LENGTH // 2), timing="timestamp", fps=10) == list(range(0, LENGTH, 2))
    assert length(path, "timestamp", 10) == LENGTH // 2


def test_by_timestamp_an_instant_without_a_frame_is_missing(tmp_path):
    path = record(tmp_path / "a.mkv", **FFV1, frames=[i for i in range(LENGTH) if i not in (23, 24)])
    seen = indices(path, range(20, 30), timing="timestamp")
    assert seen == [20, 21, 22, None, None, 25, 26, 27, 28, 29]


def test_a_file_without_timestamps_has_none_to_go_by():
    path = demo_capture().videos[0]
    with pytest.raises(UserError, match=r"has no timestamps, which center\.timing: timestamp needs"):
        indices(path, range(3), timing="timestamp")


@pytest.fixture(scope="module", params=["numbers", "names"])
def split(request, tmp_path_factory):
    """A recording in three parts."""
    folder = tmp_path_factory.mktemp("parts")
    for k, begin in enumerate((0, 25, 40)):
        name = f"{begin}.mp4" if request.param == "numbers" else f"part{8 + k}.mp4"
        end = (25, 40, LENGTH)[k]
        made = record(folder / f"x{name}", **H264, frames=range(begin, end), stamp=partial(shift, begin))
        made.rename(folder / name)
    return folder


def shift(begin, packet):
    ticks = int(Fraction(begin, 20) / packet.time_base)
    packet.pts, packet.dts = packet.pts - ticks, packet.dts - ticks


def test_a_recording_in_parts_reads_as_one(split):
    assert length(split, "rate", None) == LENGTH
    assert indices(split, range(LENGTH)) == list(range(LENGTH))
    for start in (0, 3, 24, 25, 26, 41):
        assert indices(split, range(start, LENGTH, 11)) == list(range(start, LENGTH, 11))


def test_parts_that_overlap_by_their_names_are_an_error(tmp_path):
    for name, begin in (("0.mp4", 0), ("20.mp4", 20)):
        record(tmp_path / name, **H264, frames=range(begin, begin + 30), stamp=partial(shift, begin))
    with pytest.raises(UserError, match=r"20\.mp4: by its name it starts at frame 20, .* ends at frame 29"):
        length(tmp_path, "rate", None)


def test_frames_between_two_parts_are_missing(tmp_path):
    for name, begin in (("0.mp4", 0), ("30.mp4", 30)):
        record(tmp_path / name, **H264, frames=range(begin, begin + 20), stamp=partial(shift, begin))
    assert indices(tmp_path, range(18, 33)) == [18, 19, *[None] * 10, 30, 31, 32]


@pytest.mark.parametrize("suffix", ["png", "bmp"])
def test_a_folder_of_images_is_a_recording(tmp_path, suffix):
    for k in range(12):
        cv2.imwrite(str(tmp_path / f"frame_{k + 5}.{suffix}"), picture(k))
    assert probe(tmp_path) == Probe(None, BITS * BLOCK, 2 * BLOCK)
    assert (first_image(tmp_path), length(tmp_path, "rate", None)) == (5, 17)
    assert indices(tmp_path, range(6, 17, 3)) == [1, 4, 7, 10]
    (tmp_path / f"frame_9.{suffix}").unlink()
    (tmp_path / f"frame_12.{suffix}").write_bytes(b"damaged")
    _parts.cache_clear()
    assert indices(tmp_path, range(8, 14)) == [3, None, 5, 6, None, 8]


def test_colour_images_keep_their_colours(tmp_path):
    cv2.imwrite(str(tmp_path / "0.png"), np.full((4, 6, 3), (10, 20, 30), np.uint8))
    assert next(read_frames(tmp_path, range(1), WHERE))[1].rgb((1, 1, 2, 2)).tolist() == [[[30, 20, 10]] * 2] * 2


@pytest.mark.parametrize("names", [["a.png", "b.mp4"], ["notes.txt"], []])
def test_a_folder_that_is_no_recording_is_an_error(tmp_path, names):
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=r"the folder of a recording holds (both|neither)"):
        probe(tmp_path)


def test_what_is_no_video_is_named(tmp_path):
    text = tmp_path / "notes.mp4"
    text.write_text("not a video\n" * 100)
    audio = tmp_path / "sound.wav"
    with wave.open(str(audio), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", "not compressed"))
        file.writeframes(bytes(16000))
    missing = tmp_path / "missing.mp4"
    for path, reason in (
        (text, "cannot be opened as a video"),
        (audio, "holds no video stream"),
        (missing, "cannot be opened as a video"),
    ):
        for read in (probe, lambda path: indices(path, range(3))):
            with pytest.raises(UserError, match=f"{path}: {reason}"):
                read(path)


@pytest.mark.parametrize("rate", [20, 120])
def test_length_and_rate_are_probed(tmp_path, rate):
    for name, kind in (("a.mkv", FFV1), ("a.mp4", H264)):
        path = record(tmp_path / name, **kind, rate=rate)
        assert probe(path) == Probe(rate, BITS * BLOCK, 2 * BLOCK)
        assert {length(path, timing, None) for timing in ("rate", "index", "timestamp")} == {LENGTH}


def test_a_dropped_frame_does_not_change_the_probed_rate(tmp_path):
    path = record(tmp_path / "a.mkv", **FFV1, frames=[i for i in range(LENGTH) if i != 23])
    assert probe(path).fps == 20
    assert [length(path, timing, None) for timing in ("rate", "index", "timestamp")] == [LENGTH, LENGTH - 1, LENGTH]


def test_the_demo_has_200_frames_at_20_hz_in_every_video_and_mask():
    capture = demo_capture()
    for path in (*capture.videos, *capture.masks):
        assert (probe(path), length(path, "rate", None)) == (Probe(20.0, 1152, 1024), 200)
