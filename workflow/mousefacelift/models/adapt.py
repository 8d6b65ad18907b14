"""What of a model a training changes: all of it, its output heads, its last layers, or low-rank updates."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mousefacelift.base.errors import UserError
from mousefacelift.config.train import Train
from mousefacelift.models.gslrm import GSLRM

HEADS = ("gaussian_upsampler", "pixel_gaussian_decoder")
BETAS = (0.9, 0.95)


class LoraLinear(nn.Linear):
    """A frozen linear layer and a trainable update of rank r: weight + alpha / r * up @ down (Hu et al. 2021).

    weight [out, in] keeps its name, so that a model's own tensors are found in the state of an adapted one; down [r, in]
    starts random, up [out, r] at zero: the model begins as it was.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float):
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight = linear.weight
        self.scale = alpha / rank
        self.lora_down = nn.Parameter(torch.randn(rank, self.in_features) / self.in_features**0.5)
        self.lora_up = nn.Parameter(torch.zeros(self.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        update = functional.linear(functional.linear(x, self.lora_down), self.lora_up)
        return functional.linear(x, self.weight) + self.scale * update

    def merged(self) -> Tensor:
        """The weight that does the same alone, [out, in]."""
        return self.weight + self.scale * self.lora_up @ self.lora_down


def adapt(model: GSLRM, settings: Train) -> None:
    """Leave trainable what `train.adapt` names, and put in the low-rank updates. Draws from torch's random numbers."""
    layers = model.transformer_layers
    if settings.adapt == "full":
        return
    model.requires_grad_(False)
    for name in HEADS:
        model.get_submodule(name).requires_grad_(True)
    if settings.adapt == "last_n":
        for layer in layers[-settings.last_n :]:
            layer.requires_grad_(True)
    elif settings.adapt == "lora":
        for module in list(layers.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.Linear):
                    setattr(module, name, LoraLinear(child, settings.lora.rank, settings.lora.alpha))


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def merged(model: GSLRM) -> GSLRM:
    """The model with the low-rank updates added to its weights; without any, the model itself."""
    names = [name for name, module in model.named_modules() if isinstance(module, LoraLinear)]
    if not names:
        return model
    state = {name: tensor for name, tensor in model.state_dict().items() if ".lora_" not in name}
    with torch.no_grad():
        for name in names:
            module = model.get_submodule(name)
            assert isinstance(module, LoraLinear)
            state[f"{name}.weight"] = module.merged()
    with torch.device("meta"):
        plain = GSLRM(model.config)
    plain.load_state_dict(state, assign=True)
    return plain


def counts(model: GSLRM) -> dict[str, tuple[int, int]]:
    """For each part of the model, how many of its parameters are trained, and how many it has."""
    parts: dict[str, tuple[int, int]] = {}
    for name, parameter in model.named_parameters():
        part = name.split(".")[0]
        if ".lora_" in name:
            part = "low-rank updates"
        changed, total = parts.get(part, (0, 0))
        parts[part] = changed + parameter.numel() * parameter.requires_grad, total + parameter.numel()
    return parts


def build_optimizer(model: GSLRM, settings: Train) -> torch.optim.Optimizer:
    """AdamW over what is trained; weight decay on matrices only.

    Each group's `scale` is what the schedule's learning rate is multiplied with: by layer_decay for every layer that
    comes after the group's own, heads counting as one. Raises UserError if the optimiser's package is missing.
    """
    depth = len(model.transformer_layers) + 1
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trainable(model).items():
        parts = name.split(".")
        place = int(parts[1]) + 1 if parts[0] == "transformer_layers" else depth if parts[0] in HEADS else 0
        decay = settings.weight_decay if parameter.ndim >= 2 else 0.0
        groups.setdefault((settings.layer_decay ** (depth - place), decay), []).append(parameter)
    listed: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": decay, "scale": scale} for (scale, decay), parameters in groups.items()
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(listed, lr=settings.learning_rate, betas=BETAS, fused=True)
    try:
        import bitsandbytes
    except ImportError as error:
        raise UserError(
            f"train.optimizer: {settings.optimizer} needs bitsandbytes, which is not installed ({error}): pip install -c "
            "envs/constraints.txt -e '.[gpu]', or use adamw"
        ) from None
    kind = bitsandbytes.optim.AdamW8bit if settings.optimizer == "adamw8bit" else bitsandbytes.optim.PagedAdamW8bit
    optimizer: torch.optim.Optimizer = kind(listed, lr=settings.learning_rate, betas=BETAS)
    return optimizer
