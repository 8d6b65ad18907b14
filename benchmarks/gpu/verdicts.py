"""Whether the project's targets are met."""

import math

from gpu.bench import CONTEXT, Bench

LATENCY_TARGET = 0.2  # s, forward and rendering of 6 x 512 px with base on an H100
MFU_TARGET = 0.4
MEMORY_TARGET = 12  # GiB, for a step of one sample at 512 px


def show_verdicts(bench: Bench) -> None:
    """A line per target: met, not met, or not measured here."""
    report, tables, base = bench.report, bench.report.tables, bench.options.preset == "base"
    name = tables["machine"]["name"]
    where = f"this is {bench.options.preset} on {name}"
    full = [row for row in tables["latency"] if row["size"] == 512 and row["inputs"] == 6 and "both_ms" in row]
    target = f"forward and rendering of 6 x 512 px, base, in {LATENCY_TARGET} s on an H100"
    if base and bench.cuda and "H100" in name and bench.options.views == 6 and full:
        best = min(row["both_ms"] for row in full)
        report.verdict(target, best <= 1e3 * LATENCY_TARGET, f"{best:.1f} ms")
    else:
        found = f", {min(row['both_ms'] for row in full):.1f} ms" if full else ""
        report.verdict(target, None, where + found)

    target = f"training at {100 * MFU_TARGET:.0f} % of the measured bf16 matmul rate"
    trained = [row for row in tables["training"] if row.get("mfu")]
    if base and bench.cuda and trained:
        best = max(trained, key=lambda row: row["mfu"])
        found = f"{100 * best['mfu']:.1f} % at {best['size']} px, {best['inputs']} inputs, {best['settings']}"
        report.verdict(target, best["mfu"] >= MFU_TARGET, found)
    else:
        report.verdict(target, None, where)

    target = f"a step of one sample at 512 px, base, in {MEMORY_TARGET} GB"
    rows = [row for row in tables["training"] if row["size"] == 512]
    if not (base and bench.cuda and rows and bench.options.batch_size == 1):
        report.verdict(target, None, where)
        return
    fits = [row for row in rows if row.get("reserved_gib", math.inf) + CONTEXT <= MEMORY_TARGET]
    limited = bench.options.memory_gb is not None and bench.options.memory_gb <= MEMORY_TARGET
    if fits:
        best = min(fits, key=lambda row: row["ms"])
        used = f"{best['reserved_gib'] + CONTEXT:.1f} GiB, {CONTEXT} of them CUDA's own"
        report.verdict(target, True, f"{used}: {best['inputs']} inputs, {best['settings']}, {best['ms']:.0f} ms a step")
    else:
        # Without a limit torch reserves more than it needs.
        advice = "in none of the rows above" if limited else f"more was reserved: set --memory-gb {MEMORY_TARGET}"
        report.verdict(target, False if limited else None, advice)
