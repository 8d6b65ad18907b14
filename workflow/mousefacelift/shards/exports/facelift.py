"""FaceLift's layout: a folder per sample with its opencv_cameras.json and images, and a list of folders for each split.

A sample is a folder with `images/cam_000.png`, … (RGBA, straight alpha) and `opencv_cameras.json`, which also holds all else
that the shard tells of the sample (id, frame, time_s, world_from_mm, …) under keys that FaceLift ignores. Pixels and
cameras are the shard's, to the last bit: nothing is resampled or moved.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mousefacelift.config.sample import SPLITS
from mousefacelift.rigs.formats.facelift import FACELIFT_FILE
from mousefacelift.shards.exports.samples import Export, write_samples
from mousefacelift.shards.folders import new_folder
from mousefacelift.shards.sample import SampleMeta


def export_facelift(manifest: Path | str, folder: Path, splits: Sequence[str] = SPLITS, threads: int = 1) -> None:
    """Write shards as FaceLift reads them: `{folder}/{split}/{key}/opencv_cameras.json`, images beside it, and lists.

    Each line of `{folder}/data_{split}.txt` is the absolute path of a sample's folder: FaceLift's loader appends
    /opencv_cameras.json to the line, and would look for a relative path where it was started. A split without samples has
    no list. Raises UserError if the folder is neither new nor empty, if there is no sample, or for damaged shards.
    """
    final = folder.resolve()
    with new_folder(folder) as temporary:
        lists: dict[str, list[Path]] = {}
        for split, key in write_samples(manifest, temporary, splits, threads, _document, FACELIFT_FILE):
            lists.setdefault(split, []).append(final / split / key)
        for split, samples in lists.items():
            text = "".join(f"{sample}\n" for sample in samples)
            (temporary / f"data_{split}.txt").write_text(text, encoding="utf-8")


def _document(meta: SampleMeta, names: list[str], size: int) -> dict[str, Any]:
    views = [view.model_copy(update={"file_path": name}) for view, name in zip(meta.frames, names, strict=True)]
    return meta.model_copy(update={"frames": views}).model_dump()


EXPORT = Export("FaceLift's sample folders and lists", export_facelift)
