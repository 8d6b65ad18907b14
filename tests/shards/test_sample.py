"""A sample's JSON: what is read is what is written, whatever else it holds."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mousefacelift.shards.sample import SampleMeta, opencv_cameras

POSE = np.eye(4).tolist()
VIEW = {"w": 64, "h": 64, "fx": 50, "fy": 50.5, "cx": 32.0, "cy": 32.0, "w2c": POSE, "file_path": "a.cam0.png"}
KNOWN = {"id": "a", "capture": "c", "frame": 3, "split": "train", "views": ["1"]}
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
unknown = st.dictionaries(
    st.text(max_size=6).filter(lambda key: key not in SampleMeta.model_fields) | st.sampled_from(["_keys", "cameras", "self"]),
    values,
    max_size=4,
)  # fmt: skip


@given(unknown, unknown, st.randoms(use_true_random=False))
def test_unknown_keys_the_order_of_all_and_every_digit_survive(sample, view, random):
    items = list((KNOWN | sample).items())
    random.shuffle(items)
    written = dict(items) | {"frames": [view | VIEW, VIEW]}
    meta = SampleMeta.model_validate(written)
    assert meta.encoded() == json.dumps(written, separators=(",", ":")).encode()
    assert all(meta.has(key) for key in written) and not meta.has("qc")


def test_a_key_that_is_not_there_is_not_written():
    assert SampleMeta(frames=[]).encoded() == b'{"frames":[]}'


def test_a_views_camera_is_the_one_it_was_made_of():
    w2c = np.tile(np.eye(4), (2, 1, 1))
    w2c[1, :3, 3] = 1, 2, 3
    fxfycxcy = np.array([[50.0, 51, 32, 33], [52.0, 53, 34, 35]])
    meta = SampleMeta(frames=opencv_cameras(w2c, fxfycxcy, 64, ["a", "b"]))
    np.testing.assert_array_equal(meta.cameras()[0], np.linalg.inv(w2c))
    np.testing.assert_array_equal(meta.cameras()[1], fxfycxcy)
    assert list(meta.model_dump()["frames"][0]) == list(VIEW)


@pytest.mark.parametrize(
    "change",
    [{"frame": 3.0}, {"frame": True}, {"frames": None}, {"frames": [VIEW | {"fx": "50"}]}, {"frames": [VIEW | {"w": -1}]}],
)  # fmt: skip
def test_what_is_not_of_its_type_is_refused(change):
    with pytest.raises(ValidationError):
        SampleMeta.model_validate(KNOWN | {"frames": [VIEW]} | change)
