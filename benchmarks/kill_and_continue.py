"""Whether a training run on a GPU that is ended by SIGTERM continues as if it had not been.

    python benchmarks/kill_and_continue.py --preset base --size 256 --work FOLDER -- mousefacelift

Ten steps on synthetic shards, twice: undisturbed; and ended after the first checkpoint, then started again by the same
command. On the CPU the losses must be equal. On a GPU gsplat adds gradients in any order, so they may differ by rounding.
"""

import argparse
import csv
import json
import math
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from gpu.inputs import write_shards
from measuring import Report

STEPS, VIEWS = 10, 6
# Of a loss, on a GPU. Measured with tiny on a CPU: errors of 1 % in all gradients change it by 2e-4 in ten steps, an
# optimiser's state that is lost by 3e-2.
ROUNDING = 5e-3


class FailedError(Exception):
    """The runs could not be made, so there is nothing to compare."""


def settings(options: argparse.Namespace, checkpoint_every: int) -> dict[str, object]:
    """Settings of a short fine-tuning. Each view is drawn alone: untrained Gaussians of `base` are wide."""
    return {
        "run": "first", "preset": options.preset, "image_size": options.size, "num_input_views": VIEWS - 1,
        "steps": STEPS, "warmup_steps": 2, "learning_rate": 1e-4, "batch_size": 1, "rerender": True, "workers": 0,
        "log_every": 1, "val_every": STEPS, "checkpoint_every": checkpoint_every, "accelerator": options.device,
    }  # fmt: skip


def command(options: argparse.Namespace, manifest: Path, name: str, checkpoint_every: int) -> list[str]:
    """The command of a training run whose results go to {work}/{name}."""
    folder = options.work / name
    values = json.dumps(settings(options, checkpoint_every))
    return [
        *options.program, "train", "--manifest", str(manifest), "--output", str(folder), "--checkpoints",
        str(folder / "checkpoints"), "--settings", values, "--threads", str(options.threads),
    ]  # fmt: skip


def run(words: list[str]) -> str:
    """Run to the end; what it wrote."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(done.stdout, flush=True)
    if done.returncode:
        raise FailedError(f"{last_line(done.stdout)} (exit status {done.returncode})")
    return done.stdout


def run_and_end(words: list[str], folder: Path) -> None:
    """Run up to the first checkpoint, then send SIGTERM and wait until it has saved what it did."""
    log = folder.with_suffix(".log")
    with log.open("w") as handle:
        process = subprocess.Popen(words, stdout=handle, stderr=subprocess.STDOUT)
        while process.poll() is None and not any(folder.glob("checkpoints/*/last.ckpt")):
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        status = process.wait()
    text = log.read_text()
    print(text, flush=True)
    if status != 128 + signal.SIGTERM:
        raise FailedError(f"the run was to end by SIGTERM, but its exit status is {status}: {last_line(text)}")


def last_line(text: str) -> str:
    """The last line that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it wrote nothing")


def losses(path: Path) -> dict[int, float]:
    """The loss of every step, of a metrics.csv."""
    with path.open(newline="") as handle:
        return {int(float(row["step"])): float(row["loss"]) for row in csv.DictReader(handle) if row["loss"]}


def difference(first: dict[int, float], second: dict[int, float], steps: range) -> float:
    """The largest difference of the losses of some steps, as a fraction; NaN if a loss is.

    Raises FailedError if one is missing.
    """
    if missing := [step for step in steps if step not in first or step not in second]:
        raise FailedError(f"metrics.csv has no loss of steps {missing}")
    found = [abs(first[step] - second[step]) / abs(first[step]) for step in steps]
    return math.nan if any(map(math.isnan, found)) else max(found, default=0.0)


def judge(report: Report, undisturbed: dict[int, float], continued: dict[int, float], after: int, device: str) -> None:
    """Give the verdict on a run that continued after a step."""
    before = difference(undisturbed, continued, range(1, after + 1))
    then = difference(undisturbed, continued, range(after + 1, STEPS + 1))
    target = f"{STEPS} steps, ended by SIGTERM and continued, have the losses of an undisturbed run"
    found = f"within {then:.1e} after step {after}, where it continued, and {before:.1e} before"
    allowed = ROUNDING if device == "cuda" else 0.0
    report.verdict(target, before <= allowed and then <= allowed, found)


def main(words: list[str] | None = None) -> None:
    """Make the runs and compare them."""
    description, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--preset", default="base")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, required=True, help="folder for shards, checkpoints and results")
    parser.add_argument("--json", type=Path)
    parser.add_argument("program", nargs="+", help="the command mousefacelift")
    options, report = parser.parse_args(words), Report()
    try:
        manifest = write_shards(options.work / "shards", VIEWS, options.size, 8, 2, val=2)
        begin = time.monotonic()
        run(command(options, manifest, "undisturbed", STEPS))
        seconds = time.monotonic() - begin
        killed = command(options, manifest, "killed", 3)
        run_and_end(killed, options.work / "killed")
        after = re.search(r"continuing after step (\d+)", run(killed))
        if not after or int(after[1]) >= STEPS:
            raise FailedError("the second process did not continue where the first one ended")
        report.say(
            "seconds", seconds, f"{STEPS} steps of {options.preset} at {options.size} px: {seconds:.0f} s in all"
        )
        curves = (losses(options.work / name / "metrics.csv") for name in ("undisturbed", "killed"))
        judge(report, *curves, int(after[1]), options.device)
    except FailedError as error:
        sys.exit(f"error: {error}")
    report.save(options.json)


if __name__ == "__main__":
    main()
