"""A comparison of cameras as tables for the terminal, and as a page, Markdown and JSON in files."""

import html
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import atomic, write_json
from mousefacelift.base.pages import figure_html, render
from mousefacelift.base.tables import markdown_table
from mousefacelift.comparison.measure import Comparison, number_text, per_camera
from mousefacelift.comparison.sets import CameraSet
from mousefacelift.geometry.camera import Array, Camera, Rig
from mousefacelift.rigs.view import frustum

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from rich.table import Table

COLORS = ("#1f77b4", "#ff7f0e")
TABLE_HEAD = ("quantity", "A", "B", "tolerance", "verdict")
CAMERA_HEAD = ("camera", "distance", "azimuth", "elevation", "roll", "focal px", "up vector")
UNITS = "distance in world units, angles in degrees about the up axis"
# Histograms: quantity, title, and the least width of a bin, below which differences are noise.
HISTOGRAMS = (
    ("distance", "distance, world units", 0.02),
    ("azimuth", "azimuth, degrees", 5.0),
    ("elevation", "elevation, degrees", 1.0),
    ("roll", "roll, degrees", 0.5),
    ("focal", "focal length, px", 1.0),
)
SUFFIXES = ("md", "html", "json")
BINS = 24
MAX_LABELS = 12  # more names in the 3D scene would cover each other


def sources(comparison: Comparison) -> list[str]:
    """One line per data set: what it is, and in which frame its cameras stand."""
    return [
        f"{letter} = {c.source} ({c.kind}; {len(c.c2w)} sample{'s' * (len(c.c2w) > 1)} of {len(c.names)} views). {c.frame}"
        for letter, c in zip("AB", comparison.sets, strict=True)
    ]


def camera_rows(comparison: Comparison) -> list[list[str]]:
    """The views of A and B side by side, by index: CAMERA_HEAD of A, then of B, empty where one has fewer views."""
    sides = []
    for cameras, measures in zip(comparison.sets, comparison.measures, strict=True):
        mean = per_camera(measures)
        sides.append(
            [
                [
                    name, number_text(mean["distance"][v], 3), *(number_text(mean[key][v], 1) for key in ("azimuth", "elevation")),
                    number_text(mean["roll"][v], 2), number_text(mean["focal"][v], 1),
                    ", ".join(number_text(value, 3) for value in mean["up"][v]),
                ]
                for v, name in enumerate(cameras.names)
            ]
        )  # fmt: skip
    empty = [""] * len(CAMERA_HEAD)
    count = max(map(len, sides))
    padded = ([*side, *[empty] * (count - len(side))] for side in sides)
    return [one + two for one, two in zip(*padded, strict=True)]


def print_comparison(comparison: Comparison) -> None:
    """Print the tables and the summary, as wide as the numbers need."""
    from rich.console import Console
    from rich.text import Text

    colors = {"match": "green", "differ": "bold red", "unknown": "yellow"}
    table = _rich_table("cameras of A and B", TABLE_HEAD)
    for row in comparison.rows:
        table.add_row(row.quantity, *row.texts, row.tolerance, Text(row.verdict, colors.get(row.verdict, "")))
    title, head = f"per camera (means over samples): {UNITS}", [f"{x} {name}" for x in "AB" for name in CAMERA_HEAD]
    cameras = _rich_table(title, head)
    for cells in camera_rows(comparison):
        cameras.add_row(*(Text(cell) for cell in cells))
    console = Console()
    needed = (console.measure(each, options=console.options.update(width=1000)).maximum for each in (table, cameras))
    wide = Console(width=max(console.width, *needed))
    for line in sources(comparison):
        wide.print(line, markup=False, highlight=False, soft_wrap=True)
    wide.print(table, cameras)
    for line in comparison.summary:
        wide.print(line, markup=False, highlight=False, soft_wrap=True)


def _rich_table(title: str, head: Iterable[str]) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in head:
        left = column.endswith(("quantity", "camera"))
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    return table


def check_folder(folder: Path) -> None:
    """Raise UserError if `write_comparison` could not write to the folder. Nothing is created."""
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not there.is_dir():
        raise UserError(f"--output {folder}: {there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"--output {folder}: {there} cannot be written to")
    for path in (folder / f"comparison.{suffix}" for suffix in SUFFIXES):
        if path.is_dir():
            raise UserError(f"--output {folder}: {path} is a folder, in the way of the file")


def write_comparison(comparison: Comparison, folder: Path) -> list[Path]:
    """Write comparison.md, comparison.html (needs no network) and comparison.json; returns their paths."""
    texts: dict[str, Callable[[Comparison], str]] = {"md": markdown, "html": page}
    paths = []
    for suffix, text in texts.items():
        paths.append(folder / f"comparison.{suffix}")
        with atomic(paths[-1]) as temporary:
            temporary.write_text(text(comparison), encoding="utf-8")
    paths.append(folder / "comparison.json")
    write_json(paths[-1], as_json(comparison))
    return paths


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Everything that the page shows, as plain values; null for what is unknown or undefined."""
    sets = {}
    for letter, cameras, measures in zip("ab", comparison.sets, comparison.measures, strict=True):
        mean = per_camera(measures)
        sets[letter] = {
            "source": cameras.source, "kind": cameras.kind, "frame": cameras.frame, "samples": len(cameras.c2w),
            "cameras": [
                {"name": name, **{key: _plain(values[v]) for key, values in mean.items()}}
                for v, name in enumerate(cameras.names)
            ],
        }  # fmt: skip
    return {
        **sets,
        "quantities": [
            {
                "quantity": row.quantity, "a": _plain(row.values[0]), "b": _plain(row.values[1]),
                "tolerance": row.tolerance, "verdict": row.verdict or None,
            }
            for row in comparison.rows
        ],
        "summary": list(comparison.summary),
    }  # fmt: skip


def _plain(value: Any) -> Any:
    if np.ndim(value):
        return [_plain(each) for each in value]
    return float(value) if np.isfinite(value) else None


def markdown(comparison: Comparison) -> str:
    """The comparison as GitHub's Markdown."""

    def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
        return markdown_table([_md(name) for name in head], ([_md(cell) for cell in row] for row in rows))

    lines = ["# Comparison of cameras", "", *(f"- {_md(line)}" for line in sources(comparison)), ""]
    lines += [table(TABLE_HEAD, ([r.quantity, *r.texts, r.tolerance, r.verdict] for r in comparison.rows)), ""]
    lines += [comparison.summary[0], "", *(f"- {line}" for line in comparison.summary[1:]), ""]
    lines += [f"Per camera (means over samples): {UNITS}.", ""]
    lines += [table([f"{x} {name}" for x in "AB" for name in CAMERA_HEAD], camera_rows(comparison)), ""]
    return "\n".join(lines)


def _md(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|#&~])", r"\\\1", " ".join(text.split()))


def page(comparison: Comparison) -> str:
    """One HTML page that needs no network: tables, the rigs in 3D, and histograms."""
    return render(
        "comparison.html",
        title="Comparison of cameras",
        sources=sources(comparison),
        summary=comparison.summary,
        head=TABLE_HEAD,
        rows=comparison.rows,
        rigs=figure_html(rig_figure(comparison)),
        histograms=figure_html(histogram_figure(comparison), with_plotly=False),
        units=UNITS,
        camera_head=CAMERA_HEAD,
        cameras=camera_rows(comparison),
    )


def mean_rig(cameras: CameraSet) -> Rig:
    """One camera per view, at the mean of its centres over samples, turned by the mean of its rotations."""
    center = cameras.c2w[..., :3, 3].mean(axis=0)
    # The rotation nearest to the mean matrix (Umeyama 1991).
    U, _, V = np.linalg.svd(cameras.c2w[..., :3, :3].mean(axis=0))
    U[..., 2] *= np.linalg.det(U @ V)[:, None]
    R = np.swapaxes(U @ V, -1, -2)
    t = -(R @ center[..., None])[..., 0]
    fx, fy, cx, cy = cameras.fxfycxcy.mean(axis=0).T
    sizes = np.rint(cameras.size.mean(axis=0)).astype(int)
    return tuple(
        Camera(
            name, int(sizes[v, 0]), int(sizes[v, 1]), np.array([[fx[v], 0, cx[v]], [0, fy[v], cy[v]], [0, 0, 1]]),
            np.zeros(14), R[v], t[v],
        )
        for v, name in enumerate(cameras.names)
    )  # fmt: skip


def rig_figure(comparison: Comparison) -> "Figure":
    """Both rigs in one scene, in world units: pyramids of view with the upper edge marked, the world's axes and origin."""
    from plotly import graph_objects

    figure = graph_objects.Figure()
    for letter, cameras, color in zip("AB", comparison.sets, COLORS, strict=True):
        rig = mean_rig(cameras)
        length = 0.15 * float(np.mean([np.linalg.norm(camera.center) for camera in rig]))
        lines, tops = [], []
        for camera in rig:
            corners = frustum(camera, length)
            peak = corners[:2].mean(axis=0) + 0.3 * (corners[0] - corners[3])  # a roof over the image's upper edge
            sides = [[camera.center, corner, camera.center] for corner in corners]
            lines += [*np.concatenate(sides), *corners, corners[0], peak, corners[1], np.full(3, np.nan)]
            tops.append(peak)
        path, label = np.array(lines), np.array(tops)
        figure.add_scatter3d(
            x=path[:, 0], y=path[:, 1], z=path[:, 2], mode="lines", line={"color": color, "width": 3},
            name=f"{letter}: {len(rig)} views", hoverinfo="skip", legendgroup=letter,
        )  # fmt: skip
        names = [camera.name for camera in rig]
        figure.add_scatter3d(
            x=label[:, 0], y=label[:, 1], z=label[:, 2], mode="markers+text" if len(rig) <= MAX_LABELS else "markers",
            # Plotly takes hover texts for HTML, and labels in 3D scenes for plain text.
            text=names, hovertext=[f"{letter}: {html.escape(name)}" for name in names], hoverinfo="text",
            marker={"color": color, "size": 2},
            textfont={"color": color, "size": 11}, textposition="top center", showlegend=False, legendgroup=letter,
        )  # fmt: skip
    for name, end, color in zip("XYZ", np.eye(3), ("#d62728", "#2ca02c", "#9467bd"), strict=True):
        figure.add_scatter3d(
            x=[0, end[0]], y=[0, end[1]], z=[0, end[2]], mode="lines+text", text=["", f"+{name}"], showlegend=False,
            line={"color": color, "width": 5}, hoverinfo="skip",
        )  # fmt: skip
    figure.add_scatter3d(x=[0], y=[0], z=[0], mode="markers", marker={"color": "black", "size": 4}, name="origin")
    figure.update_layout(
        title="Cameras, means over samples", template="plotly_white", height=650,
        margin={"l": 0, "r": 0, "b": 0, "t": 40},
        scene={"aspectmode": "data", **{f"{axis}axis_title": f"{axis} (world units)" for axis in "xyz"}},
    )  # fmt: skip
    return figure


def histogram_figure(comparison: Comparison) -> "Figure":
    """Distance, azimuth, elevation, roll and focal length of all views of all samples, in percent of each data set's."""
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=len(HISTOGRAMS), subplot_titles=[title for _, title, _ in HISTOGRAMS])
    for column, (name, _, least) in enumerate(HISTOGRAMS, 1):
        values = [each[np.isfinite(each)] for each in (getattr(m, name) for m in comparison.measures)]
        edges = _edges(np.concatenate(values), least)
        for letter, each, color in zip("AB", values, COLORS, strict=True):
            counts, _ = np.histogram(each, edges)
            figure.add_bar(
                x=(edges[1:] + edges[:-1]) / 2, y=100 * counts / max(each.size, 1), width=np.diff(edges), opacity=0.6,
                marker={"color": color}, name=letter, legendgroup=letter, showlegend=column == 1, row=1, col=column,
            )  # fmt: skip
    figure.update_annotations(font_size=13)
    figure.update_yaxes(title_text="% of views", row=1, col=1)
    figure.update_layout(
        title="All views of all samples", template="plotly_white", barmode="overlay", height=320,
        margin={"l": 50, "r": 10, "b": 30, "t": 80},
    )  # fmt: skip
    return figure


def _edges(values: Array, least: float) -> Array:
    """Edges of equal bins that hold all values, none narrower than `least`; a lone value stands in a bin's middle."""
    if not values.size:
        return np.array([0.0, least])
    low, high = float(values.min()), float(values.max())
    width = max((high - low) / BINS, least)
    return low + width * (np.arange(np.floor((high - low) / width + 1e-6) + 2) - 0.5)
