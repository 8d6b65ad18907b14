import wave
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest

from mousefacelift.errors import UserError
from mousefacelift.video import probe, read_frames
from rodent import demo_capture

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


def indices(path, frames, pixel_format="gray", **options):
    found = [(index, read_index(image)) for index, image in read_frames(path, frames, pixel_format, WHERE, **options)]
    assert [index for index, _ in found] == list(frames)
    return [seen for _, seen in found]


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


def test_frames_come_in_the_wanted_pixel_format(lossless):
    (_, colour), (_, grey) = (next(read_frames(lossless, range(5, 6), f, WHERE)) for f in ("rgb24", "gray"))
    assert colour.shape == (2 * BLOCK, BITS * BLOCK, 3)
    np.testing.assert_array_equal(grey, picture(5))


def test_no_frames_are_wanted_and_none_come(lossless):
    assert list(read_frames(lossless, range(0), "gray", WHERE)) == []


def test_frames_without_usable_timestamps_are_counted_from_the_start(tmp_path):
    def forget(packet):
        packet.pts = packet.dts = 0

    path = record(tmp_path / "a.mp4", **H264, stamp=forget)
    with av.open(str(path)) as container:
        assert len({p.pts for p in container.demux(video=0) if p.size}) <= 2, "the file has timestamps"
    for start in (0, 5, 30, 59):
        assert indices(path, range(start, LENGTH, 6)) == list(range(start, LENGTH, 6))
    with pytest.raises(UserError, match=f"ends after frame {LENGTH - 1}; frame {LENGTH} is needed"):
        indices(path, range(50, LENGTH + 1))


def test_the_demos_own_videos_are_such_files_and_are_read_frame_for_frame():
    path = demo_capture().videos[2]
    wanted = range(3, 24, 5)
    with av.open(str(path)) as container:
        stamps = [p.pts for p in container.demux(video=0) if p.size]
    with av.open(str(path)) as container:
        truth = {n: f.to_ndarray(format="rgb24") for n, f in zip(range(24), container.decode(video=0), strict=False)}
    assert set(stamps) == {0}
    for index, image in read_frames(path, wanted, "rgb24", WHERE):
        np.testing.assert_array_equal(image, truth[index])


@pytest.mark.parametrize("kind", [FFV1, H264], ids=["ffv1", "h264"])
@pytest.mark.parametrize("start", [0, 15])
def test_a_dropped_frame_is_named(tmp_path, kind, start):
    path = record(tmp_path / "a.mkv", **kind, frames=[i for i in range(LENGTH) if i != 23])
    with pytest.raises(
        UserError, match=r"capture c, camera 3: .*a\.mkv: frame 23 is not where a constant rate of 20 Hz"
    ):
        indices(path, range(start, LENGTH))


def test_a_drop_that_is_the_first_frame_wanted_is_named(tmp_path):
    path = record(tmp_path / "a.mkv", **FFV1, frames=[i for i in range(LENGTH) if i != 23])
    with pytest.raises(UserError, match=r"camera 3: .*frame 23 is not where"):
        indices(path, range(23, 30))


def test_a_short_video_names_the_frame_it_lacks(lossless):
    with pytest.raises(UserError, match=r"camera 3: .*ends after frame 59; frame 62 is needed"):
        indices(lossless, range(50, 64, 4))


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_truncated_file_is_an_error_naming_camera_and_frame_or_file(tmp_path, suffix):
    whole = record(tmp_path / f"whole.{suffix}", **(FFV1 if suffix == "mkv" else H264)).read_bytes()
    for share in (0.2, 0.5, 0.8):
        path = tmp_path / f"cut{share}.{suffix}"
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(UserError, match=f"cut{share}.{suffix}: .*(frame|opened)"):
            indices(path, range(LENGTH))


@pytest.mark.parametrize(
    ("frame", "part", "named"),
    [(24, 1 / 3, "24"), (36, 1 / 3, "36"), (28, 0, "2[3-8]")],  # two key frames; one that its neighbours need
)
def test_damage_inside_a_file_is_an_error_naming_the_frame(tmp_path, frame, part, named):
    path = record(tmp_path / "damaged.mkv", **H264)
    with av.open(str(path)) as container:
        position, size = next((p.pos, p.size) for p in container.demux(video=0) if p.pts == frame * 50)
    begin = position + 5 + int(part * size)
    content = bytearray(path.read_bytes())
    content[begin : begin + 20] = bytes(range(100, 120))
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"camera 3: .*damaged\.mkv: frame {named} (is corrupt|cannot be decoded)"):
        indices(path, range(23, 50))


def test_a_file_whose_first_key_frame_is_lost_is_an_error_naming_the_frame(tmp_path):
    path = record(tmp_path / "a.mkv", **H264, lost=1)
    with pytest.raises(UserError, match=r"camera 3: .*frame [0-4] (is corrupt|cannot be decoded|is not where)"):
        indices(path, range(0, 20))


def test_a_rate_that_changes_within_a_video_is_an_error(tmp_path):
    path = record(tmp_path / "a.mp4", **H264, frames=[*range(30), *range(30, LENGTH, 2)])
    with pytest.raises(UserError, match=r"camera 3: .*is not where a constant rate of .* or the rate varies"):
        indices(path, range(40))


def test_timestamps_that_contradict_the_stated_rate_are_an_error(tmp_path):
    def faster(packet):
        packet.time_base = Fraction(1, 30)

    path = record(tmp_path / "a.mkv", **FFV1, rate=20, stamp=faster)
    with pytest.raises(
        UserError, match=r"camera 3: .*frame 1 is not where a constant rate of 20 Hz puts it \(found at"
    ):
        indices(path, range(10))


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
        (tmp_path, "cannot be opened as a video"),
    ):
        for read in (probe, lambda path: indices(path, range(3))):
            with pytest.raises(UserError, match=f"{path}: {reason}"):
                read(path)


@pytest.mark.parametrize("rate", [20, 120])
def test_length_and_rate_are_probed(tmp_path, rate):
    assert probe(record(tmp_path / "a.mkv", **FFV1, rate=rate)) == (LENGTH, rate)
    assert probe(record(tmp_path / "a.mp4", **H264, rate=rate)) == (LENGTH, rate)


def test_a_dropped_frame_does_not_change_the_probed_rate(tmp_path):
    path = record(tmp_path / "a.mkv", **FFV1, frames=[i for i in range(LENGTH) if i != 23])
    assert probe(path) == (LENGTH - 1, 20)


def test_the_demo_has_200_frames_at_20_hz_in_every_video_and_mask():
    capture = demo_capture()
    assert {probe(path) for path in (*capture.videos, *capture.masks)} == {(200, 20.0)}
