"""What the comparison of framings sets, and that its sentence says what the numbers do."""

import numpy as np
import pytest
import torch

from mousefacelift.config.normalize import Normalize
from mousefacelift.evaluation.framings import FRAMINGS, framed, verdict
from mousefacelift.evaluation.metrics.registry import METRICS


def test_a_framing_sets_its_own_keys_and_keeps_the_rest():
    configured = Normalize(distance="focal", zoom="fit", up="cameras", image_size=256, canonical_extent=0.7, fit="body")
    made = {name: framed(configured, name, 0.9) for name in FRAMINGS}
    assert all((each.up, each.image_size) == ("cameras", 256) for each in made.values())
    assert (made["exact"].distance, made["exact"].zoom) == ("exact", 1.0)
    assert (made["fit"].distance, made["fit"].zoom) == ("exact", "fit")
    assert (made["canonical"].distance, made["canonical"].zoom) == ("canonical", 1.0)
    assert (made["fit_body"].distance, made["fit_body"].zoom) == ("exact", "fit")
    assert {name for name, each in made.items() if each.fit == "body"} == {"fit_body"}
    extents = {name: each.canonical_extent for name, each in made.items()}
    assert extents == {"exact": 0.7, "fit": 0.7, "canonical": 0.9, "fit_body": 0.7}
    assert framed(configured, "canonical", None).canonical_extent == 0.7


def made_up(noise=0.1, iou=None, **above):
    """Scores of framings whose model is `above` the visual hull by so many dB, and whose pictures differ in difficulty."""
    random = np.random.default_rng(3)
    difficulty = random.normal(0, 3, (8, 1))
    models, hulls = {}, {}
    for number, (name, lead) in enumerate(above.items()):
        level = torch.from_numpy(5 * number + difficulty + np.zeros((8, 6)))
        extra = torch.from_numpy(lead + random.normal(0, noise, (8, 1)) + np.zeros((8, 6)))
        hulls[name] = dict.fromkeys(METRICS, level)
        models[name] = dict.fromkeys(METRICS, level + extra)
        if iou:
            models[name]["mask_iou"] = level + iou[name]
    return models, hulls


def test_the_lead_over_the_hull_of_the_same_pictures_decides_not_how_easy_they_are():
    text = verdict(*made_up(exact=2.0, canonical=1.0, fit=-1.0))
    assert text.startswith(
        "By PSNR inside the silhouette, `exact` compares best with the visual hull of the same pictures: model - hull is +"
    )
    assert "above that of the next, `canonical`." in text and "By mask IoU it is the best, too." in text


def test_a_lead_within_two_standard_errors_is_not_clear():
    text = verdict(*made_up(noise=3.0, exact=2.0, fit=1.9, canonical=-20.0))
    assert "but not clearly above that of" in text and "canonical" not in text


def test_a_mask_that_prefers_another_framing_is_named():
    text = verdict(*made_up(exact=0.0, fit=3.0, iou={"exact": 0.1, "fit": 0.0}))
    assert "`fit` compares best" in text and "By mask IoU `exact` is the best." in text


def test_one_framing_alone_is_compared_with_nothing():
    assert verdict(*made_up(fit=3.0)) == "`fit` alone could be made: there is nothing to compare it with."


@pytest.mark.parametrize("name", FRAMINGS)
def test_every_framing_is_a_valid_configuration(name):
    framed(Normalize(zoom="fit"), name, 0.8)
