"""NumPy, CuPy and torch arrays into the functions of the stereo side, and results out as the same kind."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

#: A NumPy, CuPy or torch array. CuPy arrays pass by DLPack, without a copy.
Array = Any
ArrayT = TypeVar("ArrayT")


def as_tensor(op: str, name: str, array: Array) -> Tensor:
    """The array as a tensor on its own device, without a copy where that can be.

    Raises:
        TypeError: neither a NumPy, CuPy nor torch array, or of a dtype that torch does not have.
    """
    if isinstance(array, Tensor):
        return array
    if isinstance(array, np.ndarray):
        # torch takes neither negative strides, nor foreign byte order, nor (without a warning) read-only memory.
        if any(stride < 0 for stride in array.strides) or not array.dtype.isnative or not array.flags.writeable:
            array = array.astype(array.dtype.newbyteorder("="), copy=True, order="C")
        try:
            return torch.from_numpy(array)
        except TypeError:
            raise TypeError(
                f"{op}: {name} is a NumPy array of {array.dtype}, expected numbers of a dtype that torch has"
            ) from None
    if hasattr(array, "__dlpack__"):
        return torch.utils.dlpack.from_dlpack(array)
    raise TypeError(f"{op}: {name} is a {type(array).__name__}, expected a NumPy, CuPy or torch array")


def as_kind_of(like: ArrayT, result: Tensor) -> ArrayT:
    """The tensor as an array of the kind of ``like``, on the tensor's device, without a copy."""
    if isinstance(like, Tensor):
        return result  # type: ignore[return-value]
    result = result.detach()
    if isinstance(like, np.ndarray):
        return result.numpy()  # type: ignore[return-value]
    import cupy  # only somebody who has cupy gets here

    return cupy.from_dlpack(result)


_known: ContextVar[bool] = ContextVar("numbers_known", default=False)


@contextmanager
def numbers_known() -> Iterator[None]:
    """Inside, what ops are given is known to be finite, and they do not look: on a GPU, every look waits for it."""
    token = _known.set(True)
    try:
        yield
    finally:
        _known.reset(token)


def reads_numbers() -> bool:
    """Whether to look for NaN and infinity. Under torch.compile, reading numbers would break the graph."""
    return not torch.compiler.is_compiling() and not _known.get()


def check_numbers(op: str, name: str, values: Tensor) -> None:
    """Refuses NaN and infinity. One sum tells in most calls; only where it is not finite are they looked for.

    Looks for nothing inside of :func:`numbers_known`.

    Raises:
        ValueError: NaN or infinity, with how many there are and where the first one is.
    """
    if not values.dtype.is_floating_point or values.numel() == 0 or _known.get():
        return
    wide = torch.float64 if values.dtype == torch.float64 else torch.float32
    # Looked at as a Python number: torch.isfinite of one number takes longer than the sum of a picture.
    if math.isfinite(values.detach().sum(dtype=wide).item()):
        return
    wrong = ~torch.isfinite(values)
    if not bool(wrong.any()):
        return  # the sum alone has overflowed
    first = tuple(int(i) for i in wrong.nonzero()[0])
    raise ValueError(
        f"{op}: {name} has {int(wrong.sum())} values that are NaN or infinite, the first at {first}; expected numbers. "
        "Give them a value first, and filter a confidence map beside it where they are to be left out"
    )
