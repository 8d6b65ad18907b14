"""Weight files for tests: a very small model, checkpoints in FaceLift's layout, and what can be wrong with them."""

import pytest
import torch

from mousefacelift.base.errors import UserError
from mousefacelift.models.gslrm import GSLRM, GSLRMConfig
from mousefacelift.models.weights.files import load_weights
from mousefacelift.models.weights.fitting import check_weights

MICRO = GSLRMConfig(width=32, head_width=32, layers=2)  # the head width that is taken where shapes do not tell
VGG19 = [(1, 3, 64), (1, 64, 64), (2, 64, 128), (2, 128, 128), (3, 128, 256), *[(3, 256, 256)] * 3, (4, 256, 512),
         *[(4, 512, 512)] * 3, *[(5, 512, 512)] * 4]  # fmt: skip


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
        "151 of the unknown names are missing ones with the prefix 'module.': save the tensors without it",
    ],
    "integers": ["1 not of floats: transformer_layers.0.norm1.weight is int64"],
    "sparse": ["1 not of floats: transformer_layers.0.norm1.weight is float32, not dense"],
    "no tensor": ["1 not of floats: transformer_layers.0.norm1.weight is list"],
    "hole": ["6 missing: transformer_layers.1.norm1.weight"],
    "another network": ["missing: gaussian_position_embeddings", "2 unknown: features.0.weight, features.0.bias"],
}  # fmt: skip
