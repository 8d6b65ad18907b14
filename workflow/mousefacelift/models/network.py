"""What every network offers to the code that trains, stores and runs it."""

from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from mousefacelift.models.gaussians import Gaussians

Recompute = Literal["none", "selective", "all"]


class Network(nn.Module):
    """Images and cameras in, Gaussians out.

    Attributes:
        name: the network's name in presets and weight files.
        Config: a frozen dataclass of all that fixes the tensors and what the raw outputs mean: bools, ints and floats
            with defaults. Its str() names the model in messages.
        largest: the largest value of each int in `Config` that a weight file may ask for.
        parts: the prefixes of the tensors' names by part; "heads" turn tokens into Gaussians.
        config: this model's `Config`.
        transformer_layers: the layers in the order in which they run.
        recompute: which activations of the layers the backward pass computes again; changes memory and speed only.
    """

    name: ClassVar[str]
    Config: ClassVar[Any]
    largest: ClassVar[dict[str, int]]
    parts: ClassVar[dict[str, tuple[str, ...]]]

    config: Any
    transformer_layers: nn.ModuleList
    recompute: Recompute = "none"

    def compile_layers(self) -> None:
        """Compile the layers at their first use; changes speed only."""
        raise NotImplementedError

    def forward(self, image: Tensor, c2w: Tensor, fxfycxcy: Tensor) -> Gaussians:
        """Reconstruct B samples.

        Args:
            image: [B, V, 3, H, W] input views in [0, 1], over white.
            c2w: [B, V, 4, 4] camera to world, OpenCV axes, world units.
            fxfycxcy: [B, V, 4] intrinsics in pixels; the first pixel's centre is (0.5, 0.5).

        Returns:
            N raw Gaussians per sample, float32 whatever the autocast.

        Raises:
            UserError: the network cannot take images of this size.
        """
        raise NotImplementedError
