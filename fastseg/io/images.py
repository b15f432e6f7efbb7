"""Photographs and masks: read as they are, with every bit, and written by the ending of their name."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

try:
    from PIL import Image, ImageOps, UnidentifiedImageError
except ImportError as error:
    raise ImportError('Images need Pillow: pip install "fastseg-kernels[stereo]"') from error

from fastseg.io.files import FileError, first_bytes, saving

_BITS_PER_SAMPLE = 258  # the TIFF tag


class ImageError(FileError):
    """A file that cannot be read or written as an image; the message names the file and the reason."""


def load_image(path: str | os.PathLike[str]) -> NDArray[np.generic]:
    """Read PNG, JPEG, TIFF, grey PFM and whatever else Pillow reads; of several pictures the first.

    Returns:
        (H, W), or (H, W, 3) in the order red, green, blue: uint8 or uint16 in the range of their type, or float32 as
        stored. Alpha is left out, palettes are looked up (one of greys gives (H, W)), black and white becomes 0 and
        255, and the picture is turned as its EXIF data says.

    Raises:
        ImageError: missing, a folder, empty, cut off, no image, or of more than 8 bits a colour where OpenCV, which
            reads those, is not installed: Pillow would cut them to 8.
    """
    path = Path(path)
    head = first_bytes(path, ImageError)
    try:
        with Image.open(path) as image:
            deep = _deep_channels(head, image)
            image.load()
            pixels = _pixels(ImageOps.exif_transpose(image))
    except Exception as error:  # the decoders of Pillow raise all kinds on broken files
        reason = "" if isinstance(error, UnidentifiedImageError) else f" ({getattr(error, 'strerror', None) or error})"
        raise ImageError(f"{path}: not an image that can be read{reason}") from error
    if deep is not None:
        return _deep_pixels(path, deep)
    if pixels.dtype == np.int32:  # Pillow's type for 16 bits in some formats, and for 32
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ImageError(f"{path}: values from {pixels.min()} to {pixels.max()}, expected at most 16 bits")
        return pixels.astype(np.uint16)
    return pixels


def save_image(path: str | os.PathLike[str], array: NDArray[np.generic]) -> None:
    """Write an image in the format that the ending names; the file appears whole or not at all.

    Args:
        path: ``.png``, ``.jpg``, ``.tiff`` and so on.
        array: uint8 of (H, W) or (H, W, 3), uint16 of (H, W), or bool of (H, W), which is stored as 0 and 255.

    Raises:
        ImageError: another shape or dtype, an ending that Pillow does not know or whose format cannot hold the
            array, or a folder that cannot be written to.
    """
    path = Path(path)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    colours = array.ndim == 3 and array.shape[-1] == 3 and array.dtype == np.uint8
    if not colours and (array.ndim != 2 or array.dtype not in (np.uint8, np.uint16, np.bool_)):
        raise ImageError(
            f"{path}: an array of {array.dtype} and shape {array.shape}, expected uint8 of (H, W) or (H, W, 3), or "
            "uint16 or bool of (H, W)"
        )
    if array.size == 0:
        raise ImageError(f"{path}: shape {array.shape}, expected at least one pixel")
    if path.suffix.lower() not in Image.registered_extensions():
        raise ImageError(f"{path}: the ending {path.suffix!r} is that of no image format, expected .png or the like")
    stored = array.astype(np.uint8) * np.uint8(255) if array.dtype == np.bool_ else array
    save_pixels(path, stored)


def save_pixels(path: Path, pixels: NDArray[np.generic], file_format: str | None = None) -> None:
    """Write an array that Pillow has a mode for, in ``file_format`` or by the ending."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    with saving(path, ImageError) as temporary:
        try:
            image.save(temporary, format=file_format)
        except (KeyError, ValueError) as error:
            raise ImageError(f"{path}: {path.suffix} cannot hold {pixels.dtype} of {pixels.shape} ({error})") from error


def _pixels(image: Image.Image) -> NDArray[np.generic]:
    if image.mode in ("L", "F", "RGB", "I") or image.mode.startswith("I;16"):
        pixels = np.array(image)
        return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if image.mode in ("1", "LA", "La"):
        return np.array(image.convert("L"))
    if image.mode in ("P", "PA"):
        colours = np.array(image.convert("RGB"))
        grey = (colours[..., 0] == colours[..., 1]).all() and (colours[..., 1] == colours[..., 2]).all()
        return np.ascontiguousarray(colours[..., 0]) if grey else colours
    return np.array(image.convert("RGB"))


def _deep_channels(head: bytes, image: Image.Image) -> int | None:
    """How many channels without alpha, where there are several of more than 8 bits: Pillow cuts those to 8."""
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (8,))
        return (1 if len(bits) == 2 else 3) if isinstance(bits, tuple) and len(bits) > 1 and max(bits) > 8 else None
    if image.format == "PNG" and head[24] == 16:  # the header's bytes for bits a channel and for the kind of pixels
        return {2: 3, 4: 1, 6: 3}.get(head[25])
    if image.format == "PPM":
        header = re.match(rb"P[36]\s+(?:#.*\s+)*\d+\s+(?:#.*\s+)*\d+\s+(?:#.*\s+)*(\d+)", head)
        return 3 if header is not None and int(header[1]) > 255 else None
    return None


def _deep_pixels(path: Path, channels: int) -> NDArray[np.generic]:
    if importlib.util.find_spec("cv2") is None:
        raise ImageError(
            f"{path}: more than 8 bits a colour, which Pillow cannot hold; OpenCV can: "
            "pip install opencv-python-headless"
        )
    import cv2

    kind = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
    # As bytes: imread prints warnings of its own, and cannot open every name.
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), kind | cv2.IMREAD_ANYDEPTH)
    if pixels is None or pixels.dtype == np.uint8:
        raise ImageError(f"{path}: more than 8 bits a colour, in a form that neither Pillow nor OpenCV reads")
    return pixels if channels == 1 else np.ascontiguousarray(pixels[..., ::-1])
