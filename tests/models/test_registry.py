"""Networks and their presets: every preset is a network of the registry, and names that are none are errors."""

from dataclasses import asdict, dataclass

import pytest
import torch

from mousefacelift.base.errors import UserError
from mousefacelift.config.presets import PRESETS, Preset
from mousefacelift.config.reading import validate
from mousefacelift.config.train import Train
from mousefacelift.models.gslrm import GSLRM, GSLRMConfig
from mousefacelift.models.registry import NETWORKS, build_model, network, preset_config
from mousefacelift.models.weights.files import load_weights, save_weights
from mousefacelift.models.weights.fitting import check_weights


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_network_of_as_many_layers_as_it_says(name):
    with torch.device("meta"):
        model = build_model(name)
    assert type(model) is NETWORKS[PRESETS[name].network]
    assert model.config == preset_config(name)
    assert len(model.transformer_layers) == PRESETS[name].layers
    prefixes = [prefix for part in model.parts.values() for prefix in part]
    assert {key.split(".")[0] for key in model.state_dict()} <= set(prefixes), "every tensor belongs to a part"
    with torch.device("meta"):
        guided = build_model(name, "hull")
    assert {key.split(".")[0] for key in guided.state_dict()} == set(prefixes), "no part is of nothing"


@pytest.mark.parametrize("name", NETWORKS)
def test_every_size_of_a_network_has_a_limit(name):
    sizes = {key for key, value in asdict(NETWORKS[name].Config()).items() if type(value) is int}
    assert sizes == set(NETWORKS[name].largest)
    assert NETWORKS[name].name == name


def test_the_base_preset_is_facelifts_model():
    assert preset_config("base") == GSLRMConfig()


def test_an_unknown_network_is_an_error_with_the_valid_names(monkeypatch):
    with pytest.raises(UserError, match=r"no network is named 'gs-lrm'; did you mean 'gslrm'\? \(networks: gslrm\)"):
        network("gs-lrm")
    monkeypatch.setitem(PRESETS, "tiny", Preset("unet", {"layers": 1}, memory_mb=1))
    with pytest.raises(UserError, match=r"no network is named 'unet' \(networks: gslrm\)"):
        build_model("tiny")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "tinny",
            "train.preset: unknown preset: did you mean 'tiny'? valid presets: tiny, small, base (found 'tinny')",
        ),
        ("1024", "train.preset: unknown preset: valid presets: tiny, small, base (found '1024')"),
    ],
)
def test_an_unknown_preset_is_an_error_with_the_valid_names(name, message):
    from mousefacelift.config.config import Config

    with pytest.raises(UserError) as caught:
        validate(Config, {"train": {"preset": name}}, "my.yaml")
    assert str(caught.value) == f"my.yaml: {message}"


@dataclass(frozen=True)
class OtherConfig(GSLRMConfig):
    """Like GS-LRM's."""


class Other(GSLRM):
    """Another network, as far as names go."""

    name = "other"
    Config = OtherConfig


def test_a_network_needs_no_more_than_its_line_and_a_preset(tmp_path, monkeypatch):
    sizes = {"width": 32, "head_width": 16, "layers": 1}
    monkeypatch.setitem(NETWORKS, "other", Other)
    monkeypatch.setitem(PRESETS, "micro", Preset("other", sizes, memory_mb=1))
    monkeypatch.setitem(PRESETS, "tiny", Preset("gslrm", sizes, memory_mb=1))
    assert Train(preset="micro").preset == "micro"
    save_weights(build_model("micro"), tmp_path / "w.safetensors")
    check_weights(tmp_path / "w.safetensors", "micro")
    loaded = load_weights(tmp_path / "w.safetensors", "micro")
    assert (type(loaded), loaded.config) == (Other, OtherConfig(**sizes))
    with pytest.raises(UserError, match=r"not a model of preset tiny \(network other instead of gslrm\).*preset micro"):
        check_weights(tmp_path / "w.safetensors", "tiny")
