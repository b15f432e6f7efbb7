"""The demo's picture: three sections with the labels drawn in, and the two times as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from fastseg.io import written_whole

#: Colours that all pictures of the demo share.
BACKGROUND, TEXT, MUTED = "#0f1317", "#e8eaed", "#8b949e"
GREY, ACCENT = "#6b7683", "#2ec4b6"
_LABEL_COLOURS = ("#ff5c5c", "#ffd166", "#4cc9f0", "#b388eb", "#80ed99", "#ff9f1c", "#f15bb5", "#9bb1ff")
_VIEWS = (("axial", 2), ("coronal", 1), ("sagittal", 0))  # the axis of RAS that each looks along


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
    colours = {label: _LABEL_COLOURS[i % len(_LABEL_COLOURS)] for i, label in enumerate(label_names)}
    height = 3.4 * len(rows) + 1.5
    with matplotlib.rc_context({"text.color": TEXT, "font.family": "sans-serif", "font.size": 11}):
        figure = Figure(figsize=(14.5, height), facecolor=BACKGROUND)
        grid = figure.add_gridspec(
            len(rows), 4, width_ratios=(1, 1, 1, 1.15), left=0.035, right=0.965, bottom=0.75 / height,
            top=1 - 1.05 / height, wspace=0.06, hspace=0.12,
        )  # fmt: skip
        for number, row in enumerate(rows):
            for column, (view, axis) in enumerate(_VIEWS):
                panel = figure.add_subplot(grid[number, column])
                _section(panel, row, axis, centre[axis], spacing, colours)
                if number == 0:
                    panel.set_title(view, color=MUTED, fontsize=11, pad=6)
                if column == 0:
                    panel.set_ylabel(row.title, color=TEXT, fontsize=11, labelpad=8)
        _bars(figure.add_subplot(grid[0, 3]), seconds)
        figure.text(0.035, 1 - 0.38 / height, title, fontsize=15, fontweight="bold", va="center")
        figure.text(0.035, 1 - 0.68 / height, subtitle, fontsize=11, color=MUTED, va="center")
        figure.text(0.965, 0.3 / height, note, fontsize=11, color=MUTED, va="center", ha="right")
        handles = [Line2D([], [], color=colours[label], linewidth=3, label=name) for label, name in label_names.items()]
        figure.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(0.028, 0.12 / height), ncols=len(handles), frameon=False,
            labelcolor=TEXT, fontsize=11, handlelength=1.4, columnspacing=1.8,
        )  # fmt: skip
        with written_whole(path) as temporary:
            figure.savefig(temporary, dpi=120, facecolor=BACKGROUND)


def without_frame(panel: Axes) -> None:
    """No ticks and no lines around it."""
    panel.set_xticks([])
    panel.set_yticks([])
    for spine in panel.spines.values():
        spine.set_visible(False)


def _section(
    panel: Axes,
    row: Row,
    axis: int,
    index: int,
    spacing: tuple[float, float, float],
    colours: Mapping[int, str],
) -> None:
    # The patient's left is on the reader's right, as radiologists look at it; sagittal sections face left.
    image, labels = (np.take(volume, index, axis=axis)[::-1].T for volume in (row.image, row.labels))
    width_mm, height_mm = (step for other, step in enumerate(spacing) if other != axis)
    visible = row.image[row.image != 0]
    low, high = np.percentile(visible, (0.5, 99.7)) if visible.size else (0, 1)
    panel.imshow(
        image,
        cmap="gray",
        origin="lower",
        vmin=min(0, low),
        vmax=high,
        aspect=height_mm / width_mm,
        interpolation="bicubic",
    )
    for label, colour in colours.items():
        mask = labels == label
        if mask.any():
            fill = np.zeros((*mask.shape, 4))
            fill[mask] = (*to_rgb(colour), 0.22 if row.outlined else 0.6)
            panel.imshow(fill, origin="lower", aspect=height_mm / width_mm, interpolation="nearest")
            if row.outlined:
                panel.contour(mask.astype(float), levels=[0.5], colors=[colour], linewidths=1.1)
    panel.set_facecolor("black")
    without_frame(panel)


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
