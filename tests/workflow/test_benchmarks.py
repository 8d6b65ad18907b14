"""The benchmarks that are run by hand: on a CPU they run as on a GPU, and what they count is what is computed."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import measuring
import raster
import train_gpu
from gpu.bench import Bench, attempt
from gpu.flop import model_flop, step_flop
from gpu.inputs import device_batch
from gpu.training import PHASES, Step
from gpu.verdicts import show_verdicts
from mousefacelift.base.errors import UserError
from mousefacelift.config.presets import PRESETS
from mousefacelift.config.train import Train
from mousefacelift.models.adapt import adapt
from mousefacelift.models.attention import AttentionChoice
from mousefacelift.models.gslrm import GSLRM, GSLRMConfig
from mousefacelift.models.registry import preset_config
from scenes import ring
from support.presets import preset_of

MICRO = GSLRMConfig(width=32, head_width=16, layers=3)


def numbers(tables, columns):
    """How a table's rows must have been printed."""
    return [format(row[name], form) for row in tables for name, form in columns.items() if row.get(name) is not None]


@pytest.fixture
def micro(monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", preset_of(GSLRMConfig(width=32, head_width=16, layers=1)))


def train_gpu_words(*words):
    common = [
        "--device",
        "cpu",
        "--preset",
        "tiny",
        "--threads",
        "1",
        "--workers",
        "0",
        "--warm-up",
        "1",
        "--steps",
        "2",
    ]
    return [*common, *map(str, words)]


def test_base_at_6_views_of_512_px_takes_74_tflop_forward_and_222_a_step():
    tokens = 2 + 6 * 64 * 64
    assert tokens == 24578
    assert sum(model_flop(preset_config("base"), tokens).values()) == pytest.approx(74e12, rel=0.01)
    assert step_flop(preset_config("base"), tokens, Train()) == pytest.approx(222e12, rel=0.01)


@pytest.mark.parametrize("kind", ["full", "last_n", "heads"])
def test_counted_operations_are_those_that_torch_counts(kind):
    settings = Train(preset="tiny", adapt=kind, last_n=2)
    model = GSLRM(MICRO)
    adapt(model, settings)
    views, size = 2, 32
    w2c, fxfycxcy = ring(views, size)
    given = torch.rand(1, views, 3, size, size), torch.linalg.inv(w2c)[None], fxfycxcy[None]
    # Only plain attention is made of products that torch counts as such; it computes none of them twice.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward, torch.no_grad():
        model(*given)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as step:
        gaussians = model(*given)
        sum(getattr(gaussians, name).sum() for name in ("features", "rotation", "opacity")).backward()
    tokens = MICRO.free_gaussians + views * (size // MICRO.patch) ** 2
    rays = 2 * 9 * views * size**2  # rotated into the world, of which the formula says that it does not count them
    assert forward.get_total_flops() - rays == sum(model_flop(MICRO, tokens).values())
    assert step.get_total_flops() - rays == step_flop(MICRO, tokens, settings)


def test_training_is_measured_and_written_as_printed(micro, tmp_path, capsys):
    path = tmp_path / "gpu.json"
    words = train_gpu_words("--sizes", 32, "--inputs", 6, 5, "--recompute", "none", "all", "--rerender", "--json", path)
    train_gpu.main(words)
    out, found = capsys.readouterr().out, json.loads(path.read_text())
    assert [(row["inputs"], row["recompute"]) for row in found["training"]] == [
        (inputs, recompute) for inputs in (6, 5) for recompute in ("none", "all")
    ]
    forms = {"tokens": "d", "ms": ".1f", "tflop": ".4g", "mfu": ".1%", "backward_ms": ".2f", "optimizer_ms": ".2f"}
    printed = numbers(found["training"], forms) + numbers(found["latency"], {"gaussians": "d", "both_ms": ".2f"})
    printed += numbers(found["matmul"], {"ms": ".3f"}) + numbers(found["loading"], {"samples_per_s": ".3f"})
    assert len(printed) > 20
    assert all(number in out for number in printed)
    assert [row["tokens"] for row in found["training"]] == [2 + 96, 2 + 96, 2 + 80, 2 + 80]
    for row in found["training"]:
        assert row["rerender"] is True
        phases = sum(row[f"{phase}_ms"] for phase in PHASES)
        assert phases == pytest.approx(row["ms"], rel=0.5), "the parts are the step's"
    assert [row["verdict"] for row in found["verdicts"]] == ["not measured here"] * 3
    assert out.count("not measured here") == 3


def test_the_loaders_batches_are_those_of_shards_that_are_given(micro, synthetic_shards, tmp_path):
    path = tmp_path / "gpu.json"
    words = train_gpu_words("--sizes", 32, "--inputs", 5, "--manifest", synthetic_shards, "--container", "h5", "tar")
    train_gpu.main([*words, "--json", str(path)])
    rows = json.loads(path.read_text())["loading"]
    assert [(row["container"], row["views"], row["inputs"]) for row in rows] == [("h5", 6, 5), ("tar", 6, 5)]
    assert all(row["loader_samples_per_s"] > row["samples_per_s"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("error", "failed"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"), "out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "out of memory"),
        (RuntimeError("No available kernel. Aborting execution."), "attention not available here"),
        (UserError("train.optimizer: adamw8bit needs bitsandbytes"), "train.optimizer: adamw8bit needs bitsandbytes"),
    ],
)
def test_what_does_not_fit_or_is_missing_is_a_row_that_says_so(error, failed, capsys):
    def measure():
        raise error

    row = {"size": 512} | attempt(measure)
    assert row == {"size": 512, "failed": failed}
    measuring.Report().show("training", "", {"size": ("px", "d"), "ms": ("ms", ".1f"), "mfu": ("", ".1%")}, [row])
    assert failed in capsys.readouterr().out


def test_another_error_is_none_of_memory():
    def measure():
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        attempt(measure)


@pytest.mark.parametrize("script", [raster, train_gpu])
def test_a_gpu_that_is_asked_for_and_absent_is_an_error(script):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit, match="torch sees no CUDA GPU"):
        script.main(["--device", "cuda"])


@pytest.fixture
def card(monkeypatch):
    """A bench as it would be after its measurements on a card; they are put into its tables."""

    def bench(training, latency, *words, name="NVIDIA H100 80GB HBM3"):
        found = Bench(train_gpu.parse(["--device", "cpu", "--threads", "1", *words]))
        monkeypatch.setattr(found, "cuda", True)
        found.report.tables.update({"machine": {"name": name}, "training": training, "latency": latency})
        show_verdicts(found)
        return found.report.tables["verdicts"]

    return bench


def words_of(verdicts):
    return [verdict["verdict"] for verdict in verdicts]


FULL = {"size": 512, "inputs": 5, "settings": "full", "adapt": "full", "optimizer": "adamw", "ms": 500.0}
BOTH = {"size": 512, "inputs": 6}
GOOD = [FULL | {"mfu": 0.46, "reserved_gib": 11.0}], [BOTH | {"both_ms": 145.0}]
BAD = [FULL | {"mfu": 0.44, "reserved_gib": 11.8}], [BOTH | {"both_ms": 155.0}]


@pytest.mark.parametrize("name", ["NVIDIA H100 80GB HBM3", "NVIDIA H200"])
def test_verdicts_are_the_targets(card, name):
    assert words_of(card(*GOOD, name=name)) == ["met"] * 3
    assert words_of(card(*BAD, "--memory-gb", "12", name=name)) == ["not met"] * 3
    assert words_of(card(*BAD, name=name))[2] == "not measured here", "without a limit torch reserves what it can get"
    failed = [FULL | {"failed": "out of memory"}]
    found = words_of(card(failed, [], "--memory-gb", "12", name=name))
    assert found == ["not measured here", "not measured here", "not met"]


def test_another_card_gets_its_time_and_no_verdict_on_it(card):
    latency, rate, memory = card(*BAD, name="NVIDIA A100-SXM4-80GB")
    assert latency["verdict"] == "not measured here"
    assert "no target for this card" in latency["found"] and "155.0 ms" in latency["found"]
    assert rate["verdict"] == "not met", "a share of the card's own rate"
    assert memory["verdict"] == "not measured here"


def test_a_card_is_measured_in_the_precision_of_training_and_within_the_memory_that_is_given(monkeypatch):
    limits = []
    monkeypatch.setattr("gpu.bench.chosen_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(total_memory=144 * 2**30))
    monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", lambda part, _: limits.append(part))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    bench = Bench(train_gpu.parse(["--memory-gb", "12"]))
    assert bench.dtype == torch.bfloat16
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    assert limits == [pytest.approx((12 - 0.6) / 144)]


def test_the_memory_target_is_of_training_all_weights(card):
    lora = FULL | {"adapt": "lora", "reserved_gib": 5.0}
    eight = FULL | {"optimizer": "adamw8bit", "reserved_gib": 7.0}
    assert words_of(card([lora, eight], [], "--memory-gb", "12"))[2] == "not measured here"
    out = FULL | {"failed": "out of memory"}
    assert words_of(card([lora, eight, out], [], "--memory-gb", "12"))[2] == "not met"


def test_a_step_that_could_not_be_made_for_want_of_a_package_is_no_verdict(card):
    missing = card([FULL | {"failed": "gsplat is not installed"}], [], "--memory-gb", "12")[2]
    assert (missing["verdict"], missing["found"]) == ("not measured here", "gsplat is not installed")


def test_tables_that_are_not_wanted_are_left_out(micro, tmp_path):
    path = tmp_path / "gpu.json"
    skipped = ["matmul", "attention", "latency", "loading"]
    train_gpu.main(train_gpu_words("--sizes", 32, "--inputs", 5, "--json", path, "--skip", *skipped))
    found = json.loads(path.read_text())
    assert found.keys() == {"machine", "options", "training", "verdicts"}
    assert found["training"][0]["mfu"] is None, "the rate of the card was not measured"


def test_a_run_that_is_ended_has_written_what_it_measured(micro, tmp_path, monkeypatch):
    def end(_bench):
        raise KeyboardInterrupt

    monkeypatch.setitem(train_gpu.TABLES, "latency", end)
    path = tmp_path / "gpu.json"
    with pytest.raises(KeyboardInterrupt):
        train_gpu.main(train_gpu_words("--sizes", 32, "--inputs", 5, "--json", path, "--skip", "attention"))
    assert json.loads(path.read_text())["training"]


def test_the_forward_pass_of_a_step_holds_no_gradients_of_the_last(micro):
    bench = Bench(train_gpu.parse(train_gpu_words("--sizes", 32, "--inputs", 5)))
    settings = bench.settings(32, 5)
    step, seen = Step(bench.model(settings), settings, bench), []
    step.model.register_forward_pre_hook(lambda *_: seen.append(any(p.grad is not None for p in step.parameters)))
    for _ in range(2):
        step(device_batch(6, 5, 32, 1, bench.device))
    assert seen == [False, False]
    assert all(parameter.grad is not None for parameter in step.parameters)


def test_steps_are_measured_with_the_kernel_that_training_would_choose(monkeypatch):
    bench = Bench(train_gpu.parse(["--device", "cpu", "--threads", "1", "--batch-size", "2"]))
    asked = []

    def choose(config, *arguments):
        asked.append((config, *arguments))
        return AttentionChoice(("cudnn", "flash"))

    monkeypatch.setattr("gpu.bench.choose_attention", choose)
    settings = bench.settings(512, 5)
    for training in (True, False):
        context, kernel = bench.attend_by("auto", settings, training)
        assert kernel == "cudnn"
        with context:
            assert not torch.backends.cuda.mem_efficient_sdp_enabled()
    device, config = torch.device("cpu"), preset_config("base")
    assert asked == [
        (config, 2, 20482, torch.float32, device, "auto", True),
        (config, 1, 20482, torch.float32, device, "auto", False),
    ]


def test_rasterisers_are_measured_and_compared(tmp_path, capsys):
    path = tmp_path / "raster.json"
    words = [
        "--device",
        "cpu",
        "--counts",
        "500",
        "--sizes",
        "32",
        "--views",
        "1",
        "2",
        "--repeat",
        "2",
        "--threads",
        "1",
    ]
    raster.main([*words, "--json", str(path)])
    out, found = capsys.readouterr().out, json.loads(path.read_text())
    assert [(row["count"], row["views"], row["rasterizer"]) for row in found["speed"]] == [
        (500, 1, "cpu"),
        (500, 2, "cpu"),
    ]
    printed = numbers(found["speed"], {"forward_ms": ".2f", "both_ms": ".2f", "views_per_s": ".1f"})
    printed += numbers(found["agreement"], {"rgb": ".4%", "means": ".1e", "opacities": ".1e"})
    assert len(printed) == 2 * 3 + 2 * 3
    assert all(number in out for number in printed)
    assert "no CUDA GPU" in out and found["compared"] == "reference"
    assert [row["verdict"] for row in found["verdicts"]] == ["met"] * 7
    assert out.count("not met") == 0


def test_a_rasteriser_that_draws_something_else_does_not_meet_the_targets(monkeypatch, capsys):
    def brighter(*arguments):
        rgb, alpha = raster.rasterize_reference(*arguments)
        return 1.01 * rgb, alpha

    monkeypatch.setattr(raster, "rasterize", brighter)
    options = raster.parse(["--device", "cpu", "--views", "1"])
    raster.compare(options, measuring.Report(), torch.device("cpu"))
    assert "not met: 99.9 % of rgb" in capsys.readouterr().out


def test_agreement_scenes_stay_below_both_clamps_or_reach_them():
    below, above = (raster.scene(1000, 32, 1, opaque)[3].max() for opaque in (False, True))
    assert below <= 0.98 and above > 0.999
    assert [len(tensor) for tensor in raster.scene(1001, 32, 2)] == [1001] * 5 + [2, 2]
