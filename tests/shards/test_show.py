import json
import shutil

import h5py
import numpy as np
import PIL.Image
import pytest

from mousefacelift.base.errors import UserError
from mousefacelift.base.sheets import GAP, GREY, LINE
from mousefacelift.config.shard import Shard
from mousefacelift.shards.containers import encode_view
from mousefacelift.shards.show import SHEET_WIDTH, read_contents, show, tile_side
from support.small import SIZE, VIEWS, unknown_corner, write_small


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """40 training samples and one for validation; none for test. Read only: the folder."""
    folder = tmp_path_factory.mktemp("show")
    return write_small(folder, {"a": {"train": 40, "val": 1, "test": 0}}, Shard(h5_codec="lz4")).parent


def tile(sheet, row, view, side):
    y, x = LINE + row * (LINE + GAP + side + GAP) + LINE + GAP, GAP + view * (side + GAP)
    return sheet[y : y + side, x : x + side]


def read_sheet(path):
    return np.asarray(PIL.Image.open(path).convert("RGB"))


@pytest.mark.parametrize("kind", ["tar", "h5"])
def test_the_sheet_shows_the_shards_own_pixels_over_white(shards, tmp_path, kind):
    show(shards / "train" / f"a-0000.{kind}", tmp_path / "sheet.png", 5)
    sheet, side = read_sheet(tmp_path / "sheet.png"), tile_side(VIEWS)
    assert sheet.shape == (LINE + 5 * (LINE + GAP + side + GAP), GAP + VIEWS * (side + GAP), 3)
    with h5py.File(shards / "train" / "a-0000.h5") as file:
        drawn = file["image"][()][[0, 9, 19, 29, 39]]
    for row, images in enumerate(drawn):
        for view, rgba in enumerate(images):
            alpha = rgba[..., 3:] / 255
            expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
            # Tiles are larger than the images: every pixel of the image is there, enlarged.
            centres = ((np.arange(SIZE) + 0.5) * side / SIZE).astype(int)
            shown = tile(sheet, row, view, side)[centres][:, centres]
            assert np.abs(shown - expected).max() <= 0.5
    label = sheet[LINE : 2 * LINE, : GAP + VIEWS * side]
    assert (label < 128).any(), "a row without its label"
    assert (sheet[2 * LINE + 1, :] == GREY).all()


def test_a_sheet_of_the_demo_is_white_but_for_the_mouse(demo_run, tmp_path):
    path = demo_run.shards[0]
    show(path, tmp_path / "sheet.png", 2)
    sheet, side = read_sheet(tmp_path / "sheet.png"), tile_side(6)
    assert sheet.shape[1] <= SHEET_WIDTH
    with h5py.File(path) as file:
        alpha = file["image"][0, ..., 3]
    for view in range(6):
        shown = tile(sheet, 0, view, side)
        opaque = PIL.Image.fromarray(alpha[view]).resize((side, side), PIL.Image.Resampling.BOX)
        dark = (shown < 128).all(axis=-1)
        assert (np.asarray(opaque)[dark] > 0).all()
        assert dark.sum() > 0.5 * (np.asarray(opaque) > 200).sum()


@pytest.mark.parametrize("kind", ["tar", "h5"])
def test_unknown_pixels_are_red(tmp_path, kind):
    write_small(tmp_path, {"a": {"train": 2}}, unknown=unknown_corner)
    show(tmp_path / f"train/a-0000.{kind}", tmp_path / "sheet.png", 2)
    sheet, side = read_sheet(tmp_path / "sheet.png"), tile_side(VIEWS)
    with h5py.File(tmp_path / "train/a-0000.h5") as file:
        drawn = file["image"][()]
    centres = ((np.arange(SIZE) + 0.5) * side / SIZE).astype(int)
    for row, view in np.ndindex(2, VIEWS):
        alpha = drawn[row, view, ..., 3:] / 255
        expected = drawn[row, view, ..., :3] * alpha + 255 * (1 - alpha)
        if row == 1:
            unknown = unknown_corner(row)[view]
            expected[unknown] = 0.4 * expected[unknown] + [0.6 * 255, 0, 0]
        assert np.abs(tile(sheet, row, view, side)[centres][:, centres] - expected).max() <= 0.5


def test_the_table_says_what_a_sample_is(shards, tmp_path, capsys):
    show(shards / "train" / "a-0000.tar", tmp_path / "sheet.png", 1)
    out = capsys.readouterr().out
    assert f"a-0000.tar: 40 samples of 3 views, {SIZE}x{SIZE} px, tar of png" in " ".join(out.split())
    assert "a-0 at 15°, a-1 at 75°, a-2 at 135°" in out
    assert "16 more samples are not listed" in out
    (row,) = (line for line in out.splitlines() if "a-train-000010" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    with h5py.File(shards / "train" / "a-0000.h5") as file:
        image = file["image"][10]
    size = sum(len(encode_view(view, Shard())) for view in image)
    fill = 100 * (image[..., 3] / 255).mean()
    assert cells == [
        "a-train-000010", "70", "1.40", "train", "2.800", "11.0° to 20.0°", "51.2", f"{fill:.1f} %", f"{size / 1e3:.0f}",
    ]  # fmt: skip
    assert max(map(len, out.splitlines())) >= 100


def test_hdf5_and_tar_tell_the_same_but_for_the_time(shards, tmp_path, capsys):
    rows = []
    for kind in ("tar", "h5"):
        show(shards / "val" / f"a-0000.{kind}", tmp_path / "sheet.png", 1)
        out = capsys.readouterr().out
        (row,) = (line for line in out.splitlines() if "a-val-000000" in line)
        rows.append([cell.strip() for cell in row.strip("│").split("│")])
        assert "1 sample of 3 views" in " ".join(out.split())
    assert "HDF5 lz4" in out
    tar, h5 = rows
    assert h5[2] == ""
    assert tar[:2] + tar[3:8] == h5[:2] + h5[3:8]


def test_a_manifest_gives_a_row_per_shard_and_a_sheet_of_all(shards, tmp_path, capsys):
    show(shards / "manifest.json", tmp_path / "sheet.png", 3)
    out = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("│")[1:4]] for line in out.splitlines() if line.startswith("│")]
    assert cells == [
        ["train", "train/a-0000", "40"], ["val", "val/a-0000", "1"], ["test", "test/a-0000", "0"],
        ["train", "1 shard", "40"], ["val", "1 shard", "1"], ["test", "1 shard", "0"],
    ]  # fmt: skip
    assert read_sheet(tmp_path / "sheet.png").shape[0] == LINE + 3 * (LINE + 2 * GAP + tile_side(VIEWS))


@pytest.mark.parametrize("kind", ["tar", "h5"])
def test_a_shard_without_samples_has_no_sheet(shards, tmp_path, capsys, kind):
    show(shards / "test" / f"a-0000.{kind}", tmp_path / "sheet.png", 3)
    assert "0 samples" in capsys.readouterr().out
    assert not (tmp_path / "sheet.png").exists()


def test_many_views_make_small_tiles_and_no_wider_sheet():
    for views in (1, 2, 6, 7, 32, 100):
        assert GAP + views * (tile_side(views) + GAP) <= SHEET_WIDTH
    assert tile_side(1) == tile_side(6) == 240


def damaged(path, at, bytes_=b"\xff" * 64):
    content = bytearray(path.read_bytes())
    content[at : at + len(bytes_)] = bytes_
    path.write_bytes(content)


def test_a_damaged_shard_is_one_error_that_names_it(shards, tmp_path):
    for kind in ("tar", "h5"):
        source, path = shards / "train" / f"a-0000.{kind}", tmp_path / f"a-0000.{kind}"
        for keep in (0, 100, 5000, source.stat().st_size // 2):
            path.write_bytes(source.read_bytes()[:keep])
            with pytest.raises(UserError, match=rf"a-0000\.{kind}[:,] ") as error:
                show(path, tmp_path / "sheet.png", 3)
            assert "Traceback" not in str(error.value)
        path.unlink()
        with pytest.raises(UserError, match=rf"a-0000\.{kind}: no such file"):
            show(path, tmp_path / "sheet.png", 3)
    shutil.copy(shards / "train" / "a-0000.h5", tmp_path)
    with h5py.File(tmp_path / "a-0000.h5") as file:
        place = file["image"].id.get_chunk_info_by_coord((0, 0, 0, 0, 0)).byte_offset
    damaged(tmp_path / "a-0000.h5", place + 40)
    with pytest.raises(UserError, match=r"a-0000\.h5, sample 0 of 40: damaged"):
        show(tmp_path / "a-0000.h5", tmp_path / "sheet.png", 3)
    shutil.copy(shards / "train" / "a-0000.tar", tmp_path)
    damaged(tmp_path / "a-0000.tar", 600)
    with pytest.raises(UserError, match=r"a-0000\.tar, sample a-train-000000, cam0: not a readable image"):
        show(tmp_path / "a-0000.tar", tmp_path / "sheet.png", 3)
    assert not (tmp_path / "sheet.png").exists()


def test_what_is_no_shard_is_refused(shards, tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"a\.txt: not the name of a shard"):
        show(tmp_path / "a.txt", tmp_path / "sheet.png", 3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = np.zeros((2, 3), np.uint8)
        for name in ("c2w", "fxfycxcy", "frame", "key"):
            file[name] = np.zeros(2)
    with pytest.raises(UserError, match=r"a\.h5: image \(2, 3\) and .* are not a shard's"):
        read_contents(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["image"] = np.zeros((2, 3), np.uint8)
    with pytest.raises(UserError, match=r"b\.h5: "):
        read_contents(tmp_path / "b.h5")
    values = json.loads((shards / "manifest.json").read_text())
    values["shards"][0]["samples"] = 41
    (tmp_path / "train").symlink_to(shards / "train")
    (tmp_path / "manifest.json").write_text(json.dumps(values | {"shards": values["shards"][:1]}))
    with pytest.raises(UserError, match=r"a-0000\.h5: 40 samples of 3 views, but .*manifest\.json says 41 of 3"):
        show(tmp_path / "manifest.json", tmp_path / "sheet.png", 3)
