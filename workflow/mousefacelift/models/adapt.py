"""Which weights of a model a training run changes: all, its output heads, its last layers, or low-rank updates."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mousefacelift.base.errors import UserError
from mousefacelift.config.train import Train
from mousefacelift.models.network import Network

BETAS = (0.9, 0.95)


class LoraLinear(nn.Linear):
    """A frozen linear layer and a trainable update of rank r: weight + alpha / r * up @ down.

    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021 (arXiv:2106.09685). weight [out, in] keeps its
    name, so that the state of an adapted model holds the model's own tensors; down [r, in] starts random, up [out, r] at
    zero, so that the model begins as it was.

    Args:
        linear: a layer without bias, whose weight is shared.
        rank: r.
        alpha: scale of the update.
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


def adapt(model: Network, settings: Train) -> None:
    """Leave trainable what `train.adapt` names, and put in the low-rank updates.

    Args:
        model: changed in place; low-rank updates are drawn from torch's random numbers.
        settings: of the training run; `adapt`, `last_n` and `lora` are used.
    """
    layers = model.transformer_layers
    if settings.adapt == "full":
        return
    model.requires_grad_(False)
    for name in model.parts["heads"]:
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
    """The parameters that are trained, by their names in the model's state."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def merged(model: Network) -> Network:
    """Add the low-rank updates to the weights.

    Args:
        model: as `adapt` left it, trained or not.

    Returns:
        A model without updates that computes the same; the model itself if it has none.
    """
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
        plain = type(model)(model.config)
    plain.load_state_dict(state, assign=True)
    return plain


def counts(model: Network) -> dict[str, tuple[int, int]]:
    """Count parameters by the first part of their names; low-rank updates are a part of their own.

    Args:
        model: as `adapt` left it.

    Returns:
        For every part the number of its values that are trained, and of all its values.
    """
    parts: dict[str, tuple[int, int]] = {}
    for name, parameter in model.named_parameters():
        part = name.split(".")[0]
        if ".lora_" in name:
            part = "low-rank updates"
        changed, total = parts.get(part, (0, 0))
        parts[part] = changed + parameter.numel() * parameter.requires_grad, total + parameter.numel()
    return parts


def build_optimizer(model: Network, settings: Train) -> torch.optim.Optimizer:
    """AdamW over what is trained; weight decay on matrices only.

    Args:
        model: as `adapt` left it.
        settings: of the training run.

    Returns:
        The optimiser. The learning rate of a group is the schedule's times the group's `scale`: `layer_decay` to the
        power of the number of layers after the group's own, where the heads count as one layer.

    Raises:
        UserError: the optimiser's package is not installed.
    """
    depth = len(model.transformer_layers) + 1
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trainable(model).items():
        # The embedder is at place 0, layer i at i + 1, the heads behind all layers.
        parts = name.split(".")
        place = (
            int(parts[1]) + 1 if parts[0] == "transformer_layers" else depth if parts[0] in model.parts["heads"] else 0
        )
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
