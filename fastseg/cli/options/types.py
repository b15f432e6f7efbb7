"""What the words of a command line may be."""

from __future__ import annotations

import argparse
import ast
from typing import Any

_BYTES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def positive(text: str) -> int:
    """A whole number above zero."""
    value = whole(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def not_negative(text: str) -> int:
    """A whole number, zero included."""
    value = whole(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def window(text: str) -> tuple[int, int, int]:
    """``64`` or ``64x128x128`` or ``64,128,128``: a window in voxels."""
    sizes = [positive(part) for part in text.replace("x", ",").split(",")]
    if len(sizes) == 1:
        sizes *= 3
    if len(sizes) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not one size or three, such as 64 or 64x128x128")
    return sizes[0], sizes[1], sizes[2]


def sizes(text: str) -> int | tuple[int, ...]:
    """``128``, ``64x128`` or ``64x128x128``: one size for all axes, or one for each of two or three."""
    numbers = tuple(positive(part) for part in text.replace("x", ",").split(","))
    if len(numbers) > 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not one, two or three sizes, such as 128 or 64x128x128")
    return numbers[0] if len(numbers) == 1 else numbers


def not_negative_number(text: str) -> float:
    """A finite number, zero included."""
    value = number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is negative")
    return value


def assignment(text: str) -> tuple[str, Any]:
    """``dropout=0.3``, ``widths=16,32,64`` or ``norm=batch``: a name and a Python value, or else a word."""
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form name=value")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def overlap(text: str) -> float:
    """A share in [0, 1)."""
    value = _float(text)
    if not 0 <= value < 1:  # also refuses NaN
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to below 1")
    return value


def positive_number(text: str) -> float:
    """A finite number above zero."""
    value = _float(text)
    if not 0 < value < float("inf"):  # also refuses NaN
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number above zero")
    return value


def number(text: str) -> float:
    """A finite number."""
    value = _float(text)
    if not abs(value) < float("inf"):  # also refuses NaN
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value


def memory(text: str) -> int:
    """``512M`` or ``1.5G``: a number of bytes above zero; K, M and G are powers of 1024."""
    digits, unit = (text[:-1], text[-1].upper()) if text and text[-1].isalpha() else (text, "")
    size = _float(digits) * _BYTES.get(unit, float("nan"))
    if not 1 <= size < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 512M or 1.5G")
    return int(size)


def whole(text: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
