"""The networks by name.

To add a network, write a module with a `Network` and add its line to NETWORKS; its presets go into config/presets.py.
"""

from dataclasses import replace
from typing import Any

from mousefacelift.base.errors import UserError
from mousefacelift.base.parsing import nearest
from mousefacelift.config.presets import PRESETS
from mousefacelift.models.gslrm import GSLRM
from mousefacelift.models.network import Network

NETWORKS: dict[str, type[Network]] = {GSLRM.name: GSLRM}


def network(name: str) -> type[Network]:
    """The network of a name. Raises UserError with the valid names if there is none."""
    if name not in NETWORKS:
        hint = nearest(name, NETWORKS)
        raise UserError(f"no network is named {name!r}{'; ' * bool(hint)}{hint} (networks: {', '.join(NETWORKS)})")
    return NETWORKS[name]


def preset_config(preset: str, guide: str | None = None) -> Any:
    """A preset's configuration.

    Args:
        preset: a name in PRESETS.
        guide: `train.guide`; None for the preset's own.

    Returns:
        A `Config` of the preset's network.

    Raises:
        UserError: the preset's network is not in the registry.
    """
    found = PRESETS[preset]
    config = network(found.network).Config(**found.model)
    guide = guide or found.guide
    if guide == getattr(config, "guide", "none"):
        return config
    if not hasattr(config, "guide"):
        raise UserError(f"train.guide is {guide}, but {found.network}, the network of preset {preset}, takes no guide")
    return replace(config, guide=guide, residual=guide == "hull" and found.residual)


def build_model(preset: str, guide: str | None = None) -> Network:
    """A new model of a preset.

    Args:
        preset: a name in PRESETS.
        guide: `train.guide`; None for the preset's own.

    Returns:
        The model with random weights, drawn from torch's random numbers.

    Raises:
        UserError: the preset's network is not in the registry.
    """
    found = PRESETS[preset]
    return network(found.network)(preset_config(preset, guide))
