"""A rig as a table for the terminal, and as an interactive 3D page."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mousefacelift.base.files import atomic
from mousefacelift.base.pages import figure_html, render
from mousefacelift.geometry.camera import Array, Camera, Rig
from mousefacelift.geometry.views import azimuth_elevation
from mousefacelift.rigs.checks import axes_meeting_point

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from rich.table import Table

COEFFICIENTS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6", "s1", "s2", "s3", "s4", "tauX", "tauY")
FISHEYE_COEFFICIENTS = COEFFICIENTS[:2] + ("k3", "k4")
COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")


def rig_tables(rig: Rig, title: str) -> list["Table"]:
    """Intrinsics (px, first pixel's centre at 0.5, 0.5), lens coefficients, and poses (mm, degrees), a row per camera."""
    from rich.table import Table

    def table(title: str, *columns: str, caption: str | None = None) -> "Table":
        made = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
        made.add_column("camera", no_wrap=True)
        for column in columns:
            made.add_column(column, justify="right", no_wrap=True)
        return made

    intrinsics = table(title, "image px", "fx px", "fy px", "cx px", "cy px", "skew px", "lens")
    used = [k for k in range(14) if any(camera.dist[k] for camera in rig)]
    fisheyes = {camera.fisheye for camera in rig}
    names: tuple[str, ...] = COEFFICIENTS if fisheyes == {False} else FISHEYE_COEFFICIENTS
    if len(fisheyes) > 1:
        names = tuple(
            f"{a}/{b}" if a != b else a
            for a, b in zip(COEFFICIENTS, FISHEYE_COEFFICIENTS + COEFFICIENTS[4:], strict=True)
        )
    lenses = table("lens coefficients", *(names[k] for k in used))
    target = axes_meeting_point(rig)
    poses = table(
        "poses",
        "centre x mm",
        "y mm",
        "z mm",
        "azimuth",
        "elevation",
        "target mm",
        caption=_caption(target, len(rig) > 1),
    )
    for camera in rig:
        K = camera.K
        size = f"{camera.width}x{camera.height}" if camera.width else "?"
        intrinsics.add_row(
            camera.name, size, *(f"{v:.1f}" for v in (K[0, 0], K[1, 1], K[0, 2], K[1, 2])), f"{K[0, 1]:.2f}",
            "fisheye" if camera.fisheye else "distorted" if camera.dist.any() else "pinhole",
        )  # fmt: skip
        lenses.add_row(camera.name, *(f"{camera.dist[k]:.4g}" for k in used))
        azimuth, elevation = azimuth_elevation(camera.R[2])
        poses.add_row(
            camera.name, *(f"{value:.1f}" for value in camera.center), f"{azimuth:.1f}°", f"{elevation:.1f}°",
            f"{float(camera.R[2] @ target + camera.t[2]):.1f}" if np.isfinite(target).all() else "",
        )  # fmt: skip
    return [intrinsics, *([lenses] if used else []), poses]


def _caption(target: Array, several: bool) -> str:
    angles = "azimuth and elevation: of the optical axis, about +Z of the calibration's world"
    if not np.isfinite(target).all():
        return f"{angles}; no target: {'the optical axes are parallel' if several else 'a single camera'}"
    point = ", ".join(f"{value:.1f}" for value in target)
    return f"{angles}; target: depth of the point nearest to all optical axes, ({point}) mm"


def _lens(camera: Camera) -> str:
    names = FISHEYE_COEFFICIENTS if camera.fisheye else COEFFICIENTS
    used = [f"{n} {value:.3g}" for n, value in zip(names, camera.dist, strict=False) if value]
    return ("fisheye " if camera.fisheye else "") + (", ".join(used) or ("" if camera.fisheye else "no distortion"))


def rig_figure(rig: Rig) -> "Figure":
    """The rig in 3D, in mm: each camera's pyramid of view and name, the world's axes, where the optical axes meet."""
    from plotly import graph_objects

    target = axes_meeting_point(rig)
    centers = np.stack([camera.center for camera in rig])
    known = target if np.isfinite(target).all() else centers.mean(axis=0)
    length = 0.25 * float(np.median(np.linalg.norm(centers - known, axis=1))) or 100.0
    figure = graph_objects.Figure()
    for k, camera in enumerate(rig):
        color = COLORS[k % len(COLORS)]
        corners = frustum(camera, length)
        path = np.concatenate([[camera.center, corner, camera.center] for corner in corners] + [corners, corners[:1]])
        figure.add_scatter3d(
            x=path[:, 0], y=path[:, 1], z=path[:, 2], mode="lines", line={"color": color, "width": 4},
            name=camera.name, hovertext=f"{camera.name}<br>{_lens(camera)}", hoverinfo="text",
        )  # fmt: skip
        top = corners[:2].mean(axis=0)  # above the upper edge: shows which way is up in the image
        figure.add_scatter3d(
            x=[top[0]], y=[top[1]], z=[top[2]], mode="text", text=[camera.name], textfont={"color": color}, showlegend=False
        )  # fmt: skip
        axis = np.stack(
            [camera.center, camera.center + camera.R[2] * max(float(camera.R[2] @ known + camera.t[2]), length)]
        )
        figure.add_scatter3d(
            x=axis[:, 0], y=axis[:, 1], z=axis[:, 2], mode="lines", showlegend=False, hoverinfo="skip",
            line={"color": color, "width": 1, "dash": "dot"},
        )  # fmt: skip
    for name, direction, color in zip("XYZ", np.eye(3), ("#d62728", "#2ca02c", "#1f77b4"), strict=True):
        end = direction * length
        figure.add_scatter3d(
            x=[0, end[0]], y=[0, end[1]], z=[0, end[2]], mode="lines+text", text=["", f"+{name}"], showlegend=False,
            line={"color": color, "width": 6}, hoverinfo="skip",
        )  # fmt: skip
    if np.isfinite(target).all():
        figure.add_scatter3d(
            x=target[:1], y=target[1:2], z=target[2:], mode="markers", marker={"color": "black", "size": 5},
            name="optical axes meet", hovertext=", ".join(f"{value:.1f}" for value in target) + " mm", hoverinfo="text",
        )  # fmt: skip
    figure.update_layout(
        template="plotly_white", margin={"l": 0, "r": 0, "b": 0, "t": 40},
        scene={"aspectmode": "data", **{f"{axis}axis_title": f"{axis} (mm)" for axis in "xyz"}},
    )  # fmt: skip
    return figure


def frustum(camera: Camera, length: float) -> Array:
    """Corners [4, 3] of the image in the world, in mm, `length` mm in front of the camera, clockwise from the upper left.

    The lens is ignored: at the corners of a strongly distorted image it has no inverse. An unknown image size is assumed to
    be twice the principal point.
    """
    width, height = (camera.width, camera.height) if camera.width else 2 * camera.K[:2, 2]
    pixels = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], np.float64)
    rays = pixels @ np.linalg.inv(camera.K).T * length
    return (rays - camera.t) @ camera.R


def write_page(rig: Rig, path: Path, title: str) -> None:
    """The figure as one HTML file that needs no network."""
    page = render("rig.html", title=title, figure=figure_html(rig_figure(rig), height="calc(100vh - 5em)"))
    with atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
