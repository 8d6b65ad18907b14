"""Checksums of shards' files."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mousefacelift.base.progress import track


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def checksums(paths: list[Path], threads: int, what: str) -> list[str]:
    """The checksums of files, in their order. Progress is reported as `what`."""
    if not paths:
        return []
    advance = track(len(paths), what)

    def one(path: Path) -> str:
        digest = checksum(path)
        advance()
        return digest

    # Hashing releases Python's lock, so that threads do share the work.
    with ThreadPoolExecutor(max_workers=threads) as pool:
        return list(pool.map(one, paths))
