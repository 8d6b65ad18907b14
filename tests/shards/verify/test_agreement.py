"""A tar and its HDF5 file hold the same."""

import pytest

from support.balls import list_shards
from support.damage import H5, KEYS, TAR, in_h5, rewrite, with_image


@pytest.mark.parametrize("changed", ["tar", "h5"])
def test_a_tar_and_an_hdf5_file_that_disagree_in_one_pixel_are_named_with_the_sample(shards, problems, changed):
    def edit(image):
        image[17, 40] = [1, 2, 3, 255]
        return image

    if changed == "tar":
        rewrite(shards.parent / TAR, with_image(KEYS[2], 5, edit))
    else:
        in_h5(shards.parent / H5, lambda file: file["image"].__setitem__((2, 5, 17, 40), [1, 2, 3, 255]))
    list_shards(shards)
    (problem,) = problems(shards)
    assert str(problem) == f"{TAR}, sample {KEYS[2]}: cam5: 1 of 4096 pixels differ from {H5}, the first at x 40, y 17"
