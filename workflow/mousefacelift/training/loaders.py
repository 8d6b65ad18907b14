"""The batches of a training run, from either form of the shards."""

import functools
import itertools
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mousefacelift.base.errors import UserError
from mousefacelift.config.train import Train
from mousefacelift.geometry.selection import evenly_spaced
from mousefacelift.shards.manifest import Manifest
from mousefacelift.training.data import Samples, collated, floating
from mousefacelift.training.stream import TarVisits
from mousefacelift.training.visits import HeldOut, Kept, Recipe, Visits, recipe, shuffle_seed

SEEN = 8  # training samples that a validation measures, at most; never more than there are validation samples


class ShardData(lightning.LightningDataModule):
    """Training and validation batches: from HDF5, in any order, or streamed from tars (`train.container`).

    A batch of B samples of V views:

    rgba: uint8 [B, V, S, S, 4] over white. On the device Lightning calls `on_after_batch_transfer`, which replaces it by
        image float32 [B, V, 3, S, S] and alpha float32 [B, V, S, S].
    c2w, w2c: [B, V, 4, 4].
    fxfycxcy: [B, V, 4] in px.
    unknown: bool [B, V, S, S], pixels to be left out of losses and metrics; a batch without any lacks it.
    inputs, held_out: view indices [B, number of them].
    index: places in the split [B].

    `step` counts the steps done. A loader begins there and ends at the next validation, so a run that continues sees what
    an undisturbed one would.

    With HDF5 a step's samples are the same for any number of processes (`world`) and of parts (`accumulate`): part a of
    rank r is the (a x world + r)-th piece of them. From tars every rank streams a share of its own.
    """

    def __init__(self, manifest: Manifest, settings: Train, rank: int = 0, world: int = 1):
        super().__init__()
        self.manifest, self.settings, self.rank, self.world = manifest, settings, rank, world
        self.size = settings.batch_size // (world * settings.accumulate)
        self.step = 0
        self.train: Samples | None = None
        if settings.container == "h5":
            if manifest.url:
                raise UserError(f"{manifest.url}: HDF5 cannot be read over the web; set train.container: tar")
            self.train = Samples(manifest, "train", settings.image_size, settings.cache_gb, settings.cameras)
        self.val = Samples(manifest, "val", settings.image_size, settings.cache_gb, settings.cameras)

    def train_dataloader(self) -> DataLoader[Any]:
        """The rank's batches from the present step up to the next validation."""
        settings, size, parts = self.settings, self.size, self.settings.accumulate
        end = min(settings.steps, (self.step // settings.val_every + 1) * settings.val_every)
        if self.train is None:
            return self._loader(
                TarVisits(
                    self.manifest, recipe(settings), settings.image_size, settings.shuffle_buffer, size,
                    parts * self.step, parts * end, self.rank, self.world, settings.cameras,
                ),
                settings.workers,
                batch_size=size,
            )  # fmt: skip
        visits = Visits(self.train, recipe(settings), settings.batch_size)
        batches = [self.world * part + self.rank for part in range(parts * self.step, parts * end)]
        order = [visit for batch in batches for visit in range(batch * size, (batch + 1) * size)]
        return self._loader(visits, 0 if self.train.cached else settings.workers, batch_size=size, sampler=order)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """The validation split, and some training samples for comparison; both one sample at a time.

        The training samples are always the same ones (`seen`), without augmentation. All ranks have equally many
        samples; some come twice if need be.
        """
        if not len(self.val):
            return []
        return [
            self._held_out(self.val, 0 if self.val.cached else self.settings.workers),
            self._held_out(self._seen, 0),
        ]

    def stored_training(self, count: int) -> list[dict[str, Any]]:
        """At most `count` training samples as `Samples.stored` gives them: evenly spread in HDF5, the first ones in tars."""
        if self.train is not None:
            return [self.train.stored(int(place)) for place in evenly_spaced(len(self.train), count)]
        settings, total = self.settings, self.manifest.samples("train")
        plain = Recipe(settings.num_input_views)
        visits = TarVisits(
            self.manifest, plain, settings.image_size, 1, 1, 0, min(count, total), cameras=settings.cameras
        )
        return list(itertools.islice(visits, count))

    @property
    def seen(self) -> int:
        """How many training samples validation measures: as many as validation samples, at most SEEN."""
        return min(SEEN, len(self.val), self.manifest.samples("train"))

    @functools.cached_property
    def _seen(self) -> Kept:
        """The training samples that validation measures."""
        return Kept(self.stored_training(self.seen))

    def _held_out(self, samples: Samples | Kept, workers: int) -> DataLoader[Any]:
        """The rank's share of samples, each with its held-out views."""
        share = range(self.rank, -(-len(samples) // self.world) * self.world, self.world)
        order = [index % len(samples) for index in share]
        held_out = HeldOut(samples, self.settings.num_input_views, shuffle_seed(self.settings))
        return self._loader(held_out, workers, batch_size=1, sampler=order)

    def on_after_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        """Bytes to floats, where the batch now is."""
        return floating(batch)

    def _loader(self, dataset: Any, workers: int, **options: Any) -> DataLoader[Any]:
        pin = torch.cuda.is_available()
        return DataLoader(dataset, num_workers=workers, pin_memory=pin, collate_fn=collated, **options)
