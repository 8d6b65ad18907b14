"""nerfstudio's scenes hold the shards' pixels and cameras."""

import json

import numpy as np
import PIL.Image

from mousefacelift.rigs.containers.documents import open_document
from mousefacelift.rigs.formats import transforms
from mousefacelift.shards.exports.transforms import export_transforms
from support.facelift import stored
from support.small import SIZE


def test_cameras_read_back_from_transforms_json_are_the_shards(small, tmp_path):
    export_transforms(small, tmp_path / "scenes", ["train"])
    assert sorted(path.name for path in (tmp_path / "scenes").iterdir()) == ["train"]
    for (split, key), (image, c2w, fxfycxcy, *_, meta) in stored(small).items():
        if split != "train":
            continue
        path = tmp_path / "scenes" / split / key / "transforms.json"
        content = json.loads(path.read_text())
        assert content["camera_model"] == "OPENCV"
        assert content["world_from_mm"] == meta["world_from_mm"]
        cameras = transforms.read(open_document(path, ""), "", "", pixel_origin="corner")
        for v, (camera, frame) in enumerate(zip(cameras, content["frames"], strict=True)):
            np.testing.assert_allclose(camera.R, c2w[v, :3, :3].T, rtol=0, atol=1e-12)
            np.testing.assert_allclose(camera.center, c2w[v, :3, 3], rtol=0, atol=1e-12)
            np.testing.assert_array_equal(camera.K[[0, 1, 0, 1], [0, 1, 2, 2]], fxfycxcy[v])
            assert (camera.width, camera.height) == (SIZE, SIZE)
            np.testing.assert_array_equal(np.asarray(PIL.Image.open(path.parent / frame["file_path"])), image[v])
            # OpenGL: the camera looks along -z, with +y up.
            looks, up = -np.array(frame["transform_matrix"])[:3, 2], np.array(frame["transform_matrix"])[:3, 1]
            assert looks @ camera.center < 0 < up[2]
