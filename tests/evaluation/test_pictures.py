"""Pictures: the turntable's cameras."""

import torch

from mousefacelift.evaluation.pictures import turntable_cameras


def test_turntable_cameras_circle_the_origin_upright():
    w2c = turntable_cameras(4).double()
    c2w = torch.linalg.inv(w2c)
    torch.testing.assert_close(c2w[0, :3, 3], torch.tensor([0, -2.7, 0]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(c2w[1, :3, 3], torch.tensor([2.7, 0, 0]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(w2c), torch.ones(4).double())
    for camera in w2c:
        torch.testing.assert_close(camera[:3, 3], torch.tensor([0, 0, 2.7]).double(), atol=1e-6, rtol=0)
        up = camera[:3, :3] @ torch.tensor([0, 0, 1]).double()
        torch.testing.assert_close(up, torch.tensor([0, -1, 0]).double(), atol=1e-6, rtol=0)
