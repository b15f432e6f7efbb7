"""Argument checks that ops share. Each error names the argument, its value and what was expected."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from fastseg.backends.views import ELEMENT


def check_image(op: str, name: str, x: Tensor, rank: int | None = None) -> None:
    """A batch of images: (N, C, *spatial), floating point, of ``rank`` or with one to three spatial axes."""
    if rank is not None and x.ndim != rank:
        axes = {4: "(N, C, H, W)", 5: "(N, C, D, H, W)"}[rank]
        raise ValueError(f"{op}: {name} has shape {tuple(x.shape)}, expected rank {rank}: {axes}")
    if not 3 <= x.ndim <= 5:
        raise ValueError(
            f"{op}: {name} has shape {tuple(x.shape)}, expected rank 3, 4 or 5: (N, C, *spatial) with one to three "
            "spatial axes"
        )
    if x.dtype not in ELEMENT:
        raise TypeError(f"{op}: {name} is {x.dtype}, expected float32, float64, bfloat16 or float16")


def check_channel_vector(op: str, name: str, vector: Tensor | None, x: Tensor) -> None:
    """An optional affine parameter: (C,) for x of (N, C, ...), floating point, on x's device."""
    check_vector(op, name, vector, x.shape[1], x, "one element for each channel of x")


def check_vector(
    op: str, name: str, vector: Tensor | None, length: int, x: Tensor, why: str = "one element for each output channel"
) -> None:
    """An optional (length,), floating point, on x's device."""
    if vector is None:
        return
    if vector.ndim != 1 or vector.shape[0] != length:
        raise ValueError(f"{op}: {name} has shape {tuple(vector.shape)}, expected ({length},), {why}")
    if vector.dtype not in ELEMENT:
        raise TypeError(f"{op}: {name} is {vector.dtype}, expected float32, float64, bfloat16 or float16")
    check_device(op, name, vector, x)


def check_depthwise_weight(op: str, name: str, weight: Tensor, x: Tensor) -> None:
    """(C * m, 1, *kernel) for x of (N, C, *spatial), on x's device."""
    kernel = ("kD", "kH", "kW")[-(x.ndim - 2) :]
    if weight.ndim != x.ndim or weight.shape[1] != 1 or 0 in weight.shape[2:]:
        raise ValueError(
            f"{op}: {name} has shape {tuple(weight.shape)}, expected (C * m, 1, {', '.join(kernel)}), "
            "one group for each channel"
        )
    filters, channels = weight.shape[0], x.shape[1]
    if (filters % channels if channels else filters) or (channels and not filters):
        raise ValueError(f"{op}: {name} has {filters} filters, expected a multiple of x's {channels} channels")
    if 0 in x.shape[2:]:
        raise ValueError(f"{op}: x has shape {tuple(x.shape)}, expected at least one pixel along each axis")
    check_device(op, name, weight, x)


def check_same_dtype(op: str, name: str, other: Tensor | None, x: Tensor) -> None:
    if other is not None and other.dtype != x.dtype:
        raise TypeError(f"{op}: {name} is {other.dtype}, expected x's dtype {x.dtype}")


def autocast(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """All in autocast's dtype where it is on, as torch's convolutions cast: float64 stays as it is."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return x, weight, bias
    dtype = torch.get_autocast_dtype(device)
    x, weight = (t if t.dtype == torch.float64 else t.to(dtype) for t in (x, weight))
    return x, weight, bias if bias is None or bias.dtype == torch.float64 else bias.to(dtype)


def convolution_inputs(
    op: str, x: Tensor, weight: Tensor, bias: Tensor | None, *, inputs_axis: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """What a convolution of all channels of images or volumes works on, in the dtype in which it works.

    ``weight`` has the inputs along ``inputs_axis``, 0 or 1, and the outputs, whose ``bias`` it may be, along the other.
    """
    if x.ndim not in (4, 5):
        raise ValueError(f"{op}: x has shape {tuple(x.shape)}, expected rank 4 or 5: (N, C, *spatial)")
    check_image(op, "x", x)
    x, weight, bias = autocast(x, weight, bias)
    if weight.ndim != x.ndim or weight.shape[inputs_axis] != x.shape[1] or 0 in weight.shape[2:]:
        channels = ("O", str(x.shape[1])) if inputs_axis else (str(x.shape[1]), "O")
        expected = ", ".join((*channels, *("kD", "kH", "kW")[-(x.ndim - 2) :]))
        raise ValueError(f"{op}: weight has shape {tuple(weight.shape)}, expected ({expected})")
    check_device(op, "weight", weight, x)
    check_vector(op, "bias", bias, weight.shape[1 - inputs_axis], x)
    check_same_dtype(op, "weight", weight, x)
    check_same_dtype(op, "bias", bias, x)
    return x, weight, bias


def check_same_shape(op: str, name: str, other: Tensor | None, x: Tensor) -> None:
    """An optional tensor of x's shape, floating point, on x's device."""
    if other is None:
        return
    if other.shape != x.shape:
        raise ValueError(f"{op}: {name} has shape {tuple(other.shape)}, expected x's shape {tuple(x.shape)}")
    if other.dtype not in ELEMENT:
        raise TypeError(f"{op}: {name} is {other.dtype}, expected float32, float64, bfloat16 or float16")
    check_device(op, name, other, x)


def check_device(op: str, name: str, other: Tensor, x: Tensor, x_name: str = "x") -> None:
    if other.device != x.device:
        raise ValueError(f"{op}: {name} is on {other.device}, expected {x_name}'s device {x.device}")


def check_choice(op: str, name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        expected = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{op}: {name} is {value!r}, expected one of {expected}")


def check_not_negative(op: str, name: str, value: float) -> None:
    if not 0 <= value < float("inf"):  # also refuses NaN
        raise ValueError(f"{op}: {name} is {value}, expected a finite number >= 0")


def check_positive(op: str, name: str, value: float) -> None:
    if not 0 < value < float("inf"):  # also refuses NaN
        raise ValueError(f"{op}: {name} is {value}, expected a finite number > 0")


def whole_number(op: str, name: str, value: float, least: int, most: int) -> int:
    """``value`` as an int.

    Raises:
        ValueError: a fraction, NaN, or out of [least, most].
    """
    if not (least <= value <= most and value == int(value)):  # written so that NaN is refused
        raise ValueError(f"{op}: {name} is {value}, expected a whole number from {least} to {most}")
    return int(value)
