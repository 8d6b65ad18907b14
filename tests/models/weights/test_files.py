"""Models survive their files to the last bit, ours and FaceLift's."""

import re
from dataclasses import asdict, replace

import pytest
import torch

from mousefacelift.base.errors import UserError
from mousefacelift.models.gslrm import GSLRM
from mousefacelift.models.registry import preset_config
from mousefacelift.models.weights.files import load_weights, save_weights
from mousefacelift.models.weights.fitting import check_weights
from mousefacelift.models.weights.report import inspect_weights
from support.weights import MICRO, facelift, frozen, same, shapes_of


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


@pytest.mark.slow
def test_a_checkpoint_in_facelifts_exact_layout_loads_to_the_last_bit(tmp_path, call):
    torch.manual_seed(0)
    path, out = tmp_path / "ckpt_0000000000021001.pt", tmp_path / "base.safetensors"
    state = {name: 0.02 * torch.randn(shape) for name, shape in shapes_of(preset_config("base")).items()}
    assert (len(state), sum(t.numel() for t in state.values())) == (151, 303_565_824)
    assert len(frozen()) == 32
    try:
        torch.save(facelift(state | frozen()), path)
        check_weights(path, "base")
        model = load_weights(path)
        assert not {n for n, v in asdict(model.config).items() if v != getattr(preset_config("base"), n)} - {
            "recompute"
        }
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
