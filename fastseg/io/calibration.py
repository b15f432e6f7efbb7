"""Calibrations of rectified pairs: Middlebury's calib.txt and what OpenCV's FileStorage writes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.io.files import FileError, first_bytes
from fastseg.stereo.calibration import RectifiedCalibration

# Files hold rounded decimals, so that equal numbers may differ by this much.
_ROUNDING = 1e-5  # of the focal length
_PIXELS = 0.01


class CalibrationError(FileError):
    """A file that gives no calibration of a rectified pair; the message names the file and what was expected."""


def load_calibration(path: str | os.PathLike[str]) -> RectifiedCalibration:
    """Read the calibration of a rectified pair. What the file holds decides how, not its name.

    - Middlebury's ``calib.txt``: ``cam0``, ``cam1`` and ``baseline``; ``doffs``, ``width``, ``height`` and ``ndisp``
      where they are there.
    - YAML and JSON of OpenCV's ``FileStorage``: ``P1`` and ``P2`` of ``stereoRectify``, or else its ``Q``;
      ``image_width`` and ``image_height`` where they are there. A matrix may be a list of rows, too.

    Raises:
        CalibrationError: missing, a folder, empty, not text, broken; a key that is not there or no number; cameras that
            are not rectified, not side by side, or the wrong way round.
    """
    path = Path(path)
    first_bytes(path, CalibrationError)
    try:
        text = path.read_text(encoding="utf-8-sig")
        if text.lstrip().startswith("{"):
            return _from_opencv(json.loads(text))
        if re.search(r"^\s*cam[01]\s*=", text, re.MULTILINE):
            return _from_middlebury(text)
        return _from_opencv(_yaml(text))
    except OSError as error:
        raise CalibrationError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CalibrationError(f"{path}: not a text file, expected calib.txt, YAML or JSON") from error
    except json.JSONDecodeError as error:
        raise CalibrationError(f"{path}: broken JSON ({error})") from error
    except (ValueError, RecursionError) as error:  # the second from lists in lists without end
        raise CalibrationError(f"{path}: {error}") from error


def _from_middlebury(text: str) -> RectifiedCalibration:
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    values: dict[str, Any] = {key.strip(): value.strip() for key, _, value in pairs}
    for key in ("cam0", "cam1"):
        if key in values:
            values[key] = [re.split(r"[\s,]+", row.strip()) for row in values[key].strip("[] ").split(";")]
    left, right = (_matrix(values, key, 3, 3) for key in ("cam0", "cam1"))
    doffs = _right_of(left, right, "cam0", "cam1")
    if "doffs" in values:
        stated = _number(values, "doffs")
        if not abs(stated - doffs) <= 0.1:
            raise ValueError(f"doffs is {stated:g}, but cx of cam1 minus cx of cam0 is {doffs:g}")
        doffs = stated
    return RectifiedCalibration(
        focal_length=float(left[0, 0]),
        baseline=_number(values, "baseline"),
        doffs=doffs,
        cx=float(left[0, 2]),
        cy=float(left[1, 2]),
        width=_whole(values, "width"),
        height=_whole(values, "height"),
        max_disparity=_whole(values, "ndisp"),
    )


def _from_opencv(values: object) -> RectifiedCalibration:
    if not isinstance(values, Mapping):
        raise ValueError("not a calibration: expected calib.txt, or YAML or JSON of OpenCV's FileStorage")
    if "P1" in values or "P2" in values:
        calibration = _from_projections(_matrix(values, "P1", 3, 4), _matrix(values, "P2", 3, 4))
    elif "Q" in values:
        calibration = _from_q(_matrix(values, "Q", 4, 4))
    else:
        raise ValueError("there is neither P1 and P2 nor Q, expected matrices of stereoRectify")
    width, height = (_whole(values, f"image_{name}") or _whole(values, name) for name in ("width", "height"))
    return replace(calibration, width=width, height=height)


def _from_projections(left: NDArray[np.float64], right: NDArray[np.float64]) -> RectifiedCalibration:
    """P = [f 0 cx t; 0 f cy 0; 0 0 1 0] with t = 0 on the left and -f B on the right."""
    doffs = _right_of(left, right, "P1", "P2")
    focal_length = float(left[0, 0])
    if abs(right[1, 3]) > _ROUNDING * focal_length * max(1.0, abs(right[0, 3] / focal_length)):
        raise ValueError(f"P2 moves the camera by {right[1, 3]:g} along y, expected cameras side by side")
    if left[0, 3] != 0 or not right[0, 3] < 0:
        raise ValueError(
            f"P1 and P2 hold {left[0, 3]:g} and {right[0, 3]:g} in row 0, column 3, expected 0 and a negative number: "
            "P1 is the left camera"
        )
    return RectifiedCalibration(
        focal_length=focal_length,
        baseline=-float(right[0, 3]) / focal_length,
        doffs=doffs,
        cx=float(left[0, 2]),
        cy=float(left[1, 2]),
    )


def _from_q(q: NDArray[np.float64]) -> RectifiedCalibration:
    """Q = [1 0 0 -cx; 0 1 0 -cy; 0 0 0 f; 0 0 1/B doffs/B]: (X, Y, Z, W) = Q (x, y, d, 1)."""
    rest = q.copy()
    rest[:3, 3] = rest[3, 2:] = 0
    if not np.array_equal(rest, np.diag([1.0, 1.0, 0.0, 0.0])):
        raise ValueError("Q has other entries than stereoRectify's [1 0 0 -cx; 0 1 0 -cy; 0 0 0 f; 0 0 1/B doffs/B]")
    if not q[3, 2] > 0:
        raise ValueError(
            f"Q holds {q[3, 2]:g} in row 3, column 2, expected 1 / baseline > 0: the first camera is the left"
        )
    return RectifiedCalibration(
        focal_length=float(q[2, 3]),
        baseline=float(1 / q[3, 2]),
        doffs=float(q[3, 3] / q[3, 2]),
        cx=-float(q[0, 3]),
        cy=-float(q[1, 3]),
    )


def _right_of(left: NDArray[np.float64], right: NDArray[np.float64], left_name: str, right_name: str) -> float:
    """doffs of two camera matrices [f 0 cx; 0 f cy; 0 0 1], which must be those of a rectified pair."""
    focal_length = left[0, 0]
    for name, camera in ((left_name, left), (right_name, right)):
        for row in range(2):
            if not abs(camera[row, row] - focal_length) <= _ROUNDING * abs(focal_length):
                raise ValueError(
                    f"{name} has focal length {camera[row, row]:g} along {'xy'[row]} and {left_name} {focal_length:g} "
                    "along x, expected the same: the pair is not rectified"
                )
        if camera[0, 1] != 0 or camera[1, 0] != 0 or not np.array_equal(camera[2, :3], (0, 0, 1)):
            raise ValueError(f"{name} is {camera[:, :3].tolist()}, expected [f 0 cx; 0 f cy; 0 0 1]")
    if not abs(left[1, 2] - right[1, 2]) <= _PIXELS:
        raise ValueError(
            f"cy is {left[1, 2]:g} in {left_name} and {right[1, 2]:g} in {right_name}, expected the same: "
            "the pair is not rectified"
        )
    return float(right[0, 2] - left[0, 2])


def _matrix(values: Mapping[str, Any], key: str, rows: int, columns: int) -> NDArray[np.float64]:
    """A list of rows, or FileStorage's mapping with rows, cols and data."""
    if key not in values:
        raise ValueError(f"there is no {key}, expected a matrix of {rows} x {columns}")
    value = values[key]
    if isinstance(value, Mapping):
        flat, shape = value.get("data"), (value.get("rows"), value.get("cols"))
    elif isinstance(value, list) and all(isinstance(row, list) for row in value):
        flat = [number for row in value[:rows] for number in row]
        shape = (len(value), len(value[0]) if value else 0)
    else:
        flat, shape = None, (None, None)
    if not isinstance(flat, list) or shape != (rows, columns) or len(flat) != rows * columns:
        raise ValueError(f"{key} is no matrix of {rows} x {columns}")
    return np.array([_finite(number, key) for number in flat]).reshape(rows, columns)


def _number(values: Mapping[str, Any], key: str) -> float:
    if key not in values:
        raise ValueError(f"there is no {key}, expected a number")
    return _finite(values[key], key)


def _whole(values: Mapping[str, Any], key: str) -> int | None:
    if key not in values:
        return None
    number = _finite(values[key], key)
    if number != int(number) or number < 1:
        raise ValueError(f"{key} is {number:g}, expected a whole number >= 1")
    return int(number)


def _finite(value: object, key: str) -> float:
    """A number, or its text: YAML's 1e5 is a text to PyYAML, and calib.txt has nothing else."""
    try:
        number = float(value) if isinstance(value, str | int | float) else float("nan")
    except (ValueError, OverflowError):
        number = float("nan")
    if not np.isfinite(number):
        raise ValueError(f"{key} holds {str(value)[:40]!r}, expected a finite number")
    return number


def _yaml(text: str) -> object:
    try:
        import yaml
    except ImportError as error:
        raise ImportError('YAML files need PyYAML: pip install "fastseg-kernels[stereo]"') from error

    class Loader(yaml.SafeLoader):
        """Plain values, and OpenCV's tag for matrices."""

    def matrix(loader: Loader, node: Any) -> object:
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor("tag:yaml.org,2002:opencv-matrix", matrix)
    # OpenCV's first line is %YAML:1.0, which is no directive of YAML.
    body = re.sub(r"\A\s*%YAML.*", "", text)
    try:
        return yaml.load(body, Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"neither calib.txt nor YAML nor JSON ({' '.join(str(error).split())})") from error
