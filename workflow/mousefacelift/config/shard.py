"""Settings of stage 5, shard."""

from typing import Literal

from pydantic import Field

from mousefacelift.config.section import Section


class Shard(Section):
    """Final images and their containers."""

    tar_codec: Literal["png", "webp", "qoi"] = Field("png", description="lossless format of the views in the tar")
    tar_level: int | None = Field(
        None, ge=0, le=9, description="of png 0 to 9, of webp 0 to 6: more is smaller and slower; null: 1 and 4"
    )
    h5_codec: Literal["zstd", "lz4", "blosc-lz4", "blosc-zstd", "gzip", "lzf"] = Field(
        "zstd", description="compression of the HDF5 images; gzip and lzf can be read without hdf5plugin"
    )
    h5_level: int | None = Field(
        None, ge=0, le=9, description="of zstd, blosc and gzip: more is smaller and slower; null: zstd 3, gzip 1"
    )
