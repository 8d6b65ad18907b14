"""The checks before the first step of a training run: data, weights and settings in one table."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import open_h5
from mousefacelift.config.sample import SPLITS
from mousefacelift.config.train import Train
from mousefacelift.geometry.subject_size import BORNE, FACELIFT_SHARE, LARGER, silhouette_size, world_diameter
from mousefacelift.geometry.views import FACELIFT_FOCAL, FACELIFT_IMAGE_SIZE, MEAN_CAMERA_DISTANCE
from mousefacelift.models.adapt import counts
from mousefacelift.models.network import Network
from mousefacelift.shards.manifest import Manifest
from mousefacelift.training.guards import WHITE_FLOOR
from mousefacelift.training.loaders import ShardData
from mousefacelift.training.memory import CONTEXT, GIB, MARGIN, fits, forecast, reliefs

PROBED = 32  # samples that are looked at
MIN_COVER = 0.01  # of a view's pixels
BEYOND_DOUBT = 1.5  # times the free memory: such a run cannot start, whatever the forecast's error
STYLES = {"ok": "green", "note": "yellow", "stop": "bold red"}


@dataclass(frozen=True)
class Check:
    """One row: what was found, what is wanted, and whether the run can start; with advice, unless the verdict is ok."""

    name: str
    found: str
    wanted: str
    verdict: Literal["ok", "note", "stop"]
    advice: str = ""


def preflight(shards: ShardData, model: Network, device: str) -> list[Check]:
    """All checks, in the order of the table.

    Args:
        shards: of the run. PROBED samples stand for the training split: evenly spread in HDF5, the first ones in tars.
        model: as the run starts with it, adapted.
        device: "cuda" or "cpu".
    """
    settings, data = shards.settings, shards.manifest
    samples = shards.stored_training(PROBED)
    rgba = torch.stack([torch.as_tensor(sample["rgba"]) for sample in samples])
    c2w, fxfycxcy = (torch.stack([sample[name] for sample in samples]) for name in ("c2w", "fxfycxcy"))
    return [
        _views(data, settings),
        *_cameras(c2w.double().numpy(), fxfycxcy.double().numpy(), settings),
        _size(data, settings),
        *_images(rgba),
        _subject(rgba, c2w, fxfycxcy, settings),
        _splits(shards),
        _weights(settings),
        _trained(model, settings),
        _loss(settings),
        _machine(settings, device),
        *_memory(settings, data.views, device),
    ]


def report(checks: list[Check], console: Console | None = None) -> None:
    """Print the table of checks.

    Raises:
        UserError: if a check says stop.
    """
    table = Table("", "", "found", "wanted", "advice", title="before the first step", title_justify="left")
    for check in checks:
        table.add_row(check.name, f"[{STYLES[check.verdict]}]{check.verdict}", check.found, check.wanted, check.advice)
    # In a log file a table must not be cut.
    console = console or Console(stderr=True)
    console.width = max(console.width, 150)
    console.print(table)
    stopped = [check for check in checks if check.verdict == "stop"]
    if stopped:
        raise UserError(
            "training is not started: "
            + "; ".join(f"{c.name}: {c.found} (wanted: {c.wanted}). {c.advice}" for c in stopped)
        )


def _views(data: Manifest, settings: Train) -> Check:
    given = settings.num_input_views - (settings.view_dropout > 0)
    found = (
        f"{data.views} per sample, {settings.num_input_views} inputs, {data.views - settings.num_input_views} held out"
    )
    if given < 4:
        return Check(
            "views", found, "5 inputs of 6", "note", "with 1 input of 6, PSNR stayed at 13 to 15 dB (i_know is set)"
        )
    return Check("views", found, "at least 4 inputs", "ok")


def _cameras(c2w: Any, fxfycxcy: Any, settings: Train) -> Iterable[Check]:
    """c2w [N, V, 4, 4], fxfycxcy [N, V, 4] in px at train.image_size."""
    center, R = c2w[..., :3, 3], c2w[..., :3, :3]
    distance = np.linalg.norm(center, axis=-1)
    off_axis = np.degrees(np.arccos(np.clip((-center / distance[..., None] * R[..., 2]).sum(-1), -1, 1)))
    tilt = np.degrees(np.arcsin(np.clip(np.abs(R[..., 2, 0]), 0, 1)))
    level = tilt.max() < 1 and (R[..., 2, 1] < 0).all()
    yield Check(
        "world", f"+Z up, views level within {tilt.max():.2f}°, look {off_axis.max():.2f}° past the origin at most",
        "+Z up, level, the mouse at the origin", "ok" if level else "stop", "" if level else "turn the world to Z-up (`normalize`)",
    )  # fmt: skip
    mean = distance.mean()
    verdict: Literal["ok", "note", "stop"] = "ok"
    advice = ""
    if not 0.5 < mean / MEAN_CAMERA_DISTANCE < 2:
        verdict, advice = "stop", "scale the world (`normalize`): pixel Gaussians lie within 1.8 units of the origin"
    elif abs(mean / MEAN_CAMERA_DISTANCE - 1) > 0.05:
        verdict, advice = "note", "weights were trained at 2.7"
    yield Check(
        "camera distance", f"{mean:.3f} ± {distance.std():.3f}", f"mean {MEAN_CAMERA_DISTANCE}", verdict, advice
    )
    focal = fxfycxcy[..., :2] * FACELIFT_IMAGE_SIZE / settings.image_size
    near = abs(focal.mean() / FACELIFT_FOCAL - 1) < 0.05
    foreign = settings.init is not None and not near
    yield Check(
        "focal length", f"{focal.mean():.0f} ± {focal.std():.0f} px at {FACELIFT_IMAGE_SIZE} px",
        f"{FACELIFT_FOCAL:.0f} of FaceLift's weights" if settings.init else "any, from nothing",
        "note" if foreign else "ok",
        "the weights have to learn it; normalize.zoom: 1.0 keeps FaceLift's, with distance: canonical at any size of the mouse" if foreign else "",
    )  # fmt: skip


def _size(data: Manifest, settings: Train) -> Check:
    found = f"{settings.image_size} px of {data.image_size}"
    if settings.init and settings.preset == "base" and settings.image_size != FACELIFT_IMAGE_SIZE:
        advice = "FaceLift's weights were trained at 512 px; smaller views cost less"
        return Check("image size", found, f"{FACELIFT_IMAGE_SIZE} px", "note", advice)
    return Check("image size", found, "divides the shards'", "ok")


def _images(rgba: Tensor) -> Iterable[Check]:
    """Of uint8 [N, V, S, S, 4] over white."""
    inside = rgba[..., 3] > 127
    cover = inside.float().mean((-2, -1))  # [N, V]
    found = (
        f"the mouse covers {100 * cover.mean():.1f} % of a view ({100 * cover.min():.1f} to {100 * cover.max():.1f})"
    )
    if (cover.amax(1) == 0).any() or (cover == 1).any():
        what = "some sample has no silhouette" if (cover.amax(1) == 0).any() else "some view has no background"
        yield Check(
            "silhouettes", found, "in every sample", "stop", f"{what}: look at the shards with `mousefacelift show`"
        )
        return
    yield Check("silhouettes", found, "in every sample", "ok")
    darkness = 1 - rgba[..., :3][inside].float().mean().item() / 255
    white = darkness < WHITE_FLOOR
    yield Check(
        "colours", f"{100 * darkness:.1f} % darker than white inside the silhouettes", f"more than {100 * WHITE_FLOOR:.0f} %",
        "stop" if white else "ok",
        "the images are white where the mouse should be: there is nothing to learn; look at them with `mousefacelift show`" if white else "",
    )  # fmt: skip


def _subject(rgba: Tensor, c2w: Tensor, fxfycxcy: Tensor, settings: Train) -> Check:
    """How large the mouse is, of uint8 [N, V, S, S, 4]; c2w [N, V, 4, 4] and fxfycxcy [N, V, 4] in px of these images."""
    sizes = np.stack([silhouette_size(sample) for sample in rgba[..., 3].numpy()])
    share, width = sizes[..., 0], sizes[..., 1]
    distance, focal = c2w[..., :3, 3].norm(dim=-1).double().numpy(), fxfycxcy[..., :2].mean(-1).double().numpy()
    extent = world_diameter(share, rgba.shape[-2], distance, focal).mean()
    found = f"{100 * share.mean():.1f} % of the image, {100 * width.mean():.0f} % of its width, {extent:.2f} world units across"
    if settings.init is None:
        small = bool(share.mean() < MIN_COVER)
        advice = f"few pixels teach anything: set {LARGER}" if small else ""
        return Check("subject size", found, f"more than {100 * MIN_COVER:.0f} %", "note" if small else "ok", advice)
    known = world_diameter(FACELIFT_SHARE, FACELIFT_IMAGE_SIZE, MEAN_CAMERA_DISTANCE, FACELIFT_FOCAL)
    wanted = f"{100 * FACELIFT_SHARE:.1f} %, {known:.2f} across of FaceLift's weights"
    small = bool(share.mean() < FACELIFT_SHARE / BORNE)
    advice = f"the weights know larger subjects: set {LARGER}" if small else ""
    return Check("subject size", found, wanted, "note" if small else "ok", advice)


def _splits(shards: ShardData) -> Check:
    data = shards.manifest
    opened = {"train": shards.train, "val": shards.val}
    keys = {split: set(samples.keys) if (samples := opened.get(split)) else _keys(data, split) for split in SPLITS}
    sizes = ", ".join(f"{split} {data.samples(split)}" for split in SPLITS)
    shared = [
        f"{sorted(one & other)[0]} is in {first} and {second}"
        for (first, one), (second, other) in itertools.combinations(keys.items(), 2)
        if one is not None and other is not None and one & other
    ]
    if shared:
        return Check("splits", shared[0], "disjoint", "stop", "the samples were divided wrongly; make the shards again")
    if any(found is None for found in keys.values()):
        return Check(
            "splits", sizes, "disjoint", "note", "not read, as not all HDF5 files are here; `mousefacelift verify` does"
        )
    return Check("splits", f"{sizes}; none in two", "disjoint", "ok")


def _keys(data: Manifest, split: str) -> set[str] | None:
    """The names of a split's samples; None if some file of theirs is not here."""
    keys: set[str] = set()
    for shard in data.split(split):
        path = Path(data.folder / shard.h5)
        if data.url or not path.exists():
            return None
        with open_h5(path, "mousefacelift shard") as file:
            keys.update(file["key"].asstr()[()].tolist())
    return keys


def _weights(settings: Train) -> Check:
    if settings.init is None:
        small = settings.preset == "tiny"
        advice = "" if small else "thousands of moments and days of GPU time are needed"
        advice += "; FaceLift's weights are a start" if settings.preset == "base" else ""
        return Check("weights", "none: trained from nothing", "", "ok" if small else "note", advice)
    return Check("weights", f"{settings.init}, every tensor fits preset {settings.preset}", "", "ok")


def _trained(model: Network, settings: Train) -> Check:
    parts = counts(model)
    changed, total = (sum(part[i] for part in parts.values()) for i in (0, 1))
    detail = ", ".join(f"{name} {trained:,}" for name, (trained, _) in parts.items() if trained)
    found = f"adapt: {settings.adapt}, {changed:,} of {total:,} parameters ({100 * changed / total:.1f} %): {detail}"
    return Check("trained", found, "", "ok")


def _loss(settings: Train) -> Check:
    weights = {name: weight for name, weight in settings.loss.terms.items() if weight}
    found = ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
    if settings.loss.lpips:
        advice = "on mice LPIPS made gradients explode (norms of 145 to 531) and the mouse vanish: set it to 0"
        return Check("loss", found, "no lpips", "note", advice)
    if not (settings.loss.masked_l2 or settings.loss.alpha):
        advice = "the mouse is a tenth of the pixels: without masked_l2 or alpha, white is a good answer"
        return Check("loss", found, "a masked term", "note", advice)
    return Check("loss", found, "", "ok")


def _machine(settings: Train, device: str) -> Check:
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    several = f" x {settings.processes} ({settings.strategy})" if settings.processes > 1 else ""
    parts = settings.processes * settings.accumulate
    share = f"{settings.batch_size} samples per step" + (
        f", {settings.batch_size // parts} at a time" if parts > 1 else ""
    )
    found = f"{name}{several}, {settings.precision}, {share}"
    if device == "cpu" and settings.preset != "tiny":
        return Check("machine", found, "a GPU", "note", f"preset {settings.preset} on a CPU is for tests alone")
    return Check("machine", found, "", "ok")


def _memory(settings: Train, views: int, device: str) -> Iterable[Check]:
    """The forecast of the GPU's memory, or on the CPU what card the run would take."""
    if device == "cpu" and settings.preset == "tiny":
        return
    if device == "cpu":
        settings = settings.model_copy(update={"precision": "bf16-mixed"})
    expected = forecast(settings, views)
    text = f"about {expected.bytes / GIB:.1f} GiB{' and LPIPS' if settings.loss.lpips else ''}: {expected}"
    if device == "cpu":
        yield Check("GPU memory", f"a GPU would need, in {settings.precision}, {text}", "", "ok")
        return
    free, total = torch.cuda.mem_get_info()
    wanted = f"{(free + CONTEXT) / GIB:.1f} of {total / GIB:.1f} GiB free"
    if fits(expected, free):
        yield Check("GPU memory", text, wanted, "ok")
        return
    goal = int((1 - MARGIN) * free) + CONTEXT
    changes, needed = reliefs(settings, views, goal)
    advice = f"{', '.join(map(str, changes))}; together about {needed / GIB:.1f} GiB" if changes else "no setting helps"
    if needed > goal:
        advice += ", still too much: use a larger GPU"
    # How many tiles the Gaussians touch is not known before they are drawn: the rest alone must be too much by far.
    sure = max(sum(parts.values()) - parts.get("drawing", 0) for parts in expected.moments.values())
    yield Check("GPU memory", text, wanted, "stop" if sure > BEYOND_DOUBT * (free + CONTEXT) else "note", advice)
