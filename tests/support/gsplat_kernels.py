"""The compiled functions that `gsplat.rasterization` calls, written plainly in torch: gsplat 1.5.3 draws on the CPU.

All of gsplat's Python runs as it is: the checks of shapes, the autograd functions, the arguments they hand down and the
gradients they return. The projection, too, is gsplat's own (`gsplat.cuda._torch_impl`). The rules of the kernels are
read from gsplat's sources, which are named beside each (paths below gsplat/cuda). What is not reproduced: the rounding
of fast math and of atomic sums, and shared memory.
"""

from __future__ import annotations

import math
import types

import torch
from torch import Tensor

MAX_ALPHA = 0.999  # csrc/RasterizeToPixels3DGSFwd.cu:148
MIN_ALPHA = 1 / 255  # include/Common.h:54, ALPHA_THRESHOLD
MIN_TRANSMITTANCE = 1e-4  # csrc/RasterizeToPixels3DGSFwd.cu:154
MAX_EXTENT = 3.33  # csrc/ProjectionEWA3DGSFused.cu:164, standard deviations


def backend() -> types.ModuleType:
    """A stand-in for `gsplat.cuda._backend`, whose `_C` holds the functions below."""
    module = types.ModuleType("gsplat.cuda._backend")
    # gsplat looks CameraModelType.PINHOLE up in _C itself (cuda/_wrapper.py:22).
    module._C = types.SimpleNamespace(
        CameraModelType="CameraModelType",
        PINHOLE="PINHOLE",
        projection_ewa_3dgs_fused_fwd=projection_forward,
        projection_ewa_3dgs_fused_bwd=projection_backward,
        intersect_tile=intersect_tile,
        intersect_offset=intersect_offset,
        rasterize_to_pixels_3dgs_fwd=blend_forward,
        rasterize_to_pixels_3dgs_bwd=blend_backward,
    )
    return module


def check_input(*tensors: Tensor) -> None:
    """What CHECK_INPUT and data_ptr<T> refuse: tensors that are not contiguous, and floats of several dtypes."""
    assert all(tensor.is_contiguous() for tensor in tensors)
    assert len({tensor.dtype for tensor in tensors if tensor.is_floating_point()}) <= 1, "expected one scalar type"


def project(
    means: Tensor, quats: Tensor, scales: Tensor, viewmats: Tensor, Ks: Tensor, size: tuple[int, int], eps2d: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """gsplat's projection: centres [C, N, 2], conics [C, N, 3], depths [C, N], and the variances [C, N, 2] of the axes."""
    from gsplat.cuda import _torch_impl as own

    covars, _ = own._quat_scale_to_covar_preci(quats, scales, compute_preci=False)
    means_c, covars_c = own._world_to_cam(means, covars, viewmats)
    _, covars2d = own._persp_proj(means_c, covars_c, Ks, *size)
    _, means2d, depths, conics, _ = own._fully_fused_projection(
        means, covars, viewmats, Ks, *size, eps2d=eps2d, near_plane=-math.inf, far_plane=math.inf
    )
    return means2d, conics, depths, torch.diagonal(covars2d, dim1=-2, dim2=-1) + eps2d


def projection_forward(
    means, covars, quats, scales, opacities, viewmats, Ks, width, height, eps2d, near_plane, far_plane, radius_clip,
    calc_compensations, camera_model,
):  # fmt: skip
    """csrc/ProjectionEWA3DGSFused.cu:16; the order of the arguments is that of include/Ops.h."""
    assert covars is None and not calc_compensations and camera_model == "PINHOLE"
    check_input(means, quats, scales, opacities, viewmats, Ks)
    # csrc/ProjectionEWA3DGSFused.cu:239 divides by the number of Gaussians before it looks whether there are any.
    assert len(means), "division by zero"
    with torch.no_grad():
        means2d, conics, depths, variances = project(means, quats, scales, viewmats, Ks, (width, height), eps2d)
        # :72 what lies on a plane itself is drawn; :155 the determinant; :171 what is nearly transparent is not.
        drawn = (depths >= near_plane) & (depths <= far_plane) & (opacities >= MIN_ALPHA)
        drawn &= torch.isfinite(conics).all(-1) & (conics[..., 0] > 0) & (conics[..., 2] > 0)
        # :178 the rectangle ends where alpha falls below 1/255, and at 3.33 standard deviations.
        extent = (2 * torch.log(opacities / MIN_ALPHA)).clamp_min(0).sqrt().clamp_max(MAX_EXTENT)
        radii = torch.ceil(extent[:, None] * variances.sqrt())
        drawn &= (radii > radius_clip).any(-1)  # :186
        beyond = torch.tensor([width, height], dtype=means.dtype)
        drawn &= ((means2d + radii > 0) & (means2d - radii < beyond)).all(-1)  # :193
        radii = torch.where(drawn[..., None], radii.clamp_max(2.0**31 - 1024), 0).int()
        # csrc/Projection.cpp:146 allocates without clearing: rows that are not drawn hold anything.
        for tensor in (means2d, conics):
            tensor[~drawn] = torch.nan
        depths = torch.where(drawn, depths, torch.nan)
    return radii, means2d.contiguous(), depths, conics.contiguous(), None


def projection_backward(
    means, covars, quats, scales, viewmats, Ks, width, height, eps2d, camera_model, radii, conics, compensations,
    v_means2d, v_depths, v_conics, v_compensations, viewmats_requires_grad,
):  # fmt: skip
    """csrc/ProjectionEWA3DGSFused.cu:294: of what was drawn; the gradient of gsplat's projection, here by autograd.

    include/Utils.cuh:603 holds a clamped slope constant, as autograd does through torch's clamp.
    """
    assert covars is None and compensations is None and v_compensations is None and not viewmats_requires_grad
    check_input(means, quats, scales, viewmats, Ks, radii, conics, v_means2d, v_depths, v_conics)
    gradients = [torch.zeros_like(tensor) for tensor in (means, quats, scales)]
    for view in range(len(viewmats)):
        drawn = (radii[view] > 0).all(-1)
        with torch.enable_grad():
            leaves = [tensor.detach()[drawn].requires_grad_() for tensor in (means, quats, scales)]
            camera = viewmats[view : view + 1].detach(), Ks[view : view + 1].detach()
            outputs = project(*leaves, *camera, (width, height), eps2d)[:3]
        upstream = [tensor[view : view + 1, drawn] for tensor in (v_means2d, v_conics, v_depths)]
        for total, gradient in zip(gradients, torch.autograd.grad(outputs, leaves, upstream), strict=True):
            total[drawn] += gradient
    v_means, v_quats, v_scales = gradients
    return v_means, None, v_quats, v_scales, None


def intersect_tile(
    means2d, radii, depths, image_ids, gaussian_ids, images, tile_size, tile_width, tile_height, sort, segmented
):
    """csrc/IntersectTile.cu:24: the tiles that each rectangle touches, sorted by image, tile and bits of the depth."""
    assert image_ids is None and gaussian_ids is None and sort and not segmented and means2d.dim() == 3
    check_input(means2d, radii, depths)
    drawn = (radii > 0).all(-1)
    centres = torch.where(drawn[..., None], means2d, 0) / tile_size
    reach = radii.to(means2d.dtype) / tile_size
    grid = torch.tensor([tile_width, tile_height])
    # :73 a negative number becomes 0 as it is made unsigned.
    first = (centres - reach).floor().clamp_min(0).long().minimum(grid)
    last = (centres + reach).ceil().clamp_min(0).long().minimum(grid)
    columns, rows = torch.arange(tile_width), torch.arange(tile_height)
    in_columns = (columns >= first[..., :1]) & (columns < last[..., :1])
    in_rows = (rows >= first[..., 1:]) & (rows < last[..., 1:])
    touched = in_rows[..., :, None] & in_columns[..., None, :] & drawn[..., None, None]
    image, gaussian, row, column = touched.nonzero().unbind(-1)
    # :108 the key: image | tile | the 32 bits of the depth as a float. The sort is stable. Depths in float64, which the
    # kernels do not know, are sorted as they are.
    tile_bits = int(math.log2(tile_width * tile_height)) + 1
    place = (image << tile_bits) | (row * tile_width + column)
    order = torch.argsort(depths[image, gaussian], stable=True)
    order = order[torch.argsort(place[order], stable=True)]
    bits = depths[image, gaussian].float().view(torch.int32).long()
    keys = ((place << 32) | bits)[order]
    ids = (image * means2d.shape[1] + gaussian)[order]
    return touched.sum((-1, -2)).int(), keys, ids.int()


def intersect_offset(isect_ids, images, tile_width, tile_height):
    """csrc/IntersectTile.cu:209, by gsplat's own version in torch."""
    from gsplat.cuda._torch_impl import _isect_offset_encode

    check_input(isect_ids)
    return _isect_offset_encode(isect_ids, images, tile_width, tile_height)


def tiles(width: int, height: int, tile_size: int, offsets: Tensor, flatten_ids: Tensor):
    """Of every tile that has any: its image, pixels (rows and columns as slices, centres [P, 2]) and range of ids."""
    bounds = [*offsets.flatten().tolist(), len(flatten_ids)]
    images, rows, columns = offsets.shape
    for index in range(images * rows * columns):
        if bounds[index] == bounds[index + 1]:
            continue
        image, row, column = index // (rows * columns), index // columns % rows, index % columns
        ys = slice(row * tile_size, min((row + 1) * tile_size, height))
        xs = slice(column * tile_size, min((column + 1) * tile_size, width))
        y, x = torch.meshgrid(torch.arange(ys.start, ys.stop), torch.arange(xs.start, xs.stop), indexing="ij")
        # RasterizeToPixels3DGSFwd.cu:62: the centre of the first pixel is (0.5, 0.5).
        yield (image, ys, xs), torch.stack([x, y], -1).reshape(-1, 2) + 0.5, (bounds[index], bounds[index + 1])


def densities(pixels: Tensor, means2d: Tensor, conics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """RasterizeToPixels3DGSFwd.cu:144: offsets [P, M, 2] from pixels to centres, sigma [P, M] and exp(-sigma)."""
    delta = means2d - pixels[:, None].to(means2d.dtype)
    dx, dy = delta.unbind(-1)
    sigma = 0.5 * (conics[:, 0] * dx * dx + conics[:, 2] * dy * dy) + conics[:, 1] * dx * dy
    return delta, sigma, torch.exp(-sigma)


def blend_forward(
    means2d, conics, colors, opacities, backgrounds, masks, width, height, tile_size, tile_offsets, flatten_ids
):
    """csrc/RasterizeToPixels3DGSFwd.cu:18."""
    assert masks is None
    check_input(means2d, conics, colors, opacities, backgrounds, tile_offsets, flatten_ids)
    images, count = len(means2d), means2d.shape[1]
    flat = [tensor.reshape(images * count, -1) for tensor in (means2d, conics, colors, opacities)]
    rgb = backgrounds[:, None, None].expand(images, height, width, 3).clone()
    alphas, last_ids = rgb.new_zeros(images, height, width, 1), torch.zeros(images, height, width, dtype=torch.int32)
    for (image, ys, xs), pixels, (start, stop) in tiles(width, height, tile_size, tile_offsets, flatten_ids):
        centres, shapes, shades, opacity = (tensor[flatten_ids[start:stop].long()] for tensor in flat)
        _, sigma, vis = densities(pixels, centres, shapes)
        alpha = (opacity[:, 0] * vis).clamp_max(MAX_ALPHA)
        alpha = torch.where((sigma < 0) | (alpha < MIN_ALPHA), 0, alpha)  # :149
        # :154 the Gaussian that would bring the transmittance to 1e-4 or less is not drawn, nor any behind it.
        alpha = torch.where(torch.cumprod(1 - alpha, -1) <= MIN_TRANSMITTANCE, 0, alpha)
        clear = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha], -1), -1)
        place = rgb[image, ys, xs]
        rgb[image, ys, xs] = ((alpha * clear[:, :-1]) @ shades + clear[:, -1:] * backgrounds[image]).reshape(
            place.shape
        )
        alphas[image, ys, xs] = (1 - clear[:, -1]).reshape(place.shape[:2])[..., None]
        last = torch.where(alpha > 0, torch.arange(start, stop), 0).amax(-1)
        last_ids[image, ys, xs] = last.int().reshape(place.shape[:2])
    return rgb, alphas, last_ids


def blend_backward(
    means2d, conics, colors, opacities, backgrounds, masks, width, height, tile_size, tile_offsets, flatten_ids,
    render_alphas, last_ids, v_colors, v_alphas, absgrad,
):  # fmt: skip
    """csrc/RasterizeToPixels3DGSBwd.cu:16: back to front, from the transmittance that the stored alpha leaves."""
    assert masks is None and not absgrad
    check_input(means2d, conics, colors, opacities, backgrounds, tile_offsets, flatten_ids, render_alphas, last_ids)
    check_input(means2d, v_colors)
    # The kernels know float32 alone, to which gsplat rounds alpha (cuda/_wrapper.py:1304): in float64 it is the odd one.
    check_input(v_alphas)
    images, count = len(means2d), means2d.shape[1]
    flat = [tensor.reshape(images * count, -1) for tensor in (means2d, conics, colors, opacities)]
    gradients = [torch.zeros_like(tensor) for tensor in flat]
    for (image, ys, xs), pixels, (start, stop) in tiles(width, height, tile_size, tile_offsets, flatten_ids):
        ids = flatten_ids[start:stop].long()
        centres, shapes, shades, opacity = (tensor[ids] for tensor in flat)
        delta, sigma, vis = densities(pixels, centres, shapes)
        unclamped = opacity[:, 0] * vis
        alpha = unclamped.clamp_max(MAX_ALPHA)
        valid = (sigma >= 0) & (alpha >= MIN_ALPHA)
        valid &= torch.arange(start, stop) <= last_ids[image, ys, xs].reshape(-1, 1)  # :159
        alpha = torch.where(valid, alpha, 0)
        # :107 and :196: every transmittance is the last one, divided by what the Gaussians behind let through.
        final = 1 - render_alphas[image, ys, xs].reshape(-1, 1)
        ratio = 1 / (1 - alpha)
        before = final * ratio.flip(-1).cumprod(-1).flip(-1)
        weight = alpha * before
        up_rgb, up_alpha = v_colors[image, ys, xs].reshape(-1, 3), v_alphas[image, ys, xs].reshape(-1, 1).to(alpha)
        lit = up_rgb @ shades.T  # dL/drgb times each colour
        drawn = weight * lit
        behind = drawn.flip(-1).cumsum(-1).flip(-1) - drawn
        back = up_alpha - (up_rgb @ backgrounds[image])[:, None]
        v_alpha = lit * before - behind * ratio + final * ratio * back
        # :222 no gradient where alpha is clamped.
        v_alpha = torch.where(valid & (unclamped <= MAX_ALPHA), v_alpha, 0)
        v_sigma = -unclamped * v_alpha
        dx, dy = delta.unbind(-1)
        squares = torch.stack([0.5 * dx * dx, dx * dy, 0.5 * dy * dy], -1)
        slopes = torch.stack([shapes[:, 0] * dx + shapes[:, 1] * dy, shapes[:, 1] * dx + shapes[:, 2] * dy], -1)
        sums = (
            (v_sigma[..., None] * slopes).sum(0),
            (v_sigma[..., None] * squares).sum(0),
            weight.T @ up_rgb,
            (vis * v_alpha).sum(0)[:, None],
        )
        for total, part in zip(gradients, sums, strict=True):
            total.index_add_(0, ids, part)
    v_means2d, v_conics, v_shades, v_opacities = gradients
    return (
        None,
        v_means2d.reshape(means2d.shape),
        v_conics.reshape(conics.shape),
        v_shades.reshape(colors.shape),
        v_opacities.reshape(opacities.shape),
    )
