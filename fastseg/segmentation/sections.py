"""Sections through a volume in RAS order, with regions drawn in."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from fastseg.pictures import TEXT, without_frame

#: The name of each view, and the axis of RAS that it looks along.
VIEWS = (("axial", 2), ("coronal", 1), ("sagittal", 0))
_COLOURS = ("#ff5c5c", "#ffd166", "#4cc9f0", "#b388eb", "#80ed99", "#ff9f1c", "#f15bb5", "#9bb1ff")
_DASHES = (0, (2.2, 2.2))


@dataclass(frozen=True)
class Region:
    """What is drawn in one colour.

    Attributes:
        name: in the legend.
        labels: that belong to it.
        colour: of the outline and of the fill.
        outline: ``"solid"``, ``"dashed"`` or ``"none"``.
    """

    name: str
    labels: tuple[int, ...]
    colour: str
    outline: str = "solid"


def coloured(names: Mapping[str, Sequence[int]], *, outline: str = "solid") -> list[Region]:
    """A region of each name and its labels, in colours that begin again where there are more names than colours."""
    colours = itertools.cycle(_COLOURS)
    return [Region(name, tuple(labels), next(colours), outline) for name, labels in names.items()]


def grey_range(image: NDArray[np.floating]) -> tuple[float, float]:
    """The values that are black and white: nearly all of what is not background."""
    visible = image[image != 0]
    low, high = np.percentile(visible, (0.5, 99.7)) if visible.size else (0, 1)
    return min(0.0, float(low)), float(high)


def draw_section(
    panel: Axes,
    image: NDArray[np.floating],
    labels: NDArray[np.integer],
    regions: Sequence[Region],
    *,
    axis: int,
    index: int,
    spacing: tuple[float, float, float],
    greys: tuple[float, float],
    fill: float,
    radiological: bool = True,
) -> None:
    """Draw one section. Sagittal ones face left.

    Args:
        panel: becomes the section alone, without a frame.
        image: (X, Y, Z) in RAS order.
        labels: (X, Y, Z), of the same grid.
        regions: later ones are drawn over earlier ones.
        axis: which the view looks along, as in ``VIEWS``.
        index: of the section along that axis.
        spacing: mm along X, Y, Z.
        greys: the values that are black and white.
        fill: how opaque regions are, from 0 to 1.
        radiological: the patient's left is on the reader's right, as radiologists look at it; otherwise on the left.
    """
    turned = axis == 0 or radiological
    pixels, members = (np.take(volume, index, axis=axis)[:: -1 if turned else 1].T for volume in (image, labels))
    width_mm, height_mm = (step for other, step in enumerate(spacing) if other != axis)
    aspect = height_mm / width_mm
    low, high = greys
    panel.imshow(pixels, cmap="gray", origin="lower", vmin=low, vmax=high, aspect=aspect, interpolation="bicubic")
    for region in regions:
        mask = np.isin(members, region.labels)
        if not mask.any():
            continue
        if fill:
            paint = np.zeros((*mask.shape, 4))
            paint[mask] = (*to_rgb(region.colour), fill)
            panel.imshow(paint, origin="lower", aspect=aspect, interpolation="nearest")
        if region.outline != "none":
            style = _DASHES if region.outline == "dashed" else "-"
            panel.contour(mask.astype(float), [0.5], colors=[region.colour], linewidths=1.1, linestyles=[style])
    panel.set_facecolor("black")
    without_frame(panel)


def draw_legend(figure: Figure, regions: Sequence[Region], *, left: float, bottom: float) -> None:
    """One line of names, each with its colour, from ``(left, bottom)`` in shares of the figure."""
    handles = [
        Line2D([], [], color=region.colour, linewidth=3, label=region.name,
               linestyle=(0, (1, 0.7)) if region.outline == "dashed" else "-")
        for region in regions
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(left, bottom), ncols=max(1, len(handles)), frameon=False,
        labelcolor=TEXT, fontsize=11, handlelength=1.4, columnspacing=1.8,
    )  # fmt: skip
