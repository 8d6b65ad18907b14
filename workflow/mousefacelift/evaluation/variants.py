"""The variants of the ablation: settings that differ from the configured ones in one change each. Imports no torch."""

from dataclasses import dataclass
from typing import Any

from mousefacelift.base.errors import UserError
from mousefacelift.config.presets import PRESETS
from mousefacelift.config.reading import validate
from mousefacelift.config.train import Guards, Loss, Train


@dataclass(frozen=True)
class Variant:
    """One change against the configured run: what it is in words, and the keys of `train` that it sets."""

    label: str
    changes: dict[str, Any]


VARIANTS = {
    "unguided": Variant("no guidance by the visual hull", {"guide": "none"}),
    "clamp": Variant("Gaussians kept inside the visual hull, the network not told of it", {"guide": "clamp"}),
    "hull": Variant("the network told of the visual hull", {"guide": "hull"}),
    # The only input view cannot be dropped.
    "one_input": Variant(
        "one input view, in training and evaluation", {"num_input_views": 1, "i_know": True, "view_dropout": 0.0}
    ),
    "plain_loss": Variant(
        "mean squared error over the whole image as the only loss",
        {"loss": {name: float(name == "l2") for name in Loss().terms}},
    ),
    "canonical": Variant("cameras moved to distance 2.7, images as they were", {"cameras": "canonical"}),
    "random_order": Variant("input views in random order", {"view_order": "random"}),
}


def variant(train: Train, name: str) -> Train:
    """The settings of a variant of the configured training run.

    Alarms are off: a variant that fails is measured, not stopped.

    Args:
        train: the configured settings.
        name: of the variant.

    Raises:
        UserError: for an unknown name.
    """
    if name not in VARIANTS:
        raise UserError(f"{name}: no such variant; there are {', '.join(VARIANTS)}")
    values = train.model_dump(mode="json")
    for key, value in VARIANTS[name].changes.items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    values |= {"run": f"{train.run}.{name}", "guards": dict.fromkeys(Guards.model_fields)}
    return validate(Train, values, f"ablation, {name}: train")


def applicable(train: Train) -> list[str]:
    """The names of the variants that change something of the configured settings, and can be trained."""
    return [name for name in VARIANTS if left_out(train, name) is None]


def left_out(train: Train, name: str) -> str | None:
    """The sentence on why a variant is not among the runs; None if it is."""
    guided, preset = "guide" in VARIANTS[name].changes, PRESETS[train.preset]
    if guided and not preset.guidable:
        return f"`{name}` is left out: the network of preset {train.preset} takes no guide."
    changed = variant(train, name)
    if all(getattr(changed, key) == getattr(train, key) for key in VARIANTS[name].changes):
        return f"`{name}` is left out: the configured run has this setting ({VARIANTS[name].label}) already."
    if guided and train.init and preset.residual and "hull" in (train.guide, changed.guide):
        return f"`{name}` is left out: the weights that training starts from (train.init) are for guide {train.guide}."
    return None
