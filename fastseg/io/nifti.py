"""NIfTI volumes: channels first in memory, affine and header kept from file to file."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

try:
    import nibabel as nib
    from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
except ImportError as error:
    raise ImportError('NIfTI files need nibabel: pip install "fastseg-kernels[segmentation]"') from error

from fastseg.io.affine import is_affine
from fastseg.io.files import FileError, saving

_Scalar = TypeVar("_Scalar", bound=np.generic)


class VolumeError(FileError):
    """A file that cannot be read or written as a volume; the message names the file and the reason."""


@dataclass(frozen=True)
class Volume:
    """A volume in the orientation of its file.

    Attributes:
        data: (C, X, Y, Z), float32.
        affine: (4, 4), float64, voxel indices to millimetres in RAS+ world space.
        header: what :func:`save_nifti` keeps: zooms, sform and qform with their codes, units.
    """

    data: NDArray[np.float32]
    affine: NDArray[np.float64]
    header: nib.Nifti1Header

    @classmethod
    def from_array(cls, data: NDArray[np.float32], affine: NDArray[np.float64]) -> Volume:
        """A volume that comes from no file: data (C, X, Y, Z), affine in millimetres, scanner space."""
        image = nib.Nifti1Image(np.moveaxis(data, 0, -1), affine)
        image.set_sform(affine, code=1)
        image.set_qform(affine, code=1)
        image.header.set_xyzt_units("mm")
        return cls(data, np.asarray(affine, np.float64), image.header)


@dataclass(frozen=True)
class LabelVolume:
    """A segmentation in the orientation of its file.

    Attributes:
        data: (X, Y, Z), uint8, int16 or int32, whichever is the smallest that holds the labels.
        affine: (4, 4), float64, voxel indices to millimetres in RAS+ world space.
        header: as in :class:`Volume`.
    """

    data: NDArray[np.integer]
    affine: NDArray[np.float64]
    header: nib.Nifti1Header


def load_nifti(path: str | os.PathLike[str]) -> Volume:
    """Read a ``.nii`` or ``.nii.gz`` file of (X, Y, Z) or (X, Y, Z, C).

    Raises:
        VolumeError: the file is missing, is no NIfTI, is cut off, holds a slice or more than four axes, colours or
            complex numbers, values that are not finite, one value throughout, or an affine without an inverse.
    """
    path = Path(path)
    image = _opened(path)
    with _reading(path):
        data = image.get_fdata(dtype=np.float32, caching="unchanged")
    _check_finite(path, data)
    if data.min() == data.max():
        raise VolumeError(f"{path}: every voxel is {data.min():g}, so there is nothing to segment")
    channels_first = np.moveaxis(data.reshape(*image.shape[:3], -1), -1, 0)
    return Volume(np.ascontiguousarray(channels_first), np.asarray(image.affine, np.float64), image.header.copy())


def load_labels(path: str | os.PathLike[str]) -> LabelVolume:
    """Read a segmentation, a ``.nii`` or ``.nii.gz`` file of (X, Y, Z); it may be empty, or one label throughout.

    Raises:
        VolumeError: as in :func:`load_nifti`, and several channels, or values that are not whole numbers of 32 bits.
    """
    path = Path(path)
    image = _opened(path)
    if image.shape[3:] not in ((), (1,)):
        raise VolumeError(f"{path}: shape {image.shape}, expected labels of (X, Y, Z): one channel")
    with _reading(path):
        data = np.asarray(image.dataobj).reshape(image.shape[:3])  # integers unless the header has a scale
    _check_finite(path, data)
    if data.dtype.kind == "f":
        fractions = data[data != np.rint(data)]
        if fractions.size:
            raise VolumeError(
                f"{path}: {fractions.size} of {data.size} values are no whole numbers, such as {fractions[0]:g}, "
                "expected labels"
            )
    labels = np.ascontiguousarray(data.astype(_stored_dtype(path, data)))
    return LabelVolume(labels, np.asarray(image.affine, np.float64), image.header.copy())


def _opened(path: Path) -> nib.Nifti1Image:
    """An image whose header describes real numbers on a grid in space; the voxels are not read yet."""
    if not path.is_file():
        raise VolumeError(f"{path}: {'this is a folder' if path.is_dir() else 'there is no such file'}")
    try:
        image = nib.load(path)
    except (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError, OSError, EOFError) as error:
        raise VolumeError(f"{path}: not a NIfTI file that can be read ({error})") from error
    if not isinstance(image, nib.Nifti1Image):  # NIfTI-2 images are a subclass
        raise VolumeError(f"{path}: this is a {type(image).__name__}, expected a .nii or .nii.gz file")
    if image.ndim not in (3, 4) or min(image.shape[:3]) < 2:
        raise VolumeError(
            f"{path}: shape {image.shape}, expected a volume: (X, Y, Z) or (X, Y, Z, channels) with more than one slice"
        )
    if image.get_data_dtype().kind not in "biuf":
        raise VolumeError(f"{path}: holds {image.get_data_dtype()}, expected real numbers")
    if not is_affine(image.affine):
        raise VolumeError(f"{path}: the affine has no inverse, so the orientation is not known")
    return image


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise VolumeError(f"{path}: the voxels cannot be read ({error})") from error


def _check_finite(path: Path, data: NDArray[np.generic]) -> None:
    not_finite = data.size - np.count_nonzero(np.isfinite(data))
    if not_finite:
        raise VolumeError(f"{path}: {not_finite} of {data.size} values are not finite (NaN or infinite)")


def save_nifti(path: str | os.PathLike[str], data: NDArray[np.generic], *, like: Volume | LabelVolume) -> None:
    """Write ``data`` with the affine and the header of ``like``; the file appears whole or not at all.

    Args:
        path: ends in ``.nii`` or ``.nii.gz``.
        data: (X, Y, Z) or (C, X, Y, Z) in the orientation of ``like``. Integers and booleans become the smallest of
            uint8, int16 and int32 that holds them, everything else float32.
        like: gives affine, zooms, sform and qform with their codes, and units.

    Raises:
        VolumeError: another ending, another grid than that of ``like``, or a folder that cannot be written to.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise VolumeError(f"{path}: expected a name that ends in .nii or .nii.gz")
    if data.ndim not in (3, 4) or data.shape[-3:] != like.data.shape[-3:]:
        raise VolumeError(f"{path}: data has shape {data.shape}, expected the grid {like.data.shape[-3:]}")
    array = data if data.ndim == 3 else np.moveaxis(data, 0, -1)
    dtype = _stored_dtype(path, data) if data.dtype.kind in "biu" else np.float32
    header = like.header.copy()
    header.set_data_dtype(dtype)
    # These describe the values of the input, not those of its labels: a viewer would show labels black.
    header["cal_min"] = header["cal_max"] = 0
    header.set_intent("none")
    image_class = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    image = image_class(array.astype(dtype), like.affine, header)
    with saving(path, VolumeError) as temporary:
        nib.save(image, temporary)


def _stored_dtype(path: Path, labels: NDArray[np.generic]) -> type[np.generic]:
    """The smallest type that holds whole numbers."""
    smallest, largest = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    for dtype in (np.uint8, np.int16, np.int32):
        if np.iinfo(dtype).min <= smallest and largest <= np.iinfo(dtype).max:
            return dtype
    raise VolumeError(f"{path}: labels from {smallest} to {largest} do not fit in int32")


def to_ras(data: NDArray[_Scalar], affine: NDArray[np.floating]) -> NDArray[_Scalar]:
    """Flip and permute (..., X, Y, Z) so that the axes run to the right, to the front and up; nothing is resampled."""
    return _oriented(data, io_orientation(affine))


def from_ras(data: NDArray[_Scalar], affine: NDArray[np.floating]) -> NDArray[_Scalar]:
    """The inverse of :func:`to_ras`: (..., X, Y, Z) in RAS order back to the orientation of ``affine``."""
    return _oriented(data, ornt_transform(axcodes2ornt("RAS"), io_orientation(affine)))


def ras_spacing(affine: NDArray[np.floating]) -> tuple[float, float, float]:
    """Voxel size in millimetres along the axes that :func:`to_ras` gives."""
    native = nib.affines.voxel_sizes(affine)
    x, y, z = (float(native[axis]) for axis in np.argsort(io_orientation(affine)[:, 0]))
    return x, y, z


def _oriented(data: NDArray[_Scalar], orientation: NDArray[np.float64]) -> NDArray[_Scalar]:
    spatial_first = np.moveaxis(data, (-3, -2, -1), (0, 1, 2))
    turned = apply_orientation(spatial_first, orientation)
    return np.ascontiguousarray(np.moveaxis(turned, (0, 1, 2), (-3, -2, -1)))
