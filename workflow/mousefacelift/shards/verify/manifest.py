"""All shards of a manifest, several at a time."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mousefacelift import STAGE_VERSIONS
from mousefacelift.base.files import write_json
from mousefacelift.base.progress import track
from mousefacelift.shards.manifest import ShardEntry, read_manifest
from mousefacelift.shards.verify.problems import Problem
from mousefacelift.shards.verify.shard import examine
from mousefacelift.shards.verify.totals import (
    bytes_per_kind,
    check_leftovers,
    check_repeated,
    check_totals,
    samples_per_split,
)


def verify(manifest: Path, threads: int) -> list[Problem]:
    """Re-read all shards of a manifest and list its folder; what is wrong, in the manifest's order.

    Beyond what `check_shard` says of every shard: keys that are there twice, in one split or in two, totals that are not
    the sums of the shards', and files beside the shards that the manifest does not list. Raises UserError for a manifest
    that cannot be read.
    """
    data = read_manifest(manifest)
    advance = track(max(len(data.shards), 1), "verify")

    def one(entry: ShardEntry) -> tuple[list[Problem], list[str]]:
        found = examine(data.folder, entry, data.image_size, data.views, data.shards)
        advance()
        return found

    with ThreadPoolExecutor(max_workers=threads) as pool:
        examined = list(pool.map(one, data.shards))
    problems = [problem for problems, _ in examined for problem in problems]
    problems += check_repeated(data.shards, [keys for _, keys in examined])
    return problems + check_totals(manifest, data.shards) + check_leftovers(data)


def write_receipt(manifest: Path, output: Path | None) -> str:
    """What was verified, in words; and, where an output is named, as JSON that holds no times."""
    data = read_manifest(manifest)
    samples, size = samples_per_split(data.shards), bytes_per_kind(data.shards)
    if output is not None:
        receipt = {"stage": "verify", "version": STAGE_VERSIONS["verify"], "manifest_sha256": data.sha256}
        write_json(output, receipt | {"shards": len(data.shards), "samples": samples, "bytes": size})
    return f"{len(data.shards)} shards, {sum(samples.values())} samples, {sum(size.values())} bytes"
