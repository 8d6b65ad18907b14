"""The networks by name.

To add a network, write a module with a `Network` and add its line to NETWORKS; its presets go into config/presets.py.
"""

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


def preset_config(preset: str) -> Any:
    """A preset's configuration.

    Args:
        preset: a name in PRESETS.

    Returns:
        A `Config` of the preset's network.

    Raises:
        UserError: the preset's network is not in the registry.
    """
    found = PRESETS[preset]
    return network(found.network).Config(**found.model)


def build_model(preset: str) -> Network:
    """A new model of a preset.

    Args:
        preset: a name in PRESETS.

    Returns:
        The model with random weights, drawn from torch's random numbers.

    Raises:
        UserError: the preset's network is not in the registry.
    """
    found = PRESETS[preset]
    return network(found.network)(preset_config(preset))
