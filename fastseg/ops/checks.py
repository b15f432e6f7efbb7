"""Argument checks that ops share. Each error names the argument, its value and what was expected."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from fastseg.backends.views import ELEMENT


def check_image(op: str, name: str, x: Tensor) -> None:
    """A batch of images: (N, C, *spatial) with one to three spatial axes, floating point."""
    if not 3 <= x.ndim <= 5:
        raise ValueError(
            f"{op}: {name} has shape {tuple(x.shape)}, expected rank 3, 4 or 5: (N, C, *spatial) with one to three "
            "spatial axes"
        )
    if x.dtype not in ELEMENT:
        raise TypeError(f"{op}: {name} is {x.dtype}, expected float32, float64, bfloat16 or float16")


def check_channel_vector(op: str, name: str, vector: Tensor | None, x: Tensor) -> None:
    """An optional affine parameter: (C,) for x of (N, C, ...), floating point, on x's device."""
    if vector is None:
        return
    if vector.ndim != 1 or vector.shape[0] != x.shape[1]:
        raise ValueError(
            f"{op}: {name} has shape {tuple(vector.shape)}, expected ({x.shape[1]},), one element for each channel of x"
        )
    if vector.dtype not in ELEMENT:
        raise TypeError(f"{op}: {name} is {vector.dtype}, expected float32, float64, bfloat16 or float16")
    check_device(op, name, vector, x)


def check_same_shape(op: str, name: str, other: Tensor | None, x: Tensor) -> None:
    """An optional tensor of x's shape, floating point, on x's device."""
    if other is None:
        return
    if other.shape != x.shape:
        raise ValueError(f"{op}: {name} has shape {tuple(other.shape)}, expected x's shape {tuple(x.shape)}")
    if other.dtype not in ELEMENT:
        raise TypeError(f"{op}: {name} is {other.dtype}, expected float32, float64, bfloat16 or float16")
    check_device(op, name, other, x)


def check_device(op: str, name: str, other: Tensor, x: Tensor) -> None:
    if other.device != x.device:
        raise ValueError(f"{op}: {name} is on {other.device}, expected x's device {x.device}")


def check_choice(op: str, name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        expected = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{op}: {name} is {value!r}, expected one of {expected}")


def check_not_negative(op: str, name: str, value: float) -> None:
    if not 0 <= value < float("inf"):  # also refuses NaN
        raise ValueError(f"{op}: {name} is {value}, expected a finite number >= 0")
