"""Whether the project's targets are met."""

import math

from gpu.bench import CONTEXT, Bench

HOPPER = ("H100", "H200")
LATENCY_TARGET = 0.15  # s, forward and rendering of 6 x 512 px with base on one of HOPPER
MFU_TARGET = 0.45
MEMORY_TARGET = 12  # GiB, for a step of one sample at 512 px with all weights trained by AdamW


def show_verdicts(bench: Bench) -> None:
    """A line per target: met, not met, or not measured here."""
    _latency(bench)
    _rate(bench)
    _memory(bench)


def _where(bench: Bench) -> str:
    return f"this is {bench.options.preset} on {bench.report.tables['machine']['name']}"


def _latency(bench: Bench) -> None:
    rows = bench.report.tables.get("latency", [])
    times = [row["both_ms"] for row in rows if row["size"] == 512 and row["inputs"] == 6 and "both_ms" in row]
    target = f"forward and rendering of 6 x 512 px, base, in {LATENCY_TARGET} s on {' or '.join(HOPPER)}"
    found = f"{min(times):.1f} ms" if times else ""
    if not (bench.options.preset == "base" and bench.cuda and bench.options.views == 6 and found):
        bench.report.verdict(target, None, ", ".join(filter(None, [_where(bench), found])))
    elif not any(name in bench.report.tables["machine"]["name"] for name in HOPPER):
        bench.report.verdict(target, None, f"no target for this card: {_where(bench)}, {found}")
    else:
        bench.report.verdict(target, min(times) <= 1e3 * LATENCY_TARGET, found)


def _rate(bench: Bench) -> None:
    target = f"training at {100 * MFU_TARGET:.0f} % of the measured bf16 matmul rate"
    rows = [row for row in bench.report.tables.get("training", []) if row.get("mfu")]
    if not (bench.options.preset == "base" and bench.cuda and rows):
        bench.report.verdict(target, None, _where(bench))
        return
    best = max(rows, key=lambda row: row["mfu"])
    found = f"{100 * best['mfu']:.1f} % at {best['size']} px, {best['inputs']} inputs, {best['settings']}"
    bench.report.verdict(target, best["mfu"] >= MFU_TARGET, found)


def _memory(bench: Bench) -> None:
    target = f"a step of one sample at 512 px, base, all weights by AdamW, in {MEMORY_TARGET} GB"
    rows = [
        row for row in bench.report.tables.get("training", [])
        if row["size"] == 512 and row["adapt"] == "full" and row["optimizer"] == "adamw"
    ]  # fmt: skip
    if not (bench.options.preset == "base" and bench.cuda and rows and bench.options.batch_size == 1):
        bench.report.verdict(target, None, _where(bench))
        return
    fits = [row for row in rows if row.get("reserved_gib", math.inf) + CONTEXT <= MEMORY_TARGET]
    limited = bench.options.memory_gb is not None and bench.options.memory_gb <= MEMORY_TARGET
    if fits:
        best = min(fits, key=lambda row: row["ms"])
        used = f"{best['reserved_gib'] + CONTEXT:.1f} GiB, {CONTEXT} of them CUDA's own"
        found = f"{used}: {best['inputs']} inputs, {best['settings']}, {best['ms']:.0f} ms a step"
        bench.report.verdict(target, True, found)
    elif not limited:
        # Without a limit torch reserves more than it needs.
        bench.report.verdict(target, None, f"more was reserved: set --memory-gb {MEMORY_TARGET}")
    elif any(row.get("failed", "out of memory") != "out of memory" for row in rows):
        reasons = dict.fromkeys(row["failed"] for row in rows if "failed" in row)
        bench.report.verdict(target, None, "; ".join(reasons))
    else:
        bench.report.verdict(target, False, "in none of the rows above; --recompute all --rerender takes the least")
