"""Whether a file holds exactly one model, and which presets' it is.

A weight that is silently left out makes a model that runs and is wrong: every misfit is an error that lists it.
"""

import difflib
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import torch

from mousefacelift.base.errors import UserError
from mousefacelift.config.presets import PRESETS
from mousefacelift.models.registry import preset_config
from mousefacelift.models.weights.reading import Contents, is_plain, kind, open_weights
from mousefacelift.models.weights.text import LISTED, listed, short


def check_weights(path: Path, preset: str, guide: str | None = None) -> None:
    """Check that a file is a model of the preset, by names and shapes; values are not read.

    Args:
        path: a file of `save_weights`, or FaceLift's .pt or .ckpt.
        preset: a name in PRESETS.
        guide: `train.guide`; None for the preset's own.

    Raises:
        UserError: the file cannot be read, is not exactly a model (with the list of wrong tensors), or is another model
            than the preset's (with the differing settings, or the guide that it was trained with).
    """
    open_checked(path, preset, guide)


def open_checked(path: Path, preset: str | None, guide: str | None = None) -> Contents:
    """Open a file whose names and shapes are those of its config and, if one is named, of a preset under a guide.

    Raises:
        UserError: as `check_weights`.
    """
    contents = open_weights(path)
    _refuse_misfits(contents)
    differing = _differences(contents, preset, guide) if preset else []
    if differing:
        fitting = fitting_presets(contents)
        if preset in fitting:
            own = contents.config.guide
            raise UserError(f"{path} is a model of preset {preset} for guide {own}: set train.guide: {own} to use it")
        hint = f"; it is one of preset {' or '.join(fitting)}" if fitting else ""
        if contents.inferred:
            hint += ". Settings that the shapes do not tell are taken from FaceLift's models"
        raise UserError(f"{path} is not a model of preset {preset} ({', '.join(differing)}){hint}")
    return contents


def _refuse_misfits(contents: Contents) -> None:
    """Raise UserError unless the file holds exactly the tensors of its config."""
    problems = misfits(contents)
    if problems:
        raise UserError(
            f"{contents.path}: does not hold the tensors of a {contents.config}"
            f"{', as its shapes suggest' if contents.inferred else ''}:\n  " + "\n  ".join(problems)
        )


def misfits(contents: Contents) -> list[str]:
    """What keeps a file from being a model of its own config.

    Returns:
        One line per kind of misfit: names missing, names unknown, tensors of another type, of another shape.
    """
    with torch.device("meta"):
        expected = {
            name: tuple(tensor.shape) for name, tensor in contents.network(contents.config).state_dict().items()
        }
    found = contents.model
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    kinds, shapes = [], []
    for name, shape in expected.items():
        if name in found and not is_plain(found[name]):
            kinds.append(f"{name} is {kind(found[name])}")
        elif name in found and tuple(found[name].shape) != shape:
            shapes.append(f"{name} {list(found[name].shape)} instead of {list(shape)}")
    lines = []
    if missing:
        lines.append(f"{len(missing)} missing: {listed(missing)}")
    if unknown:
        lines.append(f"{len(unknown)} unknown: {listed(unknown)}")
        lines.extend(_renamed(unknown, missing))
    if kinds:
        lines.append(f"{len(kinds)} not of floats: {listed(kinds)}")
    if shapes:
        lines.append(f"{len(shapes)} of another shape: {listed(shapes)}")
    return lines


def _renamed(unknown: list[str], missing: list[str]) -> list[str]:
    """Lines that guess which unknown names are missing ones under another name."""
    absent = set(missing)
    prefixes: Counter[str] = Counter()
    others = []
    for name in unknown:
        parts = name.split(".")
        tail = next((t for t in (".".join(parts[k:]) for k in range(1, min(len(parts), 12))) if t in absent), None)
        if tail:
            prefixes[name.removesuffix(tail)] += 1
            absent.remove(tail)
        else:
            others.append(name)
    lines = [
        f"{number} of the unknown names {'is a missing one' if number == 1 else 'are missing ones'} with the prefix "
        f"'{short(prefix)}': save the tensors without it"
        for prefix, number in prefixes.most_common(LISTED)
    ]
    for name in others[:LISTED]:
        near = difflib.get_close_matches(name[:200], absent, n=1, cutoff=0.8)
        if near:
            lines.append(f"{short(name)} looks like the missing {near[0]}")
    return lines


def _differences(contents: Contents, preset: str, guide: str | None) -> list[str]:
    """The settings in which a file's model is not the preset's, and cannot become it."""
    if contents.network.name != PRESETS[preset].network:
        return [f"network {contents.network.name} instead of {PRESETS[preset].network}"]
    here, there = asdict(contents.config), asdict(preset_config(preset, guide))
    # Without a guide and with `clamp` a model has the same tensors, and `hull` adds columns that start at zero.
    if here.get("guide") in ("none", "clamp"):
        here["guide"] = there["guide"]
    return [f"{n} {here[n]} instead of {there[n]}" for n in there if here[n] != there[n]]


def fitting_presets(contents: Contents) -> list[str]:
    """The presets whose model a file holds."""
    guide = getattr(contents.config, "guide", None)
    return [name for name in PRESETS if not _differences(contents, name, guide)]
