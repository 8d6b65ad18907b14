"""Bytes, and CPU time to write and to read, of the demo's 512 px views in lossless formats: the table of docs/shards.md.

    pytest benchmarks/test_codecs_benchmark.py -s

One thread. All figures are per view; what is asserted is that every format gives back the same pixels.
"""

import io
import time
from functools import partial

import cv2
import h5py
import hdf5plugin
import numpy as np
import pytest
import zstandard
from PIL import Image

from mousefacelift.config.config import Config
from mousefacelift.shards.images import decode_image, encode_image
from support.rodent import demo_capture, run_stages

WHITE = np.full((512, 512, 4), (255, 255, 255, 0), np.uint8)


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    """[N, 6, 512, 512, 4] of every 8th frame of the demo."""
    config = Config.model_validate({"center": {"stride": 8}, "normalize": {"zoom": "fit"}, "sample": {"gap_s": 0}})
    run = run_stages(demo_capture(), tmp_path_factory.mktemp("demo"), config)
    images = []
    for path in run.shards:
        with h5py.File(path) as file:
            images.append(file["image"][()])
    return np.concatenate(images)


def pillow(form, rgba, **options):
    file = io.BytesIO()
    Image.fromarray(rgba).save(file, form, **options)
    return file.getvalue()


def opencv(rgba, level, filters):
    options = [cv2.IMWRITE_PNG_COMPRESSION, level, cv2.IMWRITE_PNG_FILTER, filters]
    return cv2.imencode(".png", cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA), options)[1].tobytes()


def read_pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def tight(encode, rgba):
    x, y, w, h = cv2.boundingRect(np.ascontiguousarray(rgba[..., 3]))
    return x, y, w, h, encode(np.ascontiguousarray(rgba[y : y + h, x : x + w]))


def untight(decode, stored):
    x, y, w, h, data = stored
    image = WHITE.copy()
    image[y : y + h, x : x + w] = decode(data, (h, w, 4))
    return image


def zstd(rgba):
    return zstandard.ZstdCompressor(level=3).compress(rgba.tobytes())


def unzstd(data, shape):
    return np.frombuffer(zstandard.ZstdDecompressor().decompress(data), np.uint8).reshape(shape)


READ = partial(decode_image, where="")
FILES = {
    "PNG, OpenCV, level 1, no filter (`png`)": (partial(encode_image, codec="png", level=1), READ),
    "PNG, OpenCV, level 1, filter sub": (partial(opencv, level=1, filters=cv2.IMWRITE_PNG_FILTER_SUB), READ),
    "PNG, OpenCV, level 1, all filters": (partial(opencv, level=1, filters=cv2.IMWRITE_PNG_ALL_FILTERS), READ),
    "PNG, OpenCV, level 3, no filter": (partial(encode_image, codec="png", level=3), READ),
    "PNG, OpenCV, level 9, all filters": (partial(opencv, level=9, filters=cv2.IMWRITE_PNG_ALL_FILTERS), READ),
    "PNG, Pillow, level 1": (partial(pillow, "png", compress_level=1), read_pillow),
    "PNG, Pillow, level 6": (partial(pillow, "png"), read_pillow),
    "WebP lossless, effort 0": (partial(encode_image, codec="webp", level=0), READ),
    "WebP lossless, effort 4 (`webp`)": (partial(encode_image, codec="webp", level=4), READ),
    "QOI (`qoi`)": (partial(encode_image, codec="qoi", level=0), READ),
    "tight crop, PNG level 1": (
        partial(tight, partial(encode_image, codec="png", level=1)), partial(untight, lambda data, _: READ(data)),
    ),
    "tight crop, zstd level 3": (partial(tight, zstd), partial(untight, unzstd)),
}  # fmt: skip
HDF5 = {
    "gzip 1 (`gzip`)": {"compression": "gzip", "compression_opts": 1},
    "gzip 4": {"compression": "gzip", "compression_opts": 4},
    "lzf (`lzf`)": {"compression": "lzf"},
    "LZ4 (`lz4`)": hdf5plugin.LZ4(),
    "zstd 1": hdf5plugin.Zstd(clevel=1),
    "zstd 3 (`zstd`)": hdf5plugin.Zstd(clevel=3),
    "zstd 9": hdf5plugin.Zstd(clevel=9),
    "Blosc, LZ4 5 (`blosc-lz4`)": hdf5plugin.Blosc("lz4", clevel=5, shuffle=0),
    "Blosc, zstd 3 (`blosc-zstd`)": hdf5plugin.Blosc("zstd", clevel=3, shuffle=0),
    "Blosc2, LZ4 5": hdf5plugin.Blosc2("lz4", clevel=5, filters=0),
    "Blosc2, zstd 5": hdf5plugin.Blosc2("zstd", clevel=5, filters=0),
    "none": {},
}


def row(name, size, write, read):
    print(f"| {name} | {size / 1e3:.1f} | {1e3 * write:.2f} | {1e3 * read:.2f} |", flush=True)


def timed(work, items):
    """CPU seconds per item, the least of three rounds, and what the work gave."""
    seconds = []
    for _ in range(3):
        begin = time.process_time()
        results = [work(item) for item in items]
        seconds.append((time.process_time() - begin) / len(items))
    return min(seconds), results


def test_images(views):
    cv2.setNumThreads(1)
    images = list(views.reshape(-1, *views.shape[2:]))
    print(f"\n{len(images)} views, {(views[..., 3] > 0).mean():.1%} mouse; per view kB, ms to write, ms to read")
    for name, (encode, decode) in FILES.items():
        write, files = timed(encode, images)
        read, decoded = timed(decode, files)
        assert all((a == b).all() for a, b in zip(decoded, images, strict=True)), name
        row(name, np.mean([len(f if isinstance(f, bytes) else f[-1]) for f in files]), write, read)


def test_hdf5(views, tmp_path):
    print("\nper view kB, ms to write, ms to read; a chunk per sample")
    for name, options in HDF5.items():
        path = tmp_path / f"{len(name)}.h5"
        with h5py.File(path, "w", libver="latest") as file:
            chunks = {"chunks": (1, *views.shape[1:]), "fletcher32": True} if name != "none" else {}
            data = file.create_dataset("image", views.shape, np.uint8, **chunks, **dict(options))
            begin = time.process_time()
            for i, sample in enumerate(views):
                data[i] = sample
            file.flush()
            write = (time.process_time() - begin) / (views.shape[0] * views.shape[1])
        with h5py.File(path) as file:
            read, decoded = timed(lambda i, data=file["image"]: data[i], range(len(views)))
        assert all((a == b).all() for a, b in zip(decoded, views, strict=True)), name
        row(name, path.stat().st_size / (views.shape[0] * views.shape[1]), write, read / views.shape[1])
        path.unlink()
