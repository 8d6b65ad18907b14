"""Which cameras do the weights want? Four camera conditions on the same images and the same weights.

GS-LRM knows a camera by its rays in the world, so that the same images mean something else to it in a world with another
origin, scale or up axis. `raw`, `z_up` and `y_up` describe one and the same scene; `facelift` contradicts the images.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import atomic, save_figure, write_json
from mousefacelift.base.progress import track
from mousefacelift.evaluation.metrics import LABELS, METRICS, paired_difference
from mousefacelift.geometry.camera import Array
from mousefacelift.geometry.selection import evenly_spaced
from mousefacelift.geometry.views import (
    FACELIFT_ELEVATION,
    FACELIFT_FOCAL,
    FACELIFT_IMAGE_SIZE,
    MEAN_CAMERA_DISTANCE,
    azimuth_elevation,
    inverse_rigid,
    orbit,
    rigid,
)
from mousefacelift.stages.evaluate import (
    Trained,
    mean_score,
    open_trained,
    predict_views,
    provenance,
    score,
    write_rows,
)
from mousefacelift.training.data import Samples, SplitName

CONDITIONS = {
    "raw": "the calibration's own world, scaled to a mean camera distance of 2.7",
    "z_up": "the shards' cameras: Z-up, mouse at the origin",
    "y_up": "the same, the world turned to Y-up",
    "facelift": "FaceLift's circle, imposed on the images",
}
Y_UP_FROM_Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # -90 degrees about X
PICTURED = 2

Scores = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Drawn:
    """One sample's target [V, 3, S, S] with its silhouette [V, S, S], and what each condition makes of it.

    rgb: per condition [V, 3, S, S]; psnr: per condition [V].
    """

    key: str
    target: Tensor
    mask: Tensor
    rgb: dict[str, Tensor]
    psnr: dict[str, Tensor]


def poc(manifest: Path | str, train_dir: Path, out_dir: Path, split: SplitName, threads: int) -> None:
    """Predict every view of a split from the others under each camera condition, and score the predictions.

    A held-out view is drawn with its condition's own camera; the target is always the same image. Writes metrics.json
    (means, differences to z_up, the sentence), metrics.tsv (a row per sample, view and condition), table.md and grid.png
    to `out_dir`. Raises UserError before any prediction for missing or damaged inputs and for an empty split.
    """
    trained = open_trained(manifest, train_dir, split, threads)
    samples = trained.samples
    world_from_mm = _world_from_mm(samples)

    pictured, pictures = evenly_spaced(len(samples), PICTURED).tolist(), []
    scores: dict[str, list[dict[str, Tensor]]] = {name: [] for name in (*CONDITIONS, "white")}
    advance = track(len(samples), f"comparing cameras on {split}")
    for index in range(len(samples)):
        sample = samples[index]
        target, mask = sample["image"], sample["alpha"]
        scores["white"].append(score(torch.ones_like(target), torch.zeros_like(mask), target, mask))
        drawn = {}
        for name, posed in camera_conditions(sample, world_from_mm[index]).items():
            drawn[name], alpha = predict_views(trained, posed)
            scores[name].append(score(drawn[name], alpha, target, mask))
        if index in pictured:
            values = {name: scores[name][-1]["psnr"] for name in CONDITIONS}
            pictures.append(Drawn(samples.keys[index], target, mask, drawn, values))
        advance()

    stacked = {name: {m: torch.stack([row[m] for row in rows]) for m in METRICS} for name, rows in scores.items()}
    white = stacked.pop("white")
    write_rows(out_dir / "metrics.tsv", samples, "condition", stacked)
    _write_grid(out_dir / "grid.png", pictures)
    sentence = f"{verdict(stacked, white)} {checkpoint_note(trained)}"
    _write_table(out_dir / "table.md", stacked, white, sentence, trained)
    _write_metrics(out_dir / "metrics.json", stacked, white, sentence, trained)


def camera_conditions(sample: dict[str, Any], world_from_mm: Array) -> dict[str, dict[str, Any]]:
    """One sample as each condition shows it to the model: the same images, other c2w, w2c and fxfycxcy.

    world_from_mm [4, 4]: similarity from the calibration's millimetres to the sample's Z-up world.
    """
    c2w = sample["c2w"].double().numpy()
    facelift, intrinsics = facelift_cameras(c2w, sample["image"].shape[-1])
    return {
        "raw": _posed(sample, raw_cameras(c2w, world_from_mm)),
        "z_up": sample,
        "y_up": _posed(sample, Y_UP_FROM_Z_UP @ c2w),
        "facelift": _posed(sample, facelift) | {"fxfycxcy": torch.from_numpy(intrinsics).float()},
    }


def raw_cameras(c2w: Array, world_from_mm: Array) -> Array:
    """Cameras carried back into the calibration's world, which is scaled about its origin to a mean distance of 2.7.

    c2w [V, 4, 4] in the sample's world, world_from_mm [4, 4] a similarity -> c2w [V, 4, 4]. A scale about the origin
    changes no pixel, so that the images agree with these cameras as they do with the sample's.
    """
    scale = np.cbrt(np.linalg.det(world_from_mm[:3, :3]))
    R_world = world_from_mm[:3, :3] / scale
    center_mm = (c2w[:, :3, 3] - world_from_mm[:3, 3]) @ R_world / scale
    unit = MEAN_CAMERA_DISTANCE / np.linalg.norm(center_mm, axis=-1).mean()
    return rigid(R_world.T @ c2w[:, :3, :3], unit * center_mm)


def facelift_cameras(c2w: Array, size: int) -> tuple[Array, Array]:
    """FaceLift's cameras for V views in their order: c2w [V, 4, 4] and fxfycxcy [V, 4] in px of a size x size image.

    Equal steps of azimuth, counter-clockwise from the first view's (of c2w [V, 4, 4], Z-up); elevation 20 degrees,
    distance 2.7, level, looking at the origin; the focal length of the pretrained weights.
    """
    views = len(c2w)
    azimuth, _ = azimuth_elevation(c2w[0, :3, 3])
    c2w = orbit(azimuth + np.arange(views) * 360 / views, FACELIFT_ELEVATION)
    focal = FACELIFT_FOCAL * size / FACELIFT_IMAGE_SIZE
    intrinsics = np.tile([focal, focal, size / 2, size / 2], (views, 1))
    return c2w, intrinsics


def verdict(values: Scores, white: dict[str, Tensor]) -> str:
    """What the numbers say: which condition has the best PSNR, by how much, and whether that exceeds the spread.

    values: per condition and metric [N, V]; white: per metric [N, V], of a white image. A difference is clear if its
    mean over the samples is more than twice its paired standard error.
    """
    means = {metric: {name: mean_score(table[metric]) for name, table in values.items()} for metric in METRICS}
    psnr, samples = means["psnr"], len(white["psnr"])
    ranked = sorted(psnr, key=lambda name: psnr[name], reverse=True)
    best, second = ranked[:2]
    gaps = {name: paired_difference(values[best]["psnr"], values[name]["psnr"]) for name in ranked[1:]}
    level = [name for name, (gap, error) in gaps.items() if gap <= 2 * error]
    if level:
        names = _listed([f"`{name}` ({psnr[name]:.2f} dB)" for name in (best, *level)])
        reason = (
            f"the differences are within two standard errors (paired, {samples} samples)"
            if samples > 1
            else "one sample has no spread to judge a difference by"
        )
        below = [name for name in ranked[1:] if name not in level]
        text = f"No clear difference in PSNR between {names}: {reason}"
        text += f"; {_listed([f'`{name}`' for name in below])} clearly below." if below else "."
    else:
        gap, error = gaps[second]
        text = (
            f"`{best}` has the best PSNR, {psnr[best]:.2f} dB, {gap:.2f} dB above the next, `{second}`: a clear difference, "
            f"its standard error is {error:.2f} dB (paired, {samples} samples)."
        )
        winners = {metric: max(values, key=lambda name: means[metric][name]) for metric in METRICS[1:]}
        others = [f"by {_lower(metric)} it is `{name}`" for metric, name in winners.items() if name != best]
        text += f" But {_listed(others)}." if others else " The other metrics agree."
    worse = [f"`{name}`" for name in ranked if psnr[name] <= mean_score(white["psnr"])]
    if worse:
        text += f" No better than a white image ({mean_score(white['psnr']):.2f} dB): {_listed(worse)}."
    return text


def checkpoint_note(trained: Trained) -> str:
    """On which cameras the weights were trained: they, and not the conditions alone, decide who wins."""
    data, settings = trained.record.get("data"), trained.train
    purpose = "the comparison says which cameras these weights want, not which are best to train with."
    if not isinstance(data, dict):
        return f"On which cameras the weights were trained, config.yaml does not say: {purpose}"
    where = "the train split of these very shards" if data.get("sha256") == trained.data.sha256 else "other shards"
    begin = "earlier weights" if settings.init else "nothing"
    return (
        f"The weights were trained from {begin} for {settings.steps} steps on {where}, whose cameras are Z-up, as `train` "
        f"demands; this favours `z_up`: {purpose}"
    )


def _world_from_mm(samples: Samples) -> Array:
    """The samples' similarities [N, 4, 4]. Raises UserError for shards without them and for other matrices."""
    matrices = samples.field("world_from_mm", (4, 4))
    A = matrices[:, :3, :3]
    gram, determinant = np.swapaxes(A, -1, -2) @ A, np.linalg.det(A)
    squared = np.cbrt(determinant)[:, None, None] ** 2
    wrong = (determinant <= 0) | (np.abs(gram - squared * np.eye(3)) > 1e-6 * squared).any((-1, -2))
    wrong |= (matrices[:, 3] != [0, 0, 0, 1]).any(-1)
    if wrong.any():
        key = samples.keys[int(wrong.argmax())]
        raise UserError(
            f"sample {key}: world_from_mm is not a rotation, scale and shift; delete its shard and rerun the workflow"
        )
    return matrices


def _posed(sample: dict[str, Any], c2w: Array) -> dict[str, Any]:
    """The sample with other cameras."""
    return sample | {"c2w": torch.from_numpy(c2w).float(), "w2c": torch.from_numpy(inverse_rigid(c2w)).float()}


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _lower(metric: str) -> str:
    return LABELS[metric].removesuffix(", dB")


def _write_metrics(path: Path, values: Scores, white: dict[str, Tensor], sentence: str, trained: Trained) -> None:
    """metrics.json: means per condition and their paired differences to z_up; a standard error of one sample is null."""
    conditions: dict[str, Any] = {}
    for name, table in values.items():
        differences = {metric: paired_difference(table[metric], values["z_up"][metric]) for metric in METRICS}
        conditions[name] = {metric: mean_score(table[metric]) for metric in METRICS} | {
            "difference_to_z_up": {
                metric: {"mean": mean, "standard_error": error if math.isfinite(error) else None}
                for metric, (mean, error) in differences.items()
            }
        }
    result = {
        "sentence": sentence,
        "conditions": conditions,
        "white": {metric: mean_score(white[metric]) for metric in METRICS},
        "steps": trained.train.steps,
        "init_sha256": trained.record.get("init_sha256"),
        **provenance(trained),
    }
    write_json(path, result)


def _write_table(path: Path, values: Scores, white: dict[str, Tensor], sentence: str, trained: Trained) -> None:
    """table.md: a row per condition, a white image for reference, and the sentence."""
    header = ["cameras", LABELS["psnr"], "to `z_up`, dB", *(LABELS[metric] for metric in METRICS[1:])]
    lines = [header, ["---"] * len(header)]
    for name, table in values.items():
        mean, error = paired_difference(table["psnr"], values["z_up"]["psnr"])
        spread_text = f" ± {error:.2f}" if math.isfinite(error) else ""
        difference = "" if name == "z_up" else f"{mean:+.2f}{spread_text}"
        lines.append([f"`{name}`: {CONDITIONS[name]}", *_cells(table, difference)])
    lines.append(["white image, for reference", *_cells(white, "")])
    samples, inputs = trained.samples, trained.train.num_input_views
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    text += (
        f"\n\nRun {trained.train.run}: {len(samples)} samples of the {trained.split} split, each of {samples.views} views "
        f"predicted from {inputs} others at {samples.image_size} px. ± is the standard error of the paired difference over "
        "samples; moments of one recording are alike, so the true one is larger.\n"
    )
    with atomic(path) as temporary:
        temporary.write_text(f"{text}\n{sentence}\n", encoding="utf-8")


def _cells(table: dict[str, Tensor], difference: str) -> list[str]:
    means = {metric: mean_score(table[metric]) for metric in METRICS}
    return [
        f"{means['psnr']:.2f}",
        difference,
        f"{means['psnr_foreground']:.2f}",
        f"{means['ssim']:.3f}",
        f"{means['mask_iou']:.2f}",
    ]


def _write_grid(path: Path, pictures: list[Drawn]) -> None:
    """For each sample a block: a column per view; a row for the target and one per condition, the silhouette outlined."""
    views = len(pictures[0].target)
    figure = Figure(figsize=(1.6 * views + 0.6, 9.4 * len(pictures)), layout="constrained", dpi=120)
    for block, drawn in zip(figure.subfigures(len(pictures), 1, squeeze=False)[:, 0], pictures, strict=True):
        block.suptitle(f"{drawn.key}: every view predicted from the others; red: the target's silhouette", fontsize=10)
        grid = block.subplots(1 + len(CONDITIONS), views, squeeze=False)
        for line, name in zip(grid, ("target", *CONDITIONS), strict=True):
            images = drawn.target if name == "target" else drawn.rgb[name]
            for view, axes in enumerate(line):
                axes.imshow(images[view].movedim(0, -1).numpy(), interpolation="nearest")
                if name != "target" and (drawn.mask[view] > 0.5).any():
                    axes.contour(drawn.mask[view].numpy(), [0.5], colors="tab:red", linewidths=0.6)
                axes.set(xticks=[], yticks=[])
                label = f"view {view}" if name == "target" else f"{drawn.psnr[name][view]:.1f} dB"
                axes.set_xlabel(label, fontsize=9)
            line[0].set_ylabel(name, fontsize=11)
    save_figure(figure, path)
