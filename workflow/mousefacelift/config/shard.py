"""Settings of stage 5, shard."""

from typing import Literal

from pydantic import Field

from mousefacelift.config.section import Section


class Shard(Section):
    """Final images and their containers."""

    tar_codec: Literal["png", "webp", "qoi"] = Field(
        "png",
        description="lossless format of the views in the tar. png: opens anywhere; webp: 40 % of png's bytes, 20 times as slow to write; qoi: the fastest, but few programs read it",
    )
    tar_level: int | None = Field(
        None,
        ge=0,
        le=9,
        description="compression level of png (0 to 9) or webp (0 to 6): higher is smaller and slower; null: 1 for png, 4 for webp",
    )
    h5_codec: Literal["zstd", "lz4", "blosc-lz4", "blosc-zstd", "gzip", "lzf"] = Field(
        "zstd", description="compression of the HDF5 images; gzip and lzf can be read without hdf5plugin"
    )
    h5_level: int | None = Field(
        None,
        ge=0,
        le=9,
        description="compression level of zstd, blosc or gzip: higher is smaller and slower; null: 3 for zstd, 1 for gzip",
    )
