# The checked configuration, the captures, and the paths that several rules share.
import json
from dataclasses import asdict
from pathlib import Path

from snakemake.exceptions import WorkflowError

from mousefacelift import STAGE_VERSIONS
from mousefacelift.evaluation.variants import VARIANTS, applicable, variant
from mousefacelift.stages.cameras import read_capture_rig
from mousefacelift.recordings.captures import captures_table, read_captures
from mousefacelift.config.config import Config
from mousefacelift.config.reading import section_json, validate
from mousefacelift.config.sample import SPLITS
from mousefacelift.base.errors import UserError
from mousefacelift.shards.manifest import STAGES, read_manifest
from mousefacelift.recordings.recording import capture_frames, chunk_ranges
from mousefacelift.stages.sample import check_views
from mousefacelift.geometry.selection import capture_splits

try:
    CONFIG = validate(Config, config, "configuration")
    TABLE = captures_table(CONFIG.captures)
    CAPTURES = read_captures(TABLE)
    CHUNKS = {
        name: [f"{k:04d}" for k in range(len(chunk_ranges(capture_frames(c, CONFIG.center), CONFIG.center)))]
        for name, c in CAPTURES.items()
    }
    for capture in CAPTURES.values():
        read_capture_rig(capture)
    # Which split a whole capture goes to depends on all captures; empty with blocks in time.
    SPLIT_OF = capture_splits({name: c.animal for name, c in CAPTURES.items()}, CONFIG.sample)
    if CONFIG.center.masks == "onnx" and not Path(CONFIG.center.onnx.path or "").is_file():
        raise UserError(
            f"center.onnx.path: {CONFIG.center.onnx.path or 'is not set'}: center.masks: onnx needs a network's file"
        )
    if CONFIG.train.init and not Path(CONFIG.train.init).is_file():
        raise UserError(f"train.init: {CONFIG.train.init}: no such file")
except UserError as error:
    raise WorkflowError(str(error)) from None

RESULTS = CONFIG.results.rstrip("/")
LOGS = f"{RESULTS}/logs"
BENCHMARKS = f"{RESULTS}/benchmarks"
RUN = CONFIG.train.run
MANIFEST = CONFIG.train.manifest or f"{RESULTS}/shard/manifest.json"  # what is trained and evaluated on
# Importing torch and keeping one batch of the CPU demo fits in 4 GB; the larger presets need room for data and optimiser.
TRAIN_MEM_MB = {"tiny": 4000, "small": 16000, "base": 32000}[CONFIG.train.preset]


wildcard_constraints:
    capture="|".join(CAPTURES),
    chunk=r"\d+",
    variant="|".join(VARIANTS),


def settings(stage):
    """A stage's section as JSON: in the rule's params, so that a changed setting re-runs this stage and what follows."""
    return section_json(getattr(CONFIG, stage))


def variant_settings(wildcards):
    """train's section with a variant's change."""
    return section_json(variant(CONFIG.train, wildcards.variant))


def per_variant(patterns):
    """The patterns for every variant that changes something."""
    return [pattern.format(variant=name) for name in applicable(CONFIG.train) for pattern in patterns]


def data_settings():
    """The sections that the shards depend on, for their manifest to record."""
    return json.dumps(CONFIG.model_dump(mode="json", include=set(STAGES)), sort_keys=True)


def background_settings():
    """What of center's section the empty arena depends on: a changed stride does not make it anew."""
    keys = {"masks", "background", "timing", "on_bad_frame"}
    return json.dumps(CONFIG.center.model_dump(mode="json", include=keys), sort_keys=True)


def capture_row(wildcards):
    """The capture's row of the table, in params: a changed row re-runs what depends on it."""
    return json.dumps(asdict(CAPTURES[wildcards.capture]), default=str, sort_keys=True)


def recording(wildcards):
    """What silhouettes are made from: videos, and by center.masks the mask files, the empty arena, or the network."""
    capture = CAPTURES[wildcards.capture]
    files = {"videos": capture.videos}
    if CONFIG.center.masks == "provided":
        files["masks"] = capture.masks
    elif CONFIG.center.masks == "background":
        files["background"] = f"{RESULTS}/center/{wildcards.capture}/background.h5"
    else:
        files["network"] = CONFIG.center.onnx.path
    return files


def center_chunks(wildcards):
    return [f"{RESULTS}/center/{wildcards.capture}/{chunk}.h5" for chunk in CHUNKS[wildcards.capture]]


def normalized_cameras(wildcards):
    """normalize's cameras, unless the rig has fewer of them than samples shall have views."""
    try:
        check_views(wildcards.capture, CAPTURES[wildcards.capture].cameras, CONFIG.sample.views)
    except UserError as error:
        raise WorkflowError(str(error)) from None
    return f"{RESULTS}/normalize/{wildcards.capture}/cameras.h5"


def given_manifest(split):
    """train.manifest as an input, none if it is on the web; known now to be there, and to hold samples of the split."""
    try:
        data = read_manifest(CONFIG.train.manifest)
    except UserError as error:
        raise WorkflowError(f"train.manifest: {error}") from None
    if not data.split(split):
        raise WorkflowError(f"train.manifest: {CONFIG.train.manifest} lists no {split} samples")
    return [] if data.url else CONFIG.train.manifest


def trained_manifest(wildcards):
    """The manifest, unless no view of its samples would be held out."""
    if CONFIG.train.manifest:
        return given_manifest("train")
    if CONFIG.train.num_input_views >= CONFIG.sample.views:
        raise WorkflowError(
            f"train.num_input_views is {CONFIG.train.num_input_views}, but samples have {CONFIG.sample.views} views "
            f"(sample.views): none would be held out; use {CONFIG.sample.views - 1}"
        )
    return f"{RESULTS}/shard/manifest.json"


def several_nodes():
    """The resources that a Slurm job on several machines needs: a task per GPU, started by our own srun."""
    if CONFIG.train.nodes == 1:
        return {}
    return {"mpi": "srun", "nodes": CONFIG.train.nodes, "tasks": CONFIG.train.processes, "tasks_per_gpu": 1}


def launcher():
    """What starts a training's processes on several machines; on one it starts them itself."""
    train = CONFIG.train
    if train.nodes == 1:
        return ""
    return (
        f"srun --nodes={train.nodes} --ntasks={train.processes} --ntasks-per-node={train.devices} --kill-on-bad-exit=1 "
    )


def initial_weights(wildcards):
    """train.init as an input, unless its tensors are not those of train.preset; values are read by the job alone."""
    if not CONFIG.train.init:
        return []
    from mousefacelift.models.weights import (
        check_weights,
    )  # imports torch, which takes seconds and which no other rule needs

    try:
        check_weights(Path(CONFIG.train.init), CONFIG.train.preset)
    except UserError as error:
        raise WorkflowError(f"train.init: {error}") from None
    return CONFIG.train.init


def evaluated_manifest(wildcards):
    """The manifest, unless the split to evaluate is given no frames: better said now than after training."""
    split = CONFIG.evaluate.split
    if CONFIG.train.manifest:
        return given_manifest(split)
    if not getattr(CONFIG.sample.fractions, split):
        raise WorkflowError(f"evaluate.split is {split}, but sample.fractions gives it nothing")
    return f"{RESULTS}/shard/manifest.json"


def per_capture(pattern):
    """The pattern for every capture."""
    return [pattern.format(results=RESULTS, capture=capture) for capture in CAPTURES]


def per_chunk(pattern):
    """The pattern for every chunk of every capture."""
    return [
        pattern.format(results=RESULTS, capture=capture, chunk=chunk)
        for capture, chunks in CHUNKS.items()
        for chunk in chunks
    ]
