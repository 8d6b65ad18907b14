"""What FaceLift's checkpoints do not say is read off their shapes."""

from dataclasses import asdict, replace

from hypothesis import given
from hypothesis import strategies as st

from mousefacelift.models.gslrm import GSLRMConfig
from mousefacelift.models.registry import preset_config
from mousefacelift.models.weights.facelift import infer_config
from support.weights import shapes_of


@given(
    st.builds(
        GSLRMConfig,
        width=st.sampled_from([32, 64, 96, 128, 192]),
        head_width=st.just(32),
        layers=st.integers(1, 5),
        patch=st.sampled_from([2, 4, 8, 16]),
        free_gaussians=st.integers(1, 6),
    )
)
def test_the_sizes_of_a_model_are_read_off_its_shapes(config):
    inferred = infer_config(shapes_of(config))
    assert replace(inferred, head_width=32) == config
    assert inferred.head_width == (64 if config.width % 64 == 0 else 32)


def test_the_presets_of_facelifts_kind_are_told_by_their_shapes():
    for name in ("small", "base"):
        wanted = preset_config(name, "none")
        assert not {n for n, v in asdict(infer_config(shapes_of(wanted))).items() if v != getattr(wanted, n)} - {
            "recompute"
        }
