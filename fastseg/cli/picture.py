"""The demo's picture: three sections with the labels drawn in, and the two times as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from fastseg.pictures import ACCENT, BACKGROUND, GREY, MUTED, TEXT, picture, without_frame
from fastseg.segmentation.sections import VIEWS, coloured, draw_legend, draw_section, grey_range


@dataclass(frozen=True)
class Row:
    """One row of sections.

    Attributes:
        title: what the row shows.
        image: (X, Y, Z) in RAS order.
        labels: (X, Y, Z) drawn over it.
        outlined: regions get an edge and a faint fill; labels that form no regions are easier to see as a fill alone.
    """

    title: str
    image: NDArray[np.float32]
    labels: NDArray[np.integer]
    outlined: bool = True


def draw(
    path: Path,
    rows: Sequence[Row],
    *,
    spacing: tuple[float, float, float],
    centre: tuple[int, int, int],
    label_names: Mapping[int, str],
    seconds: tuple[float, float],
    title: str,
    subtitle: str,
    note: str,
) -> None:
    """Write a PNG.

    Args:
        path: of the PNG; it appears whole or not at all.
        rows: at least one.
        spacing: mm along X, Y, Z.
        centre: the voxel through which the three sections go.
        label_names: label -> its name in the legend, in the order of the colours.
        seconds: for a whole volume, stock and accelerated.
        title: what was run.
        subtitle: what the labels are.
        note: how the two outputs compare.
    """
    named = {name: (label,) for label, name in label_names.items()}
    height = 3.4 * len(rows) + 1.5
    with picture(path, 14.5, height) as figure:
        grid = figure.add_gridspec(
            len(rows), 4, width_ratios=(1, 1, 1, 1.15), left=0.035, right=0.965, bottom=0.75 / height,
            top=1 - 1.05 / height, wspace=0.06, hspace=0.12,
        )  # fmt: skip
        for number, row in enumerate(rows):
            greys = grey_range(row.image)
            regions = coloured(named, outline="solid" if row.outlined else "none")
            for column, (view, axis) in enumerate(VIEWS):
                panel = figure.add_subplot(grid[number, column])
                draw_section(
                    panel, row.image, row.labels, regions, axis=axis, index=centre[axis], spacing=spacing, greys=greys,
                    fill=0.22 if row.outlined else 0.6,
                )  # fmt: skip
                if number == 0:
                    panel.set_title(view, color=MUTED, fontsize=11, pad=6)
                if column == 0:
                    panel.set_ylabel(row.title, color=TEXT, fontsize=11, labelpad=8)
        _bars(figure.add_subplot(grid[0, 3]), seconds)
        figure.text(0.035, 1 - 0.38 / height, title, fontsize=15, fontweight="bold", va="center")
        figure.text(0.035, 1 - 0.68 / height, subtitle, fontsize=11, color=MUTED, va="center")
        figure.text(0.965, 0.3 / height, note, fontsize=11, color=MUTED, va="center", ha="right")
        draw_legend(figure, coloured(named), left=0.028, bottom=0.12 / height)


def _bars(panel: Axes, seconds: tuple[float, float]) -> None:
    stock, accelerated = seconds
    panel.set_facecolor(BACKGROUND)
    panel.barh((1, 0), seconds, height=0.52, color=(GREY, ACCENT))
    for position, name, value in ((1, "stock PyTorch", stock), (0, "fastseg", accelerated)):
        panel.text(0, position + 0.36, name, fontsize=11, color=TEXT, va="bottom")
        panel.text(value + 0.02 * max(seconds), position, f"{value:.3g} s", fontsize=12, color=TEXT, va="center")
    panel.set_xlim(0, 1.25 * max(seconds))
    panel.set_ylim(-0.9, 2.0)
    panel.set_title(f"whole volume, {stock / accelerated:.2f} x", color=TEXT, fontsize=13, pad=6)
    without_frame(panel)
    # Away from the sections' edge, which fills its whole cell.
    box = panel.get_position()
    panel.set_position((box.x0 + 0.02, box.y0, box.width - 0.02, box.height))
