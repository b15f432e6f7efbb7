"""What a volume goes through before a network: the brain's mask, z-scores, and another spacing and back.

Everything takes NumPy arrays and torch tensors, and gives back the same kind on the same device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from fastseg.io.affine import checked_affine
from fastseg.ops.arrays import Array, ArrayT, as_kind_of, as_tensor, check_numbers

# Of the mean: deviations below are rounding errors of float32, and the channel holds one value.
_LEAST_DEVIATION = 1e-6
_TRUNCATE = 4.0  # of the smoothing, in standard deviations, as in scipy.ndimage


def brain_mask(image: ArrayT) -> ArrayT:
    """Where any channel is not zero.

    That is the brain in BraTS and wherever else the skull has been stripped, and the head where the background was set
    to zero. A scan whose background holds noise gives nearly everything: have a tool for brain extraction make its
    mask, and hand that to :func:`zscore`.

    Args:
        image: (C, ...), of any dtype; NumPy or torch.

    Returns:
        (...), bool.

    Raises:
        ValueError: no axis of channels.
    """
    tensor = as_tensor("brain_mask", "image", image)
    _check_image("brain_mask", tensor)
    return as_kind_of(image, tensor.ne(0).any(0))


def zscore(image: ArrayT, mask: Array | None = None) -> ArrayT:
    """Each channel to zero mean and unit deviation over the voxels of ``mask``; outside it becomes zero.

    A channel that holds one value throughout the mask becomes zero, and so does all of an image without a brain.

    Args:
        image: (C, ...), real and finite; a volume or a slice, NumPy or torch.
        mask: (...), bool; default: :func:`brain_mask` of the image.

    Returns:
        (C, ...), float32.

    Raises:
        ValueError: no axis of channels, NaN or infinity, or a mask of another shape or dtype.
    """
    tensor = as_tensor("zscore", "image", image)
    _check_image("zscore", tensor)
    check_numbers("zscore", "image", tensor)
    inside = brain_mask(tensor) if mask is None else as_tensor("zscore", "mask", mask).to(tensor.device)
    if inside.dtype != torch.bool or inside.shape != tensor.shape[1:]:
        raise ValueError(
            f"zscore: mask is {inside.dtype} of shape {tuple(inside.shape)}, expected bool of {tuple(tensor.shape[1:])}"
        )
    result = torch.zeros(tensor.shape, dtype=torch.float32, device=tensor.device)
    for channel, out in zip(tensor, result, strict=True):
        values = channel[inside].float()
        if values.numel() < 2:
            continue
        mean, deviation = values.mean(), values.std()
        if deviation > _LEAST_DEVIATION * mean.abs():
            out[inside] = (values - mean) / deviation
    return as_kind_of(image, result)


def resample(
    image: ArrayT, affine: NDArray[np.floating], spacing: float | Sequence[float], *, tolerance: float = 0.05
) -> tuple[ArrayT, NDArray[np.float64]]:
    """A volume with voxels of about another size, over the same stretch of space.

    The field of view stays, and holds a whole number of voxels: so the spacing may differ from what was asked for by
    half a voxel in the length of an axis, the affine tells by how much, and :func:`resize` to the shape of ``image``
    brings what is computed on the new grid back. Values are as in :func:`resize`.

    Args:
        image: (..., X, Y, Z), NumPy or torch.
        affine: (4, 4), voxel indices to millimetres.
        spacing: in mm, one for all axes or one for each of X, Y, Z in the array's order.
        tolerance: an axis whose spacing is within this share of what is asked for is left as it is.

    Returns:
        The volume, and its affine, float64.

    Raises:
        ValueError: fewer than three axes, no inverse, a spacing that is not finite and above zero.
    """
    tensor = as_tensor("resample", "image", image)
    from_old = checked_affine("resample", affine)
    wanted = np.asarray(spacing, np.float64)
    if wanted.shape not in ((), (3,)) or not (np.isfinite(wanted).all() and (wanted > 0).all()):
        raise ValueError(f"resample: spacing is {spacing}, expected millimetres above zero: one number or three")
    if not 0 <= tolerance < np.inf:
        raise ValueError(f"resample: tolerance is {tolerance}, expected a number >= 0")
    _check_volume("resample", "image", tensor)
    sizes = np.array(tensor.shape[-3:])
    native = np.linalg.norm(from_old[:3, :3], axis=0)
    near = np.abs(native / wanted - 1) <= tolerance
    new_sizes = np.where(near, sizes, np.maximum(1, np.rint(sizes * native / wanted))).astype(int)
    # Voxels of both grids meet at the outer faces of the volume, half a voxel before the centre of the first one.
    steps = sizes / new_sizes
    to_old = np.diag([*steps, 1.0])
    to_old[:3, 3] = (steps - 1) / 2
    new_affine: NDArray[np.float64] = from_old @ to_old
    return resize(image, new_sizes.tolist()), new_affine


def resize(values: ArrayT, shape: Sequence[int]) -> ArrayT:
    """A volume on another grid over the same stretch of space: images, probabilities and labels, there and back.

    Floating-point numbers are interpolated linearly. Along axes that get shorter they are smoothed first, by a Gaussian
    of (old / new - 1) / 2 voxels, as in scikit-image: or fine structures would turn into false coarse ones. Integers
    and booleans are labels: each new voxel takes the value of the nearest old one.

    Args:
        values: (..., X, Y, Z), NumPy or torch.
        shape: the new sizes (X, Y, Z).

    Returns:
        (..., *shape), in the dtype of ``values``.

    Raises:
        ValueError: fewer than three axes, no voxel, or no three sizes of at least 1.
    """
    tensor = as_tensor("resize", "values", values)
    _check_volume("resize", "values", tensor)
    if len(shape) != 3 or not all(size == int(size) and size >= 1 for size in shape):
        raise ValueError(f"resize: shape is {tuple(shape)}, expected three sizes of at least 1")
    new = tuple(int(size) for size in shape)
    old = tuple(tensor.shape[-3:])
    if new == old:
        return as_kind_of(values, tensor.clone())
    if not tensor.is_floating_point():
        for axis, (size, new_size) in enumerate(zip(old, new, strict=True), -3):
            nearest = (torch.arange(new_size, device=tensor.device) * 2 + 1) * size // (2 * new_size)
            tensor = tensor.index_select(axis, nearest)
        return as_kind_of(values, tensor)
    # 16-bit numbers would be rounded between the steps.
    flat = tensor.reshape(-1, 1, *old).to(torch.promote_types(tensor.dtype, torch.float32))
    for axis, (size, new_size) in enumerate(zip(old, new, strict=True), 2):
        if size > new_size:
            flat = _smoothed(flat, axis, (size / new_size - 1) / 2)
    flat = interpolate(flat, size=new, mode="trilinear", align_corners=False)
    return as_kind_of(values, flat.reshape(*tensor.shape[:-3], *new).to(tensor.dtype))


def _smoothed(volumes: Tensor, axis: int, sigma: float) -> Tensor:
    """(N, 1, X, Y, Z) under a Gaussian along one axis; the border's values go on beyond it."""
    radius = int(_TRUNCATE * sigma + 0.5)
    if radius == 0:
        return volumes
    weights = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-radius, radius + 1)]
    size = volumes.shape[axis]
    first, last = volumes.narrow(axis, 0, 1), volumes.narrow(axis, size - 1, 1)
    padded = torch.cat([*[first] * radius, volumes, *[last] * radius], axis)
    smooth = torch.zeros_like(volumes)
    for offset, weight in enumerate(weights):
        smooth.add_(padded.narrow(axis, offset, size), alpha=weight / sum(weights))
    return smooth


def _check_image(op: str, image: Tensor) -> None:
    if image.ndim < 2 or image.shape[0] == 0:
        raise ValueError(f"{op}: image has shape {tuple(image.shape)}, expected (channels, ...)")


def _check_volume(op: str, name: str, values: Tensor) -> None:
    if values.ndim < 3 or values.numel() == 0:
        raise ValueError(f"{op}: {name} has shape {tuple(values.shape)}, expected (..., X, Y, Z) with a voxel")
