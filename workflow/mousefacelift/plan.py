"""What a run will do: the checked configuration, the captures and their chunks, and what each rule is given.

The rules only wire: whatever they need is asked of one `Plan`. Making it reads the headers of the recordings and the
calibrations, so that a mistake is known before the first job.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mousefacelift.base.errors import UserError
from mousefacelift.config.center import Center
from mousefacelift.config.config import Config
from mousefacelift.config.presets import PRESETS
from mousefacelift.config.reading import section_json, validate
from mousefacelift.config.sample import SPLITS
from mousefacelift.evaluation.variants import applicable, variant
from mousefacelift.geometry.selection import capture_splits
from mousefacelift.gpu.checks import missing, rapid
from mousefacelift.gpu.driver import look, why_unusable
from mousefacelift.gpu.toolchain import installed_torch
from mousefacelift.recordings.animals import check_refinable, check_told_apart, recordings_of
from mousefacelift.recordings.captures import Capture, captures_table, read_captures
from mousefacelift.recordings.recording import capture_frames, chunk_ranges, read_capture_rig
from mousefacelift.recordings.rows import capture_json
from mousefacelift.recordings.silhouettes.pictured import arena_pictures, check_other, check_pictures
from mousefacelift.recordings.silhouettes.registry import method
from mousefacelift.shards.manifest import STAGES, read_manifest
from mousefacelift.stages.sample import check_views

# The keys of `center` that the empty arena depends on: a changed stride does not estimate it again.
BACKGROUND_KEYS = {"masks", "background", "timing", "on_bad_frame"}

# What a job on a GPU has at least: four compilers of gsplat at once, 2 GB each, beside the process that waits for them.
COMPILING_MB = 10000


@dataclass(frozen=True)
class Plan:
    """A run of the workflow.

    captures: by name. recordings: the captures of each recording, whose files are decoded once, by the name of the first.
    chunks: each capture's chunks by name, "0000" first. split_of: the split of each capture where
    whole captures or animals go to one split; empty where blocks in time do.
    """

    config: Config
    captures: Mapping[str, Capture]
    recordings: Mapping[str, Sequence[str]]
    chunks: Mapping[str, Sequence[str]]
    split_of: Mapping[str, str]

    @classmethod
    def of(cls, values: object) -> "Plan":
        """The plan for a configuration as YAML holds it.

        Raises UserError for whatever would stop every target: an unknown key, a captures table or a recording that is
        wrong, a calibration that does not fit the videos, a file that is missing.
        """
        config = validate(Config, values, "configuration")
        silhouettes = method(config.center.masks)
        captures = read_captures(captures_table(config.captures))
        for name in captures:
            silhouettes.check(name, config.center)
        recordings = recordings_of(captures, config.center.animal)
        if silhouettes.identities is None:
            check_told_apart(captures.values(), config.center.masks, config.center.animal)
        for animals in recordings.values():
            check_refinable(animals, config.center.refine)
        chunks = {name: _chunks(capture, config.center) for name, capture in captures.items()}
        for capture in captures.values():
            read_capture_rig(capture)
        _check_arenas(captures, config.center)
        split_of = capture_splits({name: capture.animal for name, capture in captures.items()}, config.sample)
        if config.train.init and not Path(config.train.init).is_file():
            raise UserError(f"train.init: {config.train.init}: no such file")
        return cls(config, captures, recordings, chunks, split_of)

    @property
    def results(self) -> str:
        """The folder for everything the workflow writes."""
        return self.config.results.rstrip("/")

    @property
    def manifest(self) -> str:
        """The manifest of the shards that are trained and evaluated on."""
        return self.config.train.manifest or self.own_manifest

    @property
    def own_manifest(self) -> str:
        """The manifest of the shards that the workflow writes."""
        return f"{self.results}/shard/manifest.json"

    # Settings: in a rule's params, so that a changed setting re-runs the rule and what follows.

    def settings(self, stage: str) -> str:
        """A stage's section as JSON."""
        return section_json(getattr(self.config, stage))

    def background_settings(self) -> str:
        """The keys of `center` that the empty arena depends on, as JSON."""
        return json.dumps(self.config.center.model_dump(mode="json", include=BACKGROUND_KEYS), sort_keys=True)

    def data_settings(self) -> str:
        """The sections that the shards depend on, as JSON, for their manifest to record."""
        return self._sections(STAGES)

    def framing_settings(self) -> str:
        """The sections that a framing is made by, as JSON."""
        return self._sections(("normalize", "shard"))

    def _sections(self, names: Iterable[str]) -> str:
        return json.dumps(self.config.model_dump(mode="json", include=set(names)), sort_keys=True)

    def variant_settings(self, name: str) -> str:
        """The section `train` with a variant's change, as JSON."""
        return section_json(variant(self.config.train, name))

    def variant_evaluation(self) -> str:
        """The section `evaluate` for variants, as JSON: they are compared as they were trained, so nothing is refined."""
        return section_json(self.config.evaluate.model_copy(update={"refine_steps": 0}))

    def row(self, capture: str) -> str:
        """A capture's row of the table as JSON: a changed row re-runs what depends on it, another capture's does not."""
        return capture_json(self.captures[capture])

    def animals(self, recording: str) -> list[str]:
        """The options that hand the rows of a recording's captures to a command."""
        return [word for capture in self.recordings[recording] for word in ("--row", self.row(capture))]

    # Files, by capture, chunk and variant.

    def per_capture(self, pattern: str) -> list[str]:
        """The pattern for every capture."""
        return [pattern.format(results=self.results, capture=capture) for capture in self.captures]

    def per_recording(self, pattern: str) -> list[str]:
        """The pattern for every recording."""
        return [pattern.format(results=self.results, recording=recording) for recording in self.recordings]

    def per_chunk(self, pattern: str, **names: str) -> list[str]:
        """The pattern for every chunk of every capture; `names` fill in its other fields."""
        return [
            pattern.format(results=self.results, capture=capture, chunk=chunk, **names)
            for capture, chunks in self.chunks.items()
            for chunk in chunks
        ]

    def per_split(self, pattern: str) -> list[str]:
        """The pattern for every chunk of every capture, once per split."""
        return [path for split in SPLITS for path in self.per_chunk(pattern, split=split)]

    def per_variant(self, patterns: Sequence[str]) -> list[str]:
        """The patterns for every variant of the ablation that changes something."""
        return [pattern.format(variant=name) for name in applicable(self.config.train) for pattern in patterns]

    def compared_framings(self, pattern: str) -> list[str]:
        """The pattern for the comparison of framings; none for shards of others, which cannot be framed anew."""
        return [] if self.config.train.manifest else [pattern.format(results=self.results, run=self.config.train.run)]

    def videos(self, recording: str) -> tuple[Path, ...]:
        """A recording's videos."""
        return self.captures[recording].videos

    def empty_arena(self, capture: str) -> tuple[Path, ...]:
        """What shows the empty arena of a capture beside its own videos: pictures of it, or another capture's videos."""
        other = self._other(capture)
        return other.videos if other else arena_pictures(self.captures[capture], self.config.center.background)

    def other_row(self, capture: str) -> list[str]:
        """What tells `background` which other capture to look at, if center.background.capture names one."""
        other = self._other(capture)
        return ["--other-row", capture_json(other)] if other else []

    def _other(self, capture: str) -> Capture | None:
        name = self.config.center.background.capture
        return self.captures[name] if name is not None and name != capture else None

    def calibration(self, capture: str) -> Path | tuple[Path, ...]:
        """A capture's calibration, one file or one per camera."""
        return self.captures[capture].calibration

    def recording(self, recording: str) -> dict[str, object]:
        """What silhouettes are made from: the videos, and what the method of center.masks needs beside them."""
        how = method(self.config.center.masks)
        inputs: dict[str, object] = {
            "videos": self.videos(recording),
            **how.files(self.captures[recording], self.config.center),
        }
        if arena := self._arena(recording):
            inputs["background"] = arena
        if how.together or self.config.center.refine:
            inputs["calibration"] = self.calibration(recording)
        return inputs

    def _arena(self, recording: str) -> str | None:
        """The file of the empty arena, if the method of center.masks needs one."""
        needed = method(self.config.center.masks).needs_arena
        return f"{self.results}/center/{recording}/background.h5" if needed else None

    def recording_of(self, capture: str) -> str:
        """The recording that a capture is an animal of."""
        return self._recording_of[capture]

    @cached_property
    def _recording_of(self) -> dict[str, str]:
        return {capture: recording for recording, captures in self.recordings.items() for capture in captures}

    def center_chunk(self, capture: str, chunk: str) -> str:
        """What `center` writes for a chunk of a capture, with all animals of its recording."""
        return f"{self.results}/center/{self.recording_of(capture)}/{chunk}.h5"

    def center_chunks(self, capture: str) -> list[str]:
        """What `center` writes for a capture, with all animals of its recording."""
        return [self.center_chunk(capture, chunk) for chunk in self.chunks[capture]]

    def all_center_chunks(self) -> list[str]:
        """What `center` writes for all recordings."""
        return [path for recording in self.recordings for path in self.center_chunks(recording)]

    # Inputs that come with a check: a mistake stops the targets that need them, and no others.

    def normalized_cameras(self, capture: str) -> str:
        """The cameras that `normalize` writes. Raises UserError if the rig has fewer of them than sample.views."""
        check_views(capture, self.captures[capture].cameras, self.config.sample.views)
        return f"{self.results}/normalize/{capture}/cameras.h5"

    def trained_manifest(self) -> str | list[str]:
        """The manifest to train on. Raises UserError if no view of its samples would be held out."""
        views, inputs = self.config.sample.views, self.config.train.num_input_views
        if self.config.train.manifest:
            return self._given_manifest(self.config.train.manifest, "train")
        if inputs >= views:
            raise UserError(
                f"train.num_input_views is {inputs}, but samples have {views} views (sample.views): none would be held "
                f"out; use {views - 1}"
            )
        return self.own_manifest

    def evaluated_manifest(self) -> str | list[str]:
        """The manifest to evaluate on. Raises UserError if the split has no samples: known before training, not after."""
        split = self.config.evaluate.split
        if self.config.train.manifest:
            return self._given_manifest(self.config.train.manifest, split)
        if not getattr(self.config.sample.fractions, split):
            raise UserError(f"evaluate.split is {split}, but sample.fractions gives it nothing")
        return self.own_manifest

    @staticmethod
    def _given_manifest(manifest: str, split: str) -> str | list[str]:
        """train.manifest as an input; none if it is on the web, where Snakemake sees no files."""
        try:
            data = read_manifest(manifest)
        except UserError as error:
            raise UserError(f"train.manifest: {error}") from None
        if not data.split(split):
            raise UserError(f"train.manifest: {manifest} lists no {split} samples")
        return [] if data.url else manifest

    def initial_weights(self) -> str | list[str]:
        """train.init as an input, if it is set. Raises UserError if its tensors are not those of train.preset."""
        if not self.config.train.init:
            return []
        # It imports torch, which takes seconds and which no other rule needs.
        from mousefacelift.models.weights.fitting import check_weights

        try:
            check_weights(Path(self.config.train.init), self.config.train.preset, self.config.train.guide)
        except UserError as error:
            raise UserError(f"train.init: {error}") from None
        return self.config.train.init

    def gpu_ready(self) -> list[str]:
        """No input. Raises UserError if this machine has a GPU for training and it cannot be used.

        A machine without one may be where a cluster's jobs are sent from: they look for themselves.
        """
        train, system = self.config.train, look()
        if not system.given or system.hidden or train.accelerator == "cpu" or not train.gpus:
            return []
        if train.accelerator == "auto" and PRESETS[train.preset].on_cpu:
            return []  # it then trains on the CPU, and says so
        torch = installed_torch()
        too_old = why_unusable(system, torch.version, torch.cuda) if torch else None
        if wrong := too_old or missing(rapid()):
            raise UserError(f"{wrong}. To train on the CPU all the same, set train.accelerator: cpu")
        return []

    # Options of the commands.

    def split_option(self, capture: str) -> list[str]:
        """What tells `sample` the capture's split, if whole captures or animals go to one split."""
        return ["--split", self.split_of[capture]] if capture in self.split_of else []

    def need_options(self) -> list[str]:
        """What tells `manifest` which splits must have samples."""
        return [f"--need={split}" for split in SPLITS if getattr(self.config.sample.fractions, split)]

    def capture_options(self) -> list[str]:
        """What names every capture to a command."""
        return [f"--capture={name}" for name in self.captures]

    def recording_options(self) -> list[str]:
        """What names the recording of every capture to a command, in the order of `capture_options`."""
        return [f"--recording={self.recording_of(name)}" for name in self.captures]

    def launcher(self) -> str:
        """What starts training's processes on several machines; on one machine training starts them itself."""
        train = self.config.train
        if train.nodes == 1:
            return ""
        return (
            f"srun --nodes={train.nodes} --ntasks={train.processes} --ntasks-per-node={train.devices}"
            " --kill-on-bad-exit=1 "
        )

    # Resources.

    @property
    def evaluate_mem_mb(self) -> int:
        """Memory of a job that runs the model in one process."""
        return self._memory(1)

    @property
    def evaluate_gpus(self) -> int:
        """GPUs of a job that runs the model in one process."""
        return min(self.config.train.gpus, 1)

    @property
    def train_mem_mb(self) -> int:
        """Memory per machine of a training run."""
        return self._memory(self.config.train.devices)

    def _memory(self, processes: int) -> int:
        """Memory of processes that run the model. On a GPU, the first of them may have to compile gsplat before that."""
        train = self.config.train
        on_gpu = train.gpus > 0 and train.accelerator != "cpu"
        return max(processes * PRESETS[train.preset].memory_mb, COMPILING_MB if on_gpu else 0)

    @property
    def train_gpus(self) -> int:
        """GPUs of a training run, of all machines together."""
        return self.config.train.gpus * self.config.train.nodes

    @property
    def train_nodes(self) -> dict[str, str | int]:
        """The resources that a Slurm job on several machines needs: a task per GPU, started by our own srun."""
        train = self.config.train
        if train.nodes == 1:
            return {}
        return {"mpi": "srun", "nodes": train.nodes, "tasks": train.processes, "tasks_per_gpu": 1}


def _check_arenas(captures: Mapping[str, Capture], settings: Center) -> None:
    """Raise UserError if what center.background names as the empty arena is missing, or does not fit the captures."""
    if not method(settings.masks).needs_arena:
        return
    other = settings.background.capture
    if other is not None and other not in captures:
        raise UserError(f"center.background.capture: no capture {other!r}; the table has {', '.join(captures)}")
    for capture in captures.values():
        check_pictures(capture, settings.background)
        if other is not None and other != capture.name:
            check_other(capture, captures[other])


def _chunks(capture: Capture, settings: Center) -> list[str]:
    """The names of a capture's chunks. Raises UserError if its recordings do not fit together."""
    return [f"{number:04d}" for number in range(len(chunk_ranges(capture_frames(capture, settings), settings)))]
