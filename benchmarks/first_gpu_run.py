"""The first run on a GPU: build, agreement, speed, memory, a training run that is killed and continues, evaluation.

    bash benchmarks/first_gpu_run.sh gpu-run
    bash benchmarks/first_gpu_run.sh gpu-run --device cpu

Each part is a process with a time limit of its own. One that fails or hangs takes nothing from the others: the table of
targets at the end says what was met, and what was not measured and why. It needs nothing but Python to start. The
project need not be installed, only what it imports.

Exit status: 0 if every part ran, whatever the verdicts; 1 if one could not.
"""

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GRACE = 5.0  # s from SIGTERM to SIGKILL for a part that has no time left
LEAST = 10.0  # s: a part is not begun with less
ECHO = 60  # lines of a part's log that are printed
POLL = 0.1  # s
ENDED = threading.Event()  # by a signal
NOT_MEASURED, FIGURE = "not measured", "figure"


@dataclass(frozen=True)
class Target:
    """A row of the last table.

    verdict: "met", "not met", NOT_MEASURED or, for a figure beside the targets, FIGURE. found: the figure, or why there is
    none.
    """

    target: str
    verdict: str
    found: str


@dataclass(frozen=True)
class Outcome:
    """What became of a part. why: empty if it ran, else the reason. left_out: it was not meant to run here."""

    name: str
    seconds: float
    why: str = ""
    left_out: bool = False


@dataclass(frozen=True)
class Part:
    """A part of the run.

    commands: run one after the other, the next only if the one before succeeded. limit: s, of all of them. titles: of its
    targets. read: the targets from what the part wrote; None: they are met when it has run. figures: files of
    `read_figures`. needs: parts that must have run. gpu: there is nothing to run without one. optional: it
    is for the time that is left, and may fail.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    limit: float
    titles: tuple[str, ...] = ()
    read: Callable[[], list[Target]] | None = None
    figures: tuple[Path, ...] = ()
    needs: tuple[str, ...] = ()
    gpu: bool = False
    optional: bool = False


def read_verdicts(path: Path, chosen: slice = slice(None)) -> list[Target]:
    """The verdicts that a benchmark wrote as JSON."""
    verdicts = json.loads(path.read_text(encoding="utf-8"))["verdicts"][chosen]
    word = {"not measured here": NOT_MEASURED}
    return [Target(each["target"], word.get(each["verdict"], each["verdict"]), each["found"]) for each in verdicts]


def read_figures(path: Path) -> list[Target]:
    """What `train_gpu` measured of each combination of options, as figures."""
    tables, rows = json.loads(path.read_text(encoding="utf-8")), []
    for row in tables.get("training", []):
        figures = [f"{row['ms']:.0f} ms"] if "ms" in row else [row["failed"]]
        figures += [f"{100 * row['mfu']:.1f} % of matmul"] if row.get("mfu") else []
        figures += [f"{row['reserved_gib']:.1f} GiB reserved"] if "reserved_gib" in row else []
        rows.append(Target(f"step, {row['size']} px, {row['settings']}", FIGURE, _with(row, figures)))
    for row in tables.get("latency", []):
        figures = [f"{row['both_ms']:.1f} ms"] if "both_ms" in row else [row["failed"]]
        what = f"forward and rendering, {row['size']} px, attention {row['attention']}"
        rows.append(Target(what, FIGURE, _with(row, figures)))
    return rows


def _with(row: dict[str, Any], figures: list[str]) -> str:
    return ", ".join(figures + ([row["kernel"]] if row.get("kernel") else []))


def read_evaluation(path: Path, title: str) -> list[Target]:
    """Whether `evaluate` wrote a PSNR that is a number."""
    psnr = json.loads(path.read_text(encoding="utf-8"))["model"]["psnr"]
    return [
        Target(title, "met" if psnr == psnr else "not met", f"PSNR {psnr:.2f} dB, of a model that learned ten steps")
    ]


class Commands:
    """The commands of the parts.

    Args:
        device: "cuda", or "cpu" for a trial with a small model.
        out: folder of the results.
        work: folder of shards and checkpoints, gigabytes of them.
    """

    def __init__(self, device: str, out: Path, work: Path):
        self.device, self.out, self.work, self.gpu = device, out, work, device == "cuda"
        self.threads = str(len(os.sched_getaffinity(0)))
        installed = shutil.which("mousefacelift")
        python = sys.executable, "-c", "from mousefacelift.cli import main; main()"
        self.program: tuple[str, ...] = (installed,) if installed else python

    def _script(self, script: str, name: str, *words: str) -> tuple[str, ...]:
        path, results = Path(__file__).with_name(f"{script}.py"), self.out / f"{name}.json"
        fixed = "--device", self.device, "--threads", self.threads, "--json", str(results)
        return sys.executable, str(path), *fixed, *words

    def raster(self, name: str, large: bool) -> tuple[str, ...]:
        """Speed and agreement of gsplat, at a few Gaussians or at as many as base has at 512 px."""
        if self.gpu:
            scenes = ["98304", "1572864", "--sizes", "512"] if large else ["10000", "--sizes", "128"]
        else:
            scenes = ["2000", "--sizes", "64"] if large else ["500", "--sizes", "32"]
        views = ["1", "6", "--repeat", "2"] if large else ["2", "--repeat", "1"]
        return self._script("raster", name, "--counts", *scenes, "--views", *views)

    def speed(self, name: str, *words: str) -> tuple[str, ...]:
        """Steps and inference."""
        return self._steps(name, "--inputs", "6", "--skip", "loading", *words)

    def memory(self, name: str, *words: str) -> tuple[str, ...]:
        """Steps within 12 GB, by the settings that take the least memory."""
        least = "--inputs", "5", "--recompute", "all", "--rerender", "on", "--memory-gb", "12"
        return self._steps(name, *least, "--skip", "matmul", "attention", "latency", "loading", *words)

    def _steps(self, name: str, *words: str) -> tuple[str, ...]:
        # Few, so that a card with a twentieth of an H100's speed ends in time.
        model = ("base", "--sizes", "512", "--steps", "3") if self.gpu else ("tiny", "--sizes", "64", "--steps", "2")
        return self._script("train_gpu", name, "--preset", *model, "--warm-up", "1", *words)

    def steps(self) -> tuple[str, ...]:
        """A training run, and the same one killed and continued."""
        model = ("base", "--size", "256") if self.gpu else ("tiny", "--size", "64")
        words = "--preset", *model, "--work", str(self.work), "--", *self.program
        return self._script("kill_and_continue", "steps", *words)

    def evaluate(self) -> tuple[str, ...]:
        """`evaluate` of that run."""
        settings = {"split": "val", "pictures": 2, "splats": 1, "turntable_frames": 8, "turntable_size": 64}
        return (
            *self.program, "evaluate", "--manifest", str(self.work / "shards" / "manifest.json"),
            "--train", str(self.work / "undisturbed"), "--output", str(self.out / "evaluate"),
            "--threads", self.threads, "--settings", json.dumps(settings),
        )  # fmt: skip


def parts(commands: Commands) -> list[Part]:
    """The parts in their order."""
    out, built = commands.out, ("build",) if commands.gpu else ()
    evaluated = "evaluate measures a trained model"
    return [
        Part("check", ((*commands.program, "gpu", "check"),), 60, ("compiler, headers, libraries are found",), gpu=True),
        Part("build", ((*commands.program, "gpu", "build", "--threads", commands.threads),), 330, ("gsplat's CUDA code is built (if there is no time for it: mousefacelift gpu build, then again)",), gpu=True),
        Part(
            "agreement", (commands.raster("agreement", large=False),), 90,
            ("gsplat draws what the CPU draws, with the same gradients",),
            lambda: read_verdicts(out / "agreement.json"), needs=built,
        ),
        Part(
            "raster", (commands.raster("raster", large=True),), 90,
            ("gsplat draws what the CPU draws, at as many Gaussians as base has at 512 px",),
            lambda: read_verdicts(out / "raster.json"), needs=built,
        ),
        Part(
            "speed", (commands.speed("speed", "--recompute", "none", "selective"),), 150,
            ("forward and rendering of 6 x 512 px, base", "training beside the measured bf16 matmul rate"),
            lambda: read_verdicts(out / "speed.json", slice(0, 2)), (out / "speed.json",), built,
        ),
        Part(
            "memory", (commands.memory("memory"),), 60, ("a step of one sample at 512 px, base, in 12 GB",),
            lambda: read_verdicts(out / "memory.json", slice(2, 3)), (out / "memory.json",), built,
        ),
        Part(
            "steps", (commands.steps(),), 180, ("a training run that is killed continues as if it had not been",),
            lambda: read_verdicts(out / "steps.json"), needs=built,
        ),
        Part(
            "evaluate", (commands.evaluate(),), 90, (evaluated,),
            lambda: read_evaluation(out / "evaluate" / "metrics.json", evaluated), needs=("steps",),
        ),
        Part(
            "kernels", (commands.speed("kernels", "--attention", "cudnn", "flash", "efficient"),),
            120, figures=(out / "kernels.json",), needs=built, gpu=True, optional=True,
        ),
        Part(
            "less-memory",
            (
                commands.memory("lora", "--adapt", "lora"),
                commands.memory("adamw8bit", "--optimizer", "adamw8bit"),
            ),
            90, figures=(out / "lora.json", out / "adamw8bit.json"), needs=built, gpu=True, optional=True,
        ),
    ]  # fmt: skip


def missing_packages() -> list[str]:
    """The packages that pyproject.toml names for a GPU and that this Python does not have."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    missing = []
    for requirement in project["dependencies"] + project["optional-dependencies"]["gpu"]:
        name = re.split(r"[\[<>=!~; ]", requirement)[0]
        try:
            importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    return missing


def reason(log: Path) -> str:
    """Why a command failed: the package that it lacks, or the last words that it wrote."""
    text = log.read_text(encoding="utf-8", errors="replace")
    if found := re.findall(r"ModuleNotFoundError: No module named '([^'.]+)", text):
        return f"the Python package {found[-1]} is missing"
    lines = [line.strip("│ ") for line in text.splitlines() if re.search(r"\w", line)]  # an error may stand in a box
    return lines[-1][:300] if lines else "it wrote nothing"


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process with all that it started."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, signum)
            process.wait(GRACE)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def wait(process: subprocess.Popen[bytes], until: float) -> str:
    """Wait for a process to end, and end it at an instant of `time.monotonic` or with the run; why it was ended."""
    try:
        while process.poll() is None:
            if ENDED.is_set():
                return "the run was ended"
            if time.monotonic() > until:
                return "its time limit is over"
            time.sleep(POLL)
    finally:
        end(process)  # and what it left running
    return ""


def run_part(part: Part, out: Path, limit: float) -> Outcome:
    """Run a part's commands within `limit` seconds; what they print goes to {out}/{name}.log and its end to stdout."""
    log, begin, why = out / f"{part.name}.log", time.monotonic(), ""
    paths = [str(ROOT / "workflow"), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as handle:
        for command in part.commands:
            process = subprocess.Popen(
                command, stdout=handle, stderr=subprocess.STDOUT, env=environment, cwd=ROOT, start_new_session=True
            )
            why = wait(process, begin + limit)
            if not why and process.returncode:
                why = f"exit status {process.returncode}: {reason(log)}"
            if why:
                break
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    print(*lines[-ECHO:], sep="\n", flush=True)
    return Outcome(part.name, time.monotonic() - begin, why)


def run_parts(listed: Iterable[Part], device: str, out: Path, seconds: float) -> list[Outcome]:
    """Run every part that can run, all within `seconds`."""
    deadline, outcomes = time.monotonic() + seconds, dict[str, Outcome]()
    for part in listed:
        left = deadline - time.monotonic()
        if part.gpu and device != "cuda":
            outcome = Outcome(part.name, 0.0, "it needs a GPU", left_out=True)
        elif ENDED.is_set():
            outcome = Outcome(part.name, 0.0, "the run was ended")
        elif failed := [name for name in part.needs if outcomes[name].why]:
            outcome = Outcome(part.name, 0.0, f"{' and '.join(failed)} failed")
        elif left < min(LEAST, part.limit):
            outcome = Outcome(part.name, 0.0, "no time was left")
        else:
            limit = min(part.limit, left)
            print(f"\n== {part.name}, at most {limit:.0f} s", flush=True)
            outcome = run_part(part, out, limit)
        outcomes[part.name] = outcome
        print(f"-- {part.name}: {outcome.why or 'ran'}, {outcome.seconds:.0f} s", flush=True)
    return list(outcomes.values())


def targets(listed: Iterable[Part], outcomes: list[Outcome]) -> list[tuple[str, Target]]:
    """The rows of the last table, with the names of their parts. What a part wrote before it failed counts."""
    rows = []
    for part, outcome in zip(listed, outcomes, strict=True):
        found, why = [], outcome.why
        if part.read is not None:
            try:
                found = part.read()
            except (OSError, ValueError, KeyError, TypeError) as error:
                why = why or f"its results cannot be read ({error!r:.100})"
        elif not why:
            found = [Target(title, "met", f"{outcome.seconds:.0f} s") for title in part.titles]
        found = found or [Target(title, NOT_MEASURED, why) for title in part.titles]
        for path in part.figures:
            if path.exists():
                found += read_figures(path)
        rows += [(part.name, each) for each in found]
    return rows


def show(rows: list[tuple[str, Target]], outcomes: list[Outcome]) -> None:
    """Print the table of targets, and before it what each part took."""
    print("\n== parts")
    for outcome in outcomes:
        state = "left out" if outcome.left_out else "failed" if outcome.why else "ran"
        print(f"{outcome.name:12} {outcome.seconds:6.0f} s  {state}{': ' * bool(outcome.why)}{outcome.why}")
    print("\n== targets")
    width = max(len(row.target) for _, row in rows)
    for name, row in rows:
        print(f"{row.verdict:12}  {name:12} {row.target:{width}}  {row.found}")


def parse(words: list[str] | None) -> argparse.Namespace:
    """The command line."""
    description, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("gpu-run"), help="for tables and logs")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: a trial with a tiny model")
    parser.add_argument("--minutes", type=float, default=10, help="for all of it")
    options = parser.parse_args(words)
    options.folder = options.folder.resolve()
    if options.folder.exists() and any(options.folder.iterdir()):
        # A part that fails must not be judged by what an earlier run wrote.
        parser.error(f"{options.folder} is not empty: name another folder")
    return options


def listen() -> None:
    """On SIGTERM and Ctrl-C, end the part that runs and still print the table."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: ENDED.set())


def main(words: list[str] | None = None) -> int:
    """Run all parts, print the table, write summary.json; the exit status."""
    begin, options = time.monotonic(), parse(words)
    options.folder.mkdir(parents=True, exist_ok=True)
    print(f"{sys.executable}, Python {sys.version.split()[0]}")
    print(f"not installed: {', '.join(missing_packages()) or 'nothing'}", flush=True)
    with tempfile.TemporaryDirectory() as work:
        listed = parts(Commands(options.device, options.folder, Path(work)))
        left = 60 * options.minutes - (time.monotonic() - begin) - 2 * GRACE
        outcomes = run_parts(listed, options.device, options.folder, left)
    rows = targets(listed, outcomes)
    show(rows, outcomes)
    summary = {
        "parts": [asdict(each) for each in outcomes],
        "targets": [{"part": name} | asdict(each) for name, each in rows],
    }
    (options.folder / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    failed = (
        outcome.why and not outcome.left_out and not part.optional
        for part, outcome in zip(listed, outcomes, strict=True)
    )  # fmt: skip
    return int(any(failed))


if __name__ == "__main__":
    listen()
    sys.exit(main())
