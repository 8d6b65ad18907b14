"""Alarms: each failure of the research log is named by its own alarm, and nothing else raises one."""

import json

import pytest
import torch

from mousefacelift.config.train import Guards
from mousefacelift.models.gaussians import Gaussians
from mousefacelift.training.guards import STATISTICS, AlarmError, Watch, statistics

HEALTHY = {
    "loss": 0.1, "grad_norm": 0.5, "error": 0.005, "error_foreground": 0.05, "error_background": 0.001, "alpha_foreground": 0.9,
    "alpha_background": 0.01, "darkness": 0.7, "target_darkness": 0.75, "white_error": 0.05, "rgb_std": 0.1,
    "opacity_used": 0.3, "scale": 0.01,
}  # fmt: skip


def observed(watch, steps, first=1, skipped=False, **values):
    for step in range(first, first + steps):
        watch.observe(step, HEALTHY | values, skipped)
    return watch


def test_a_healthy_run_raises_no_alarm_and_stays_clear():
    watch = Watch(Guards(white=10, norm=5, plateau=50))
    for step in range(1, 400):
        watch.observe(step, HEALTHY | {"loss": 0.1 + 1 / step}, skipped=step % 10 == 0)  # some steps are skipped
    assert watch.clear


def test_a_converged_run_that_no_longer_gets_better_is_no_failure():
    observed(Watch(Guards(plateau=50)), 1000)


def test_white_collapse_is_named_after_so_many_steps_in_a_row():
    watch = observed(Watch(Guards(white=10)), 9, darkness=0.0, alpha_foreground=0.0)
    assert not watch.clear
    observed(watch, 1, first=10)  # one good step
    observed(watch, 9, first=11, darkness=0.0)
    with pytest.raises(AlarmError, match=r"white collapse: for 10 steps up to step 20.*darkness 0\.000.*learning_rate"):
        observed(watch, 1, first=20, darkness=0.0)


def test_a_white_mouse_is_no_collapse_if_it_is_drawn_as_dark_as_it_is():
    observed(Watch(Guards(white=10)), 100, darkness=0.06, target_darkness=0.07)
    with pytest.raises(AlarmError, match="white collapse"):
        observed(Watch(Guards(white=10)), 100, darkness=0.005, target_darkness=0.07)


def test_white_training_images_are_named_as_the_cause():
    with pytest.raises(AlarmError, match="images themselves are white inside their silhouettes"):
        observed(Watch(Guards(white=10)), 10, darkness=0.002, target_darkness=0.0)


def test_norm_explosion_is_named_when_half_of_the_steps_are_skipped():
    watch = Watch(Guards(norm=5))
    for step in range(1, 9):
        watch.observe(step, HEALTHY | {"grad_norm": 300.0}, skipped=step % 2 == 0)
    with pytest.raises(AlarmError, match=r"norm explosion: 5 of the last 10 steps up to step 10.*300.*learning_rate"):
        watch.observe(10, HEALTHY | {"grad_norm": 300.0}, skipped=True)


def test_plateau_is_named_where_little_was_learned():
    blank = {"error": 0.04, "alpha_foreground": 0.3, "alpha_background": 0.2}
    watch = observed(Watch(Guards(plateau=100)), 100, **blank)
    with pytest.raises(
        AlarmError, match=r"plateau: the loss has not fallen .* \(squared error 0\.80 of its; .* 0\.10 above"
    ):
        observed(watch, 2, first=101, **blank)


def test_a_grey_fog_is_a_plateau_although_the_mouse_is_nearer_to_grey_than_to_white():
    with pytest.raises(AlarmError, match="plateau"):
        observed(
            Watch(Guards(plateau=100)), 200,
            error=0.2, error_foreground=0.05, error_background=0.25, alpha_foreground=1.0, alpha_background=1.0,
        )  # fmt: skip


def test_a_white_mouse_whose_shape_was_learned_is_no_plateau():
    """Its colours are so near to white that a white image has little more error."""
    observed(
        Watch(Guards(plateau=100)), 1000,
        darkness=0.06, target_darkness=0.06, white_error=0.0006, error=0.0005, error_foreground=0.005,
    )  # fmt: skip


def test_a_loss_that_still_falls_is_no_plateau():
    watch = Watch(Guards(plateau=100))
    for step in range(1, 1000):
        watch.observe(step, HEALTHY | {"loss": 0.999**step, "error": 0.05, "alpha_foreground": 0.1}, False)


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_is_an_alarm_at_once_whatever_is_turned_off(loss):
    with pytest.raises(AlarmError, match="at step 1"):
        observed(Watch(Guards(white=None, norm=None, plateau=None)), 1, loss=loss)


def test_alarms_can_be_turned_off():
    watch = Watch(Guards(white=None, norm=None, plateau=None))
    observed(watch, 5000, skipped=True, darkness=0.0, error=0.05, alpha_foreground=0.0)
    assert not watch.clear  # but its checkpoints are no good ones


def test_a_watch_that_continues_from_its_state_raises_at_the_same_step():
    def steps(watch, first, last):
        for step in range(first, last):
            changed = {"error": 0.05, "alpha_foreground": 0.0, "darkness": 0.0 if step > 37 else 0.5}
            watch.observe(step, HEALTHY | changed, step % 3 == 0)

    raised = []
    for stop in (None, 1, 20, 44, 60):
        watch = Watch(Guards(white=30, norm=30, plateau=70))
        with pytest.raises(AlarmError) as error:
            if stop:
                steps(watch, 1, stop)
                state = json.loads(json.dumps(watch.state()))  # plain numbers
                watch = Watch(Guards(white=30, norm=30, plateau=70))
                watch.restore(state)
            steps(watch, stop or 1, 200)
        raised.append(str(error.value))
    assert len(set(raised)) == 1


def test_statistics_of_a_known_prediction():
    """Two samples of two views; the mouse is the upper half of the first, the left quarter of the second."""
    target_alpha = torch.zeros(2, 2, 8, 8)
    target_alpha[0, :, :4], target_alpha[1, :, :, :2] = 1, 1
    target = 1 - 0.6 * target_alpha.unsqueeze(2).expand(-1, -1, 3, -1, -1)
    rgb = 1 - 0.5 * target_alpha.unsqueeze(2).expand(-1, -1, 3, -1, -1) - 0.1
    gaussians = Gaussians(
        xyz=torch.zeros(2, 4, 3), features=torch.zeros(2, 4, 1, 3), scaling=torch.full((2, 4, 3), -3.0),
        rotation=torch.ones(2, 4, 4), opacity=torch.tensor([-8.0, -5.0, 0.0, 5.0]).view(1, 4, 1).expand(2, -1, -1),
    )  # fmt: skip
    found = dict(
        zip(
            STATISTICS, statistics(rgb, 0.8 * target_alpha + 0.1, gaussians, target, target_alpha).tolist(), strict=True
        )
    )
    expected = {
        "error": 0.00625, "error_foreground": 0.0, "error_background": 0.01, "alpha_foreground": 0.9, "alpha_background": 0.1,
        "darkness": 0.6, "target_darkness": 0.6, "white_error": 0.135, "rgb_std": 0.0, "opacity_used": 0.5,
        "scale": 0.0498,
    }  # fmt: skip
    assert found == pytest.approx(expected, abs=1e-4)
