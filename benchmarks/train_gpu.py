"""How fast a GPU trains and runs a preset's network, beside what it can do at best.

    python benchmarks/train_gpu.py --json gpu.json
    python benchmarks/train_gpu.py --sizes 512 --inputs 5 --recompute all --rerender --memory-gb 12 --skip loading
    python benchmarks/train_gpu.py --device cpu --preset tiny --sizes 64 --steps 2

A step is that of `FineTuning`, without Lightning. Options that take several values give a row for each combination.
Without --weights the weights are random, but Gaussians are about a pixel wide, as those of a trained model: `base` begins
with Gaussians 0.1 world units wide, which is tens of pixels at 512 px and slow to draw. All of them are drawn; a trained
model hides those of the background.
"""

import argparse
import os
from pathlib import Path

from gpu.bench import Bench
from gpu.inference import show_latency
from gpu.loading import show_loading
from gpu.rates import show_attention, show_rates
from gpu.training import show_training
from gpu.verdicts import show_verdicts
from measuring import machine
from mousefacelift.base.errors import UserError
from mousefacelift.config.presets import PRESETS
from mousefacelift.models.attention import KERNELS

TABLES = {
    "matmul": show_rates,
    "attention": show_attention,
    "training": show_training,
    "latency": show_latency,
    "loading": show_loading,
}


def run(bench: Bench) -> None:
    """Measure all of it and print."""
    options, report = bench.options, bench.report
    found = machine(bench.device)
    memory = f", limited to {options.memory_gb:g} GiB" if bench.cuda and options.memory_gb else ""
    report.say("machine", found, ", ".join(f"{name} {value}" for name, value in found.items()) + memory)
    report.say("options", {k: str(v) for k, v in vars(options).items()}, "")
    for name, show in TABLES.items():
        if name not in options.skip:
            show(bench)
            report.save(options.json)  # a run that is ended has what it measured so far
    show_verdicts(bench)
    report.save(options.json)


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    description, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", choices=["auto", "cuda", "cpu"], default="auto")
    add("--preset", choices=list(PRESETS), default="base")
    add("--weights", type=Path, help="weights of that preset, whose Gaussians are drawn instead of random ones")
    add("--sizes", type=int, nargs="+", default=[256, 384, 512], metavar="PX")
    add("--views", type=int, default=6, help="views drawn and compared")
    add(
        "--inputs", type=int, nargs="+", default=[6, 5],
        help="views given to the model: 6 for the cost of base at 6 x 512 px, 24,578 tokens; 5 as in a training run",
    )  # fmt: skip
    add("--batch-size", type=int, default=1, help="samples per step")
    add("--steps", type=int, default=10, help="measured steps, after the warm-up")
    add(
        "--warm-up",
        type=int,
        default=3,
        help="steps before the measured ones; gsplat and torch.compile compile in the first",
    )
    switch = {"off": False, "on": True}
    add("--recompute", nargs="+", choices=["none", "selective", "all"], default=["selective"])
    add("--rerender", nargs="*", choices=list(switch), default=["off"], help="on, off or both; alone: on")
    add("--compile", nargs="*", choices=list(switch), default=["off"], help="on, off or both; alone: on")
    add("--optimizer", nargs="+", choices=["adamw", "adamw8bit", "paged_adamw8bit"], default=["adamw"])
    add("--adapt", nargs="+", choices=["full", "heads", "last_n", "lora"], default=["full"])
    add(
        "--attention", nargs="+", choices=["auto", *KERNELS, "default"], default=["auto"],
        help="as train.attention; default: torch's own choice",
    )  # fmt: skip
    add("--skip", nargs="+", choices=list(TABLES), default=[], help="tables that are not wanted")
    add("--memory-gb", type=float, metavar="GIB", help="act as a card of this memory")
    add("--manifest", type=Path, help="manifest.json of shards to load; without it, synthetic shards are written")
    add("--container", nargs="+", choices=["h5", "tar"], default=["h5"])
    add("--workers", type=int, default=4, help="loader processes")
    add("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads, where the CPU is the device")
    add("--json", type=Path, help="write the numbers to this file, too")
    options = parser.parse_args(words)
    for name in ("rerender", "compile"):
        setattr(options, name, [switch[word] for word in getattr(options, name) or ["on"]])
    if max(options.inputs) > options.views:
        parser.error(f"--inputs {max(options.inputs)} of --views {options.views}")
    if options.weights and not options.weights.exists():
        parser.error(f"--weights {options.weights}: no such file")
    return options


def main(words: list[str] | None = None) -> None:
    """Measure and print."""
    try:
        run(Bench(parse(words)))
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
