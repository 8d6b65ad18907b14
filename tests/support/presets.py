"""Presets for tests, of models smaller than any that is offered."""

from dataclasses import asdict

from mousefacelift.config.presets import Preset
from mousefacelift.models.gslrm import GSLRMConfig


def preset_of(config: GSLRMConfig) -> Preset:
    """The preset of a model."""
    return Preset("gslrm", asdict(config), memory_mb=0, recompute="none")
