"""Presets of models: `train.preset` names one. Nothing here imports torch."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Preset:
    """A network of one size, and what training it takes.

    network: its name in models/registry.py. model: its settings that are not the network's defaults, `layers` always.
    memory_mb: what a training job asks for. recompute: what `train.recompute: auto` stands for. on_cpu: whether a CPU trains
    it in minutes, so that it may do so where a GPU cannot be used. residual: whether it is guided by the visual hull unless
    `train.guide` says otherwise, its raw outputs being changes of the hull's own Gaussians; not for networks with released
    weights, whose outputs have a meaning. guidable: whether the network can be guided at all.
    """

    network: str
    model: dict[str, Any]
    memory_mb: int
    recompute: Literal["none", "selective", "all"] = "selective"
    on_cpu: bool = False
    residual: bool = False
    guidable: bool = True

    @property
    def layers(self) -> int:
        """The number of transformer layers."""
        return int(self.model["layers"])

    @property
    def guide(self) -> Literal["none", "hull"]:
        """What `train.guide: null` stands for."""
        return "hull" if self.residual else "none"


PRESETS = {
    # Trained from nothing on a CPU: small patches for outlines, no work on white ones. Without a guide, the first Gaussians
    # are about a pixel wide at 128 px.
    "tiny": Preset(
        "gslrm",
        {"width": 128, "head_width": 32, "layers": 4, "patch": 4, "scale_bias": -4.2, "skip_blank": True},
        memory_mb=4000,
        recompute="none",
        on_cpu=True,
        residual=True,
    ),
    "small": Preset("gslrm", {"width": 512, "layers": 12}, memory_mb=16000, residual=True),
    "base": Preset("gslrm", {"layers": 24}, memory_mb=32000),  # FaceLift's
}
