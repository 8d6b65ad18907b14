"""Weight files: FaceLift's checkpoints load to the last bit, and what is not exactly a model is refused before any work."""

import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from mousefacelift.base.errors import UserError
from mousefacelift.models.gslrm import GSLRM, PRESETS, GSLRMConfig
from mousefacelift.models.weights import check_weights, infer_config, inspect_weights, load_weights, save_weights
from support.paths import ROOT
from support.rodent import record, write_table

PARITY = Path(__file__).with_name("gslrm_micro.npz")
MICRO = GSLRMConfig(width=32, head_width=32, layers=2)  # the head width that is taken where shapes do not tell
VGG19 = [(1, 3, 64), (1, 64, 64), (2, 64, 128), (2, 128, 128), (3, 128, 256), *[(3, 256, 256)] * 3, (4, 256, 512),
         *[(4, 512, 512)] * 3, *[(5, 512, 512)] * 4]  # fmt: skip


@pytest.fixture(scope="module")
def micro():
    """The reference's own state dict, of a very small model."""
    return {k.removeprefix("state."): torch.from_numpy(v) for k, v in np.load(PARITY).items() if k.startswith("state.")}


def shapes_of(config):
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in GSLRM(config).state_dict().items()}


def hollow(config):
    """A state dict of the right names and shapes, each tensor one zero: a file of it is small, whatever the model."""
    return {name: torch.zeros(1).expand(shape) for name, shape in shapes_of(config).items()}


def frozen():
    """VGG19's 16 convolutions, as FaceLift's perceptual loss keeps them inside the model."""
    tensors, place = {}, {}
    for block, inside, outside in VGG19:
        place[block] = place.get(block, 0) + 1
        name = f"loss_calculator.perceptual_loss_module.net.conv{block}_{place[block]}"
        tensors |= {
            f"{name}.weight": torch.zeros(1).expand(outside, inside, 3, 3),
            f"{name}.bias": torch.zeros(outside),
        }
    return tensors


def facelift(state, **beside):
    """A checkpoint in the layout of FaceLift's trainer."""
    optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]}
    counters = {"fwdbwd_pass_step": 42002, "param_update_step": 21001}
    return {"model": state, "optimizer": optimizer, "lr_scheduler": {"last_epoch": 21001}, **counters, **beside}


def same(model, state):
    loaded = model.state_dict()
    return loaded.keys() == state.keys() and all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def refusal(path):
    """The message, which names the file; checking and loading say the same."""
    messages = []
    for read in (load_weights, lambda p: check_weights(p, "base")):
        with pytest.raises(UserError) as refused:
            read(path)
        messages.append(str(refused.value))
    assert messages[0] == messages[1]
    assert str(path) in messages[0]
    return messages[0]


# Our own files


def test_weights_survive_a_file(tmp_path):
    model = GSLRM(replace(MICRO, head_width=16, scale_bias=-3.0))
    path = tmp_path / "folder" / "model.safetensors"
    save_weights(model, path)
    loaded = load_weights(path)
    assert loaded.config == model.config
    assert same(loaded, model.state_dict())
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


def test_a_loaded_model_does_not_depend_on_its_file(tmp_path, micro):
    for path in (tmp_path / "w.safetensors", tmp_path / "w.pt"):
        if path.suffix == ".pt":
            torch.save({"model": micro}, path)
        else:
            save_weights(load_weights(tmp_path / "w.pt") if (tmp_path / "w.pt").exists() else GSLRM(MICRO), path)
        model = load_weights(path)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with path.open("r+b") as handle:  # the same bytes on disk, were they still mapped
            handle.write(b"\xff" * path.stat().st_size)
        assert same(model, before)


def test_the_config_of_an_older_file_may_hold_how_training_saved_memory(tmp_path):
    model = GSLRM(MICRO)
    text = json.dumps(asdict(MICRO) | {"recompute": True})
    save_file(model.state_dict(), tmp_path / "w.safetensors", metadata={"gslrm": text})
    assert load_weights(tmp_path / "w.safetensors").config == MICRO


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "no model config"),
        ("[1]", "config is damaged"),
        ("{", "config is damaged"),
        ('{"width": "x"}', r"config is damaged \(width 'x'\)"),
        ('{"layers": 1000000000}', r"config is damaged \(layers 1000000000\)"),
        ('{"layers": true}', "config is damaged"),
        ('{"patch": 0}', "config is damaged"),
        ('{"scale_max": NaN}', "config is damaged"),
        ('{"clip_xyz": 1}', "config is damaged"),
        ('{"width": 30}', "config is damaged.*head width"),
        ('{"colour": 1}', "unknown model settings: colour"),
        (
            '{"width": 32, "head_width": 16, "layers": 1}',
            r"13 missing: gaussian_position_embeddings, .*\n  1 unknown: a",
        ),
    ],
)
def test_damaged_model_settings_in_a_weights_file_are_named(tmp_path, config, message):
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={"gslrm": config} if config else None)
    assert re.search(message, refusal(path)), refusal(path)


def test_weights_that_are_not_finite_are_refused(tmp_path, micro):
    for bad in (float("nan"), float("inf")):
        state = {name: tensor.clone() for name, tensor in micro.items()}
        state["input_layer_norm.weight"][3] = bad
        torch.save({"model": state}, tmp_path / "w.pt")
        with pytest.raises(UserError, match=r"w\.pt: NaN or infinity in 1 tensor \(input_layer_norm\.weight\)"):
            load_weights(tmp_path / "w.pt")


def test_a_full_disk_is_a_mistake_of_the_user(tmp_path, monkeypatch):
    from safetensors import SafetensorError

    def full(*_, **__):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(UserError, match=r"w\.safetensors: the weights cannot be written \(No space"):
        save_weights(GSLRM(MICRO), tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


# FaceLift's files


@pytest.mark.slow
def test_a_checkpoint_in_facelifts_exact_layout_loads_to_the_last_bit(tmp_path, call):
    torch.manual_seed(0)
    path, out = tmp_path / "ckpt_0000000000021001.pt", tmp_path / "base.safetensors"
    state = {name: 0.02 * torch.randn(shape) for name, shape in shapes_of(PRESETS["base"]).items()}
    assert (len(state), sum(t.numel() for t in state.values())) == (151, 303_565_824)
    assert len(frozen()) == 32
    try:
        torch.save(facelift(state | frozen()), path)
        check_weights(path, "base")
        model = load_weights(path)
        assert not {n for n, v in asdict(model.config).items() if v != getattr(PRESETS["base"], n)} - {"recompute"}
        assert same(model, state)
        del model
        status, text, _ = call("weights", "inspect", path)
        assert status == 0
        assert re.search(r"fits preset +│ base ", text) and "151 of 303,565,824 parameters" in text
        assert call("weights", "convert", path, out)[0] == 0
        path.unlink()
        assert same(load_weights(out), state)
    finally:
        path.unlink(missing_ok=True)
        out.unlink(missing_ok=True)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("bare", [False, True], ids=["model", "bare"])
@pytest.mark.parametrize("name", ["ckpt_0000000000021001.pt", "last.ckpt", "weights"])
def test_a_checkpoint_is_known_by_its_content(tmp_path, micro, legacy, bare, name):
    state = micro | frozen() | {"loss_calculator.lpips_loss_module.lin0.weight": torch.zeros(3)}
    torch.save(state if bare else facelift(state), tmp_path / name, _use_new_zipfile_serialization=not legacy)
    model = load_weights(tmp_path / name)
    assert model.config == MICRO
    assert same(model, micro)
    shutil.move(tmp_path / name, tmp_path / "x.safetensors")
    assert "rename it to .pt" in refusal(tmp_path / "x.safetensors")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floats_become_float32(tmp_path, micro, dtype):
    path = tmp_path / "w.pt"
    torch.save({"model": {name: tensor.to(dtype) for name, tensor in micro.items()}}, path)
    assert same(load_weights(path), {name: tensor.to(dtype).float() for name, tensor in micro.items()})
    assert inspect_weights(path).dtypes == {str(dtype).removeprefix("torch."): len(micro)}


def test_a_converted_checkpoint_is_the_same_model(tmp_path, micro, call):
    source, target = tmp_path / "w.pt", tmp_path / "w.safetensors"
    torch.save(facelift({name: tensor.bfloat16() for name, tensor in micro.items()} | frozen()), source)
    status, out, _ = call("weights", "convert", source, target)
    assert (status, out.strip()) == (0, f"{target}: {sum(t.numel() for t in micro.values()):,} parameters")
    assert same(load_weights(target), load_weights(source).state_dict())
    before = target.read_bytes()
    status, _, err = call("weights", "convert", source, target)
    assert status == 1 and "w.safetensors: exists; nothing is overwritten" in err
    assert target.read_bytes() == before
    status, _, err = call("weights", "convert", source, tmp_path / "w.bin")
    assert status == 1 and "must end in .safetensors" in err


@given(
    st.builds(
        GSLRMConfig,
        width=st.sampled_from([32, 64, 96, 128, 192]),
        head_width=st.just(32),
        layers=st.integers(1, 5),
        patch=st.sampled_from([2, 4, 8, 16]),
        free_gaussians=st.integers(1, 6),
    )
)
def test_the_sizes_of_a_model_are_read_off_its_shapes(config):
    inferred = infer_config(shapes_of(config))
    assert replace(inferred, head_width=32) == config
    assert inferred.head_width == (64 if config.width % 64 == 0 else 32)


def test_the_presets_of_facelifts_kind_are_told_by_their_shapes():
    for name in ("small", "base"):
        wanted = PRESETS[name]
        assert not {n for n, v in asdict(infer_config(shapes_of(wanted))).items() if v != getattr(wanted, n)} - {
            "recompute"
        }


# What does not fit


def damage(state, kind):
    state = dict(state)
    norm = "transformer_layers.0.norm1.weight"
    if kind == "renamed":
        state["transformer_layers.0.norm_1.weight"] = state.pop(norm)
    elif kind == "missing":
        del state[norm]
    elif kind == "extra":
        state["image_tokenizer.weight"] = torch.zeros(3)
    elif kind == "shape":
        state["patch_embedder.1.weight"] = torch.zeros(1).expand(len(state[norm]), 575)
    elif kind == "prefix":
        state = {f"module.{name}": tensor for name, tensor in state.items()}
    elif kind == "integers":
        state[norm] = torch.ones(len(state[norm]), dtype=torch.int64)
    elif kind == "sparse":
        state[norm] = state[norm].to_sparse()
    elif kind == "no tensor":
        state[norm] = [1.0]
    elif kind == "hole":
        state = {name: tensor for name, tensor in state.items() if not name.startswith("transformer_layers.1.")}
    elif kind == "another network":
        state = {"features.0.weight": torch.zeros(64, 3, 3, 3), "features.0.bias": torch.zeros(64)}
    return state


MISFITS = {
    "renamed": [
        "1 missing: transformer_layers.0.norm1.weight", "1 unknown: transformer_layers.0.norm_1.weight",
        "transformer_layers.0.norm_1.weight looks like the missing transformer_layers.0.norm1.weight",
    ],
    "missing": ["1 missing: transformer_layers.0.norm1.weight"],
    "extra": ["1 unknown: image_tokenizer.weight"],
    "shape": ["1 of another shape: patch_embedder.1.weight [1024, 575] instead of [1024, 576]"],
    "prefix": [
        "151 missing: gaussian_position_embeddings, patch_embedder.1.weight, ", "and 143 more",
        "151 unknown: module.gaussian_position_embeddings",
        "151 of the unknown are missing ones behind the prefix 'module.': save them without it",
    ],
    "integers": ["1 not of floats: transformer_layers.0.norm1.weight is int64"],
    "sparse": ["1 not of floats: transformer_layers.0.norm1.weight is float32, not dense"],
    "no tensor": ["1 not of floats: transformer_layers.0.norm1.weight is list"],
    "hole": ["6 missing: transformer_layers.1.norm1.weight"],
    "another network": ["missing: gaussian_position_embeddings", "2 unknown: features.0.weight, features.0.bias"],
}  # fmt: skip


@pytest.mark.parametrize("kind", MISFITS)
def test_a_checkpoint_that_does_not_fit_is_refused_with_the_list_of_what_is_wrong(tmp_path, kind, call):
    path = tmp_path / "w.pt"
    torch.save(facelift(damage(hollow(PRESETS["base"]), kind) | frozen()), path)
    message = refusal(path)
    for line in MISFITS[kind]:
        assert line in message
    assert len(message.splitlines()) <= 5
    status, out, err = call("weights", "inspect", path)
    assert (status, "fits preset" in out) == (1, True)
    assert all(line in err for line in MISFITS[kind])


def test_everything_that_is_wrong_is_in_one_message(tmp_path):
    state = hollow(PRESETS["base"])
    for kind in ("extra", "missing", "shape"):
        state = damage(state, kind) if kind != "missing" else {n: t for n, t in state.items() if "mlp.mlp.0" not in n}
    torch.save({"model": state}, tmp_path / "w.pt")
    message = refusal(tmp_path / "w.pt")
    assert all(text in message for text in ("24 missing", "1 unknown", "1 of another shape", "and 16 more"))
    assert len(message) < 1500


def test_a_hostile_name_cannot_write_to_the_terminal_or_fill_it(tmp_path):
    torch.save({"model": hollow(MICRO) | {"\x1b[2Jx" * 9999: torch.zeros(1)}}, tmp_path / "w.pt")
    message = refusal(tmp_path / "w.pt")
    assert "\x1b" not in message and len(message) < 500


def test_sizes_that_no_model_has_do_not_lay_out_that_model(tmp_path):
    state = hollow(MICRO) | {"transformer_layers.999999.norm1.weight": torch.zeros(32)}
    torch.save({"model": state}, tmp_path / "w.pt")
    assert "1 unknown: transformer_layers.999999.norm1.weight" in refusal(tmp_path / "w.pt")
    torch.save({"model": {"patch_embedder.1.weight": torch.zeros(1).expand(1 << 28, 9 << 28)}}, tmp_path / "w.pt")
    assert "1 of another shape: patch_embedder.1.weight [268435456, 2415919104]" in refusal(tmp_path / "w.pt")


def test_a_model_of_another_preset_is_refused_with_the_differing_settings(tmp_path):
    torch.save(facelift(hollow(PRESETS["base"])), tmp_path / "w.pt")
    check_weights(tmp_path / "w.pt", "base")
    with pytest.raises(UserError) as refused:
        check_weights(tmp_path / "w.pt", "tiny")
    message = str(refused.value)
    assert "w.pt is not a model of preset tiny (width 1024 instead of 192, head_width 64 instead of 32, " in message
    assert "it is one of preset base" in message
    save_weights(GSLRM(PRESETS["tiny"]), tmp_path / "w.safetensors")
    check_weights(tmp_path / "w.safetensors", "tiny")
    with pytest.raises(UserError, match=r"not a model of preset small .*; it is one of preset tiny$"):
        check_weights(tmp_path / "w.safetensors", "small")


# Damage, and files of other kinds


@pytest.fixture(scope="module")
def intact(micro):
    """Bytes of the same model by format."""
    files = {"safetensors": io.BytesIO(), "zip": io.BytesIO(), "legacy": io.BytesIO()}
    torch.save(facelift(micro), files["zip"])
    torch.save(facelift(micro), files["legacy"], _use_new_zipfile_serialization=False)
    from safetensors.torch import save

    files["safetensors"].write(save(micro, metadata={"gslrm": json.dumps(asdict(MICRO))}))
    return {name: file.getvalue() for name, file in files.items()}


@given(st.sampled_from(["safetensors", "zip", "legacy"]), st.floats(0, 1, exclude_max=True))
def test_a_file_that_is_cut_off_is_refused(intact, tmp_path_factory, form, part):
    path = tmp_path_factory.getbasetemp() / "cut"
    path.write_bytes(intact[form][: int(part * len(intact[form]))])
    message = refusal(path)
    assert re.search("damaged or cut off|empty file|not readable as weights", message), message
    assert len(message) < 500 and len(message.splitlines()) == 1


@given(
    st.sampled_from(["safetensors", "zip", "legacy"]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=5),
    st.booleans(),
)
def test_flipped_bytes_are_refused_or_leave_a_whole_model(intact, tmp_path_factory, form, flips, structure):
    """Anything but a UserError or a model of finite values would be a traceback, or worse."""
    content = bytearray(intact[form])
    for place, value in flips:
        # Most bytes are values; half of the examples hit the part that says what the values are.
        content[int(place * (2000 if structure else len(content)))] = value
    path = tmp_path_factory.getbasetemp() / "flipped"
    path.write_bytes(content)
    try:
        model = load_weights(path)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda b: b"PK\x03\x04" + b),
                 st.binary(max_size=200).map(lambda b: b"\x80\x02" + b), st.text(max_size=200).map(str.encode),
                 st.binary(max_size=200).map(lambda b: len(b).to_bytes(8, "little") + b"{" + b)))  # fmt: skip
def test_garbage_is_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "garbage"
    path.write_bytes(content)
    assert len(refusal(path).splitlines()) == 1


def test_what_is_no_file_of_weights_is_named(tmp_path):
    path = tmp_path / "w.pt"
    assert "no such file" in refusal(path)
    path.mkdir()
    assert "a folder" in refusal(path)
    path.rmdir()
    os.mkfifo(path)
    assert "not a regular file" in refusal(path)
    path.unlink()
    path.write_bytes(b"")
    assert "an empty file" in refusal(path)
    path.write_text("<!DOCTYPE html>\n<title>Sign in</title>")
    assert "a text file (it begins with '<!DOCTYPE html>" in refusal(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    assert "git lfs pull" in refusal(path)
    np.savez(tmp_path / "w", a=np.zeros(3))
    assert "a zip archive, but not one of torch.save" in refusal(tmp_path / "w.npz")
    for content, words in (([1], "holds a list"), ({}, "holds no model"), ({"model": {"a": 1}}, "holds no model"),
                           ({"step": 3, "state_dict": {}}, "it has step, state_dict")):  # fmt: skip
        torch.save(content, path)
        assert words in refusal(path)


def test_a_checkpoint_packed_anew_with_compression_is_refused(tmp_path, intact):
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(io.BytesIO(intact["zip"])) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    assert "packed anew with compression" in refusal(path)


class Touch:
    """Unpickled by an unrestricted reader, it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "pickle2", "hidden"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, micro, form):
    path, ran = tmp_path / "w.pt", tmp_path / "ran"
    content = facelift(micro, config=Touch(ran))
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps({"model": Touch(ran)}, protocol=2 if form == "pickle2" else 4))
        pickle.loads(path.read_bytes())
        assert ran.exists(), "the test's own code does nothing"
        ran.unlink()
    elif form == "hidden":  # among the frozen tensors, which nobody looks at
        torch.save({"model": micro | {"loss_calculator.lpips_loss_module.a": Touch(ran)}}, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    message = refusal(path)
    with pytest.raises(UserError):
        inspect_weights(path)
    assert not ran.exists()
    assert "refused: its pickle holds more than tensors" in message and "could run code" in message
    assert len(message.splitlines()) == 1
    if form not in ("pickle",):
        assert "posix.system" in message


# Looking at files


def test_a_report_says_what_a_checkpoint_holds(tmp_path, micro, call):
    import hashlib

    path = tmp_path / "w.pt"
    torch.save(facelift(micro | frozen()), path)
    report = inspect_weights(path)
    assert (report.format, report.config, report.inferred, report.presets) == ("torch.save (zip)", MICRO, True, ())
    assert (report.tensors, report.parameters) == (len(micro), sum(t.numel() for t in micro.values()))
    assert (report.frozen_tensors, report.frozen_parameters) == (32, sum(t.numel() for t in frozen().values()))
    assert report.counters == {"fwdbwd_pass_step": 42002, "param_update_step": 21001}
    assert report.optimizer and report.dtypes == {"float32": len(micro)}
    assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert report.problems == ()
    assert sum(group.parameters for group in report.groups) == report.parameters
    heads = torch.cat(
        [t.flatten() for n, t in micro.items() if n.startswith(("gaussian_upsampler", "pixel_"))]
    ).double()
    found = report.groups[2]
    assert (found.name, found.low, found.high, found.not_finite) == ("heads", heads.min(), heads.max(), 0)
    assert found.mean == pytest.approx(heads.mean().item()) and found.std == pytest.approx(
        heads.std(correction=0).item()
    )
    status, out, _ = call("weights", "inspect", path)
    assert status == 0
    for text in (report.sha256, "32 frozen tensors", "42002", "inside, not read", "head_width 32", "fits preset"):
        assert text in out


def test_a_report_counts_what_is_not_finite(tmp_path, micro, call):
    state = {name: tensor.clone() for name, tensor in micro.items()}
    state["pixel_gaussian_decoder.1.weight"][0, :3] = torch.tensor([float("nan"), float("inf"), float("-inf")])
    torch.save(state, tmp_path / "w.pt")
    status, out, err = call("weights", "inspect", tmp_path / "w.pt")
    assert status == 1 and "NaN or infinity in 3 of its values" in err
    assert re.search(r"heads .* 3 │", out)
    report = inspect_weights(tmp_path / "w.pt")
    assert np.isfinite([(g.low, g.high, g.mean, g.std) for g in report.groups]).all()
    assert not report.optimizer and report.counters == {}


def test_a_report_of_our_own_file_names_its_preset(tmp_path, call):
    save_weights(GSLRM(PRESETS["tiny"]), tmp_path / "w.safetensors")
    report = inspect_weights(tmp_path / "w.safetensors")
    assert (report.format, report.presets, report.inferred) == ("safetensors", ("tiny",), False)
    assert call("weights", "inspect", tmp_path / "nowhere.pt")[0::2] == (
        1, f"mousefacelift: error: {tmp_path / 'nowhere.pt'}: no such file\n",
    )  # fmt: skip


# Before training


def train_words(manifest, folder, **settings):
    return [
        "train", "--manifest", manifest, "--output", folder / "out", "--checkpoints", folder / "checkpoints",
        "--settings", json.dumps({"preset": "base", "image_size": 32, "steps": 1, "accelerator": "cpu", "precision": "32-true", **settings}),
    ]  # fmt: skip


def write_misfit(path, kind):
    """A checkpoint of base shapes with one fault; returns what the message must say of it."""
    if kind == "missing path":
        return [f"train.init: {path}: no such file"]
    torch.save(facelift(damage(hollow(PRESETS["base"]), kind) | frozen()), path)
    return [f"train.init: {path}: ", *MISFITS[kind]]


@pytest.mark.parametrize("kind", ["renamed", "shape", "missing path"])
def test_training_does_not_start_from_weights_that_do_not_fit(tmp_path, synthetic_shards, call, kind):
    lines = write_misfit(tmp_path / "w.pt", kind)
    status, out, err = call(*train_words(synthetic_shards, tmp_path, init=str(tmp_path / "w.pt")))
    assert (status, out) == (1, "")
    assert all(line in err for line in lines), err
    assert not (tmp_path / "out").exists() and not (tmp_path / "checkpoints").exists()


def test_training_refuses_facelifts_weights_for_another_preset(tmp_path, synthetic_shards, call):
    torch.save(facelift(hollow(PRESETS["base"])), tmp_path / "w.pt")
    words = train_words(synthetic_shards, tmp_path, init=str(tmp_path / "w.pt"), preset="tiny")
    status, _, err = call(*words)
    assert status == 1
    assert f"train.init: {tmp_path / 'w.pt'} is not a model of preset tiny (width 1024 instead of 192, " in err
    assert not (tmp_path / "out").exists()


def test_training_starts_from_facelifts_weights(tmp_path, synthetic_shards, call, micro, monkeypatch):
    monkeypatch.setitem(PRESETS, "base", MICRO)
    torch.save(facelift(micro | frozen()), tmp_path / "w.pt")
    still = {"learning_rate": 1e-12, "weight_decay": 0.0, "init": str(tmp_path / "w.pt")}
    status, _, err = call(*train_words(synthetic_shards, tmp_path, **still))
    assert status == 0, err
    end = load_weights(tmp_path / "out" / "model.safetensors").state_dict()
    assert all(torch.allclose(end[name], tensor, atol=1e-9) for name, tensor in micro.items())


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recording")
    return write_table(record(folder, range(100, 103)), folder / "captures.tsv")


def dry_run(folder, table, target="train", python=(), **train):
    """A dry run of the workflow in its own process; returns exit status and everything it said."""
    project = folder / "project"
    project.mkdir()
    for name in ("Snakefile", "rules", "config", "profiles", "envs"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, project / name)
    settings = {"captures": str(table), "train": {"image_size": 64, **train}}
    (project / "config" / "config.yaml").write_text(yaml.safe_dump(settings))
    done = subprocess.run(
        [sys.executable, *python, "-m", "snakemake", "--cores", "1", "--dry-run", target],
        cwd=project, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert not (project / "results").exists()
    return done.returncode, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["renamed", "shape", "missing path"])
def test_no_job_runs_before_weights_that_do_not_fit(tmp_path, table, kind):
    lines = write_misfit(tmp_path / "w.pt", kind)
    status, out = dry_run(tmp_path, table, preset="base", init=str(tmp_path / "w.pt"))
    assert status == 1
    assert all(line in out for line in lines), out
    assert "Traceback (most recent call last)" not in out


@pytest.mark.slow
def test_no_job_runs_before_weights_of_another_preset(tmp_path, table):
    save_weights(GSLRM(PRESETS["tiny"]), tmp_path / "w.safetensors")
    status, out = dry_run(tmp_path, table, preset="base", init=str(tmp_path / "w.safetensors"))
    assert status == 1 and "is not a model of preset base (width 192 instead of 1024, " in out, out


@pytest.mark.slow
def test_weights_that_fit_are_an_input_of_training_alone(tmp_path, table):
    path = tmp_path / "w.safetensors"
    save_weights(GSLRM(PRESETS["tiny"]), path)
    status, out = dry_run(tmp_path, table, preset="tiny", init=str(path))
    assert status == 0, out
    assert re.search(rf"^rule train:\n    input: .*{re.escape(str(path))}$", out, flags=re.MULTILINE), out


@pytest.mark.slow
@pytest.mark.parametrize("init", [True, False], ids=["init", "none"])
def test_the_workflow_imports_torch_only_to_look_at_weights(tmp_path, table, init):
    path = tmp_path / "w.safetensors"
    save_weights(GSLRM(PRESETS["tiny"]), path)
    timing = ["-X", "importtime"]
    status, out = dry_run(tmp_path, table, python=timing, preset="tiny", init=str(path) if init else None)
    assert status == 0, out[-2000:]
    assert bool(re.search(r"\| +torch$", out, flags=re.MULTILINE)) == init
