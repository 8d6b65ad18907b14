"""gsplat's Python around kernels that only take memory, as its C++ does: what a GPU would be asked for, on a CPU."""

import torch

PAIRS = 2  # tiles that every Gaussian touches


def kernels(name):
    """As `gsplat.cuda._wrapper._make_lazy_cuda_func`."""
    return {
        "projection_ewa_3dgs_fused_fwd": project,
        "projection_ewa_3dgs_fused_bwd": project_back,
        "intersect_tile": intersect,
        "intersect_offset": offsets,
        "rasterize_to_pixels_3dgs_fwd": draw,
        "rasterize_to_pixels_3dgs_bwd": draw_back,
    }[name]


def project(means, covars, quats, scales, opacities, viewmats, *_):
    """Projection.cpp: radii, means2d, depths, conics and no compensations."""
    rows = len(viewmats), len(means)
    radii = torch.empty(*rows, 2, dtype=torch.int32)
    return radii, torch.empty(*rows, 2), torch.empty(rows), torch.empty(*rows, 3), None


def project_back(means, covars, quats, scales, *_):
    """Projection.cpp: gradients of means, covars, quats, scales and viewmats."""
    return torch.zeros_like(means), None, torch.zeros_like(quats), torch.zeros_like(scales), None


def intersect(means2d, radii, depths, *_):
    """Intersect.cpp: pairs before and after they are sorted."""
    tiles = torch.empty_like(depths, dtype=torch.int32)
    sums = torch.cumsum(tiles.view(-1), 0)
    count = PAIRS * len(sums)
    keys, rows = torch.empty(count, dtype=torch.int64), torch.empty(count, dtype=torch.int32)
    return tiles, torch.empty_like(keys), torch.empty_like(rows)


def offsets(keys, images, width, height):
    """Intersect.cpp: the first pair of every tile."""
    return torch.empty(images, height, width, dtype=torch.int32)


def draw(means2d, conics, colors, opacities, backgrounds, masks, width, height, *_):
    """Rasterization.cpp: colours, opacities, and the last Gaussian of every pixel."""
    views = len(means2d)
    last = torch.empty(views, height, width, dtype=torch.int32)
    return torch.empty(views, height, width, 3), torch.empty(views, height, width, 1), last


def draw_back(means2d, conics, colors, opacities, *_):
    """Rasterization.cpp: gradients of means2d, conics, colours and opacities."""
    return None, *(torch.zeros_like(tensor) for tensor in (means2d, conics, colors, opacities))
