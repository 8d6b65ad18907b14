"""Adaptation: what is trained, what is not, and that low-rank updates are the weights they are saved as."""

import pytest
import torch

from mousefacelift.base.errors import UserError
from mousefacelift.config.train import Lora, Train
from mousefacelift.models.adapt import LoraLinear, adapt, build_optimizer, counts, merged, trainable
from mousefacelift.models.gslrm import GSLRM, GSLRMConfig
from mousefacelift.models.registry import build_model

MICRO = GSLRMConfig(width=32, head_width=16, layers=3)


def settings(**changes):
    return Train(preset="tiny", **changes)


def adapted(**changes):
    torch.manual_seed(0)
    model = GSLRM(MICRO)
    adapt(model, settings(**changes))
    return model


def scene():
    random = torch.Generator().manual_seed(1)
    c2w = torch.eye(4).repeat(1, 2, 1, 1)
    c2w[..., 2, 3] = -2.7
    return torch.rand(1, 2, 3, 16, 16, generator=random), c2w, torch.tensor([20.0, 20, 8, 8]).repeat(1, 2, 1)


def test_full_trains_everything():
    model = adapted()
    assert trainable(model).keys() == dict(model.named_parameters()).keys()


def test_heads_trains_the_two_heads():
    assert {name.split(".")[0] for name in trainable(adapted(adapt="heads"))} == {
        "gaussian_upsampler", "pixel_gaussian_decoder",
    }  # fmt: skip


def test_last_n_trains_the_last_layers_and_the_heads():
    names = trainable(adapted(adapt="last_n", last_n=2))
    assert {name.split(".")[1] for name in names if name.startswith("transformer_layers")} == {"1", "2"}
    assert "patch_embedder.1.weight" not in names and "pixel_gaussian_decoder.1.weight" in names


def test_lora_begins_as_the_model_it_adapts():
    plain, model = adapted(), adapted(adapt="lora")
    for one, other in zip(vars(plain(*scene())).values(), vars(model(*scene())).values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_lora_trains_low_rank_updates_of_every_matrix_of_the_layers_and_the_heads():
    model = adapted(adapt="lora", lora=Lora(rank=2))
    names = trainable(model)
    assert sum(isinstance(module, LoraLinear) for module in model.modules()) == 4 * MICRO.layers
    assert all(".lora_" in name or name.startswith(("gaussian_upsampler", "pixel_gaussian_decoder")) for name in names)
    updates = sum(
        2 * (module.in_features + module.out_features) for module in model.modules() if isinstance(module, LoraLinear)
    )
    assert counts(model)["low-rank updates"] == (updates, updates)


def test_merged_weights_do_what_the_updates_did():
    model = adapted(adapt="lora", lora=Lora(rank=2, alpha=5))
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            if name.endswith("lora_up"):
                parameter.normal_(std=0.05)
    plain = merged(model)
    assert plain.state_dict().keys() == GSLRM(MICRO).state_dict().keys()
    before = adapted(adapt="lora")(*scene()).xyz
    after = model(*scene())
    assert (after.xyz - before).abs().max() > 1e-4
    for one, other in zip(vars(after).values(), vars(plain(*scene())).values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5)
    matrix = model.transformer_layers[1].attn.fc
    expected = matrix.weight + 5 / 2 * matrix.lora_up @ matrix.lora_down
    torch.testing.assert_close(plain.transformer_layers[1].attn.fc.weight, expected)


def test_what_is_not_trained_keeps_its_values_and_has_no_optimiser_state():
    model = adapted(adapt="lora")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = build_optimizer(model, settings(adapt="lora"))
    gaussians = model(*scene())
    sum(value.square().mean() for value in vars(gaussians).values()).backward()
    optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed <= trainable(model).keys() and any(".lora_up" in name for name in changed)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(trainable(model))


def test_counts_say_how_much_of_each_part_is_trained():
    parts = counts(adapted(adapt="heads"))
    assert parts["pixel_gaussian_decoder"] == (32 + 14 * 64 * 32, 32 + 14 * 64 * 32)
    assert parts["transformer_layers"][0] == 0 and parts["transformer_layers"][1] == 3 * (12 * 32**2 + 2 * 32)


def test_only_matrices_decay():
    found = {
        (parameter.ndim >= 2, group["weight_decay"])
        for group in build_optimizer(adapted(), settings()).param_groups
        for parameter in group["params"]
    }
    assert found == {(True, 0.05), (False, 0.0)}


def test_each_layer_learns_slower_than_the_one_after_it():
    model = adapted()
    optimizer = build_optimizer(model, settings(layer_decay=0.5))
    scale = {id(parameter): group["scale"] for group in optimizer.param_groups for parameter in group["params"]}
    found = {name: scale[id(parameter)] for name, parameter in model.named_parameters()}
    assert found["pixel_gaussian_decoder.1.weight"] == found["gaussian_upsampler.linear.weight"] == 1
    assert [found[f"transformer_layers.{i}.attn.fc.weight"] for i in range(3)] == [1 / 8, 1 / 4, 1 / 2]
    assert found["patch_embedder.1.weight"] == found["gaussian_position_embeddings"] == 1 / 16


def test_eight_bit_states_take_a_quarter_of_the_memory_and_step_as_adamw_does():
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    start, gradient = torch.randn(128, 128), torch.randn(128, 128)
    ends, sizes = [], []
    for name in ("adamw", "adamw8bit"):
        model = GSLRM(GSLRMConfig(width=128, head_width=64, layers=1))
        weight = model.transformer_layers[0].attn.fc.weight
        weight.data.copy_(start)
        optimizer = build_optimizer(model, settings(optimizer=name, learning_rate=1e-3))
        for _ in range(5):
            weight.grad = gradient.clone()
            optimizer.step()
        ends.append(weight.detach().clone())
        state = optimizer.state[weight].values()
        sizes.append(sum(v.numel() * v.element_size() for v in state if torch.is_tensor(v) and v.numel() > 1000))
    assert sizes[1] <= sizes[0] / 4
    assert (ends[0] - start).abs().mean() > 4e-3
    assert (ends[0] - ends[1]).abs().mean() < 2e-4


def test_a_missing_optimiser_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"adamw8bit needs bitsandbytes.*pip install.*\[gpu\]"):
        build_optimizer(adapted(), settings(optimizer="adamw8bit"))


def test_the_base_preset_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = build_model("base")
        adapt(model, Train(adapt="lora"))
    assert sum(parameter.numel() for name, parameter in model.named_parameters() if ".lora_" not in name) == 303_565_824
    assert len(GSLRM(MICRO).state_dict()) == len(
        [name for name in adapted(adapt="lora").state_dict() if ".lora_" not in name]
    )
