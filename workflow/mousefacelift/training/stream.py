"""Training samples streamed from tars, local or on a web server, in an order that a resumed run repeats."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from mousefacelift.base.errors import UserError
from mousefacelift.shards.cameras import check_cameras
from mousefacelift.shards.containers import TarSample, shard_samples
from mousefacelift.shards.manifest import Manifest
from mousefacelift.training.data import CamerasName, any_unknown, camera_tensors, check_size, over_white
from mousefacelift.training.visits import STAGGER, Recipe, permutation


class TarVisits(IterableDataset[dict[str, Any]]):
    """Training samples for one rank's batches from `first` up to but not including `last`.

    There are world x workers consumers. Each has a share of the training samples; the shares differ by one sample at
    most. In every epoch a consumer streams its share, the shards in another order, into a buffer, and draws the next
    sample from the buffer at random. So every sample is visited once per epoch, and the order is a function of recipe,
    epoch and number of consumers. A stream that begins in the middle of an epoch leaves out what was visited before, and
    does not open shards of which nothing is left.

    Args:
        manifest: of the shards.
        recipe: how a sample becomes a visit.
        image_size: S, px.
        buffer: samples among which the next one is drawn.
        batch_size: samples of one batch of this rank.
        first: number of the first batch, counted from the beginning of the run.
        last: number of the batch after the last one.
        rank: of this process among `world`.
        world: number of processes.
        cameras: as in `camera_tensors`.

    Raises:
        UserError: naming shard and sample, for what is damaged, missing or not what the manifest says.
    """

    def __init__(
        self, manifest: Manifest, recipe: Recipe, image_size: int, buffer: int, batch_size: int,
        first: int, last: int, rank: int = 0, world: int = 1, cameras: CamerasName = "exact",
    ):  # fmt: skip
        check_size(manifest, image_size)
        self.manifest, self.recipe, self.image_size, self.buffer = manifest, recipe, image_size, buffer
        self.batch_size, self.first, self.last, self.rank, self.world = batch_size, first, last, rank, world
        self.cameras = cameras
        self.shards = manifest.split("train")
        self.starts = np.cumsum([0, *(shard.samples for shard in self.shards)])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        workers, worker = (info.num_workers, info.id) if info else (1, 0)
        # The loader takes batches from its workers in turn and begins with worker 0, wherever the run continues: worker 0
        # must then play the part of the one whose turn it is.
        worker = (worker + self.first) % workers
        consumer, consumers = self.rank * workers + worker, self.world * workers
        # From the rank's batches to the visits of this consumer, which has every workers-th batch.
        visit, end = ((step - worker + workers - 1) // workers * self.batch_size for step in (self.first, self.last))
        total = int(self.starts[-1])
        share = range(total * consumer // consumers, total * (consumer + 1) // consumers)
        if not share:
            raise UserError(f"{total} training samples are too few for {consumers} loaders; lower train.workers")
        stagger = permutation(self.recipe.seed, STAGGER, total)
        while visit < end:
            epoch, skip = divmod(visit, len(share))
            for sample in self._epoch(epoch, share, skip, consumer):
                batch = visit // self.batch_size * consumers + consumer
                yield self.recipe.visit(sample, epoch, int(stagger[sample["index"]]), batch)
                visit += 1
                if visit == end:
                    return

    def _epoch(self, epoch: int, share: range, skip: int, consumer: int) -> Iterator[dict[str, Any]]:
        """The samples of a consumer's share in an epoch's order, without the first `skip`."""
        # The buffer's order is known before anything is read: what was visited, and shards without the rest, are skipped.
        random = np.random.default_rng([self.recipe.seed, epoch + 1, consumer])
        upcoming = drawn(share, self.buffer, random)[skip:][::-1]
        wanted, held = set(upcoming), {}
        start = 0
        for number in permutation(self.recipe.seed, epoch, len(self.shards)):
            shard = self.shards[number]
            slots = range(start, start := start + shard.samples)
            if wanted.isdisjoint(slots):
                continue
            where, first = self.manifest.location(shard, "tar"), int(self.starts[number])
            for slot, stored in zip(slots, shard_samples(self.manifest, shard), strict=True):
                # A sample waits undecoded until its turn in the buffer's order comes.
                if slot in wanted:
                    held[slot] = first + slot - slots.start, where, stored
                while upcoming and upcoming[-1] in held:
                    yield self._decoded(*held.pop(upcoming.pop()))
                if not upcoming:
                    return

    def _decoded(self, index: int, where: str, stored: TarSample) -> dict[str, Any]:
        """A sample as `Samples.stored` gives it."""
        size = self.manifest.image_size
        c2w, fxfycxcy = stored.meta(where).cameras()
        check_cameras(c2w[None], fxfycxcy[None], [f"{where}, sample {stored.key}"])
        images = stored.images(where)
        for i, image in enumerate(images):
            if image.shape != (size, size, 4):
                raise UserError(
                    f"{where}, sample {stored.key}, cam{i}: {image.shape[1]}x{image.shape[0]} px, expected {size}x{size}"
                )
        cameras = camera_tensors(c2w, fxfycxcy, self.image_size / size, self.cameras)
        sample = {"rgba": over_white(np.stack(images), self.image_size), **cameras, "index": index}
        unknown = stored.unknown_pixels(where)
        if unknown is None:
            return sample
        if unknown.shape[-1] != size:
            raise UserError(f"{where}, sample {stored.key}, unknown: {unknown.shape[-1]} px, expected {size}")
        return sample | {"unknown": any_unknown(unknown, self.image_size)}


def drawn(slots: range, buffer: int, random: np.random.Generator) -> list[int]:
    """The order in which a stream of slots leaves a buffer.

    When the buffer is full, one of its slots is drawn at random. The rest leaves in random order at the stream's end.
    """
    held: list[int] = []
    order = []
    for slot, pick in zip(slots, random.random(len(slots)), strict=True):
        held.append(slot)
        if len(held) == buffer:
            place = int(pick * buffer)
            held[place], held[-1] = held[-1], held[place]
            order.append(held.pop())
    return order + random.permutation(held).tolist()
