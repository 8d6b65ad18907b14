"""What every network offers to the code that trains, stores and runs it."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from mousefacelift.models.gaussians import Gaussians

Recompute = Literal["none", "selective", "all"]


@dataclass(frozen=True)
class Footprint:
    """GPU memory of a network's forward and backward pass on one part of a batch, in bytes, without its parameters.

    Attributes:
        gaussians: N, the Gaussians of one sample.
        copies: weights in bf16 that the layers keep for the backward pass.
        kept: activations that the layers and what comes before them keep for the backward pass.
        heads: activations that the heads keep, with the last layer's output, and the raw Gaussians.
        forward: what a layer's forward pass needs on top of `kept`, for a moment.
        forward_heads: what the heads' forward pass needs on top of `kept` and `heads`, for a moment.
        backward_layer: what a layer's backward pass needs on top of `kept`, with what it computes again, before any
            gradient of the layer's parameters is there.
        first_layer: the share of `kept` and `copies` that is left when the backward pass comes to the first layer.
        backward_end: what the first layer's backward pass needs in all when most of its gradients are there.
        start: standard deviation in world units and opacity of a Gaussian of random weights; None for a pixel's size.
    """

    gaussians: int
    copies: int
    kept: int
    heads: int
    forward: int
    forward_heads: int
    backward_layer: int
    first_layer: int
    backward_end: int
    start: tuple[float, float] | None


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

    def tokens(self, views: int, size: int) -> int:
        """Tokens of a sample, which attend to each other; at most, where their number depends on the images.

        Args:
            views: input views V.
            size: S of images of S x S px.
        """
        raise NotImplementedError

    def footprint(self, samples: int, views: int, size: int, mixed: bool, recompute: Recompute) -> Footprint:
        """Forecast the memory of a training step on a GPU; the parameters may be on the meta device.

        Args:
            samples: B.
            views: input views V.
            size: S of images of S x S px.
            mixed: under autocast to bf16, as `precision: bf16-mixed`.
            recompute: as the attribute.
        """
        raise NotImplementedError

    def forward(
        self, image: Tensor, c2w: Tensor, fxfycxcy: Tensor, alpha: Tensor | None = None, unknown: Tensor | None = None
    ) -> Gaussians:
        """Reconstruct B samples.

        Args:
            image: [B, V, 3, H, W] input views in [0, 1], over white.
            c2w: [B, V, 4, 4] camera to world, OpenCV axes, world units.
            fxfycxcy: [B, V, 4] intrinsics in pixels; the first pixel's centre is (0.5, 0.5).
            alpha: [B, V, H, W] silhouettes of the input views in [0, 1], for a network that needs them.
            unknown: [B, V, H, W] bool, pixels of which nothing is known; None without any.

        Returns:
            N raw Gaussians per sample, float32 whatever the autocast.

        Raises:
            UserError: the network cannot take images of this size.
        """
        raise NotImplementedError
