"""Disparity and depth maps: PFM, NPY, NPZ and PNG. What is not known is NaN in memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastseg.io.files import check_ending, first_bytes, saving
from fastseg.io.images import ImageError, load_image, save_pixels

_UINT16_MAX = 65535


def load_disparity(
    path: str | os.PathLike[str], *, scale: float | None = None, key: str | None = None
) -> NDArray[np.float32]:
    """Read a disparity map. What the file holds decides how, not its name.

    Args:
        path: PFM, NPY, NPZ, or an image of one channel, as a PNG of 8 or 16 bits. In floating-point numbers infinity
            and NaN mean unknown, in images of integers 0 does; integers in NPY and NPZ are all known.
        scale: what the stored numbers are divided by. Images of integers need it: 4 for Middlebury 2003, 1 for 2006 in
            full size, 256 for KITTI. Otherwise 1.
        key: the name of the array in an NPZ file that holds several.

    Returns:
        (H, W), float32, NaN where unknown.

    Raises:
        ImageError: missing, a folder, empty, broken, colours, no scale, or no such array.
    """
    path = Path(path)
    head = first_bytes(path, ImageError)
    if scale is not None and not 0 < scale < float("inf"):
        raise ImageError(f"{path}: scale is {scale}, expected a finite number > 0")
    zero_is_unknown = False
    if head.startswith(b"PK"):
        values = _from_numpy(path, key)
    elif key is not None:
        raise ImageError(f"{path}: key is {key!r}, but this is no NPZ file")
    elif head.startswith(b"\x93NUMPY"):
        values = _from_numpy(path, None)
    else:
        values = load_image(path)
        zero_is_unknown = values.dtype.kind == "u"
        if zero_is_unknown and scale is None:
            raise ImageError(
                f"{path}: holds {values.dtype}, which is disparity times a scale; expected scale=, such as 4 for "
                "Middlebury 2003 or 256 for KITTI"
            )
    if values.ndim != 2 or values.dtype.kind not in "iuf" or values.size == 0:
        raise ImageError(f"{path}: holds {values.dtype} of shape {values.shape}, expected real numbers of (H, W)")
    with np.errstate(over="ignore"):  # a float64 beyond float32 is as unknown as infinity
        disparity = (values.astype(np.float64) / (1.0 if scale is None else scale)).astype(np.float32)
    known = np.isfinite(disparity)
    if zero_is_unknown:
        known &= values != 0
    disparity[~known] = np.nan
    return disparity


def save_pfm(path: str | os.PathLike[str], values: NDArray[np.floating]) -> None:
    """Write (H, W) as a grey PFM: float32, little endian, the bottom row first, NaN and infinity as they are.

    Middlebury's programs expect infinity where a disparity is unknown: ``np.where(np.isnan(d), np.inf, d)``.

    Raises:
        ImageError: another ending than ``.pfm``, another shape, or a folder that cannot be written to.
    """
    path = Path(path)
    check_ending(path, ImageError, ".pfm")
    save_pixels(path, _one_map(path, values).astype(np.float32), "PPM")


def save_npy(path: str | os.PathLike[str], values: NDArray[np.generic]) -> None:
    """Write an array of any shape and dtype as it is.

    Raises:
        ImageError: another ending than ``.npy``, Python objects, or a folder that cannot be written to.
    """
    path = Path(path)
    check_ending(path, ImageError, ".npy")
    if values.dtype.hasobject:
        raise ImageError(f"{path}: an array of {values.dtype}, expected numbers")
    with saving(path, ImageError) as temporary:
        np.save(temporary, values, allow_pickle=False)


def save_depth_png(
    path: str | os.PathLike[str],
    depth: NDArray[np.floating],
    *,
    scale: float = 1.0,
    max_depth: float | None = None,
) -> None:
    """Write depth times ``scale``, rounded, as a grey PNG of 16 bits; 0 is unknown, as in depth cameras.

    Args:
        path: ends in ``.png``.
        depth: (H, W). NaN and infinity are unknown.
        scale: stored units in one unit of depth: 1 keeps millimetres, 1000 makes them of metres, 256 is KITTI's for
            metres. One unit of ``load_disparity(path, scale=scale)`` is one of ``depth`` again.
        max_depth: what is farther away is written as unknown.

    Raises:
        ImageError: known depths which do not fit into 1 to 65535 units, another shape or ending, or a folder that
            cannot be written to.
    """
    path = Path(path)
    check_ending(path, ImageError, ".png")
    if not 0 < scale < float("inf"):
        raise ImageError(f"{path}: scale is {scale}, expected a finite number > 0")
    if max_depth is not None and not max_depth > 0:
        raise ImageError(f"{path}: max_depth is {max_depth}, expected a number > 0")
    values = _one_map(path, depth).astype(np.float64)
    known = np.isfinite(values)
    if max_depth is not None:
        known &= values <= max_depth
    units = np.rint(np.where(known, values * scale, 0))
    wrong = known & ((units < 1) | (units > _UINT16_MAX))
    if wrong.any():
        least, most = values[known].min(), values[known].max()
        raise ImageError(
            f"{path}: {np.count_nonzero(wrong)} depths do not fit: {least:g} to {most:g} times scale {scale:g}, "
            f"expected 1 to {_UINT16_MAX}; give another scale, or max_depth to leave out what is farther away"
        )
    save_pixels(path, units.astype(np.uint16))


def _one_map(path: Path, values: NDArray[np.generic]) -> NDArray[np.generic]:
    if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "iuf":
        raise ImageError(
            f"{path}: an array of {values.dtype} and shape {values.shape}, expected real numbers of (H, W)"
        )
    return values


def _from_numpy(path: Path, key: str | None) -> NDArray[np.generic]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded as archive:
            if key is None and len(archive.files) == 1:
                key = archive.files[0]
            if key not in archive.files:
                asked = "no key was given" if key is None else f"key is {key!r}"
                raise ImageError(
                    f"{path}: {asked}, expected one of {', '.join(map(repr, archive.files)) or 'no array'}"
                )
            return archive[key]
    except ImageError:
        raise
    except Exception as error:  # NumPy and zipfile raise a dozen kinds on broken files, even tokenize.TokenError
        raise ImageError(f"{path}: not a NumPy file that can be read ({error})") from error
