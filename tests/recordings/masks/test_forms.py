"""Every form of mask file gives the same masks, and what is none is named."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mousefacelift.base.errors import UserError
from mousefacelift.recordings.masks.registry import FORMS, form_of, open_masks
from mousefacelift.recordings.masks.rle import decode_rle, fill_polygons
from mousefacelift.recordings.masks.stored import ZERO
from mousefacelift.recordings.video import Missing
from support.maskfiles import (
    FRAMES,
    H,
    W,
    blob,
    coco,
    compressed,
    hdf5,
    image_folder,
    npy,
    npz,
    numbers,
    other,
    rle,
    sam2,
    stack,
    write_json,
)
from support.rodent import write_video


def rows(mask):
    return mask.astype(int).tolist()


def rectangles(mask):
    """Polygons around the runs of a mask's rows."""
    found = []
    for y, row in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.pad(row.astype(int), 1)))
        found += [[x0, y, x1, y, x1, y + 1, x0, y + 1] for x0, x1 in edges.reshape(-1, 2).tolist()]
    return found


PLAIN = {
    "video": lambda p: write_video(p / "m.mkv", [blob(k).astype(np.uint8) for k in FRAMES], "gray"),
    "images": lambda p: image_folder(p / "m", lambda k: blob(k).astype(np.uint8)),
    "npy": lambda p: npy(p / "m.npy", stack()),
    "npy, numbers of 64 bits": lambda p: npy(p / "m.npy", stack().astype(np.int64)),
    "npy, columns first": lambda p: npy(p / "m.npy", np.asfortranarray(stack())),
    "npy, SAM's axes": lambda p: npy(p / "m.npy", stack()[:, None]),
    "npz": lambda p: npz(p / "m.npz", masks=stack()),
    "npz, another name": lambda p: npz(p / "m.npz", arr_0=stack()),
    "npz, not compressed": lambda p: npz(p / "m.npz", compressed=False, masks=stack()),
    "npz, beside frames' numbers": lambda p: npz(p / "m.npz", masks=stack(), frame_idx=np.array(FRAMES)),
    "npz, one per frame": lambda p: npz(p / "m.npz", **{f"frame_{k:05d}": blob(k) for k in FRAMES}),
    "npz, a list": lambda p: npz(p / "m.npz", **{f"arr_{k}": blob(k) for k in FRAMES}),
    "npz, one per frame, SAM's axes": lambda p: npz(p / "m.npz", **{str(k): blob(k)[None] for k in FRAMES}),
    "npz, one per frame of camera 1": lambda p: npz(p / "m.npz", **{f"cam1_{k}": blob(k) for k in FRAMES}),
    "hdf5": lambda p: hdf5(p / "m.h5", masks=stack()),
    "hdf5, in a group": lambda p: hdf5(p / "m.hdf5", **{"session/anything": stack()}),
    "hdf5, one per frame": lambda p: hdf5(p / "m.h5", **{f"masks/{k:06d}": blob(k) for k in FRAMES}),
}

TWO = {
    "video": lambda p: write_video(p / "m.mkv", [numbers(k) for k in FRAMES], "gray"),
    "images": lambda p: image_folder(p / "m", numbers),
    "npz": lambda p: npz(p / "m.npz", masks=stack(numbers)),
    "npz, one per animal": lambda p: npz(p / "m.npz", mouse1=stack(), mouse2=stack(other)),
    "npz, one per frame and animal": lambda p: npz(
        p / "m.npz", **{f"{k}_{i}": m(k) for k in FRAMES for i, m in ((1, blob), (2, other))}
    ),
    "npz, one per animal and frame, SAM's axes": lambda p: npz(
        p / "m.npz", **{f"obj{i}_frame{k:04d}": m(k)[None] for k in FRAMES for i, m in ((1, blob), (2, other))}
    ),
    "hdf5, one per frame and animal": lambda p: hdf5(
        p / "m.h5", **{f"{k}/{i}": m(k) for k in FRAMES for i, m in ((1, blob), (2, other))}
    ),
    "coco": lambda p: coco(p / "m.json"),
    "coco, compressed": lambda p: coco(p / "m.json", lambda mask: compressed(rle(mask))),
    "coco, polygons": lambda p: coco(p / "m.json", rectangles),
    "coco, names without numbers": lambda p: coco(p / "m.json", name="x.png"),
    "sam2": lambda p: sam2(p / "m.json"),
    "sam2, compressed": lambda p: sam2(p / "m.json", lambda mask: compressed(rle(mask))),
    "sam2, rows": lambda p: sam2(p / "m.json", rows),
    "sam2, rows with SAM's axes": lambda p: sam2(p / "m.json", lambda mask: [rows(mask)]),
}


def read(path, frames=FRAMES):
    file = open_masks(path)
    assert file.size == (W, H)
    assert file.length("rate", None) == len(FRAMES)
    found = list(file.read(frames, "camera 1", "rate", None, 1))
    assert not any(isinstance(each, Missing) for each in found)
    return np.stack([each.numbers() for each in found])


@pytest.mark.parametrize("name", PLAIN)
def test_masks_of_one_mouse_are_the_same_in_every_form(tmp_path, name):
    path = PLAIN[name](tmp_path)
    assert form_of(path) == name.partition(",")[0]
    np.testing.assert_array_equal(read(path), stack())
    np.testing.assert_array_equal(read(path, range(1, 5, 2)), stack()[1:5:2])  # as chunks and strides ask


@pytest.mark.parametrize("name", TWO)
def test_masks_of_two_animals_are_the_same_in_every_form(tmp_path, name):
    path = TWO[name](tmp_path)
    assert form_of(path) == name.partition(",")[0]
    np.testing.assert_array_equal(read(path), stack(numbers))
    np.testing.assert_array_equal(read(path, range(2, 4)), stack(numbers)[2:4])


def test_every_form_of_the_registry_is_among_these():
    assert {name.partition(",")[0] for name in (*PLAIN, *TWO)} == set(FORMS)


@pytest.mark.parametrize("name", ["npz, one per animal", "npz, one per frame and animal", "coco", "sam2"])
def test_files_that_list_animals_know_their_numbers_from_the_headers(tmp_path, name):
    assert open_masks(TWO[name](tmp_path)).labels == (1, 2)


def test_an_animal_of_number_0_is_told_from_nothing(tmp_path):
    file = open_masks(sam2(tmp_path / "m.json", ids=(0, 1)))
    (mask,) = file.read(range(2, 3), "", "rate", None, 1)
    np.testing.assert_array_equal(mask.numbers() == ZERO, blob(2))
    np.testing.assert_array_equal(mask.numbers() == 1, other(2))


def test_content_decides_and_not_the_name(tmp_path):
    path = npz(tmp_path / "m.npz", masks=stack()).rename(tmp_path / "m.dat")
    assert form_of(path) == "npz"
    path = hdf5(tmp_path / "m.h5", masks=stack()).rename(tmp_path / "m.mat")
    assert form_of(path) == "hdf5"


def test_a_file_that_was_written_again_is_read_again(tmp_path):
    path = sam2(tmp_path / "m.json")
    assert open_masks(path).labels == (1, 2)
    sam2(path, ids=(3, 40))
    assert open_masks(path).labels == (3, 40)


def test_names_that_number_images_from_1_are_read_from_the_first_one_on(tmp_path):
    path = coco(tmp_path / "m.json")
    text = path.read_text()
    for k in reversed(FRAMES):
        text = text.replace(f"img_{k:04d}", f"img_{k + 1:04d}")
    path.write_text(text)
    assert (open_masks(path).first, open_masks(path).length("rate", None)) == (1, len(FRAMES) + 1)


def test_compressed_runs_are_read_as_cocos_own_code_writes_them():
    """Pairs that others published: of rpycocotools' tests, and of COCOtoolsFORK, made by pycocotools."""
    np.testing.assert_array_equal(
        decode_rle({"size": [4, 4], "counts": "52203"}, ""), decode_rle({"size": [4, 4], "counts": [5, 2, 2, 2, 5]}, "")
    )
    text = (
        "0g05b08J4M2N2NA^O1`0OCO=0E090H080IO68DH;>@C>a0_O_O`0j0OWOF<:CM72I24NL43JM92FN;1ENKO72L0LO91J0MO92INO0NO122OO0M031O000"
        "NO31OO11MO40N011MO41MO21L06OL021L06OL021L06OL021L060J040L060J040L060J040L060J040L060J040L060J040L060KO31L060KO31L06OL02"
        "1L06OL021L06OL021MO41MO21MO40N100NO310O00M0310O00NO1220NO92IONO91KOMO72M0<1EO:2GN63KM34OLM73JF<;=1G_O_Ob0=AC`07EH=1IO7"
        "1H090F0:1DO>1_O1b0>2N2N3L6H]O"
    )
    mask = decode_rle({"size": [50, 70], "counts": text}, "")  # whose runs fill 50 x 70 px
    assert mask.shape == (50, 70)
    assert compressed(rle(mask))["counts"] == text


@given(arrays(np.bool_, st.tuples(st.integers(1, 20), st.integers(1, 20))))
def test_any_mask_comes_back_from_both_run_length_codes(mask):
    np.testing.assert_array_equal(decode_rle(rle(mask), ""), mask)
    np.testing.assert_array_equal(decode_rle(compressed(rle(mask)), ""), mask)


@pytest.mark.parametrize(
    "code",
    [
        {"size": [4, 4], "counts": [3, 4]},
        {"size": [4, 4], "counts": [-1, 17]},
        {"size": [4, 4], "counts": "~~~~"},
        {"size": [4, 4], "counts": "o"},
        {"size": [4, 4], "counts": "P" * 50},
        {"size": [4, 4], "counts": 16},
        {"size": [0, 4], "counts": []},
        {"size": [10**9, 10**9], "counts": [10**18]},
        {"size": "4x4", "counts": [16]},
    ],
)
def test_runs_that_do_not_fill_the_mask_are_an_error_before_anything_is_made_of_them(code):
    with pytest.raises(UserError, match=r"^here: .*(run|size)"):
        decode_rle(code, "here")


def test_a_polygon_holds_the_pixels_whose_centre_lies_inside():
    triangle = fill_polygons([[0, 0, 10, 0, 0, 10]], (12, 12), "")
    y, x = np.indices((12, 12)) + 0.5
    np.testing.assert_array_equal(triangle, x + y < 10)
    ring = fill_polygons([[1, 1, 9, 1, 9, 9, 1, 9], [20, 20, 30, 20, 30, 30]], (12, 12), "")
    np.testing.assert_array_equal(ring, (x > 1) & (x < 9) & (y > 1) & (y < 9))


BAD = {
    "missing": (lambda p: p / "none.npz", "no such mask file or folder"),
    "text": (lambda p: _text(p / "m.txt"), "not a form of masks|cannot be opened as a video.*These are: images"),
    "pickle": (lambda p: npz(p / "m.npz", video_segments=np.array({1: 2}, object)), "video_segments holds Python objects"),
    "pickle, npy": (lambda p: npy(p / "m.npy", np.array({1: 2}, object)), "the array holds Python objects"),
    "logits": (lambda p: npz(p / "m.npz", masks=stack().astype(np.float32)), "masks holds float32, such as logits"),
    "objects' axis": (lambda p: npy(p / "m.npy", np.stack([stack(), stack(other)], 1)), r"has the shape \[5, 2, 48, 64\]"),
    "a row": (lambda p: npy(p / "m.npy", np.zeros(5)), r"holds the array \[5\] float64; expected one array"),
    "two stacks": (lambda p: npz(p / "m.npz", a=stack(), b=stack()), r"holds a \[5, 48, 64\] bool, b \[5, 48, 64\] bool; ex"),
    "scores": (lambda p: npz(p / "m.npz", masks=stack(), scores=np.zeros(5)), r"there is scores \[5\], whose meaning"),
    "too large": (lambda p: npy(p / "m.npy", stack().astype(np.int32) * 70000), "camera 1: .*holds int32 from 0 to 70000"),
    "short npz": (lambda p: _cut(npz(p / "m.npz", masks=stack())), "not a readable file of NumPy's arrays"),
    "short npy": (lambda p: _cut(npy(p / "m.npy", stack())), "not a readable file of NumPy's arrays"),
    "short hdf5": (lambda p: _cut(hdf5(p / "m.h5", masks=stack())), "cannot be opened as HDF5"),
    "sizes": (lambda p: npz(p / "m.npz", f0=blob(0), f1=blob(1)[1:]), r"f1: has the shape \[47, 64\], the first mask"),
    "SAM's generator": (
        lambda p: write_json(p / "m.json", [{"segmentation": rle(blob()), "bbox": [0, 0, 1, 1]}]),
        "masks of SAM's automatic generator",
    ),
    "SAM's generator by frame": (
        lambda p: write_json(p / "m.json", {"0": [], "1": [{"segmentation": rle(blob()), "area": 3}]}),
        "masks of SAM's automatic generator",
    ),
    "objects before frames": (lambda p: write_json(p / "m.json", {"0": {"a": rle(blob())}}), "frame 0: expected objects"),
    "runs": (lambda p: sam2(p / "m.json", lambda m: {"size": [H, W], "counts": [7]}), "frame 0, animal 1: the run lengths"),
    "rows": (lambda p: sam2(p / "m.json", lambda m: [[0, 7] * (W // 2)] * H), "rows of a mask hold false and true"),
    "another json": (lambda p: write_json(p / "m.json", {"a": 1, "b": 2}), "not a form of masks that is read. These are"),
    "no json": (lambda p: _text(p / "m.json", "{,"), "not valid JSON"),
    "nothing": (lambda p: write_json(p / "m.json", {"images": [], "annotations": []}), "holds no images"),
    "polygon": (lambda p: coco(p / "m.json", lambda m: [[1, 2, 3]]), "a polygon is a list x0, y0"),
    "one animal twice": (lambda p: _without_tracks(coco(p / "m.json")), "frame 1: two annotations have the number 1"),
    "two cameras": (lambda p: coco(p / "m.json", name="cam1.png"), "two images have the same number"),
    "folder": (lambda p: p, "neither images nor videos"),
}  # fmt: skip


def _text(path: Path, text="silhouettes") -> Path:
    path.write_text(text)
    return path


def _cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-40] if path.suffix != ".h5" else path.read_bytes()[:300])
    return path


def _without_tracks(path: Path) -> Path:
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        del annotation["track_id"]
    return write_json(path, content)


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_masks_is_one_line_that_names_the_file(tmp_path, name):
    make, said = BAD[name]
    path = make(tmp_path)
    with pytest.raises(UserError, match=said) as caught:
        list(open_masks(path).read(FRAMES, "camera 1", "rate", None, 1))
    assert str(path) in str(caught.value)


def test_frames_that_a_file_lacks_are_missing_by_its_own_numbers(tmp_path):
    some = {"m.npz": {f"f{k}": blob(k) for k in (1, 3, 4)}, "n.npz": {"masks": stack()[[1, 3, 4]], "frames": [1, 3, 4]}}
    for name, content in some.items():
        file = open_masks(npz(tmp_path / name, **content))
        assert file.length("rate", None) == 5
        found = list(file.read(range(5), "", "rate", None, 1))
        assert [isinstance(each, Missing) for each in found] == [True, False, True, False, False]
        np.testing.assert_array_equal(found[3].numbers(), blob(3))
