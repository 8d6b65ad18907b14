"""Which cameras a shard may have."""

import numpy as np
import pytest

from mousefacelift.base.errors import UserError
from mousefacelift.shards.cameras import check_cameras


def test_a_view_from_straight_above_is_level_whatever_its_heading():
    c2w = np.array([[[[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2.7], [0, 0, 0, 1]]]], float)
    check_cameras(c2w, np.ones((1, 1, 4)), ["above"])


def test_a_focal_length_of_zero_is_refused():
    c2w = np.array([[[[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2.7], [0, 0, 0, 1]]]], float)
    with pytest.raises(UserError, match="focal length"):
        check_cameras(c2w, np.array([[[0.0, 1, 1, 1]]]), ["flat"])
