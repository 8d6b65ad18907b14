"""Whether the files that are about to be read are byte for byte what the manifest says."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

from mousefacelift.base.errors import UserError
from mousefacelift.base.progress import track
from mousefacelift.shards.checksums import checksum
from mousefacelift.shards.manifest import Kind, Manifest, ShardEntry

MAX_LINES = 5  # of problems, in the message that refuses a shard


def refuse_damaged(manifest: Manifest, kind: Kind, splits: Collection[str], threads: int) -> None:
    """Raise UserError, in the words of `verify`, unless the files of the splits are what the manifest says.

    Only sizes and checksums of the shards with samples are compared, several files at a time; the first that differs is
    then read sample by sample, to say what is wrong with it.
    """
    if manifest.url:
        return  # such files are checked as they arrive
    entries = [entry for split in splits for entry in manifest.split(split)]
    advance = track(max(len(entries), 1), "checking the shards' checksums")

    def is_whole(entry: ShardEntry) -> bool:
        path = manifest.folder / entry.path(kind)
        try:
            return path.stat().st_size == entry.bytes[kind] and checksum(path) == entry.sha256[kind]
        except OSError:
            return False
        finally:
            advance()

    with ThreadPoolExecutor(max_workers=threads) as pool:
        futures = [pool.submit(is_whole, entry) for entry in entries]
        for entry, future in zip(entries, futures, strict=True):
            if not future.result():
                pool.shutdown(wait=False, cancel_futures=True)
                raise UserError(_refusal(manifest, entry, kind))


def _refusal(manifest: Manifest, entry: ShardEntry, kind: Kind) -> str:
    from mousefacelift.shards.verify.shard import check_shard

    path = entry.path(kind)
    problems = check_shard(manifest.folder, entry, manifest.image_size, manifest.views, manifest.shards)
    lines = [str(problem) for problem in problems if problem.shard == path]
    more = [f"and {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else []
    return "\n".join(
        [
            f"{manifest.folder / path}: not what {manifest.folder / 'manifest.json'} says:",
            *lines[:MAX_LINES],
            *more,
            "delete the file and rerun the workflow, which makes it again; `mousefacelift verify` checks all files",
        ]
    )
