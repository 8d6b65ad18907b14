"""What a training run is: the record that fixes its result, the name of its checkpoints, and the weights it starts from."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mousefacelift import STAGE_VERSIONS
from mousefacelift.base.errors import UserError
from mousefacelift.config.train import Train
from mousefacelift.models.adapt import adapt
from mousefacelift.models.network import Network
from mousefacelift.models.registry import build_model, preset_config
from mousefacelift.models.weights.files import load_weights
from mousefacelift.shards.checksums import checksum
from mousefacelift.shards.manifest import Manifest

# Settings that change how fast a run is, when it is stopped or where it is written, but not what it computes.
NOT_HASHED = {
    "run", "manifest", "gpus", "nodes", "accumulate", "workers", "cache_gb", "checkpoint_every", "recompute", "rerender",
    "compile", "attention", "guards", "log_every", "accelerator", "i_know", "wandb",
    "init",  # by its content instead
}  # fmt: skip
# The number of loader processes decides which of them streams a tar, and so the order of samples.
DIVIDE_STREAMS = {"gpus", "nodes", "accumulate", "workers"}


def run_record(data: Manifest, settings: Train) -> dict[str, Any]:
    """What fixes a run's result, which is the content of its config.yaml: settings, model, data and version of `train`."""
    return {
        "train": settings.model_dump(mode="json"),
        "model": asdict(preset_config(settings.preset, settings.guide)),
        "data": {"sha256": data.sha256, "image_size": data.image_size, "views": data.views},
        "init_sha256": checksum(Path(settings.init)) if settings.init else None,
        "version": STAGE_VERSIONS["train"],
    }


def identity(record: dict[str, Any]) -> str:
    """The name of a run's folder of checkpoints: equal for runs that compute the same."""
    streamed = record["train"]["container"] == "tar"
    free = NOT_HASHED - DIVIDE_STREAMS if streamed else NOT_HASHED | {"shuffle_buffer"}
    settings = {name: value for name, value in record["train"].items() if name not in free}
    for unused in {"last_n", "lora"} - {settings["adapt"]}:
        del settings[unused]
    settings["optimizer"] = settings["optimizer"].removeprefix("paged_")  # the same, elsewhere in memory
    return hashlib.sha256(json.dumps(record | {"train": settings}, sort_keys=True).encode()).hexdigest()[:16]


def initial_model(settings: Train) -> Network:
    """The model at the start of a run, adapted: random weights, or those of `init`.

    Raises:
        UserError: if the weights of `init` cannot be read or are not a model of the preset.
    """
    torch.manual_seed(settings.seed)
    if settings.init is None:
        model = build_model(settings.preset, settings.guide)
    else:
        try:
            model = load_weights(Path(settings.init), settings.preset, settings.guide)
        except UserError as error:
            raise UserError(f"train.init: {error}") from None
    adapt(model, settings)
    return model
