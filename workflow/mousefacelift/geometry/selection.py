"""The choices of stage 4: which frames, which views, which split. Arrays in, indices and names out, no files."""

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import natural_key
from mousefacelift.config.sample import SPLITS, Sample, SplitFractions
from mousefacelift.geometry.camera import Array
from mousefacelift.geometry.views import azimuth_elevation, inverse_rigid

Indices = NDArray[np.int64]

SHAPE = ("length_mm", "width_mm", "depth_mm", "volume_mm3", "pitch_deg", "height_mm")
MAX_DEVIATIONS = 5.0  # what lies beyond is no stranger than this: one wild hull must not outdo every pose
POSES = 5
MAX_SUBSETS = 20_000  # so many subsets of the views are tried one by one: a fraction of a second


def thinned(items: NDArray[Any], count: int) -> NDArray[Any]:
    """At most `count` of the items [N, ...], evenly spread, first and last included.

    For points of a hull, of which every stored number depends on this rounding; for all else see `evenly_spaced`.
    """
    return items if len(items) <= count else items[np.linspace(0, len(items) - 1, count).astype(int)]


def far_apart(points: NDArray[np.floating[Any]], first: int, count: int) -> NDArray[np.intp]:
    """Indices of at most `count` of points [N, D]: `first`, then always the one farthest from those before it.

    Ties go to the earlier point; the first k of k + 1 picks are the k picks. Gonzalez (1985), Clustering to minimize the
    maximum intercluster distance.
    """
    columns = np.ascontiguousarray(points.T)  # several times as fast as rows, for every voxel of every hull
    chosen = np.full(min(count, len(points)), first, np.intp)
    distance = np.full(len(points), np.inf, points.dtype)
    for k in range(len(chosen)):
        if k:
            chosen[k] = distance.argmax()
        latest = chosen[k]
        apart = (columns[0] - columns[0, latest]) ** 2
        for column in columns[1:]:
            apart += (column - column[latest]) ** 2
        distance = np.minimum(distance, apart)
        distance[latest] = -1
    return chosen


def evenly_spaced(count: int, wanted: int | None) -> Indices:
    """Indices of at most `wanted` of `count` items, evenly spread, first and last included."""
    if wanted is None or wanted >= count:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, wanted).round().astype(int))


def shape_descriptors(lengths_mm: Array, volume_mm3: Array, axis: Array, world_from_mm: Array) -> Array:
    """The mouse's pose in each frame as [N, 6] numbers, named by SHAPE; NaN where its visual hull was not measured.

    lengths_mm [N, 3] of the hull's ellipsoid, volume_mm3 [N], axis [N, 3] its longest direction, of either sign;
    world_from_mm [N, 4, 4] similarities to Z-up worlds with the mouse at the origin. The pitch of the longest axis tells
    rearing, and so does the height of the mouse's centre. Where the mouse stands and which way it looks is no pose: turning
    the world about Z, or moving the mouse along the floor, changes nothing.
    """
    up = world_from_mm[:, 2, :3]
    scale = np.linalg.norm(up, axis=1)
    pitch_deg = np.degrees(np.arcsin((np.abs((up * axis).sum(axis=1)) / scale).clip(max=1)))
    shape = np.column_stack([lengths_mm, volume_mm3, pitch_deg, -world_from_mm[:, 2, 3] / scale])
    shape[~np.isfinite(shape).all(axis=1)] = np.nan
    return shape


def standardised(values: Array) -> Array:
    """Columns of [N, D] in robust standard deviations (1.4826 median absolute deviations) from their medians.

    At most MAX_DEVIATIONS; rows with NaN are left out of the medians, and stay.
    """
    known = values[np.isfinite(values).all(axis=1)]
    if not len(known):
        return values
    median = np.median(known, axis=0)
    deviation = 1.4826 * np.median(np.abs(known - median), axis=0)
    # Where more than half of the values are alike, the mean deviation still tells the others.
    deviation = np.where(deviation > 1e-9, deviation, np.abs(known - median).mean(axis=0))
    return np.clip((values - median) / np.where(deviation > 1e-9, deviation, 1), -MAX_DEVIATIONS, MAX_DEVIATIONS)


def farthest_points(points: Array, count: int) -> Indices:
    """Indices of `count` of N points [N, D], each the farthest from those before it, see `geometry.far_apart`.

    The first is the one nearest to the origin, which `standardised` puts at the median. Points with NaN come last.
    """
    finite = np.isfinite(points).all(axis=1)
    known = points[finite]
    picked = far_apart(known, int(np.argmin((known**2).sum(axis=1))), count) if len(known) else np.zeros(0, int)
    return np.concatenate([np.flatnonzero(finite)[picked], np.flatnonzero(~finite)])[:count]


def pose_strata(points: Array) -> Indices:
    """Number [N] of each frame's stratum, of at most POSES: frames of like pose, by their `standardised` shapes [N, D].

    K-means that starts from the farthest points: no chance is involved, and a rare pose has a centre of its own. Frames
    that were not measured count as typical.
    """
    points = np.nan_to_num(points)
    centres = points[farthest_points(points, POSES)]
    for _ in range(20):
        stratum = np.argmin(((points[:, None] - centres) ** 2).sum(axis=2), axis=1)
        centres = np.array(
            [points[stratum == k].mean(axis=0) if (stratum == k).any() else c for k, c in enumerate(centres)]
        )
    return stratum


def view_order(w2c: Array) -> list[int]:
    """Views by azimuth about the subject, counter-clockwise from the first camera: the same for every sample.

    w2c: [N, V, 4, 4] of all frames of a capture; the cameras' mean directions over the frames decide.
    """
    azimuth, _ = azimuth_elevation(inverse_rigid(w2c)[..., :3, 3].mean(axis=0))
    return [int(v) for v in np.argsort((azimuth - azimuth[0] + 1e-6) % 360, kind="stable")]


def choose_views(names: Sequence[str], w2c: Array, count: int) -> tuple[list[int], float]:
    """The `count` cameras that spread best around the subject, by azimuth from the first in the natural order of names.

    names: V cameras; w2c: [N, V, 4, 4]. The choice does not depend on the order in which cameras are listed. Also returns
    the smallest angle, in degrees, between two of them as seen from the subject.
    """
    by_name = sorted(range(len(names)), key=lambda v: (natural_key(names[v]), names[v]))
    towards = inverse_rigid(w2c)[..., :3, 3]
    directions = (towards / np.linalg.norm(towards, axis=-1, keepdims=True)).mean(axis=0)[by_name]
    spread = spread_views(directions, count)
    chosen = [by_name[v] for v in spread]
    distance = _chords(directions[spread])[np.triu_indices(count, 1)].min()
    return [chosen[v] for v in view_order(w2c[:, chosen])], float(np.degrees(2 * np.arcsin(distance / 2)))


def usable_views(names: Sequence[str], usable: NDArray[np.bool_], count: int) -> list[int]:
    """Ascending indices of the cameras from which `count` views may be chosen: those that are of use often enough.

    usable: [N, V], whether a frame could be a sample if the camera's view were the only one. Often enough is half as often
    as the best camera's; if fewer than `count` are, those that come next, in the natural order of names among equals.
    """
    counts = usable.sum(axis=0)
    best_first = sorted(range(len(names)), key=lambda v: (-counts[v], natural_key(names[v]), names[v]))
    enough = int((2 * counts >= counts.max()).sum())
    return sorted(best_first[: max(enough, count)])


def spread_views(directions: Array, count: int) -> list[int]:
    """Ascending indices of the `count` of V directions [V, 3], of any length, that spread best on the sphere.

    The best have the largest smallest angle between two; among equals, the largest sum of log distances between their
    points on the unit sphere. Up to MAX_SUBSETS subsets are all tried. Of more, one is grown from each direction by the
    farthest next, improved by exchanging one member at a time, and the best is taken.
    """
    chords = _chords(directions)
    if comb(len(directions), count) <= MAX_SUBSETS:
        subsets = np.array(list(combinations(range(len(directions)), count)))
    else:
        subsets = np.array([sorted(_exchanged(chords, _grown(chords, v, count))) for v in range(len(directions))])
    one, other = np.triu_indices(count, 1)
    distances = chords[subsets[:, one], subsets[:, other]]
    ranks = zip(distances.min(axis=1), np.log(distances).sum(axis=1).round(9), strict=True)
    best, _ = max(enumerate(ranks), key=lambda item: item[1])
    return [int(v) for v in subsets[best]]


def _chords(directions: Array) -> Array:
    """Distances [V, V] on the unit sphere, rounded: on a symmetric rig equal angles must be equal numbers."""
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return np.maximum(np.linalg.norm(unit[:, None] - unit, axis=-1).round(9), 1e-9)


def _grown(chords: Array, first: int, count: int) -> list[int]:
    chosen = [first]
    while len(chosen) < count:
        nearest = chords[:, chosen].min(axis=1)
        nearest[chosen] = -1
        chosen.append(int(np.argmax(nearest)))
    return chosen


def _exchanged(chords: Array, chosen: list[int]) -> list[int]:
    """The members after single exchanges, for as long as one makes the subset better."""
    for _ in range(100):
        before = list(chosen)
        for place in range(len(chosen)):
            rest = chosen[:place] + chosen[place + 1 :]
            within = chords[np.ix_(rest, rest)][np.triu_indices(len(rest), 1)]
            smallest = np.minimum(chords[:, rest].min(axis=1), within.min(initial=np.inf))
            log_sum = np.log(chords[:, rest]).sum(axis=1).round(9)
            free = [v for v in range(len(chords)) if v not in rest]
            best = max(free, key=lambda v: (smallest[v], log_sum[v]))
            if (smallest[best], log_sum[best]) > (smallest[chosen[place]], log_sum[chosen[place]]):
                chosen = [*chosen[:place], best, *chosen[place + 1 :]]
        if chosen == before:
            break
    return chosen


def allocate(count: int, fractions: SplitFractions) -> dict[str, int]:
    """How many of `count` things each split gets, by largest remainders; at least one where the fraction is not 0.

    Where there are fewer things than such splits, the larger fractions come first.
    """
    shares = {name: getattr(fractions, name) * count for name in SPLITS}
    # A share of 0.29999999999999993 * 10 is 3.
    given = {name: int(share + 1e-9) for name, share in shares.items()}
    for name in sorted(SPLITS, key=lambda name: given[name] - shares[name])[: count - sum(given.values())]:
        given[name] += 1
    for name in SPLITS:
        most = max(given, key=lambda name: given[name])
        if shares[name] > 0 and not given[name] and given[most] > 1:
            given[most] -= 1
            given[name] += 1
    return given


def capture_splits(animal_of: Mapping[str, str], settings: Sample) -> dict[str, str]:
    """The split of each capture, where whole captures or animals go to one split; empty where blocks in time do.

    animal_of: capture -> its animal. `fractions` are of the number of captures, or of animals. In the natural order of
    their names those of each split are evenly spread. Raises UserError if there are fewer than splits with a fraction
    above 0.
    """
    if settings.split == "block":
        return {}
    group_of = animal_of if settings.split == "animal" else {name: name for name in animal_of}
    fractions = settings.fractions
    groups = sorted(set(group_of.values()), key=lambda name: (natural_key(name), name))
    wanted = [name for name in SPLITS if getattr(fractions, name) > 0]
    if len(groups) < len(wanted):
        raise UserError(
            f"sample.split: {settings.split}: {len(wanted)} splits ({', '.join(wanted)}) need as many {settings.split}s; the "
            f"captures table has {len(groups)} ({', '.join(groups)}): add some, use split: block, or set a fraction to 0 "
            "(sample.fractions)"
        )
    split_of = dict(zip(groups, _interleaved(allocate(len(groups), fractions)), strict=True))
    return {capture: split_of[group] for capture, group in group_of.items()}


def _interleaved(given: Mapping[str, int]) -> list[str]:
    """So many of each split in a row, those of each split evenly spread."""
    places = sorted(
        ((k + 0.5) / given[name], number, name) for number, name in enumerate(SPLITS) for k in range(given[name])
    )
    return [name for *_, name in places]


def split_blocks(time_s: Array, fractions: SplitFractions, gap_s: float, rounds: int = 1) -> list[str | None]:
    """SplitFractions of each frame: blocks of the capture's time in the order train, val, test, so often; None within a gap.

    time_s: [N] increasing. Every one of `rounds` equal stretches of time is divided by `fractions`. A gap of gap_s
    seconds is centred on each boundary between two blocks of different splits. A single instant is of one split.
    """
    if time_s[0] == time_s[-1]:
        one = allocate(1, fractions)
        return [max(one, key=lambda name: one[name])] * len(time_s)
    stretch = (time_s[-1] - time_s[0]) / rounds
    starts: list[float] = []
    names: list[str] = []
    for number in range(rounds):
        passed = 0.0
        for name in SPLITS:
            if getattr(fractions, name) > 0:
                starts.append(time_s[0] + (number + passed) * stretch)
                names.append(name)
            passed += getattr(fractions, name)
    return _without_gaps(time_s, np.array(starts[1:]), names, gap_s)


def split_stratified(
    time_s: Array, strata: Indices, fractions: SplitFractions, gap_s: float, rounds: int = 1
) -> list[str | None]:
    """SplitFractions of each frame: blocks of time, given to the splits so that each sees every stratum; None within a gap.

    time_s: [N] increasing; strata: [N]. Blocks have equal numbers of frames, as many as the smallest fraction's share of
    one of `rounds` equal parts; `fractions` of their number go to each split, evenly spread at first. Pairs of blocks are
    then exchanged for as long as that brings the splits' shares of the strata nearer to their fractions. Where there is
    not enough of a stratum for all, val and test come before train.
    """
    smallest = min(fraction for fraction in fractions.model_dump().values() if fraction > 0)
    count = round(min(rounds / smallest, len(time_s)))
    block = np.arange(len(time_s)) * count // len(time_s)
    first = np.searchsorted(block, np.arange(1, count))
    borders = (time_s[first] + time_s[first - 1]) / 2
    # Frames that a gap may take do not count.
    safe = _from_borders(time_s, borders) >= gap_s / 2
    contents = np.zeros((count, int(strata.max()) + 1), int)
    np.add.at(contents, (block[safe], strata[safe]), 1)
    total = np.maximum(contents.sum(axis=0), 1)
    # If every frame counted alike, the rare strata would be forgotten, and if every stratum did, the common ones.
    weight = np.sqrt(total)

    names = np.array(_interleaved(allocate(count, fractions)))
    held = {name: contents[names == name].sum(axis=0) for name in SPLITS}

    def cost(frames: NDArray[np.int64], name: str) -> Array:
        """Of a split that holds [..., S] frames of the strata. To hold too few is worse than too many."""
        fraction = getattr(fractions, name)
        share = frames / total
        missing = np.maximum(1 - share / fraction, 0) ** 2 if fraction else np.zeros_like(share)
        return (weight * ((1 if name == "train" else 10) * missing + (share - fraction) ** 2)).sum(axis=-1)

    improved = True
    while improved:
        improved = False
        for b in np.flatnonzero(names != "train"):
            mine, best, gain = str(names[b]), b, 1e-6
            for other in (name for name in SPLITS if name != mine):
                theirs = np.flatnonzero(names == other)
                change = contents[theirs] - contents[b]
                after = cost(held[mine] + change, mine) + cost(held[other] - change, other)
                gains = cost(held[mine], mine) + cost(held[other], other) - after
                if len(theirs) and gains.max() > gain:
                    best, gain = theirs[gains.argmax()], gains.max()
            if best != b:
                held[mine] = held[mine] + contents[best] - contents[b]
                held[str(names[best])] += contents[b] - contents[best]
                names[[b, best]] = names[[best, b]]
                improved = True
    return _without_gaps(time_s, borders, names.tolist(), gap_s)


def _without_gaps(time_s: Array, borders: Array, names: Sequence[str], gap_s: float) -> list[str | None]:
    """SplitFractions of each frame, of the blocks between ascending borders; None within gap_s / 2 of a border of two splits."""
    block = np.searchsorted(borders, time_s, side="right")
    between_splits = np.array([before != after for before, after in pairwise(names)], bool)
    in_gap = _from_borders(time_s, borders[between_splits]) < gap_s / 2
    return [None if gap else names[b] for b, gap in zip(block, in_gap, strict=True)]


def _from_borders(time_s: Array, borders: Array) -> Array:
    """Seconds [N] from each instant to the nearest of ascending borders; inf without any."""
    around = np.concatenate([[-np.inf], borders, [np.inf]])
    after = np.searchsorted(borders, time_s) + 1
    return np.minimum(time_s - around[after - 1], around[after] - time_s)
