"""Files are known by their content, and whatever is damaged or could run code is refused in one line."""

import io
import json
import os
import pickle
import re
import shutil
import zipfile
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from mousefacelift.base.errors import UserError
from mousefacelift.models.gslrm import GSLRM
from mousefacelift.models.weights.files import load_weights
from mousefacelift.models.weights.report import inspect_weights
from support.weights import MICRO, facelift, frozen, refusal, same


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


def test_a_checkpoint_repacked_with_compression_is_refused(tmp_path, intact):
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(io.BytesIO(intact["zip"])) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    assert "repacked with compression" in refusal(path)


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
