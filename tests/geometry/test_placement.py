import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mousefacelift.config.normalize import Normalize
from mousefacelift.geometry.placement import fit_zoom, measure_fit, place_cameras, smoothed

FOCAL = 548.9937744


@pytest.mark.parametrize(("margin", "quantile"), [(0.05, 0.9), (0.2, 0.9), (0.05, 1.0), (0.0, 0.5)])
def test_the_fitted_zoom_is_the_largest_that_holds_the_wanted_fraction(margin, quantile):
    outline = np.random.default_rng(0).uniform(-0.2, 0.2, (40, 32, 2)) * np.linspace(0.3, 1, 40)[:, None, None]
    zoom = fit_zoom(outline, 512, FOCAL, margin, quantile)

    def held(factor):
        return (np.abs(outline).max(axis=(1, 2)) * FOCAL * factor <= (0.5 - margin) * 512 + 1e-9).mean()

    assert held(zoom) >= quantile
    assert held(zoom * 1.0001) < max(quantile, held(zoom))


def test_an_average_over_time_is_a_gaussians_and_none_is_none():
    random = np.random.default_rng(0)
    time = np.sort(random.uniform(0, 5, 60))
    positions = random.normal(size=(60, 3))
    assert smoothed(positions, time, 0.0) is positions
    weight = np.exp(-0.5 * ((time[:, None] - time) / 0.2) ** 2)
    np.testing.assert_allclose(
        smoothed(positions, time, 0.2), weight @ positions / weight.sum(axis=1)[:, None], atol=2e-3
    )
    np.testing.assert_allclose(smoothed(np.ones((60, 3)), time, 0.5), 1)


@given(st.integers(0, 10_000), st.sampled_from(["exact", "focal", "canonical"]), st.sampled_from(["capture", "sample"]))
def test_what_a_distance_policy_did_can_be_undone(seed, distance, scale):
    random = np.random.default_rng(seed)
    frames, views = 3, 4
    subject = random.uniform(-300, 300, (frames, 3))
    R_world = Rotation.random(random_state=seed).as_matrix()
    angle = random.uniform(0, 2 * np.pi, views)
    centers = np.c_[400 * np.cos(angle), 400 * np.sin(angle), random.uniform(50, 300, views)] @ R_world
    offsets = (centers - subject[:, None]) @ R_world.T
    lengths = random.uniform(50, 90, frames)
    placed = place_cameras(offsets, lengths, 500.0, Normalize(distance=distance, scale=scale))
    back = placed.position / placed.world_units_per_mm[:, None, None]
    away = np.linalg.norm(offsets, axis=-1)
    if distance == "canonical":  # the distance is what was given up; the focal length of the image holds it
        back = back / np.linalg.norm(back, axis=-1, keepdims=True)
        back *= (placed.image_focal / placed.focal * 2.7 / placed.world_units_per_mm[:, None])[..., None]
    np.testing.assert_allclose(back @ R_world + subject[:, None], np.broadcast_to(centers, back.shape), atol=1e-9)
    apparent = placed.image_focal / away
    if distance != "exact":
        np.testing.assert_allclose(apparent, apparent[:, :1] * np.ones(views))


def test_what_lies_beyond_the_image_is_counted():
    corner = np.array([[[[400.0, 100], [600, 100], [600, 300], [400, 300]]]])
    fit = measure_fit(corner, corner, np.array([[20_000]]), np.array([[[500.0, 200]]]), 512)
    assert not fit.fits.any()
    assert fit.clipped_px == pytest.approx(20_000 * 88 / 200)
    assert fit.fill == pytest.approx(20_000 * 112 / 200 / 512**2)
    assert fit.offset_px == pytest.approx(np.hypot(244, 56))
    inside = measure_fit(corner - [100, 0], corner, np.array([[20_000]]), np.array([[[np.nan, 1]]]), 512)
    assert inside.fits.all() and inside.clipped_px == 0
