"""GS-LRM: a transformer that turns posed images into one 3D Gaussian per pixel, in plain PyTorch.

Zhang et al., "GS-LRM: Large Reconstruction Model for 3D Gaussian Splatting", ECCV 2024 (arXiv:2404.19702), in the form
that FaceLift's checkpoints have (Lyu et al., arXiv:2412.17812): the names and shapes of all tensors are theirs.

Shapes: B samples, V input views, H x W pixels, p the patch size, T = V*(H/p)*(W/p) image tokens, d the width.
Conventions: OpenCV cameras, world units, pixel coordinates whose first centre is (0.5, 0.5).
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from mousefacelift.base.errors import UserError
from mousefacelift.models.gaussians import Gaussians
from mousefacelift.models.hull.guides import BACK, COLOUR, FRONT, LOGIT, MARGIN, PLACE, SCALE, START, VALID, guides
from mousefacelift.models.hull.sweep import sweep
from mousefacelift.models.network import Footprint, Network, Recompute
from mousefacelift.models.precision import full_precision
from mousefacelift.models.rays import pixel_rays
from mousefacelift.models.residual import CHANNELS, ResidualEmbedder, ResidualHead, head_bytes

GUIDES = ("none", "clamp", "hull")  # what decides where pixel Gaussians may be: nothing, or the inputs' visual hull
GROWTH = 1.5  # log units by which a residual model's Gaussian may be larger than its pixel


@dataclass(frozen=True)
class GSLRMConfig:
    """Everything that fixes a model's tensors and what its raw outputs mean."""

    width: int = 1024
    head_width: int = 64
    layers: int = 24
    patch: int = 8
    free_gaussians: int = 2
    scale_bias: float = -2.3  # log world units, added to the raw scale: where training starts
    scale_max: float = -1.20  # log world units: no Gaussian is larger
    opacity_bias: float = -2.0  # added to the raw opacity logit
    ray_range: float = 1.8  # pixel Gaussians lie within this of the point of their ray nearest to the origin
    clip_xyz: bool = False  # clamp pixel Gaussians to the cube +-1; no released weights were trained so
    skip_blank: bool = False  # leave out patches that are white all over: 80 to 95 % of a view of a mouse
    guide: str = "none"  # or "clamp", "hull": what the visual hull of the input views decides, see GUIDES
    residual: bool = False  # with guide "hull": raw outputs are changes of the hull's own Gaussians

    def __post_init__(self) -> None:
        if self.width % self.head_width:
            raise UserError(f"model width {self.width} is not a multiple of the head width {self.head_width}")
        if self.guide not in GUIDES:
            raise UserError(f"model guide {self.guide!r}: valid are {', '.join(GUIDES)}")
        if self.residual and self.guide != "hull":
            raise UserError(f"a residual model needs guide hull, not {self.guide}")

    def __str__(self) -> str:
        return f"GS-LRM of width {self.width}, {self.layers} layers, patch {self.patch}"


# Attention is most of the work at 512 px and its output a small part of the memory: it is worth keeping.
KEPT = [
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
]


def patchify(x: Tensor, patch: int) -> Tensor:
    """Cut images into patches.

    Args:
        x: [B, V, H, W, C] values per pixel.
        patch: side p of a patch in pixels; divides H and W.

    Returns:
        [B, T, p*p, C] patches in the order view, row, column; the pixels of a patch in the order row, column.
    """
    b, v, h, w, c = x.shape
    x = x.view(b, v, h // patch, patch, w // patch, patch, c).transpose(3, 4)
    return x.reshape(b, -1, patch * patch, c)


class Inward(torch.autograd.Function):
    """Clamp; what lies outside has a gradient where that would bring it inside, and none where it would not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """x, low, high: equal shapes."""
        ctx.save_for_backward(x < low, x > high)
        return torch.minimum(torch.maximum(x, low), high)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """A step goes against the gradient."""
        below, above = ctx.saved_tensors
        return grad.masked_fill((below & (grad > 0)) | (above & (grad < 0)), 0), None, None


def select_occupied(occupied: Tensor, *patches: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Keep each sample's patches that have a foreground pixel, in their order.

    Args:
        occupied: [B, T] bool.
        patches: each [B, T, ...], values of the patches.

    Returns:
        present: [B, L] bool, L the largest number of occupied patches in a sample; False marks padding at the end.
        patches: each [B, L, ...].
    """
    length = int(occupied.sum(1).max())
    order = occupied.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :length]
    rows = torch.arange(len(order), device=order.device)[:, None]
    return occupied[rows, order], [patch[rows, order] for patch in patches]


class Attention(nn.Module):
    """Full multi-head self-attention without biases."""

    def __init__(self, config: GSLRMConfig):
        super().__init__()
        self.heads = config.width // config.head_width
        self.to_qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.fc = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor, attend: Tensor | None) -> Tensor:
        """[B, L, d] -> [B, L, d]; attend [B, 1, 1, L] is False for padding, None without any."""
        b, length, d = x.shape
        q, k, v = self.to_qkv(x).view(b, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = functional.scaled_dot_product_attention(q, k, v, attn_mask=attend)
        return self.fc(x.transpose(1, 2).reshape(b, length, d))


class MLP(nn.Module):
    """Two linear layers around an exact GELU, four times as wide inside."""

    def __init__(self, config: GSLRMConfig):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(config.width, 4 * config.width, bias=False),
            nn.GELU(),
            nn.Linear(4 * config.width, config.width, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, d] -> [B, L, d]."""
        return self.mlp(x)


class Block(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, config: GSLRMConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, bias=False)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.width, bias=False)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, attend: Tensor | None) -> Tensor:
        """[B, L, d] -> [B, L, d]; attend as in Attention."""
        x = x + self.attn(self.norm1(x), attend)
        return x + self.mlp(self.norm2(x))


class FreeGaussianHead(nn.Module):
    """One Gaussian per free token, anywhere in the world."""

    def __init__(self, config: GSLRMConfig):
        super().__init__()
        self.layernorm = nn.LayerNorm(config.width, bias=False)
        self.linear = nn.Linear(config.width, sum(CHANNELS), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, free, d] -> [B, free, 14]."""
        return self.linear(self.layernorm(x))


def run_layer(layer: nn.Module, x: Tensor, attend: Tensor | None, recompute: Recompute) -> Tensor:
    """Run a layer.

    Args:
        layer: a `Block`.
        x: [B, L, d] tokens.
        attend: [B, 1, 1, L] bool, False for padding; None without any.
        recompute: activations that the backward pass computes again: "none"; "selective", all but the attention's
            output, which is costly to compute and small to keep; or "all".

    Returns:
        [B, L, d] tokens.
    """
    if recompute == "none" or not torch.is_grad_enabled():
        return layer(x, attend)
    options: dict[str, Any] = {}
    if recompute == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, KEPT)
    return checkpoint(layer, x, attend, use_reentrant=False, preserve_rng_state=False, **options)


class GSLRM(Network):
    """Images and cameras in, one Gaussian per pixel out, and `free_gaussians` more that no pixel owns.

    Args:
        config: fixes all tensors; the weights are drawn from torch's random numbers.
    """

    name = "gslrm"
    Config = GSLRMConfig
    # A damaged file must not ask for a model that takes minutes to lay out.
    largest: ClassVar = {"width": 65536, "head_width": 65536, "layers": 512, "patch": 256, "free_gaussians": 65536}
    parts: ClassVar = {
        "embedder": ("gaussian_position_embeddings", "patch_embedder", "guide_embedder", "input_layer_norm"),
        "layers": ("transformer_layers",),
        "heads": ("gaussian_upsampler", "pixel_gaussian_decoder"),
    }

    def __init__(self, config: GSLRMConfig):
        super().__init__()
        self.config = config
        self._run_layer = run_layer
        pixels = config.patch**2
        self.gaussian_position_embeddings = nn.Parameter(torch.empty(config.free_gaussians, config.width))
        # Index 0 is where the reference cuts patches; it has no weights, but gives the linear layer its name.
        self.patch_embedder = nn.Sequential(nn.Flatten(-2), nn.Linear(9 * pixels, config.width, bias=False))
        self.input_layer_norm = nn.LayerNorm(config.width, bias=False)
        self.transformer_layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.gaussian_upsampler = FreeGaussianHead(config)
        self.pixel_gaussian_decoder: nn.Module = (
            ResidualHead(config.width, config.patch)
            if config.residual
            else nn.Sequential(
                nn.LayerNorm(config.width, bias=False), nn.Linear(config.width, sum(CHANNELS) * pixels, bias=False)
            )
        )
        if config.residual:
            self.guide_embedder: nn.Module = ResidualEmbedder(config.width, config.patch)
        elif config.guide == "hull":
            self.guide_embedder = nn.Linear(3 * pixels, config.width, bias=False)
        nn.init.trunc_normal_(self.gaussian_position_embeddings, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
        for module in self.modules():
            if isinstance(module, ResidualEmbedder | ResidualHead):
                module.start()

    def compile_layers(self) -> None:
        """Compile the layers at their first use; they share one compiled function."""
        self._run_layer = torch.compile(run_layer)

    def tokens(self, views: int, size: int) -> int:
        """The free tokens and one per patch, blank ones among them."""
        return self.config.free_gaussians + views * (size // self.config.patch) ** 2

    def footprint(self, samples: int, views: int, size: int, mixed: bool, recompute: Recompute) -> Footprint:
        """As `Network.footprint`; docs/training.md derives the numbers. Blank patches are counted."""
        config = self.config
        pixels = samples * views * size**2
        length = samples * self.tokens(views, size)
        gaussians = samples * config.free_gaussians + pixels
        value = 2 if mixed else 4  # bytes of what autocast computes in bf16; normalised and added up is in fp32
        stream, narrow = 4 * length * config.width, value * length * config.width
        rank = next((len(down) for name, down in self.named_parameters() if name.endswith("lora_down")), 0)
        trained = [layer for layer in self.transformer_layers if any(p.requires_grad for p in layer.parameters())]
        first = list(self.transformer_layers).index(trained[0]) if trained else config.layers
        layers = config.layers - first  # the backward pass ends at the first one that is trained

        # Kept of a layer. Attention: normalised input, q, k, v, output. MLP: normalised input, both sides of GELU.
        sums = 4 * length * config.width // config.head_width  # logarithm of attention's denominators
        layer = 2 * stream + 14 * narrow + sums + 16 * length + 4 * value * length * rank
        copies = 2 * sum(p.numel() for p in self.transformer_layers[-1].parameters() if p.ndim == 2) if mixed else 0
        kept = {"none": layer, "selective": stream + narrow + sums, "all": stream}[recompute]
        # Gradients: of the stream, of the MLP's output and hidden values, and of its matrix. A frozen matrix has none, and
        # its low-rank update passes on a gradient of the hidden values, too.
        gradients = stream + (8 * narrow if rank else (4 + mixed) * narrow + 4 * value * config.width**2)
        copied = 1 if not rank else 2  # the outputs of a matrix and of its update, before they are added up
        whole = recompute == "none" and layers > 0
        embedder = self.patch_embedder[1].weight.requires_grad
        embedded = stream + (12 if config.guide == "hull" else 9) * value * pixels if embedder else 0
        # Images, pixels, patches and rays are variables of `forward`; in fp32 the embedder keeps the patches themselves.
        local = (72 if embedder and not mixed else 108) * pixels
        if config.guide != "none":  # nine values more of a pixel, and their patches
            local += 72 * pixels
        head = 0
        if config.residual:
            local += 8 * pixels
            head = head_bytes(pixels)
        return Footprint(
            gaussians=gaussians // samples,
            copies=layers * copies if whole else 0,
            kept=embedded + layers * kept,
            heads=2 * stream + 124 * gaussians + head,
            forward=local + 24 * pixels + (stream + copied * narrow if whole else 3 * stream + 8 * copied * narrow),
            forward_heads=local + 56 * gaussians,
            backward_layer=gradients + (0 if whole else layer - kept + copies) if layers else 0,
            first_layer=embedded + (kept + (copies if whole else 0) if layers else 0),
            backward_end=embedded + (3 * stream + 9 * narrow + sums + copies // 3 if layers else 0),
            start=None if config.residual else (math.exp(config.scale_bias), 1 / (1 + math.exp(-config.opacity_bias))),
        )

    def forward(
        self, image: Tensor, c2w: Tensor, fxfycxcy: Tensor, alpha: Tensor | None = None, unknown: Tensor | None = None
    ) -> Gaussians:
        """Reconstruct B samples.

        Args:
            image: [B, V, 3, H, W] input views in [0, 1], over white; the patch size divides H and W.
            c2w: [B, V, 4, 4] camera to world, OpenCV axes, world units.
            fxfycxcy: [B, V, 4] intrinsics in pixels; the first pixel's centre is (0.5, 0.5).
            alpha: [B, V, H, W] silhouettes of the input views in [0, 1]; not used with `guide` none.
            unknown: [B, V, H, W] bool, pixels of which nothing is known: they carve nothing. None without any.

        Returns:
            N = free + T*p*p raw Gaussians per sample, float32 whatever the autocast, in the order free, view, patch
            row, patch column, row, column. With `skip_blank` only patches that hold more than white, or with a `guide`
            more than background, become tokens and Gaussians, in that order; samples with fewer such patches end in
            Gaussians of opacity 0. With a `guide`, the free ones and those of the background have opacity 0, too.

        Raises:
            UserError: the patch size does not divide H or W.
        """
        config = self.config
        b, _, _, height, width = image.shape
        if height % config.patch or width % config.patch:
            raise UserError(f"images of {width} x {height} px cannot be cut into patches of {config.patch} px")
        # A pixel is its colour and its ray as a direction and a point, the one nearest to the world's origin: a camera
        # may move along its rays without a change of the input.
        origins, directions = pixel_rays(c2w, fxfycxcy, height, width)
        nearest = origins - (origins * directions).sum(-1, keepdim=True) * directions
        pixels = torch.cat([image.movedim(2, -1) * 2 - 1, directions, nearest], dim=-1)
        fixed = [nearest, directions]  # of a pixel's Gaussian
        if config.guide != "none":
            assert alpha is not None, "a guided model needs the inputs' silhouettes"
            guide = guides(image, alpha, c2w, fxfycxcy, unknown, nearest, directions)
            fixed += guide
            if config.residual:
                shown, rows = sweep(image, alpha, c2w, fxfycxcy, nearest, directions, *guide[:3])
                fixed.append(rows)

        # Patches become tokens. Blank ones are left out, which pads samples that have more of them than others.
        patches, known = patchify(pixels, config.patch), patchify(torch.cat(fixed, dim=-1), config.patch)
        attend = present = None
        if config.skip_blank:
            foreground = patches[..., :3] < 1 if config.guide == "none" else known[..., VALID] > 0
            present, (patches, known) = select_occupied(foreground.flatten(2).any(-1), patches, known)
            if not present.all():
                attend = functional.pad(present, (config.free_gaussians, 0), value=True)[:, None, None]

        # All tokens, the free ones first, attend to all.
        tokens = self.patch_embedder(patches)
        if config.residual:
            place = known[..., PLACE].long().flatten(1)
            tokens = tokens + self.guide_embedder(known[..., 6:9], shown, place)
        elif config.guide == "hull":
            tokens = tokens + self.guide_embedder(known[..., 6:9].flatten(2))
        free = self.gaussian_position_embeddings.to(tokens.dtype).expand(b, -1, -1)
        x = self.input_layer_norm(torch.cat([free, tokens], dim=1))
        for layer in self.transformer_layers:
            x = self._run_layer(layer, x, attend, self.recompute)
        with full_precision(x.device):  # in bf16 or TF32 a depth is rounded by 1e-3 world units
            free, tokens = x.float().split([config.free_gaussians, x.shape[1] - config.free_gaussians], dim=1)
            free_raw = self.gaussian_upsampler(free)
            if config.residual:
                pixel_raw = self.pixel_gaussian_decoder(tokens, shown, place)
            else:
                pixel_raw = self.pixel_gaussian_decoder(tokens).view(b, -1, sum(CHANNELS))
        absent = None if present is None else ~present.repeat_interleave(config.patch**2, dim=1)
        return self._gaussians(free_raw, pixel_raw, known.flatten(1, 2), absent)

    def _gaussians(self, free_raw: Tensor, pixel_raw: Tensor, known: Tensor, absent: Tensor | None) -> Gaussians:
        """Gaussians of raw outputs.

        Args:
            free_raw: [B, free, 14].
            pixel_raw: [B, P, 14].
            known: [B, P, 6 or more] what is fixed of the pixels' Gaussians: their rays, and with a guide `hull.guides`.
            absent: [B, P] bool, padding; None without any.
        """
        config = self.config
        guided = config.guide != "none"
        # A pixel's Gaussian may only move along its ray, about the point nearest to the world's origin.
        raw = pixel_raw[..., :3].mean(-1, keepdim=True)
        if guided:
            low, high = known[..., FRONT] - MARGIN, known[..., BACK] + MARGIN
        if config.residual:
            depth = low + (raw + (known[..., START] / (high - low)).logit()).sigmoid() * (high - low)
        else:
            depth = (2 * raw.sigmoid() - 1) * config.ray_range
            depth = Inward.apply(depth, low, high) if guided else depth
        xyz = known[..., :3] + depth * known[..., 3:6]
        if config.clip_xyz:
            xyz = xyz.clamp(-1, 1)
        _, dc, scale, rotation, opacity = pixel_raw.split(CHANNELS, dim=-1)
        if config.residual:
            dc, scale = dc + known[..., COLOUR], scale.clamp(max=GROWTH) + known[..., SCALE]
            rotation, opacity = rotation + rotation.new_tensor([1.0, 0, 0, 0]), opacity + known[..., LOGIT]
        else:
            scale, opacity = scale + config.scale_bias, opacity + config.opacity_bias
        if guided:
            outside = known[..., VALID][..., 0] == 0
            absent = outside if absent is None else absent | outside
        if absent is not None:
            # A logit of -100 is an opacity of 0 in every precision, and its gradient is 0 too.
            opacity = opacity.masked_fill(absent[..., None], -100)
        free_xyz, free_dc, free_scale, free_rotation, free_opacity = free_raw.split(CHANNELS, dim=-1)
        free_opacity = free_opacity.new_full(free_opacity.shape, -100) if guided else free_opacity + config.opacity_bias
        return Gaussians(
            xyz=torch.cat([free_xyz, xyz], dim=1),
            features=torch.cat([free_dc, dc], dim=1).unsqueeze(-2),
            scaling=torch.cat([free_scale + config.scale_bias, scale], dim=1).clamp(max=config.scale_max),
            rotation=torch.cat([free_rotation, rotation], dim=1),
            opacity=torch.cat([free_opacity, opacity], dim=1),
        )
