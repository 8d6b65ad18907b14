"""Choices among frames, views and splits. Arrays in, indices and names out, no files.

Conventions are those of `camera`. Times are in seconds; w2c are [..., 4, 4] world-to-camera matrices, OpenCV's axes, with
the subject at the world's origin and +Z up.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from math import comb
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import NDArray

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import natural_key
from mousefacelift.config.sample import SPLITS, Sample, SplitFractions
from mousefacelift.geometry.camera import Array
from mousefacelift.geometry.views import azimuth_elevation, inverse_rigid

Indices = NDArray[np.int64]

SHAPE = ("length_mm", "width_mm", "depth_mm", "volume_mm3", "pitch_deg", "height_mm")
MAX_DEVIATIONS = 5.0  # what lies beyond counts as this: one wrong hull must not outdo every pose
POSES = 5
MAX_SUBSETS = 20_000  # of the views; as many are tried one by one in a fraction of a second


def thinned(items: NDArray[Any], count: int) -> NDArray[Any]:
    """Choose at most `count` items, evenly spread, first and last included.

    For what was chosen with this rounding from the start and stays so: points of a hull, frames whose hulls leave a camera
    out, samples that `show` draws. Elsewhere use `evenly_spaced`.

    Args:
        items: [N, ...] in order.
        count: at most so many.

    Returns:
        [min(N, count), ...] of the items, in order.
    """
    return items if len(items) <= count else items[np.linspace(0, len(items) - 1, count).astype(int)]


def far_apart(points: NDArray[np.floating[Any]], first: int, count: int) -> NDArray[np.intp]:
    """Choose points one by one, each the farthest from those before it.

    Gonzalez, Clustering to minimize the maximum intercluster distance, 1985. Ties go to the earlier point, and the first k
    of k + 1 picks are the k picks.

    Args:
        points: [N, D] in any unit.
        first: index of the first pick.
        count: at most so many.

    Returns:
        [min(N, count)] indices in the order of picking.
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
    """Choose at most `wanted` of `count` items, evenly spread, first and last included.

    Args:
        count: of the items.
        wanted: at most so many; None: all.

    Returns:
        Ascending indices.
    """
    if wanted is None or wanted >= count:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, wanted).round().astype(int))


def shape_descriptors(lengths_mm: Array, volume_mm3: Array, axis: Array, world_from_mm: Array) -> Array:
    """Describe the mouse's pose in each frame by a few numbers.

    The pitch of the longest axis tells rearing, and so does the height of the mouse's centre. Where the mouse stands and
    which way it faces is no pose: turning the world about Z, or moving the mouse along the floor, changes nothing.

    Args:
        lengths_mm: [N, 3] axes of the visual hull's ellipsoid, see `hull.Hull`.
        volume_mm3: [N] of the hull.
        axis: [N, 3] unit direction of the longest axis in the calibration's world, of either sign.
        world_from_mm: [N, 4, 4] similarities from the calibration's world to Z-up worlds with the mouse at the origin.

    Returns:
        [N, 6] numbers named by SHAPE; a row is NaN where the hull was not measured.
    """
    up = world_from_mm[:, 2, :3]
    scale = np.linalg.norm(up, axis=1)
    pitch_deg = np.degrees(np.arcsin((np.abs((up * axis).sum(axis=1)) / scale).clip(max=1)))
    shape = np.column_stack([lengths_mm, volume_mm3, pitch_deg, -world_from_mm[:, 2, 3] / scale])
    shape[~np.isfinite(shape).all(axis=1)] = np.nan
    return shape


def standardised(values: Array) -> Array:
    """Express each column in robust standard deviations (1.4826 median absolute deviations) from its median.

    Args:
        values: [N, D]; rows with NaN are left out of the medians.

    Returns:
        [N, D] within +-MAX_DEVIATIONS; NaN stays NaN.
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
    """Choose points one by one, each the farthest from those before it, see `far_apart`.

    Args:
        points: [N, D], `standardised`: the first pick is the one nearest to the origin, which is the median.
        count: at most so many.

    Returns:
        Indices in the order of picking; points with NaN come last.
    """
    finite = np.isfinite(points).all(axis=1)
    known = points[finite]
    picked = far_apart(known, int(np.argmin((known**2).sum(axis=1))), count) if len(known) else np.zeros(0, int)
    return np.concatenate([np.flatnonzero(finite)[picked], np.flatnonzero(~finite)])[:count]


def pose_strata(points: Array) -> Indices:
    """Group frames of like pose, by k-means that starts from the farthest points.

    No chance is involved, and a rare pose has a centre of its own. Frames that were not measured count as typical.

    Args:
        points: [N, D] shapes as `standardised` gives them; NaN where not measured.

    Returns:
        [N] number of each frame's stratum, below POSES.
    """
    from scipy.cluster.vq import kmeans2  # takes long to import, for `sample.stratify` alone

    points = np.nan_to_num(points)
    with catch_warnings():
        simplefilter("ignore", UserWarning)  # fewer poses than strata leave some empty, which is no problem
        _, stratum = kmeans2(points, points[farthest_points(points, POSES)], iter=20, minit="matrix")
    return stratum.astype(np.int64)


def view_order(w2c: Array) -> list[int]:
    """Order views by azimuth about the subject, counter-clockwise from the first camera.

    Args:
        w2c: [N, V, 4, 4] of all frames of a capture; mean directions over the frames decide, so that all samples agree.

    Returns:
        The V views, the first camera's first.
    """
    azimuth, _ = azimuth_elevation(inverse_rigid(w2c)[..., :3, 3].mean(axis=0))
    return [int(v) for v in np.argsort((azimuth - azimuth[0] + 1e-6) % 360, kind="stable")]


def choose_views(names: Sequence[str], w2c: Array, count: int) -> tuple[list[int], float]:
    """Choose the cameras that spread best around the subject, whatever the order in which they are listed.

    Args:
        names: of the V cameras.
        w2c: [N, V, 4, 4] of all frames of a capture.
        count: how many cameras to choose.

    Returns:
        The chosen cameras' indices by azimuth, from the first in the natural order of names.
        The smallest angle between two of them as seen from the subject, in degrees.
    """
    by_name = sorted(range(len(names)), key=lambda v: (natural_key(names[v]), names[v]))
    towards = inverse_rigid(w2c)[..., :3, 3]
    directions = (towards / np.linalg.norm(towards, axis=-1, keepdims=True)).mean(axis=0)[by_name]
    spread = spread_views(directions, count)
    chosen = [by_name[v] for v in spread]
    distance = _chords(directions[spread])[np.triu_indices(count, 1)].min()
    return [chosen[v] for v in view_order(w2c[:, chosen])], float(np.degrees(2 * np.arcsin(distance / 2)))


def usable_views(names: Sequence[str], usable: NDArray[np.bool_], count: int) -> list[int]:
    """Choose the cameras whose views are usable at least half as often as the best camera's.

    If these are fewer than `count`, the next best are added, in the natural order of names among equals.

    Args:
        names: of the V cameras.
        usable: [N, V] whether a frame could be a sample if the camera's view were its only one.
        count: how many views a sample needs.

    Returns:
        Ascending indices of `count` cameras or more.
    """
    counts = usable.sum(axis=0)
    best_first = sorted(range(len(names)), key=lambda v: (-counts[v], natural_key(names[v]), names[v]))
    enough = int((2 * counts >= counts.max()).sum())
    return sorted(best_first[: max(enough, count)])


def spread_views(directions: Array, count: int) -> list[int]:
    """Choose the directions that spread best on the sphere.

    The best have the largest smallest angle between two; among equals, the largest sum of log distances between their
    points on the unit sphere. Up to MAX_SUBSETS subsets are all tried. If there are more, one is grown from each direction
    by the farthest next and improved by exchanging one member at a time, and the best of these is taken.

    Args:
        directions: [V, 3] of any length.
        count: how many to choose.

    Returns:
        Ascending indices.
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
    """Divide a number of things among the splits, by largest remainders.

    Args:
        count: of the things.
        fractions: of each split.

    Returns:
        The number for each split: at least one where the fraction is not 0, the larger fractions first if there are fewer
        things than such splits.
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
    """Give whole captures, or all captures of an animal, to one split.

    `sample.fractions` are of the number of captures, or of animals. In the natural order of names, those of each split are
    evenly spread.

    Args:
        animal_of: the animal of each capture.
        settings: the section `sample`.

    Returns:
        The split of each capture; empty where blocks in time are given to splits instead.

    Raises:
        UserError: there are fewer captures, or animals, than splits with a fraction above 0.
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
    """A sequence with the given number of each split, those of each split evenly spread."""
    places = sorted(
        ((k + 0.5) / given[name], number, name) for number, name in enumerate(SPLITS) for k in range(given[name])
    )
    return [name for *_, name in places]


def split_blocks(time_s: Array, fractions: SplitFractions, gap_s: float, rounds: int = 1) -> list[str | None]:
    """Give blocks of a capture's time to the splits, in the order train, val, test.

    Args:
        time_s: [N] increasing.
        fractions: of each split, in each of the rounds.
        gap_s: seconds, centred on each boundary between two splits, whose frames go to none.
        rounds: equal stretches of time, each of which is divided by `fractions`.

    Returns:
        The split of each frame, [N]; None within a gap. A single instant goes to one split.
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
    """Give blocks of a capture's time to the splits so that each split sees every stratum.

    Blocks have equal numbers of frames, as many as the smallest fraction's share of one of `rounds` equal parts. They go
    to the splits evenly spread at first. Pairs of blocks are then exchanged for as long as that brings the splits' shares
    of the strata nearer to their fractions. Where a stratum has too few frames for all, val and test come before train.

    Args:
        time_s: [N] increasing.
        strata: [N] the stratum of each frame, see `pose_strata`.
        fractions: of each split.
        gap_s: seconds, centred on each boundary between two splits, whose frames go to none.
        rounds: how often each split comes, about.

    Returns:
        The split of each frame, [N]; None within a gap.
    """
    # As few blocks as the fractions allow: every boundary costs a gap.
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
        """Cost of a split that holds [..., S] frames of the strata. Too few are worse than too many."""
        fraction = getattr(fractions, name)
        share = frames / total
        missing = np.maximum(1 - share / fraction, 0) ** 2 if fraction else np.zeros_like(share)
        return (weight * ((1 if name == "train" else 10) * missing + (share - fraction) ** 2)).sum(axis=-1)

    # Greedy: each block of val and test takes its best exchange until none helps. The cost falls at every step, so it ends.
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
    """The split of each frame, from those of the blocks between ascending borders; None within gap_s / 2 of another split."""
    block = np.searchsorted(borders, time_s, side="right")
    between_splits = np.array([before != after for before, after in pairwise(names)], bool)
    in_gap = _from_borders(time_s, borders[between_splits]) < gap_s / 2
    return [None if gap else names[b] for b, gap in zip(block, in_gap, strict=True)]


def _from_borders(time_s: Array, borders: Array) -> Array:
    """Seconds [N] from each instant to the nearest of ascending borders; inf without any."""
    around = np.concatenate([[-np.inf], borders, [np.inf]])
    after = np.searchsorted(borders, time_s) + 1
    return np.minimum(time_s - around[after - 1], around[after] - time_s)
