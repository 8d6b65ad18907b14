"""The picture of a run's curves, whatever is known of it."""

import pytest

from mousefacelift.training.clock import PARTS
from mousefacelift.training.curves import write_curves

ROW = {"step": 10, "loss": 0.5, "grad_norm": 1.0, "val_psnr": 20.0, "samples_per_s": 2.0}
ROW |= {f"seconds_{part}": 0.1 for part in PARTS}


@pytest.mark.parametrize(
    "rows",
    [
        {},
        {10: ROW},
        {10: ROW | {"val_psnr_error": 0.3}, 20: ROW | {"step": 20, "val_psnr_error": 0.2}},
        {10: ROW, 20: ROW | {"step": 20, "gpu_gb": 11.2}},
        {1: {"step": 1, "loss": 0.5, "seconds_data": 0.1}, 2: ROW | {"step": 2}},  # a GPU's first row
    ],
    ids=["none", "one", "with errors", "on a GPU", "a part unknown"],
)
def test_curves_are_drawn_of_what_is_there(tmp_path, rows):
    write_curves(rows, tmp_path / "curves.png", "a run", {"val_psnr": "PSNR"})
    assert (tmp_path / "curves.png").stat().st_size > 10_000
