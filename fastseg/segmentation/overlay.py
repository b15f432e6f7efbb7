"""A picture for a quick look at a segmentation: sections of one sequence with the regions outlined."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastseg.io.nifti import ras_spacing, to_ras
from fastseg.pictures import MUTED, TEXT, picture
from fastseg.segmentation.sections import VIEWS, Region, coloured, draw_legend, draw_section, grey_range

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _ROW, _MARGINS = 12.0, 4.0, 1.5  # inches
_NAMED = 10  # more names than these do not fit into the legend's line


def save_overlay(
    path: str | os.PathLike[str],
    image: NDArray[np.floating],
    labels: NDArray[np.integer] | NDArray[np.bool_],
    affine: NDArray[np.floating],
    *,
    regions: Mapping[str, Sequence[int]] | None = None,
    slices: int = 1,
    title: str = "",
    radiological: bool = True,
) -> None:
    """Draw axial, coronal and sagittal sections with an outline around each region, and write a PNG.

    Sections are in RAS order whatever the orientation of the arrays, with the shape that voxels have in space, and are
    marked with R, L, A and P; their numbers count from the left, the back and below. One section goes through the
    largest area of the segmentation; of several, one does, and the others are spread evenly over its extent. Without
    any label they go through the middle of the image.

    Args:
        path: ends in ``.png``; the file appears whole or not at all.
        image: (X, Y, Z), one sequence.
        labels: (X, Y, Z), integers or bool.
        affine: (4, 4), voxel indices to millimetres in RAS+ space.
        regions: name -> its labels, such as :data:`fastseg.segmentation.labels.REGIONS`; they may overlap. Default: one
            for each label.
        slices: sections of each view.
        title: what is shown.
        radiological: the patient's left is on the right of axial and coronal sections; otherwise it is on the left,
            which is the neurological convention. The picture says which. Sagittal sections face left.

    Raises:
        ValueError: arrays of other shapes or dtypes, values that are not finite, or ``slices`` below 1.
        FileError: another ending, or a folder that cannot be written to.
    """
    path = Path(path)
    _check(image, labels, slices)
    upright, found = to_ras(image, affine), to_ras(labels.astype(np.int32), affine)
    spacing = ras_spacing(affine)
    if regions is None:
        regions = {f"label {label}": (int(label),) for label in np.unique(found) if label}
    # Regions share edges: with every other one in dashes over the rest, each can be seen.
    drawn = coloured(regions)
    drawn[1::2] = [replace(region, outline="dashed") for region in drawn[1::2]]
    solid_first = drawn[::2] + drawn[1::2]
    shown = np.isin(found, [label for region in drawn for label in region.labels])
    where = {axis: _indices(shown if shown.any() else np.ones_like(shown), axis, slices) for _, axis in VIEWS}
    greys = grey_range(upright)
    height = _ROW * slices + _MARGINS
    with picture(path, _WIDTH, height) as figure:
        grid = figure.add_gridspec(
            slices, 3, left=0.02, right=0.98, bottom=0.75 / height, top=1 - 0.75 / height, wspace=0.04, hspace=0.04
        )
        for column, (view, axis) in enumerate(VIEWS):
            for row, index in enumerate(where[axis]):
                panel = figure.add_subplot(grid[row, column])
                draw_section(
                    panel, upright, found, solid_first, axis=axis, index=index, spacing=spacing, greys=greys, fill=0.0,
                    radiological=radiological,
                )  # fmt: skip
                _mark(panel, axis, radiological)
                panel.text(
                    0.02, 0.02, f"{view} {index}", transform=panel.transAxes, fontsize=9, color=MUTED, va="bottom"
                )
        figure.text(0.02, 1 - 0.38 / height, title, fontsize=14, fontweight="bold", va="center")
        side = "radiological: the patient's left is on the right"
        if not radiological:
            side = "neurological: the patient's left is on the left"
        figure.text(0.98, 1 - 0.38 / height, side, color=MUTED, va="center", ha="right")
        if shown.any():
            named = drawn[:_NAMED]
            if len(drawn) > _NAMED:
                named.append(Region(f"and {len(drawn) - _NAMED} more", (), MUTED))
            draw_legend(figure, named, left=0.013, bottom=0.12 / height)
        else:
            figure.text(0.02, 0.3 / height, "no voxel has one of the labels", color=MUTED, va="center")


def _indices(mask: NDArray[np.bool_], axis: int, slices: int) -> list[int]:
    """``slices`` places along an axis of RAS, spread over the extent of ``mask``; one has the largest area."""
    areas = np.count_nonzero(mask, axis=tuple(other for other in range(3) if other != axis))
    extent, maxima = np.flatnonzero(areas), np.flatnonzero(areas == areas.max())
    first, last = int(extent[0]), int(extent[-1])
    spread = np.rint(first + (np.arange(slices) + 0.5) * (last - first + 1) / slices - 0.5).astype(int)
    largest = maxima[maxima.size // 2]
    spread[np.abs(spread - largest).argmin()] = largest
    # From above and from the front first, as they are looked through.
    return [int(index) for index in sorted(spread, reverse=axis != 0)]


def _mark(panel: Axes, axis: int, radiological: bool) -> None:
    left, right = ("A", "P") if axis == 0 else ("R", "L") if radiological else ("L", "R")
    for place, mark, side in ((0.015, left, "left"), (0.985, right, "right")):
        panel.text(place, 0.5, mark, transform=panel.transAxes, fontsize=11, color=TEXT, va="center", ha=side)


def _check(image: NDArray[np.generic], labels: NDArray[np.generic], slices: int) -> None:
    if image.ndim != 3 or image.dtype.kind not in "biuf" or 0 in image.shape:
        what = f"{image.dtype} of shape {image.shape}"
        raise ValueError(f"save_overlay: image is {what}, expected real numbers of (X, Y, Z): one sequence")
    if not np.isfinite(image).all():
        raise ValueError("save_overlay: image holds NaN or infinity, expected finite numbers")
    if labels.shape != image.shape or labels.dtype.kind not in "biu":
        what = f"{labels.dtype} of shape {labels.shape}"
        raise ValueError(f"save_overlay: labels is {what}, expected integers or bool of {image.shape}")
    if slices != int(slices) or slices < 1:
        raise ValueError(f"save_overlay: slices is {slices}, expected a whole number >= 1")
