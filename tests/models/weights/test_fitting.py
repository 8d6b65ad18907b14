"""What is not exactly a model of the preset is refused, with the list of what is wrong."""

import pytest
import torch

from mousefacelift.base.errors import UserError
from mousefacelift.models.registry import build_model, preset_config
from mousefacelift.models.weights.files import save_weights
from mousefacelift.models.weights.fitting import check_weights
from support.weights import MICRO, MISFITS, damage, facelift, frozen, hollow, refusal


@pytest.mark.parametrize("kind", MISFITS)
def test_a_checkpoint_that_does_not_fit_is_refused_with_the_list_of_what_is_wrong(tmp_path, kind, call):
    path = tmp_path / "w.pt"
    torch.save(facelift(damage(hollow(preset_config("base")), kind) | frozen()), path)
    message = refusal(path)
    for line in MISFITS[kind]:
        assert line in message
    assert len(message.splitlines()) <= 5
    status, out, err = call("weights", "inspect", path)
    assert (status, "fits preset" in out) == (1, True)
    assert all(line in err for line in MISFITS[kind])


def test_everything_that_is_wrong_is_in_one_message(tmp_path):
    state = hollow(preset_config("base"))
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
    torch.save(facelift(hollow(preset_config("base"))), tmp_path / "w.pt")
    check_weights(tmp_path / "w.pt", "base")
    with pytest.raises(UserError) as refused:
        check_weights(tmp_path / "w.pt", "tiny")
    message = str(refused.value)
    assert "w.pt is not a model of preset tiny (width 1024 instead of 128, head_width 64 instead of 32, " in message
    assert "it is one of preset base" in message
    save_weights(build_model("tiny"), tmp_path / "w.safetensors")
    check_weights(tmp_path / "w.safetensors", "tiny")
    with pytest.raises(UserError, match=r"not a model of preset small .*; it is one of preset tiny$"):
        check_weights(tmp_path / "w.safetensors", "small")
