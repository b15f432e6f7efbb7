"""The picture of the demo's stereo part: image, disparities, error, the surface from the side, and numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from fastseg.cli.info import machine
from fastseg.cli.stereo_results import COLOURS
from fastseg.cli.stereo_run import Outcome
from fastseg.pictures import ACCENT, BACKGROUND, MUTED, TEXT, picture, without_frame
from fastseg.stereo import Mesh, RectifiedCalibration, RenderedPair, StereoScores, surface_mesh

_ERRORS = Normalize(0, 4)  # pixels
_ERROR_COLOURS = "inferno"
_SIDE, _ABOVE = 28.0, 7.0  # degrees from which the surface is seen
_STEP = 2  # every second pixel of it is drawn: more cannot be seen


def draw(path: Path, pair: RenderedPair, outcome: Outcome, scores: StereoScores) -> None:
    """Write a PNG; it appears whole or not at all.

    Args:
        path: of the PNG.
        pair: what was matched, with its truth.
        outcome: with a calibration.
        scores: of the regions "visible" and "all".
    """
    truth, found = pair.disparity, outcome.found
    image = np.ascontiguousarray(np.moveaxis(pair.left, 0, -1))
    range_ = Normalize(float(truth.min()), float(truth.max()))
    with picture(path, 14.5, 8.7) as figure:
        grid = figure.add_gridspec(2, 3, left=0.02, right=0.98, bottom=0.02, top=0.855, wspace=0.04, hspace=0.1)
        panels = [figure.add_subplot(grid[row, column]) for row in range(2) for column in range(3)]
        _image(panels[0], "left image", image)
        _image(panels[1], "true disparity", truth, range_, COLOURS)
        _image(panels[2], "disparity by fastseg", found.disparity, range_, COLOURS)
        _image(panels[3], "its error", np.abs(found.disparity - truth), _ERRORS, _ERROR_COLOURS)
        assert outcome.job.calibration is not None
        _surface(panels[4], _thinned(outcome.job.calibration, found.disparity, found.valid, image))
        _numbers(panels[5], outcome, scores)
        height, width = truth.shape
        title = f"a rendered pair of {width} x {height}, {outcome.job.max_disparity} disparities"
        figure.text(0.02, 0.957, title, fontsize=15, fontweight="bold", va="center")
        subtitle = f"preset {outcome.job.preset}, {100 * found.valid.mean():.1f} % valid, the rest filled  |  "
        figure.text(0.02, 0.921, subtitle + machine(torch.device(outcome.job.device)), color=MUTED, va="center")


def _image(
    panel: Axes,
    title: str,
    pixels: NDArray[np.generic],
    norm: Normalize | None = None,
    colours: str | None = None,
) -> None:
    panel.imshow(pixels, norm=norm, cmap=colours, interpolation="antialiased")
    without_frame(panel)
    _title(panel, title)
    if norm is not None:
        bar = panel.inset_axes((0.66, 1.03, 0.2, 0.025))
        panel.figure.colorbar(ScalarMappable(norm, colours), cax=bar, orientation="horizontal").outline.set_visible(
            False
        )
        bar.set_xticks([])
        for place, value, side in ((0.65, norm.vmin, "right"), (0.87, norm.vmax, "left")):
            unit = " px" if side == "left" else ""
            panel.text(
                place,
                1.042,
                f"{value:.3g}{unit}",
                color=MUTED,
                fontsize=10,
                ha=side,
                va="center",
                transform=panel.transAxes,
            )


def _title(panel: Axes, text: str) -> None:
    panel.text(0, 1.042, text, va="center", transform=panel.transAxes)


def _thinned(
    calibration: RectifiedCalibration,
    disparity: NDArray[np.float32],
    valid: NDArray[np.bool_],
    image: NDArray[np.uint8],
) -> Mesh:
    points, known, colours = (
        np.ascontiguousarray(values[::_STEP, ::_STEP]) for values in (calibration.triangulate(disparity), valid, image)
    )
    return surface_mesh(points, colours, known)


def _surface(panel: Axes, mesh: Mesh) -> None:
    """The triangles as a camera sees them that has gone around the middle of the scene; the nearest are drawn last."""
    side, above = np.radians((-_SIDE, _ABOVE))
    about_y = np.array([[np.cos(side), 0, np.sin(side)], [0, 1, 0], [-np.sin(side), 0, np.cos(side)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(above), -np.sin(above)], [0, np.sin(above), np.cos(above)]])
    middle = np.percentile(mesh.vertices, (1, 99), axis=0).mean(axis=0)
    seen = (mesh.vertices - middle) @ (about_x @ about_y).T + (0, 0, middle[2])
    places = seen[:, :2] / seen[:, 2:]
    order = np.argsort(-seen[mesh.faces, 2].mean(axis=1))
    faces = mesh.faces[order]
    assert mesh.colors is not None
    paint = mesh.colors[faces].mean(axis=1) / 255
    # Edges in the colour of the face, or the background shines through between two.
    panel.add_collection(
        PolyCollection(places[faces], facecolors=paint, edgecolors=paint, linewidths=0.4, antialiaseds=False)
    )
    (left, top), (right, bottom) = np.percentile(places, (0.01, 99.99), axis=0)  # without a stray triangle
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    half = 0.53 * max(right - left, 4 / 3 * (bottom - top))
    panel.set_xlim(middle_x - half, middle_x + half)
    panel.set_ylim(middle_y + 0.75 * half, middle_y - 0.75 * half)
    panel.set_aspect("equal")
    panel.set_facecolor(BACKGROUND)
    without_frame(panel)
    _title(panel, "the mesh, from the side")


def _numbers(panel: Axes, outcome: Outcome, scores: StereoScores) -> None:
    """Shares of bad pixels as a table, and the time of each stage as a bar."""
    panel.set_facecolor(BACKGROUND)
    panel.set_xlim(0, 1)
    panel.set_ylim(0, 1)
    without_frame(panel)
    columns = (0.07, 0.62, 0.93)
    regions = scores.regions.values()
    rows = [("error", *scores.regions)]
    for limit in scores["all"].bad:
        rows.append((f"over {limit:g} px", *(f"{100 * region.bad[limit]:.1f} %" for region in regions)))
    rows.append(("average", *(f"{region.average:.2f} px" for region in regions)))
    for number, row in enumerate(rows):
        for place, text in zip(columns, row, strict=True):
            colour = MUTED if number == 0 or place == columns[0] else TEXT
            panel.text(
                place,
                0.97 - 0.075 * number,
                text,
                color=colour,
                ha="left" if place == columns[0] else "right",
                va="center",
            )
    matching = outcome.found.seconds
    total = sum(matching.values())
    panel.text(columns[0], 0.46, f"matching, {total:.2g} s", color=TEXT, va="center")
    longest = max(matching.values())
    for number, (stage, seconds) in enumerate(matching.items()):
        y = 0.39 - 0.058 * number
        panel.text(columns[0], y, stage, color=MUTED, fontsize=10, va="center")
        panel.barh(y, 0.38 * seconds / longest, left=0.42, height=0.036, color=ACCENT)
        panel.text(
            0.43 + 0.38 * seconds / longest, y, f"{1000 * seconds:.0f} ms", color=MUTED, fontsize=10, va="center"
        )
