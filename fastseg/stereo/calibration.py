"""What is known of a rectified pair of cameras."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from fastseg.ops.arrays import ArrayT
from fastseg.stereo.geometry import triangulate


@dataclass(frozen=True)
class RectifiedCalibration:
    """Two pinhole cameras side by side, with one focal length and rows that correspond.

    ``fastseg.io.load_calibration`` reads one from a file.

    Attributes:
        focal_length: in pixels.
        baseline: distance of the cameras. Depth and points come out in its unit: millimetres in Middlebury's files, and
            in OpenCV's the unit in which the squares of the calibration board were given.
        doffs: cx of the right camera minus cx of the left one, in pixels.
        cx: column of the left camera's principal point, in pixels; None for the middle of the image.
        cy: row of it.
        width: of the images that the calibration is for.
        height: of them.
        max_disparity: disparities of the scene are below it (Middlebury's ``ndisp``).
    """

    focal_length: float
    baseline: float
    doffs: float = 0.0
    cx: float | None = None
    cy: float | None = None
    width: int | None = None
    height: int | None = None
    max_disparity: int | None = None

    def __post_init__(self) -> None:
        for name in ("focal_length", "baseline"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"RectifiedCalibration: {name} is {value}, expected a finite number > 0")
        for name in ("doffs", "cx", "cy"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"RectifiedCalibration: {name} is {value}, expected a finite number")
        for name in ("width", "height", "max_disparity"):
            value = getattr(self, name)
            if value is not None and (value < 1 or value != int(value)):
                raise ValueError(f"RectifiedCalibration: {name} is {value}, expected a whole number >= 1")

    def scaled(self, factor: float) -> RectifiedCalibration:
        """The calibration of images resized by ``factor``: 0.5 for half the width and height.

        A pixel's left edge stays an edge, as resizing functions have it: cx becomes (cx + 0.5) factor - 0.5. (The
        smaller sizes that Middlebury publishes have cx factor instead, less than half a pixel away.)
        """
        if not 0 < factor < math.inf:
            raise ValueError(f"RectifiedCalibration.scaled: factor is {factor}, expected a finite number > 0")
        return dataclasses.replace(
            self,
            focal_length=self.focal_length * factor,
            doffs=self.doffs * factor,
            cx=None if self.cx is None else (self.cx + 0.5) * factor - 0.5,
            cy=None if self.cy is None else (self.cy + 0.5) * factor - 0.5,
            width=None if self.width is None else max(1, round(self.width * factor)),
            height=None if self.height is None else max(1, round(self.height * factor)),
            max_disparity=None if self.max_disparity is None else math.ceil(self.max_disparity * factor),
        )

    def triangulate(self, disparity: ArrayT) -> ArrayT:
        """:func:`fastseg.stereo.triangulate` with these numbers.

        Raises:
            ValueError: the disparity map has another size than the images of the calibration.
        """
        shape = tuple(getattr(disparity, "shape", ()))
        for name, size, axis in (("height", self.height, -2), ("width", self.width, -1)):
            if size is not None and len(shape) >= 2 and shape[axis] != size:
                raise ValueError(
                    f"RectifiedCalibration.triangulate: disparity has shape {shape}, expected {name} {size}; "
                    "scaled(factor) gives the calibration of resized images"
                )
        return triangulate(
            disparity,
            focal_length=self.focal_length,
            baseline=self.baseline,
            doffs=self.doffs,
            cx=self.cx,
            cy=self.cy,
        )
