"""A report says what a file holds."""

import re

import numpy as np
import pytest
import torch

from mousefacelift.models.registry import build_model
from mousefacelift.models.weights.files import save_weights
from mousefacelift.models.weights.report import inspect_weights
from support.weights import MICRO, facelift, frozen


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
    save_weights(build_model("tiny"), tmp_path / "w.safetensors")
    report = inspect_weights(tmp_path / "w.safetensors")
    assert (report.format, report.presets, report.inferred) == ("safetensors", ("tiny",), False)
    assert call("weights", "inspect", tmp_path / "nowhere.pt")[0::2] == (
        1, f"mousefacelift: error: {tmp_path / 'nowhere.pt'}: no such file\n",
    )  # fmt: skip
