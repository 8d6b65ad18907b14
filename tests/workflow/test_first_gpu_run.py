"""The first run on a GPU: no part takes anything from the others, and the last table says what is known."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import first_gpu_run
import kill_and_continue
from first_gpu_run import Commands, Outcome, Part, Target, parts, run_parts, show, targets
from measuring import Report

SCRIPT = Path(first_gpu_run.__file__).with_suffix(".sh")


def python(code):
    return sys.executable, "-c", code


def words_of(rows):
    return {row.target: (row.verdict, row.found) for _, row in rows}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run fake parts as the script runs its own; the exit status, the summary, and what was printed."""
    monkeypatch.setattr(first_gpu_run, "GRACE", 0.5)

    def run(listed, capsys, *words):
        monkeypatch.setattr(first_gpu_run, "parts", lambda _commands: listed)
        status = first_gpu_run.main([str(tmp_path / "out"), *words])
        return status, json.loads((tmp_path / "out" / "summary.json").read_text()), capsys.readouterr().out

    return run


def test_a_part_that_hangs_or_fails_takes_nothing_from_the_others(run, capsys):
    listed = [
        Part("hangs", (python("import time; time.sleep(60)"),), 1, ("hangs, too",)),
        Part("fails", (python("raise SystemExit('no such card')"),), 60, ("fails, too",)),
        Part("lacks", (python("import gsplat_that_is_not_there.cuda"),), 60, ("lacks, too",)),
        Part("runs", (python("print('drawn')"),), 60, ("runs, too",)),
    ]
    begin = time.monotonic()
    status, summary, out = run(listed, capsys)
    assert time.monotonic() - begin < 30
    assert status == 1
    found = {row["target"]: (row["verdict"], row["found"]) for row in summary["targets"]}
    assert found["hangs, too"] == ("not measured", "its time limit is over")
    assert found["fails, too"] == ("not measured", "exit status 1: no such card")
    assert found["lacks, too"][1] == "exit status 1: the Python package gsplat_that_is_not_there is missing"
    assert found["runs, too"][0] == "met"
    assert out.index("== targets") > out.index("drawn"), "the table is last"
    table = out[out.index("== targets") :]
    assert all(f"{name}, too" in table for name in ("hangs", "fails", "lacks", "runs"))


def test_all_parts_that_ran_are_a_success_whatever_the_verdicts(run, capsys, tmp_path):
    results = json.dumps({"verdicts": [{"target": "fast", "verdict": "not met", "found": "9 s"}]})
    path = tmp_path / "fast.json"
    write = python(f"open({str(path)!r}, 'w').write({results!r})")
    listed = [
        Part("fast", (write,), 60, ("speed",), lambda: first_gpu_run.read_verdicts(path)),
        Part("spare", (python("raise SystemExit(1)"),), 60, optional=True),
        Part("gpu", (python("raise SystemExit(1)"),), 60, ("drawn",), gpu=True),
    ]
    status, summary, _ = run(listed, capsys, "--device", "cpu")
    assert status == 0
    assert [(row["part"], row["verdict"]) for row in summary["targets"]] == [
        ("fast", "not met"),
        ("gpu", "not measured"),
    ]


def test_a_part_is_left_out_if_what_it_needs_did_not_run(tmp_path):
    touched = tmp_path / "touched"
    listed = [
        Part("build", (python("raise SystemExit(3)"),), 60),
        Part("draw", (python(f"open({str(touched)!r}, 'w')"),), 60, ("drawn",), needs=("build",)),
    ]
    outcomes = run_parts(listed, "cuda", tmp_path, 60)
    assert outcomes[1].why == "build failed" and not touched.exists()
    assert words_of(targets(listed, outcomes)) == {"drawn": ("not measured", "build failed")}


def test_the_second_command_of_a_part_runs_only_after_the_first_succeeded(tmp_path):
    part = Part("two", (python("raise SystemExit('╭────╮\\n│ first │\\n╰────╯')"), python("print('second')")), 60)
    (outcome,) = run_parts([part], "cuda", tmp_path, 60)
    assert outcome.why == "exit status 1: first", "without the box around it"
    assert "second" not in (tmp_path / "two.log").read_text()


def test_no_part_begins_or_goes_on_after_the_time_of_all(tmp_path, monkeypatch):
    monkeypatch.setattr(first_gpu_run, "GRACE", 0.2)
    monkeypatch.setattr(first_gpu_run, "LEAST", 0.5)
    sleep = (python("import time; time.sleep(60)"),)
    begin = time.monotonic()
    outcomes = run_parts([Part("first", sleep, 100), Part("second", sleep, 100)], "cuda", tmp_path, 1.0)
    assert time.monotonic() - begin < 10
    assert [outcome.why for outcome in outcomes] == ["its time limit is over", "no time was left"]


def test_what_a_part_started_ends_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(first_gpu_run, "GRACE", 0.5)
    code = (
        "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)']); "
        "print(child.pid, flush=True); time.sleep(99)"
    )
    run_parts([Part("parent", (python(code),), 2)], "cuda", tmp_path, 60)
    child = int((tmp_path / "parent.log").read_text())
    for _ in range(100):
        if not running(child):
            break
        time.sleep(0.05)
    assert not running(child)


def running(pid):
    """Whether a process is there and is not waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_run_that_is_ended_prints_what_it_knows(tmp_path):
    code = (
        "import sys, first_gpu_run as first\n"
        "listed = [first.Part('one', ((sys.executable, '-c', ''),), 60, ('one works',)),\n"
        "          first.Part('two', ((sys.executable, '-c', 'import time; time.sleep(60)'),), 60, ('two works',)),\n"
        "          first.Part('three', ((sys.executable, '-c', ''),), 60, ('three works',))]\n"
        "first.parts = lambda commands: listed\n"
        "first.listen()\n"
        f"sys.exit(first.main([{str(tmp_path / 'out')!r}]))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parent)}
    process = subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True, env=environment)
    for line in process.stdout:
        if line.startswith("== two"):
            break
    process.send_signal(signal.SIGTERM)
    rest = process.stdout.read()
    assert process.wait() == 1
    assert [line.split("  ")[0].strip() for line in rest[rest.index("== targets") :].splitlines()[1:]] == [
        "met",
        "not measured",
        "not measured",
    ]


def test_what_was_measured_before_a_part_was_ended_is_in_the_table(tmp_path):
    path = tmp_path / "speed.json"
    rows = [
        {"size": 512, "settings": "full adamw none", "kernel": "cudnn", "ms": 500.0, "mfu": 0.46, "reserved_gib": 30.0},
        {"size": 512, "settings": "full adamw none flash", "failed": "out of memory"},
    ]
    latency = [{"size": 512, "attention": "auto", "kernel": "cudnn", "both_ms": 140.0}]
    path.write_text(json.dumps({"training": rows, "latency": latency}))  # no verdicts: they come last
    read = Part("speed", (), 60, ("fast",), lambda: first_gpu_run.read_verdicts(path), (path,))
    found = words_of(targets([read], [Outcome("speed", 60.0, "its time limit is over")]))
    assert found == {
        "fast": ("not measured", "its time limit is over"),
        "step, 512 px, full adamw none": ("figure", "500 ms, 46.0 % of matmul, 30.0 GiB reserved, cudnn"),
        "step, 512 px, full adamw none flash": ("figure", "out of memory"),
        "forward and rendering, 512 px, attention auto": ("figure", "140.0 ms, cudnn"),
    }


def test_results_that_cannot_be_read_are_no_verdict(tmp_path):
    part = Part("speed", (), 60, ("fast",), lambda: first_gpu_run.read_verdicts(tmp_path / "absent.json"))
    verdict, found = words_of(targets([part], [Outcome("speed", 1.0)]))["fast"]
    assert verdict == "not measured" and "cannot be read" in found


def test_an_evaluation_without_a_number_does_not_meet_its_target(tmp_path):
    path = tmp_path / "metrics.json"
    verdicts = []
    for psnr in (12.5, float("nan")):
        path.write_text(json.dumps({"model": {"psnr": psnr}}))
        verdicts += [each.verdict for each in first_gpu_run.read_evaluation(path, "evaluates")]
    assert verdicts == ["met", "not met"]


def test_on_a_gpu_everything_waits_for_the_build_and_has_a_target(tmp_path):
    listed = parts(Commands("cuda", tmp_path, tmp_path))
    assert [part.name for part in listed] == [
        "check", "build", "agreement", "raster", "speed", "memory", "steps", "evaluate", "kernels", "less-memory",
    ]  # fmt: skip
    assert all(part.needs for part in listed[2:])
    assert all(part.titles for part in listed if not part.optional)
    commands = {part.name: " ".join(part.commands[0]) for part in listed}
    assert "--attention cudnn flash efficient" in commands["kernels"] and "--recompute none" in commands["speed"]
    assert "--preset base --sizes 512" in commands["speed"] and "--memory-gb 12" in commands["memory"]
    assert "--recompute all --rerender on" in commands["memory"]


def test_the_table_names_the_part_of_each_target(capsys):
    show([("build", Target("it builds", "met", "99 s"))], [Outcome("build", 99.0)])
    assert "met           build        it builds  99 s" in capsys.readouterr().out


def test_results_are_not_mixed_with_others(tmp_path, capsys):
    (tmp_path / "note.txt").touch()
    with pytest.raises(SystemExit):
        first_gpu_run.main([str(tmp_path)])
    assert "is not empty: name another folder" in capsys.readouterr().err


def test_the_shell_script_needs_nothing_installed():
    environment = {"PATH": os.environ["PATH"], "PYTHON": sys.executable, "PYTHONNOUSERSITE": "1"}
    words = ["bash", str(SCRIPT), "--help"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd="/", check=True)
    assert "gpu-run" in done.stdout


def curve(*changed):
    return {step: 0.1 + 0.01 * step for step in range(1, 11)} | dict(changed)


@pytest.mark.parametrize(
    ("device", "continued", "verdict"),
    [
        ("cpu", curve(), "met"),
        ("cpu", curve((7, 0.170001)), "not met"),
        ("cuda", curve((7, 0.170001)), "met"),
        ("cuda", curve((7, 0.175)), "not met"),
        ("cuda", curve((7, float("nan"))), "not met"),
    ],
)
def test_a_continued_run_is_judged_by_its_losses(device, continued, verdict):
    report = Report()
    kill_and_continue.judge(report, curve(), continued, 4, device)
    (found,) = report.tables["verdicts"]
    assert found["verdict"] == verdict


def test_a_loss_that_is_missing_is_no_agreement():
    short = {step: loss for step, loss in curve().items() if step < 10}
    with pytest.raises(kill_and_continue.FailedError, match=r"no loss of steps \[10\]"):
        kill_and_continue.judge(Report(), curve(), short, 4, "cpu")


@pytest.mark.slow
def test_a_run_that_is_killed_continues_as_if_it_had_not_been(tmp_path):
    program = python("from mousefacelift.cli import main; main()")
    words = ["--device", "cpu", "--preset", "tiny", "--size", "64", "--work", str(tmp_path)]
    kill_and_continue.main([*words, "--json", str(tmp_path / "steps.json"), "--", *program])
    (verdict,) = json.loads((tmp_path / "steps.json").read_text())["verdicts"]
    assert verdict["verdict"] == "met"
