"""The labels of BraTS, the regions that it scores, and the class indices of networks: from each to the others.

Everything takes NumPy arrays and torch tensors, and gives back the same kind on the same device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastseg.io.files import listed

#: Labels of BraTS up to 2021; there is no 3. Later years have the enhancing rim as 3: :func:`fastseg.io.load_brats`
#: makes it 4.
LABELS = {1: "necrotic core", 2: "oedema", 4: "enhancing rim"}
#: The regions that BraTS scores, as sets of labels, from the outermost to the innermost.
REGIONS = {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}
#: What the regions are called in full.
REGION_NAMES = {"WT": "whole tumour", "TC": "tumour core", "ET": "enhancing tumour"}

_VALUES = (0, *LABELS)  # by class index
_CLASS_OF = [_VALUES.index(label) if label in _VALUES else -1 for label in range(max(_VALUES) + 1)]
_IN_REGION = [[label in labels for label in range(max(_VALUES) + 1)] for labels in REGIONS.values()]

_Values = TypeVar("_Values", NDArray[Any], Tensor)


def labels_named(name: str) -> tuple[int, ...]:
    """The labels of a region, as ``"TC"``, or the label that a number names; case does not matter.

    Raises:
        ValueError: neither a region nor a whole number other than 0, which is the background.
    """
    if name.upper() in REGIONS:
        return REGIONS[name.upper()]
    try:
        label = int(name)
    except ValueError:
        label = 0
    if label == 0:
        raise ValueError(f"label is {name!r}, expected a whole number other than 0, or one of {', '.join(REGIONS)}")
    return (label,)


def regions_of(labels: _Values) -> _Values:
    """Which regions each voxel belongs to.

    Args:
        labels: (...), integers: 0 and the labels of ``LABELS``.

    Returns:
        (3, ...), bool, in the order of ``REGIONS``.

    Raises:
        ValueError: no integers, or other values; names them.
    """
    _check("labels", labels, _VALUES)
    return _looked_up(np.array(_IN_REGION), labels)


def labels_of(regions: _Values) -> _Values:
    """Labels of regions: whole tumour without core is 2, core without enhancing tumour is 1, enhancing tumour is 4.

    Where regions are not nested, the innermost counts: what is enhancing tumour alone is 4, too.

    Args:
        regions: (3, ...), bool, in the order of ``REGIONS``.

    Returns:
        (...), uint8: 0 and the labels of ``LABELS``.

    Raises:
        ValueError: another dtype, such as that of probabilities without a threshold, or not three regions.
    """
    if regions.dtype not in (np.bool_, torch.bool) or regions.ndim < 1 or regions.shape[0] != len(REGIONS):
        raise ValueError(
            f"regions is {regions.dtype} of shape {tuple(regions.shape)}, expected bool of ({len(REGIONS)}, ...): "
            f"{', '.join(REGIONS)}"
        )
    # The index is 4 ET + 2 TC + WT.
    table = np.array([4 if index & 4 else 1 if index & 2 else 2 if index & 1 else 0 for index in range(8)], np.uint8)
    if isinstance(regions, Tensor):
        whole, core, enhancing = regions.to(torch.uint8)
    else:
        whole, core, enhancing = regions.astype(np.uint8)
    return _looked_up(table, whole | core << 1 | enhancing << 2)


def classes_of(labels: _Values) -> _Values:
    """Labels 0, 1, 2, 4 to the class indices 0, 1, 2, 3 that networks and losses use; (...), int64.

    Raises:
        ValueError: no integers, or other values; names them.
    """
    _check("labels", labels, _VALUES)
    return _looked_up(np.array(_CLASS_OF), labels)


def labels_of_classes(classes: _Values) -> _Values:
    """Class indices 0 to 3, as from an argmax over channels, to the labels 0, 1, 2, 4; (...), uint8.

    Raises:
        ValueError: no integers, or other values; names them.
    """
    _check("classes", classes, range(len(_VALUES)))
    return _looked_up(np.array(_VALUES, np.uint8), classes)


def _looked_up(table: NDArray[Any], index: _Values) -> _Values:
    """``table[..., index]``."""
    if isinstance(index, Tensor):
        return torch.from_numpy(table).to(index.device)[..., index.long()]
    return table[..., index]


def _check(name: str, values: NDArray[Any] | Tensor, allowed: Sequence[int]) -> None:
    if isinstance(values, Tensor):
        whole = not (values.dtype == torch.bool or values.is_floating_point() or values.is_complex())
    else:
        whole = values.dtype.kind in "iu"
    if not whole:
        raise ValueError(f"{name} is {values.dtype}, expected integers")
    if 0 in values.shape:
        return
    least, most = allowed[0], allowed[-1]
    between = set(range(least, most)) - set(allowed)
    if values.min() < least or values.max() > most or any((values == other).any() for other in between):
        array = values.numpy(force=True) if isinstance(values, Tensor) else values
        raise ValueError(f"{name} holds {listed(np.setdiff1d(array, allowed))}, expected {listed(allowed)}")
