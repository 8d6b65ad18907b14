"""The training loop: the same result on one process or several, in one part or many, killed or not."""

import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from mousefacelift.base.errors import TerminatedError, UserError
from mousefacelift.config.presets import PRESETS
from mousefacelift.config.train import Guards, Lora, Loss, Train
from mousefacelift.evaluation.metrics.registry import validation_metrics
from mousefacelift.models.gslrm import GSLRM, GSLRMConfig
from mousefacelift.models.registry import build_model
from mousefacelift.models.weights.files import load_weights
from mousefacelift.shards.manifest import read_manifest
from mousefacelift.stages.train import train
from mousefacelift.training import finetuning
from mousefacelift.training.finetuning import FineTuning, learning_rate, predict, reconstruct
from mousefacelift.training.loaders import ShardData
from support.balls import train_words, write_shards
from support.budget import some
from support.presets import preset_of
from support.small import unknown_corner, write_small
from support.tables import metrics_of

MICRO = GSLRMConfig(width=32, head_width=16, layers=2, scale_bias=-3.0)
EVERY_TERM = Loss(l2=1, masked_l2=0.1, background=0.1, ssim=0.1, alpha=0.1)
SETTINGS = Train(
    preset="tiny", guide="none", image_size=32, steps=12, batch_size=2, learning_rate=3e-3, warmup_steps=2, accelerator="cpu",
    checkpoint_every=4, val_every=6, log_every=1, loss=EVERY_TERM, augment=True,
)  # fmt: skip


@pytest.fixture
def micro_model(monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", preset_of(MICRO))


def rows(folder):
    return [{k: float(v) for k, v in row.items() if v} for row in metrics_of(folder / "out")]


def run(manifest, folder, settings=SETTINGS, **changes):
    train(manifest, folder / "out", folder / "checkpoints", settings.model_copy(update=changes), threads=1)
    return load_file(folder / "out" / "model.safetensors"), rows(folder)


def command(manifest, folder, first="", **settings):
    """Train through the command line, in processes of its own; each runs the statement `first` before."""
    words = [*train_words(manifest, json.dumps(settings), folder), "--threads", "1"]
    program = f"import sys; from mousefacelift.cli import main\n{first}\nmain()"
    script = folder / "mousefacelift"
    folder.mkdir(parents=True, exist_ok=True)
    script.write_text(f"{program}\n")  # several processes start each other by its name
    return subprocess.run([sys.executable, script, *words], capture_output=True, text=True, timeout=300)


GLOBAL_BATCH = {
    "preset": "tiny", "image_size": 32, "steps": 5, "batch_size": 4, "learning_rate": 1e-5, "warmup_steps": 2,
    "accelerator": "cpu", "checkpoint_every": 2, "val_every": 3, "log_every": 1, "loss": EVERY_TERM.model_dump(), "ema": 0.9,
}  # fmt: skip


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """The shards of a global batch, and the runs of one process that computes it in two parts, and at once."""
    folder = tmp_path_factory.mktemp("one")
    manifest = write_shards(folder / "shards", {"train": 5, "val": 3})
    whole = Train.model_validate(GLOBAL_BATCH)
    return manifest, run(manifest, folder / "parts", whole, accumulate=2), run(manifest, folder / "one", whole)


FAULT = """
import os
from mousefacelift.training import finetuning
step = finetuning.FineTuning.training_step
def fault(self, *batch):
    if self.step == 2 and os.environ.get("LOCAL_RANK", "0") == "0":
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")
    return step(self, *batch)
finetuning.FineTuning.training_step = fault
"""


@pytest.mark.slow
def test_an_error_of_the_first_process_alone_ends_all_with_its_one_sentence(one_process, tmp_path):
    manifest = one_process[0]
    done = command(manifest, tmp_path, FAULT, **(GLOBAL_BATCH | {"gpus": 2}))
    assert done.returncode == 1
    said = done.stderr.strip().splitlines()
    assert "the GPU's memory ran out in" in said[-1] and said[-1].startswith("mousefacelift: error")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_end_with_the_parameters_of_one_with_the_same_global_batch(tmp_path, one_process, strategy):
    """Five steps of the tiny preset with gloo: bit for bit those of one process that computes its batch in two parts.

    Undivided, sums are rounded in another order, which Adam makes visible where gradients are nearly zero.
    """
    manifest, (parts, rows_of_parts), (one, rows_of_one) = one_process
    ended = command(manifest, tmp_path / "two", **GLOBAL_BATCH, gpus=2, strategy=strategy)
    assert ended.returncode == 0, ended.stderr[-3000:]
    two = load_file(tmp_path / "two" / "out" / "model.safetensors")
    torch.manual_seed(0)
    start = build_model("tiny").state_dict()
    assert max((two[name] - start[name]).abs().max() for name in two) > 1e-5
    assert all(torch.equal(two[name], parts[name]) for name in two)
    assert max((two[name] - one[name]).abs().max() for name in two) < 1e-6
    for table in (rows_of_parts, rows_of_one):
        for mine, other in zip(rows(tmp_path / "two"), table, strict=True):
            assert mine == pytest.approx(other, rel=2e-4, abs=1e-6)


TOGETHER = {
    "preset": "tiny", "guide": "none", "image_size": 32, "steps": 40, "batch_size": 2, "learning_rate": 1e-4, "warmup_steps": 2,
    "accelerator": "cpu", "checkpoint_every": 100, "val_every": 20, "log_every": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Shards, and what two processes of one machine make of them: weights and rows of metrics."""
    folder = tmp_path_factory.mktemp("two")
    manifest = write_shards(folder / "shards", {"train": 5, "val": 3})
    ended = command(manifest, folder / "whole", **TOGETHER, gpus=2)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return manifest, load_file(folder / "whole" / "out" / "model.safetensors"), rows(folder / "whole")


@pytest.mark.slow
def test_two_machines_under_slurm_end_as_two_processes_of_one_do(tmp_path, two_processes):
    """Two tasks with the environment that srun gives each of its own."""
    manifest, weights, table = two_processes
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    slurm = {
        "SLURM_NTASKS": 2, "SLURM_NTASKS_PER_NODE": 1, "SLURM_NNODES": 2, "SLURM_JOB_ID": 1, "SLURM_JOB_NAME": "train",
        "SLURM_NODELIST": "localhost", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
    }  # fmt: skip
    words = train_words(manifest, json.dumps(TOGETHER | {"nodes": 2}), tmp_path / "two")
    program = [sys.executable, "-c", "from mousefacelift.cli import main; main()", *words]
    tasks = []
    for rank in range(2):
        each = slurm | {"SLURM_PROCID": rank, "SLURM_NODEID": rank, "SLURM_LOCALID": 0}
        env = os.environ | {name: str(value) for name, value in each.items()}
        tasks.append(subprocess.Popen(program, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    for task in tasks:
        text, _ = task.communicate(timeout=200)
        assert task.returncode == 0, text[-3000:]
    found = load_file(tmp_path / "two" / "out" / "model.safetensors")
    assert all(torch.equal(weights[name], found[name]) for name in weights)
    assert rows(tmp_path / "two") == table


@pytest.mark.slow
def test_two_processes_that_are_told_to_end_go_on_later_and_end_as_one_would(tmp_path, two_processes):
    """Also if the first takes so long to save that a second one which failed would have it killed."""
    manifest, weights, table = two_processes
    settings = TOGETHER | {"gpus": 2}
    folder = tmp_path / "ended"
    folder.mkdir()
    slow = "import time, torch; save = torch.save; torch.save = lambda *a: (time.sleep(8), save(*a))"
    (folder / "mousefacelift").write_text(f"{slow}\nfrom mousefacelift.cli import main; main()\n")
    words = train_words(manifest, json.dumps(settings), folder)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, folder / "mousefacelift", *words], stderr=log, stdout=log, start_new_session=True
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while "step 4/40" not in (folder / "log").read_text():
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()[-3000:]
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(60) == 143, (folder / "log").read_text()[-3000:]
    assert "ended by SIGTERM after step" in (folder / "log").read_text()
    ended = command(manifest, folder, **settings)
    assert ended.returncode == 0 and "continuing after step" in ended.stderr
    found = load_file(folder / "out" / "model.safetensors")
    assert all(torch.equal(weights[name], found[name]) for name in weights)
    assert rows(folder) == table


RUNS = {
    "full": {},
    "lora, averaged": {"adapt": "lora", "lora": Lora(rank=2), "ema": 0.9, "accumulate": 2},
    "last layer, tars": {"adapt": "last_n", "last_n": 1, "container": "tar", "shuffle_buffer": 3, "view_dropout": 0.3},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_killed_at_random_moments_ends_like_an_undisturbed_one(micro_model, synthetic_shards, tmp_path, name):
    """SIGKILL and SIGTERM in turn, whenever it falls: the same weights and rows of metrics, bit for bit."""
    settings = SETTINGS.model_copy(update={"steps": 60, "val_every": 25, "checkpoint_every": 7} | RUNS[name])
    whole = run(synthetic_shards, tmp_path / "whole", settings)
    context, chance = multiprocessing.get_context("fork"), random.Random(name)
    reached, original = context.Value("i"), FineTuning.on_train_batch_start

    def on_train_batch_start(self, *arguments):
        reached.value = self.step
        original(self, *arguments)

    def child():
        FineTuning.on_train_batch_start = on_train_batch_start
        run(synthetic_shards, tmp_path / "killed", settings)

    for number, step in enumerate(some(sorted(chance.sample(range(1, 58), 5)))):
        reached.value = 0
        process = context.Process(target=child)
        process.start()
        while reached.value < step and process.is_alive():
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.05))  # somewhere in the step, the validation or the checkpoint
        os.kill(process.pid, signal.SIGTERM if number % 2 else signal.SIGKILL)
        process.join()
        assert process.exitcode != 0
    found = run(synthetic_shards, tmp_path / "killed", settings)
    assert all(torch.equal(whole[0][key], found[0][key]) for key in whole[0])
    assert whole[1] == found[1]


def terminated_in(monkeypatch, hook, step, signum=signal.SIGTERM):
    original = getattr(FineTuning, hook)

    def wrapped(self, *arguments):
        if self.step == step and not self.terminated:
            os.kill(os.getpid(), signum)
        return original(self, *arguments)

    monkeypatch.setattr(FineTuning, hook, wrapped)
    return lambda: monkeypatch.setattr(FineTuning, hook, original)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("hook", "step", "kept"), [("training_step", 4, 5), ("validation_step", 6, 6)])
def test_a_run_that_is_told_to_end_loses_no_step_and_goes_on_as_if_it_had_not_been(
    micro_model, synthetic_shards, tmp_path, monkeypatch, hook, step, kept, signum
):
    settings = SETTINGS.model_copy(update={"checkpoint_every": 100, "ema": 0.8})
    whole = run(synthetic_shards, tmp_path / "whole", settings)
    before = signal.getsignal(signum)
    restore = terminated_in(monkeypatch, hook, step, signum)
    with pytest.raises(TerminatedError, match=f"ended by {signum.name} after step {kept}; nothing is lost") as error:
        run(synthetic_shards, tmp_path / "ended", settings)
    assert signal.getsignal(signum) == before and error.value.status == 128 + signum
    assert not (tmp_path / "ended" / "out" / "model.safetensors").exists()
    restore()
    found = run(synthetic_shards, tmp_path / "ended", settings)
    assert all(torch.equal(whole[0][key], found[0][key]) for key in whole[0])
    assert whole[1] == found[1]


def test_the_command_line_ends_with_the_status_of_a_sigterm(micro_model, synthetic_shards, tmp_path, monkeypatch, call):
    terminated_in(monkeypatch, "training_step", 2)
    status, _, err = call(*train_words(synthetic_shards, SETTINGS.model_dump_json(), tmp_path))
    assert status == 143 and "ended by SIGTERM after step 3" in err


def test_a_batch_in_parts_is_the_same_batch(micro_model, synthetic_shards, tmp_path):
    one, two = (run(synthetic_shards, tmp_path / f"{n}", steps=3, batch_size=4, accumulate=n)[1] for n in (1, 4))
    for first, second in zip(one, two, strict=True):
        assert first == pytest.approx(second, rel=2e-3, abs=1e-5)


@pytest.mark.parametrize("changes", [{"recompute": "all"}, {"recompute": "selective"}])
def test_activations_computed_again_change_nothing(micro_model, synthetic_shards, tmp_path, changes):
    plain = run(synthetic_shards, tmp_path / "plain", steps=3)
    again = run(synthetic_shards, tmp_path / "again", steps=3, **changes)
    assert all(torch.equal(plain[0][key], again[0][key]) for key in plain[0]) and plain[1] == again[1]


def gradients(synthetic_shards, recompute, rerender):
    data = ShardData(read_manifest(synthetic_shards), SETTINGS)
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    torch.manual_seed(0)
    model = GSLRM(MICRO)
    model.recompute = recompute
    rgb, alpha, _ = predict(model, batch, rerender)
    ((rgb - batch["image"]).square().mean() + (alpha - batch["alpha"]).square().mean()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    ("recompute", "rerender"), [("all", False), ("selective", False), ("none", True), ("all", True)]
)
def test_gradients_do_not_depend_on_what_is_kept_for_them(synthetic_shards, recompute, rerender):
    expected, found = gradients(synthetic_shards, "none", False), gradients(synthetic_shards, recompute, rerender)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=2e-5 * gradient.abs().max().item() + 1e-12)


def test_selective_recomputation_computes_every_layer_again_but_for_its_attention(synthetic_shards):
    """By counting attention's calls: one per layer forward; one more per layer in the backward pass if it is not kept."""

    class Count(TorchDispatchMode):
        attention = matrices = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            name = function.__name__
            self.attention += "dot_product" in name and "backward" not in name
            self.matrices += name.startswith("mm")
            return function(*args, **(kwargs or {}))

    counts = {}
    for recompute in ("none", "selective", "all"):
        with Count() as count:
            gradients(synthetic_shards, recompute, False)
        counts[recompute] = count.attention, count.matrices
    layers = MICRO.layers
    assert counts["all"][0] == counts["none"][0] + layers and counts["selective"][0] == counts["none"][0]
    assert (
        counts["all"][1] == counts["selective"][1] == counts["none"][1] + 3 * layers
    )  # the last one's result is not needed


@pytest.mark.slow
def test_compiled_layers_give_the_same_loss(micro_model, synthetic_shards, tmp_path):
    plain = run(synthetic_shards, tmp_path / "plain", steps=2, recompute="selective")[1]
    compiled = run(synthetic_shards, tmp_path / "compiled", steps=2, recompute="selective", compile=True)[1]
    for first, second in zip(plain, compiled, strict=True):
        assert first == pytest.approx(second, rel=2e-3, abs=1e-5)


@pytest.mark.parametrize("adapt", ["heads", "last_n", "lora"])
def test_an_adapted_run_changes_what_it_names_and_saves_a_plain_model(micro_model, synthetic_shards, tmp_path, adapt):
    run(synthetic_shards, tmp_path / "first", steps=2)
    init = tmp_path / "first" / "out" / "model.safetensors"
    end, _ = run(synthetic_shards, tmp_path / "second", steps=4, init=str(init), adapt=adapt, last_n=1)
    start = load_file(init)
    assert end.keys() == start.keys()
    changed = {name for name in end if not torch.equal(end[name], start[name])}
    assert not any(name.startswith(("patch_embedder", "input_layer_norm")) for name in changed)
    assert {"pixel_gaussian_decoder.1.weight", "gaussian_upsampler.linear.weight"} <= changed
    touched = {name.split(".")[1] for name in changed if name.startswith("transformer_layers")}
    assert touched == {"heads": set(), "last_n": {"1"}, "lora": {"0", "1"}}[adapt]


def test_averaged_weights_are_what_is_validated_and_saved(micro_model, synthetic_shards, tmp_path, monkeypatch):
    """Against the average computed here, step by step."""
    seen, original = [], FineTuning.on_train_batch_end

    def on_train_batch_end(self, *arguments):
        original(self, *arguments)
        seen.append({name: tensor.clone() for name, tensor in self.model.state_dict().items()})

    monkeypatch.setattr(FineTuning, "on_train_batch_end", on_train_batch_end)
    saved, table = run(synthetic_shards, tmp_path / "averaged", steps=6, ema=0.7)
    torch.manual_seed(SETTINGS.seed)
    average = GSLRM(MICRO).state_dict()
    for step, weights in enumerate(seen, start=1):
        decay = min(0.7, step / (step + 9))
        average = {name: decay * average[name] + (1 - decay) * weights[name] for name in average}
    for name in average:
        torch.testing.assert_close(saved[name], average[name], rtol=1e-5, atol=1e-7)
    last = run(synthetic_shards, tmp_path / "last", steps=6)
    assert all(torch.equal(last[0][name], seen[-1][name]) for name in seen[-1])  # the training itself is the same
    assert table[-1]["loss"] == last[1][-1]["loss"] and table[-1]["val_psnr"] != last[1][-1]["val_psnr"]


def test_eight_bit_states_survive_a_restart(micro_model, synthetic_shards, tmp_path, monkeypatch):
    pytest.importorskip("bitsandbytes")
    settings = SETTINGS.model_copy(update={"optimizer": "adamw8bit", "steps": 8})
    whole = run(synthetic_shards, tmp_path / "whole", settings)
    restore = terminated_in(monkeypatch, "training_step", 4)
    with pytest.raises(TerminatedError):
        run(synthetic_shards, tmp_path / "ended", settings)
    restore()
    found = run(synthetic_shards, tmp_path / "ended", settings)
    assert all(torch.equal(whole[0][key], found[0][key]) for key in whole[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nodes": 2, "batch_size": 2}, r"train.nodes is 2.*start 2 tasks with srun --nodes=2 --ntasks-per-node=1"),
        ({"optimizer": "paged_adamw8bit"}, "pages a GPU's memory"),
    ],
)
def test_what_this_machine_cannot_do_is_said_before_anything_starts(
    micro_model, synthetic_shards, tmp_path, monkeypatch, settings, message
):
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    with pytest.raises(UserError, match=message):
        run(synthetic_shards, tmp_path, **settings)
    assert not list(tmp_path.iterdir())


def test_settings_that_compute_the_same_continue_a_run(micro_model, synthetic_shards, tmp_path, capsys):
    run(synthetic_shards, tmp_path, steps=2)
    same = {
        "log_every": 2,
        "recompute": "all",
        "last_n": 2,
        "lora": Lora(rank=3),
        "accumulate": 2,
        "guards": Guards(white=7),
    }
    run(synthetic_shards, tmp_path, steps=2, **same)
    assert (
        len(list(tmp_path.glob("checkpoints/*/last.ckpt"))) == 1
        and "continuing after step 2" in capsys.readouterr().err
    )
    run(synthetic_shards, tmp_path, steps=2, ema=0.9)
    assert "starting at step 0: the checkpoints" in capsys.readouterr().err


def test_a_checkpoint_is_not_taken_for_weights(micro_model, synthetic_shards, tmp_path):
    run(synthetic_shards, tmp_path, steps=2)
    (checkpoint,) = tmp_path.glob("checkpoints/*/last.ckpt")
    with pytest.raises(
        UserError, match=r"a checkpoint from which a training run continues, not a model; use .*model\.safetensors"
    ):
        load_weights(checkpoint)


def test_weights_can_be_read_by_whom_the_umask_lets(micro_model, synthetic_shards, tmp_path):
    run(synthetic_shards, tmp_path, steps=1)
    weights, table = (tmp_path / "out" / name for name in ("model.safetensors", "metrics.csv"))
    assert weights.stat().st_mode == table.stat().st_mode


def test_lpips_without_its_package_says_what_to_install(micro_model, synthetic_shards, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(UserError, match=r"needs the package lpips.*\[lpips\].*best for mice"):
        run(synthetic_shards, tmp_path, loss=Loss(lpips=0.5))


def test_lpips_is_a_term_of_the_loss_and_no_part_of_the_model(micro_model, synthetic_shards, tmp_path, monkeypatch):
    class Perceptual(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, first, second, normalize):
            assert normalize and first.shape == second.shape == (12, 3, 32, 32)
            return self.weight * (first - second).abs().mean((1, 2, 3), keepdim=True)

    monkeypatch.setattr("mousefacelift.training.finetuning.open_lpips", lambda: Perceptual().requires_grad_(False))
    weights, table = run(synthetic_shards, tmp_path, steps=2, loss=Loss(l2=1, masked_l2=0, lpips=0.5))
    assert weights.keys() == GSLRM(MICRO).state_dict().keys()
    assert table[0]["loss"] == pytest.approx(table[0]["l2"] + 0.5 * table[0]["lpips"], rel=1e-5)


class TestCollapse:
    """Runs made to fail are stopped by the alarm that says why; the good weights are kept."""

    def test_all_white_targets(self, micro_model, synthetic_shards, tmp_path, monkeypatch):
        original = ShardData.on_after_batch_transfer

        def white(self, batch, index):
            batch = original(self, batch, index)
            return batch | {"image": torch.ones_like(batch["image"])} if self.step >= 10 else batch

        monkeypatch.setattr(ShardData, "on_after_batch_transfer", white)
        settings = {"steps": 400, "guards": Guards(white=20), "val_every": 400, "checkpoint_every": 5}
        with pytest.raises(
            UserError, match=r"white collapse.*images themselves are white.*good ones, are in (\S+):"
        ) as error:
            run(synthetic_shards, tmp_path, **settings)
        kept = str(error.value).split("good ones, are in ")[1].split(": set train.init")[0]
        step = int(str(error.value).split("weights of step ")[1].split(",")[0])
        assert load_weights(Path(kept)).config == MICRO and 10 <= step < 380
        assert (tmp_path / "out" / "curves-failed.png").exists() and not (
            tmp_path / "out" / "model.safetensors"
        ).exists()

    def test_a_learning_rate_a_thousand_times_too_high(self, micro_model, synthetic_shards, tmp_path):
        settings = {
            "learning_rate": 3.0,
            "steps": 400,
            "guards": Guards(white=40, norm=20, plateau=100),
            "val_every": 400,
        }
        with pytest.raises(UserError, match=r"(white collapse|norm explosion).*learning_rate"):
            run(synthetic_shards, tmp_path, **settings)

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", some(range(3)))
    def test_healthy_runs_raise_none(self, micro_model, synthetic_shards, tmp_path, seed):
        settings = {"steps": 150, "seed": seed, "guards": Guards(white=20, norm=10, plateau=100), "val_every": 150}
        _, table = run(synthetic_shards, tmp_path, **settings)
        assert table[-1]["loss"] < 0.5 * table[0]["loss"]


class HostReads(TorchDispatchMode):
    """Counts where the host would wait for a GPU, because it reads a value. On the CPU that waits for nothing."""

    READING = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "unique", "lift_fresh")

    def __init__(self, monkeypatch):
        super().__init__()
        self.found, self.counting = [], False
        for name in ("tolist", "cpu", "numpy", "__array__"):
            monkeypatch.setattr(torch.Tensor, name, self.counted(name, getattr(torch.Tensor, name)))

    def counted(self, name, original):
        def method(*arguments, **options):
            self.note(name)
            return original(*arguments, **options)

        return method

    def note(self, name):
        if self.counting:
            self.found.append(name)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.partition(".")[0]
        masks = [each for each in (args[1] if name in ("index", "index_put_") else []) if each is not None]
        if name in self.READING or any(mask.dtype == torch.bool for mask in masks):
            self.note(name)
        return function(*args, **(kwargs or {}))


def test_the_host_waits_for_the_device_once_per_step(synthetic_shards, tmp_path, monkeypatch):
    """From the batch's arrival to the end of the step, its log included.

    Left out: drawing, which is done by other code on a GPU.
    """
    monkeypatch.setitem(PRESETS, "tiny", preset_of(replace(MICRO, skip_blank=False)))
    reads, steps = HostReads(monkeypatch), []

    def draw(gaussians, batch, _rerender):
        mean = torch.stack([part.mean() for part in gaussians.activated(0)]).mean()
        return batch["image"] * mean, batch["alpha"] * mean

    first, last = FineTuning.on_train_batch_start, FineTuning.on_train_batch_end

    def on_train_batch_start(self, batch, index):
        reads.counting = True
        first(self, batch, index)

    def on_train_batch_end(self, outputs, batch, index):
        last(self, outputs, batch, index)
        reads.counting = False
        if self.between_steps:
            steps.append(list(reads.found))
            reads.found.clear()

    monkeypatch.setattr(finetuning, "draw", draw)
    monkeypatch.setattr(FineTuning, "on_train_batch_start", on_train_batch_start)
    monkeypatch.setattr(FineTuning, "on_train_batch_end", on_train_batch_end)
    with reads:
        run(synthetic_shards, tmp_path, steps=4, accumulate=2, ema=0.9)
    assert steps == [["tolist"]] * 4


@pytest.fixture(scope="module")
def half_known(tmp_path_factory):
    """Data whose samples have unknown pixels, every second one; 3 views of 32 px."""
    samples = {"a": {"train": 3, "val": 3}}
    manifest = write_small(tmp_path_factory.mktemp("unknown"), samples, unknown=unknown_corner)
    return ShardData(read_manifest(manifest), SETTINGS.model_copy(update={"num_input_views": 2, "augment": False}))


def test_the_model_is_told_in_training_which_pixels_of_its_inputs_are_unknown(half_known):
    told = 0
    for batch in map(half_known.on_after_batch_transfer, half_known.train_dataloader(), [0] * 3):
        given = []
        reconstruct(lambda *arguments, given=given: given.extend(arguments), batch)
        assert ("unknown" in batch) == (len(given) == 5)
        for row, inputs in enumerate(batch["inputs"] if "unknown" in batch else []):
            assert torch.equal(given[4][row], batch["unknown"][row, inputs])
            told += int(given[4][row].any())
    assert told


@pytest.mark.parametrize("loader", [0, 1])
def test_a_validation_leaves_out_what_is_unknown_in_its_samples_and_in_those_of_training(half_known, loader):
    torch.manual_seed(0)
    measures = {name: each.measure for name, each in validation_metrics().items()}
    tuning = FineTuning(GSLRM(MICRO), half_known.settings, half_known, None, measures, "val_psnr")

    def values(batch):
        with torch.no_grad():
            tuning.validation_step(batch, 0, loader)
        return tuning._validation[loader, int(batch["index"][0])]

    batches = [half_known.on_after_batch_transfer(each, loader) for each in half_known.val_dataloader()[loader]]
    told = [batch for batch in batches if "unknown" in batch]
    assert 0 < len(told) < len(batches)
    for batch in told:
        # The held-out view alone: an input's pixels are shown to the model, unknown or not.
        wrong, view = batch["unknown"].clone(), batch["held_out"][0]
        wrong[0, batch["inputs"][0]] = False
        assert wrong[0, view].any()
        other = batch | {
            "image": batch["image"].masked_fill(wrong[:, :, None], 0.3), "alpha": batch["alpha"].masked_fill(wrong, 0.7),
        }  # fmt: skip
        expected = values(batch)
        assert values(other) == expected
        del other["unknown"]
        assert values(other) != expected


def test_gradients_are_not_in_memory_during_the_forward_pass_nor_in_a_validation(
    micro_model, synthetic_shards, tmp_path, monkeypatch
):
    present = []

    def spy(hook, parts=()):
        original = getattr(FineTuning, hook)

        def wrapped(self, *arguments):
            if arguments[1] not in parts:
                present.append(any(parameter.grad is not None for parameter in self.model.parameters()))
            return original(self, *arguments)

        monkeypatch.setattr(FineTuning, hook, wrapped)

    spy("training_step", parts=[each for each in range(100) if each % 2])  # the second part adds to the first one's
    spy("validation_step")
    run(synthetic_shards, tmp_path, steps=6, accumulate=2)
    assert len(present) > 6 and not any(present)


def test_the_learning_rate_rises_linearly_then_falls_as_a_cosine():
    settings = Train(steps=110, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(step, settings) for step in range(110)]
    assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert rates[10] == 1.0 and rates[60] == pytest.approx(0.5) and 0 < rates[109] < 1e-3
    assert learning_rate(0, Train(steps=1, warmup_steps=500, learning_rate=1.0)) == 1.0
