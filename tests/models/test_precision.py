"""What carries geometry, or is a small difference, is computed in float32 even where CUDA may use TF32."""

import pytest
import torch

from mousefacelift.models import gslrm, precision, rays
from mousefacelift.models.gslrm import GSLRM, GSLRMConfig
from mousefacelift.models.precision import full_precision, set_cuda_precision
from mousefacelift.training import losses
from scenes import ring

MICRO = GSLRMConfig(width=32, head_width=16, layers=1)


def flags():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture(autouse=True)
def flags_as_they_were():
    before = flags()
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize(("name", "layers"), [("32-true", True), ("bf16-mixed", False)])
def test_the_layers_use_tf32_where_they_are_float32_and_convolutions_never_do(name, layers):
    set_cuda_precision(name)
    assert flags() == (layers, False)


def test_full_precision_ends_tf32_and_autocast_and_brings_back_both():
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    with full_precision(torch.device("cuda")):
        assert flags() == (False, False)
        assert not torch.is_autocast_enabled("cuda")
    assert flags() == (True, True)


def test_full_precision_brings_back_what_was_after_an_error():
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = True, False
    with pytest.raises(ValueError, match="inside"), full_precision(torch.device("cuda")):
        raise ValueError("inside")
    assert flags() == (True, False)


def test_on_the_cpu_full_precision_leaves_cudas_flags():
    torch.backends.cuda.matmul.allow_tf32 = True
    with torch.autocast("cpu", torch.bfloat16), full_precision(torch.device("cpu")):
        assert flags()[0]
        assert not torch.is_autocast_enabled("cpu")


def test_torchs_own_name_of_the_precision_agrees():
    """Lightning asks torch for it, and torch raises an error when its two kinds of flags disagree."""
    set_cuda_precision("32-true")
    assert torch.get_float32_matmul_precision() == "high"
    with full_precision(torch.device("cuda")):
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == "high"


@pytest.fixture
def as_on_cuda(monkeypatch):
    """The code under test takes the CPU for a GPU, as far as the flags are concerned."""

    def on_cuda(_device):
        return full_precision(torch.device("cuda"))

    monkeypatch.setattr(gslrm, "full_precision", on_cuda)
    monkeypatch.setattr(rays, "full_precision", on_cuda)
    monkeypatch.setattr(losses, "full_precision", on_cuda)
    assert precision.full_precision is full_precision


def record(monkeypatch, owner, name):
    """The flags at each call of a function, by the shape of what it gives."""
    seen, plain = [], getattr(owner, name)

    def spy(*arguments, **options):
        out = plain(*arguments, **options)
        seen.append((tuple(out.shape), flags()))
        return out

    monkeypatch.setattr(owner, name, spy)
    return seen


def test_in_32_true_the_layers_are_tf32_and_the_heads_and_rays_are_not(monkeypatch, as_on_cuda):
    set_cuda_precision("32-true")
    linear = record(monkeypatch, torch.nn.functional, "linear")
    turned = record(monkeypatch, torch.Tensor, "__matmul__")
    w2c, fxfycxcy = ring(3, 32)
    GSLRM(MICRO)(torch.rand(1, 3, 3, 32, 32), torch.linalg.inv(w2c)[None], fxfycxcy[None])
    tokens = 3 * 4 * 4
    expected = [
        ((1, tokens, 32), True),  # the embedder
        ((1, tokens + 2, 96), True),  # q, k and v
        ((1, tokens + 2, 32), True),
        ((1, tokens + 2, 128), True),  # the MLP
        ((1, tokens + 2, 32), True),
        ((1, 2, 14), False),  # the heads
        ((1, tokens, 14 * 64), False),
    ]
    assert linear == [(shape, (tf32, False)) for shape, tf32 in expected]
    assert turned == [((1, 3, 32, 32, 3), (False, False))], "the rays"


def test_ssim_is_of_float32_convolutions_whatever_the_process_allows(monkeypatch, as_on_cuda):
    torch.backends.cudnn.allow_tf32 = True
    seen = record(monkeypatch, torch.nn.functional, "conv2d")
    losses.ssim(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32))
    assert [found for _, found in seen] == [(False, False)] * 2
