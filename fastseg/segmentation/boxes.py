"""Where a lesion is, and the cut-out of fixed size around it: arithmetic on voxels that knows no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Box = tuple[slice, ...]


def bounding_box(mask: Tensor) -> Box | None:
    """The smallest box that holds all True voxels of ``mask`` (X, Y, Z), one slice an axis; None if there are none."""
    _check_mask("bounding_box", mask)
    box = []
    for axis in range(mask.ndim):
        others = [other for other in range(mask.ndim) if other != axis]
        used = (mask.any(others) if others else mask).nonzero()
        if not len(used):
            return None
        box.append(slice(int(used[0]), int(used[-1]) + 1))
    return tuple(box)


def largest_component(mask: Tensor, *, connectivity: int = 1) -> Tensor:
    """The largest connected part of a mask, the first of several equal ones; all False where ``mask`` is.

    Args:
        mask: (X, Y, Z), bool.
        connectivity: along how many axes two voxels may differ by one and still touch: 1 is by faces, 3 by corners.

    Returns:
        (X, Y, Z), bool, on mask's device.

    Raises:
        ValueError: ``mask`` is not bool, or ``connectivity`` is not in 1 .. rank.
        ImportError: scipy is missing.
    """
    _check_mask("largest_component", mask)
    if not 1 <= connectivity <= mask.ndim:
        raise ValueError(f"largest_component: connectivity is {connectivity}, expected a number from 1 to {mask.ndim}")
    try:
        from scipy import ndimage
    except ImportError as error:
        raise ImportError('largest_component needs scipy: pip install "fastseg-kernels[segmentation]"') from error
    structure = ndimage.generate_binary_structure(mask.ndim, connectivity)
    parts, count = ndimage.label(mask.cpu().numpy(), structure)
    if count < 2:
        return mask.clone()
    labels = torch.from_numpy(parts)
    sizes = torch.bincount(labels.flatten())[1:]
    return (labels == int(sizes.argmax()) + 1).to(mask.device)


def centre_of(box: Box) -> tuple[int, ...]:
    """The voxel in the middle of a box."""
    return tuple((axis.start + axis.stop) // 2 for axis in box)


@dataclass(frozen=True)
class Location:
    """Where :func:`locate` found a lesion.

    Attributes:
        centre: voxel around which to cut.
        box: of the largest component, or None: nothing was found, and ``centre`` is the brain's.
    """

    centre: tuple[int, ...]
    box: Box | None


def locate(mask: Tensor, brain: Tensor, *, connectivity: int = 1) -> Location:
    """The box of the largest component of ``mask`` and its centre.

    Args:
        mask: (X, Y, Z), bool: where the first stage sees a lesion.
        brain: (X, Y, Z), bool: its centre is taken where ``mask`` is empty, and the volume's where it is empty too.
        connectivity: of :func:`largest_component`.

    Raises:
        ValueError: ``mask`` and ``brain`` are not bool and of one shape.
    """
    if brain.shape != mask.shape:
        raise ValueError(f"locate: brain has shape {tuple(brain.shape)}, expected that of mask, {tuple(mask.shape)}")
    box = bounding_box(largest_component(mask, connectivity=connectivity))
    if box is None:
        around = bounding_box(brain) or tuple(slice(0, size) for size in mask.shape)
        return Location(centre_of(around), None)
    return Location(centre_of(box), box)


@dataclass(frozen=True)
class Crop:
    """A cut-out of fixed size: a box inside a volume, and the zeros around it where the volume is smaller.

    Attributes:
        slices: the box, one slice an axis.
        padding: (before, after) in voxels, one pair an axis.
    """

    slices: Box
    padding: tuple[tuple[int, int], ...]

    @property
    def size(self) -> tuple[int, ...]:
        """Of what :meth:`cut` returns, in voxels."""
        return tuple(axis.stop - axis.start + sum(pad) for axis, pad in zip(self.slices, self.padding, strict=True))

    def cut(self, volume: Tensor, *, value: float = 0.0) -> Tensor:
        """(C, X, Y, Z), with any number of leading axes, to (C, *size); ``value`` fills the padding.

        The result shares memory with ``volume`` where there is no padding.
        """
        inside = volume[_spatial(self.slices)]
        if not any(map(any, self.padding)):
            return inside
        return F.pad(inside, [width for pad in reversed(self.padding) for width in pad], value=value)

    def paste(self, into: Tensor, values: Tensor) -> Tensor:
        """Write ``values`` (C, *size), without their padding, over their place in ``into`` (C, X, Y, Z); returns it.

        Raises:
            ValueError: ``values`` do not have the crop's size.
        """
        if tuple(values.shape[-len(self.slices) :]) != self.size:
            raise ValueError(f"Crop.paste: values have shape {tuple(values.shape)}, expected spatial sizes {self.size}")
        kept = tuple(slice(before, size - after) for size, (before, after) in zip(self.size, self.padding, strict=True))
        into[_spatial(self.slices)] = values[_spatial(kept)].to(into.dtype)
        return into


def crop_around(shape: Sequence[int], centre: Sequence[int], size: int | Sequence[int]) -> Crop:
    """The cut-out of ``size`` around ``centre``, shifted to stay inside the volume, padded where that is smaller.

    Args:
        shape: of the volume in voxels, (X, Y, Z).
        centre: voxel in the middle of the cut-out.
        size: of the cut-out in voxels, for each axis or one for all.

    Raises:
        ValueError: the numbers of axes differ, or a size is below 1.
    """
    sizes = [size] * len(shape) if isinstance(size, int) else list(size)
    if not len(shape) == len(centre) == len(sizes):
        raise ValueError(
            f"crop_around: shape is {tuple(shape)}, centre {tuple(centre)} and size {tuple(sizes)}, expected one "
            "number an axis in each"
        )
    if any(number < 1 for number in (*shape, *sizes)):
        raise ValueError(f"crop_around: shape is {tuple(shape)} and size {tuple(sizes)}, expected numbers >= 1")
    slices, padding = [], []
    for extent, middle, length in zip(shape, centre, sizes, strict=True):
        missing = max(length - extent, 0)
        start = min(max(int(middle) - length // 2, 0), max(extent - length, 0))
        slices.append(slice(start, min(start + length, extent)))
        padding.append((missing // 2, missing - missing // 2))
    return Crop(tuple(slices), tuple(padding))


def _spatial(box: Box) -> Any:
    """The index of a box in a tensor with any number of leading axes."""
    return (..., *box)


def _check_mask(function: str, mask: Tensor) -> None:
    if mask.dtype != torch.bool or mask.ndim == 0:
        raise ValueError(f"{function}: mask is {mask.dtype} of shape {tuple(mask.shape)}, expected bool of rank >= 1")
