"""Before the first step: what would waste a training run is stopped, what matters is said."""

import io

import numpy as np
import pytest
import torch
from rich.console import Console

from mousefacelift.base.errors import UserError
from mousefacelift.config.presets import PRESETS
from mousefacelift.config.shard import Shard
from mousefacelift.config.train import Loss, Train
from mousefacelift.geometry.subject_size import LARGER
from mousefacelift.models.gslrm import GSLRM, GSLRMConfig
from mousefacelift.shards.manifest import read_manifest
from mousefacelift.stages.train import train
from mousefacelift.training.loaders import ShardData
from mousefacelift.training.preflight import preflight, report
from support.balls import list_shards, train_words, write_shards
from support.presets import preset_of

MICRO = GSLRMConfig(width=32, head_width=16, layers=1)
SETTINGS = Train(
    preset="tiny", guide="none", image_size=32, steps=2, batch_size=2, warmup_steps=0, accelerator="cpu",
    brightness=0, contrast=0,
)  # fmt: skip
UNPACKED = Shard(h5_codec="gzip")


@pytest.fixture(autouse=True)
def micro_model(monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", preset_of(MICRO))


def checks(manifest, device="cpu", **changes):
    settings = SETTINGS.model_copy(update={"precision": "32-true", "recompute": "none"} | changes)
    with torch.device("meta"):
        model = GSLRM(MICRO)
    found = preflight(ShardData(read_manifest(manifest), settings), model, device)
    return {check.name: check for check in found}


def rewrite(folder, change):
    """Shards whose HDF5 files were changed, listed as if they had been made so."""
    import h5py

    manifest = write_shards(folder, {"train": 2, "val": 1, "test": 1}, settings=UNPACKED)
    for path in folder.glob("*/*.h5"):
        with h5py.File(path, "r+") as file:
            if len(file["image"]):
                change(path, file)
    return list_shards(manifest)


@pytest.mark.parametrize("container", ["h5", "tar"])
def test_good_data_pass_every_check(synthetic_shards, container):
    found = checks(synthetic_shards, container=container)
    assert {check.verdict for check in found.values()} == {"ok"}
    assert found["camera distance"].found.startswith("2.70")
    assert found["views"].found == "6 per sample, 5 inputs, 1 held out"
    assert found["splits"].found == "train 5, val 2, test 2; none in two"
    parameters = sum(p.numel() for p in GSLRM(MICRO).parameters())
    assert f"{parameters:,} of {parameters:,} parameters (100.0 %)" in found["trained"].found


def test_the_table_is_readable_and_whole_in_a_log_file(synthetic_shards):
    text = io.StringIO()
    report(list(checks(synthetic_shards).values()), Console(file=text))
    lines = text.getvalue().splitlines()
    assert any("camera distance" in line and "ok" in line and "mean 2.7" in line for line in lines)


def test_images_that_are_white_inside_their_silhouettes_are_refused_before_the_first_step(tmp_path):
    def whiten(_path, file):
        image = file["image"][()]
        image[..., :3] = 255
        file["image"][...] = image

    manifest = rewrite(tmp_path / "shards", whiten)
    with pytest.raises(
        UserError, match=r"training is not started: colours: 0\.0 % darker than white.*nothing to learn"
    ):
        train(manifest, tmp_path / "out", tmp_path / "checkpoints", SETTINGS, 1)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("value", "message"), [(0, "some sample has no silhouette"), (255, "some view has no background")]
)
def test_images_without_a_silhouette_are_refused(tmp_path, value, message):
    def flatten(_path, file):
        image = file["image"][()]
        image[..., 3] = value
        file["image"][...] = image

    found = checks(rewrite(tmp_path, flatten))
    assert found["silhouettes"].verdict == "stop" and message in found["silhouettes"].advice


def test_a_sample_of_two_splits_is_refused(tmp_path):
    def rename(path, file):
        if path.parent.name in ("train", "test"):
            file["key"][0] = "ball-test-000000"

    found = checks(rewrite(tmp_path, rename))
    assert found["splits"].verdict == "stop" and found["splits"].found == "ball-test-000000 is in train and test"


def test_a_world_of_millimetres_is_refused(tmp_path):
    def enlarge(_path, file):
        c2w = file["c2w"][()]
        c2w[..., :3, 3] *= 310
        file["c2w"][...] = c2w

    found = checks(rewrite(tmp_path, enlarge))
    assert found["camera distance"].verdict == "stop" and "normalize" in found["camera distance"].advice


def test_cameras_unlike_those_of_the_weights_are_noted(tmp_path):
    def move(_path, file):
        c2w = file["c2w"][()]
        c2w[..., :3, 3] *= 1.2
        file["c2w"][...] = c2w

    found = checks(rewrite(tmp_path, move), init="weights.pt")
    assert found["camera distance"].verdict == found["focal length"].verdict == "note"
    assert "819 ± 0 px at 512 px" in found["focal length"].found and "549" in found["focal length"].wanted


def black_square(first, last):
    """Makes the mouse a square from pixel `first` to `last` in rows and columns."""

    def shrink(_path, file):
        image = np.full(file["image"].shape, 255, np.uint8)
        image[..., 3] = 0
        image[..., first:last, first:last, :] = [0, 0, 0, 255]
        file["image"][...] = image

    return shrink


def test_a_tiny_mouse_is_noted(tmp_path):
    found = checks(rewrite(tmp_path, black_square(30, 34)))
    small = found["subject size"]
    assert small.verdict == "note" and small.advice.endswith(LARGER)
    # 4 of 64 px, at 2.7 and 1.6 times the image's width.
    assert small.found == "0.4 % of the image, 6 % of its width, 0.12 world units across"


def test_a_mouse_that_is_large_enough_to_learn_from_may_be_too_small_for_facelifts_weights(tmp_path):
    manifest = rewrite(tmp_path, black_square(26, 38))
    assert checks(manifest)["subject size"].verdict == "ok"
    found = checks(manifest, init="weights.pt")["subject size"]
    assert found.verdict == "note" and found.advice.endswith(LARGER)
    assert found.found.startswith("3.5 % of the image") and found.wanted == "32.6 %, 1.62 across of FaceLift's weights"


@pytest.mark.parametrize(
    ("changes", "name", "message"),
    [
        ({"loss": Loss(lpips=1.0)}, "loss", "gradients explode"),
        ({"loss": Loss(l2=1, masked_l2=0)}, "loss", "white is a good answer"),
        ({"num_input_views": 1, "i_know": True}, "views", "13 to 15 dB"),
        ({"preset": "base", "init": "x.pt"}, "image size", "512 px"),
        ({"preset": "base"}, "weights", "FaceLift"),
    ],
)
def test_settings_that_are_known_to_fail_are_noted(synthetic_shards, changes, name, message):
    check = checks(synthetic_shards, **changes)[name]
    assert check.verdict == "note" and message in check.advice


BASE = {"preset": "base", "precision": "bf16-mixed", "recompute": "none", "batch_size": 1, "init": "x.pt"}


@pytest.fixture
def card(monkeypatch):
    """Acts as a GPU with so many GiB free."""

    def act(free):
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (int(free * 2**30), 80 * 2**30))
        monkeypatch.setattr("torch.cuda.get_device_name", lambda: "Some Card")

    return act


@pytest.mark.parametrize(("free", "verdict"), [(60, "ok"), (4, "note"), (1, "stop")])
def test_a_run_that_does_not_fit_into_the_gpu_is_noted_and_one_that_never_can_is_stopped(
    synthetic_shards, card, free, verdict
):
    card(free)
    found = checks(synthetic_shards, "cuda", **BASE)["GPU memory"]
    assert found.verdict == verdict and f"{free + 0.6:.1f} of 80.0 GiB free" in found.wanted
    assert "optimiser 2.3" in found.found and "peak: " in found.found
    if verdict != "ok":
        assert "train.optimizer: adamw8bit saves 1.7 GiB" in found.advice and "together about" in found.advice
        assert ("still too much" in found.advice) == (verdict == "stop")


def test_what_a_run_would_take_is_said_where_there_is_no_gpu(synthetic_shards):
    found = checks(synthetic_shards, **BASE | {"precision": "32-true"})["GPU memory"]
    assert found.verdict == "ok" and found.found.startswith("a GPU would need, in bf16-mixed, about ")
    assert "GPU memory" not in checks(synthetic_shards)


def test_check_prints_the_table_and_trains_nothing(call, synthetic_shards, tmp_path):
    status, _, err = call(*train_words(synthetic_shards, SETTINGS.model_dump_json(), tmp_path), "--check")
    assert status == 0 and "camera distance" in err and not list(tmp_path.iterdir())
