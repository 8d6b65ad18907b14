"""The attention kernel is the fastest of those that can do the run's attention, and holds wherever attention is computed."""

import pytest
import torch
from functorch.compile import make_boxed_compiler
from torch._dynamo.backends.common import aot_autograd
from torch.nn.attention import SDPBackend

from mousefacelift.base.errors import UserError
from mousefacelift.models import attention
from mousefacelift.models.attention import KERNELS, AttentionChoice, choose_attention
from mousefacelift.models.gslrm import GSLRM, GSLRMConfig
from scenes import ring

MICRO = GSLRMConfig(width=32, head_width=16, layers=2)
CUDA = torch.device("cuda")


def enabled():
    """The kernels that torch would try now, in their order."""
    on = {
        SDPBackend.CUDNN_ATTENTION: torch.backends.cuda.cudnn_sdp_enabled(),
        SDPBackend.FLASH_ATTENTION: torch.backends.cuda.flash_sdp_enabled(),
        SDPBackend.EFFICIENT_ATTENTION: torch.backends.cuda.mem_efficient_sdp_enabled(),
        SDPBackend.MATH: torch.backends.cuda.math_sdp_enabled(),
    }
    order = [SDPBackend(number) for number in torch._C._get_sdp_priority_order()]
    return [kernel for kernel in order if on.get(kernel)]


@pytest.fixture
def card(monkeypatch):
    """A card whose kernels take these seconds, or raise these errors; says which kernels were called."""

    def card(kernels):
        called = []

        def layer(*_arguments):
            def call():
                (only,) = enabled()
                name = next(name for name, kernel in KERNELS.items() if kernel == only)
                called.append(name)
                if isinstance(kernels[name], Exception):
                    raise kernels[name]

            return call

        def measure(call):
            call()
            return kernels[called[-1]]

        monkeypatch.setattr(attention, "_layer", layer)

        def choose(wanted="auto", training=True):
            return choose_attention(MICRO, 1, 10, torch.bfloat16, CUDA, wanted, training, measure)

        return choose, called

    return card


UNAVAILABLE = RuntimeError("No available kernel. Aborting execution.")


def test_the_fastest_kernel_comes_first_and_the_others_stay(card):
    before = enabled()
    choose, called = card({"flash": 5.4e-3, "cudnn": 3.1e-3, "efficient": 9.9e-3})
    choice = choose()
    assert choice.order == ("cudnn", "flash", "efficient")
    assert str(choice) == (
        "attention: cudnn 3.1 ms, flash 5.4 ms, efficient 9.9 ms per layer, forward and backward: cudnn"
    )
    assert {name: called.count(name) for name in KERNELS} == dict.fromkeys(KERNELS, 2), "a call before the measured one"
    assert enabled() == before
    faster, _ = card({"flash": 2e-3, "cudnn": 3e-3, "efficient": 1e-3})
    assert faster(training=False).order == ("efficient", "flash", "cudnn")
    assert str(faster(training=False)).endswith("per layer, forward: efficient")


@pytest.mark.parametrize(
    "error",
    [
        UNAVAILABLE,
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        RuntimeError("cuDNN Frontend error: [cudnn_frontend] Error: No execution plans support the graph."),
    ],
)
def test_a_kernel_that_cannot_run_is_left_out_and_named(card, error):
    choose, _ = card({"flash": 5e-3, "cudnn": error, "efficient": 9e-3})
    choice = choose()
    assert choice.order == ("flash", "efficient")
    assert "cudnn left out: " + str(error).splitlines()[0] in str(choice)


def test_a_kernel_that_is_alone_is_not_measured(card):
    choose, called = card({"flash": UNAVAILABLE, "cudnn": UNAVAILABLE, "efficient": 9e-3})
    assert choose().order == ("efficient",)
    assert called.count("efficient") == 1


def test_without_any_kernel_torch_chooses(card):
    choose, _ = card(dict.fromkeys(KERNELS, UNAVAILABLE))
    before, choice = enabled(), choose()
    assert choice.order == () and "torch's plain one" in str(choice)
    with choice.applied():
        assert enabled() == before


def test_an_error_that_is_none_of_the_kernels_is_not_hidden(card):
    choose, _ = card({"flash": 1e-3, "cudnn": RuntimeError("CUDA error: an illegal memory access"), "efficient": 1e-3})
    with pytest.raises(RuntimeError, match="illegal memory access"):
        choose()


def test_a_kernel_that_is_wanted_comes_first_without_a_measurement(card):
    choose, called = card({"flash": 5e-3, "cudnn": 3e-3, "efficient": 9e-3})
    choice = choose("flash")
    assert choice.order == ("flash", "cudnn", "efficient")
    assert called == ["flash"] and str(choice) == "attention: flash"


def test_a_kernel_that_is_wanted_and_cannot_run_is_an_error_that_names_it(card):
    choose, _ = card({"flash": 5e-3, "cudnn": UNAVAILABLE, "efficient": 9e-3})
    with pytest.raises(UserError, match=r"train.attention is cudnn, which cannot .*No available kernel.*use auto"):
        choose("cudnn")


def test_on_the_cpu_nothing_is_chosen(card):
    choice = choose_attention(MICRO, 1, 10, torch.float32, torch.device("cpu"), "flash")
    before = enabled()
    with choice.applied():
        assert enabled() == before


@pytest.mark.parametrize("training", [True, False])
def test_the_layer_that_is_measured_is_the_networks(monkeypatch, training):
    """The shapes and strides of q, k, v, and of the gradient that comes back."""
    seen, plain = [], torch.nn.functional.scaled_dot_product_attention

    def spy(q, k, v, attn_mask=None):
        out = plain(q, k, v, attn_mask=attn_mask)
        grads = []
        if out.requires_grad:
            out.register_hook(lambda grad: grads.append((grad.shape, grad.stride())))
        seen.append(([(x.shape, x.stride(), x.dtype, x.requires_grad) for x in (q, k, v)], grads))
        return out

    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", spy)
    samples, tokens = 2, MICRO.free_gaussians + 3 * 4 * 4
    w2c, fxfycxcy = (tensor.expand(samples, *tensor.shape) for tensor in ring(3, 32))
    with torch.set_grad_enabled(training):
        gaussians = GSLRM(MICRO)(torch.rand(samples, 3, 3, 32, 32), torch.linalg.inv(w2c), fxfycxcy)
    if training:
        gaussians.xyz.square().sum().backward()
    attention._layer(MICRO, samples, tokens, torch.float32, torch.device("cpu"), training)()
    assert len(seen) == 3
    assert seen[-1] == seen[0]
    assert len(seen[0][1]) == training


def test_a_choice_holds_in_recomputation_inside_the_backward_pass_and_ends_with_its_context(monkeypatch):
    seen, plain = [], torch.nn.functional.scaled_dot_product_attention

    def spy(*arguments, **options):
        seen.append(enabled())
        return plain(*arguments, **options)

    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", spy)
    model, before = GSLRM(MICRO), enabled()
    model.recompute = "all"
    w2c, fxfycxcy = ring(3, 32)
    with AttentionChoice(("efficient", "flash")).applied():
        gaussians = model(torch.rand(1, 3, 3, 32, 32), torch.linalg.inv(w2c)[None], fxfycxcy[None])
        gaussians.xyz.square().sum().backward()
    assert seen == [[SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]] * 4
    assert enabled() == before


def test_calls_are_measured_until_the_time_is_up(monkeypatch):
    monkeypatch.setattr("torch.cuda.synchronize", lambda: None)
    now = iter([0.0, 0.01, 0.02, 0.03, 0.04, 0.05])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    assert attention.seconds_on_gpu(lambda: None) == pytest.approx(0.01)
    now = iter([0.0, 1.5])
    assert attention.seconds_on_gpu(lambda: None) == 1.5, "a slow kernel is called once"


def test_compiled_layers_have_the_kernel_of_the_choice():
    """The CPU has one kernel beside the plain one, and calls it flash: it is compiled where flash may be used."""

    def operations(order):
        found = []

        def look(graph, _inputs):
            found.extend(str(node.target) for node in graph.graph.nodes)
            return graph

        torch._dynamo.reset()
        model = GSLRM(MICRO)
        layer = torch.compile(model.transformer_layers[0], backend=aot_autograd(fw_compiler=make_boxed_compiler(look)))
        with AttentionChoice(order).applied():
            layer(torch.rand(1, 10, 32), None).sum().backward()
        return " ".join(found)

    assert "flash_attention_for_cpu.default" in operations(("flash",))
    assert "flash_attention_for_cpu_backward" in operations(("flash",))
    assert "flash_attention" not in operations(("efficient",))
