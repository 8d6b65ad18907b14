"""What shards and FaceLift's folders hold, read without the package."""

import json
import tarfile

import h5py


def stored(manifest_path):
    """All samples of shards: (split, key) -> image, c2w, fxfycxcy, world_from_mm, frame, names of the views, JSON."""
    samples = {}
    for entry in json.loads(manifest_path.read_text())["shards"]:
        with (
            h5py.File(manifest_path.parent / entry["h5"]) as file,
            tarfile.open(manifest_path.parent / entry["tar"]) as tar,
        ):
            for n, key in enumerate(file["key"].asstr()[()]):
                arrays = (file[name][n] for name in ("image", "c2w", "fxfycxcy", "world_from_mm", "frame"))
                meta = json.loads(tar.extractfile(f"{key}.json").read())
                samples[entry["split"], key] = (*arrays, list(file.attrs["views"]), meta)
    return samples


def sample_folder(facelift):
    return facelift / "train" / "a-train-000001"


def splits_of(folder):
    """The keys of each split's samples."""
    keys = {"train": [], "val": [], "test": []}
    for entry in json.loads((folder / "manifest.json").read_text())["shards"]:
        with h5py.File(folder / entry["h5"]) as file:
            keys[entry["split"]] += file["key"].asstr()[()].tolist()
    return keys
