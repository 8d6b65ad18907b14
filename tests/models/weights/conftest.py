"""The reference's own weights."""

import numpy as np
import pytest
import torch

from support.paths import ROOT


@pytest.fixture(scope="session")
def micro():
    """The reference's own state dict, of a very small model. Read only: shared by all tests."""
    found = np.load(ROOT / "tests" / "models" / "gslrm_micro.npz").items()
    return {k.removeprefix("state."): torch.from_numpy(v) for k, v in found if k.startswith("state.")}
