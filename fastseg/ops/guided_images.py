"""Images to be filtered and the guide beside them, as the filters of the stereo side take them."""

from __future__ import annotations

import torch
from torch import Tensor

IMAGE_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8)


def check_guided_images(op: str, src: Tensor, guide: Tensor, names: tuple[str, str] = ("src", "guide")) -> None:
    """src (..., H, W) beside a guide (H, W), (1 or 3, H, W), or (B, 1 or 3, H, W) for src (B, C, H, W).

    ``names`` are those of the two in ``op``.

    Raises:
        ValueError: sizes that differ or are empty, a wrong number of guide channels, different devices.
        TypeError: another dtype.
    """
    src_name, guide_name = names
    for name, image in ((src_name, src), (guide_name, guide)):
        if image.dtype not in IMAGE_DTYPES:
            raise TypeError(f"{op}: {name} is {image.dtype}, expected float32, float64, float16, bfloat16 or uint8")
    if src.ndim < 2 or 0 in src.shape[-2:]:
        raise ValueError(f"{op}: {src_name} has shape {tuple(src.shape)}, expected (..., H, W) with at least one pixel")
    if not 2 <= guide.ndim <= 4 or (guide.ndim > 2 and guide.shape[-3] not in (1, 3)):
        raise ValueError(
            f"{op}: {guide_name} has shape {tuple(guide.shape)}, expected (H, W), or (1, H, W), (3, H, W), "
            "(B, 1, H, W) or (B, 3, H, W) with the channels before the image"
        )
    if guide.shape[-2:] != src.shape[-2:]:
        raise ValueError(
            f"{op}: {guide_name} has shape {tuple(guide.shape)}, expected {src_name}'s image size "
            f"{tuple(src.shape[-2:])}"
        )
    if guide.ndim == 4 and (src.ndim != 4 or src.shape[0] != guide.shape[0]):
        raise ValueError(
            f"{op}: {src_name} has shape {tuple(src.shape)}, expected ({guide.shape[0]}, C, H, W) beside a guide of "
            f"shape {tuple(guide.shape)}"
        )
    if guide.device != src.device:
        raise ValueError(f"{op}: {guide_name} is on {guide.device}, expected {src_name}'s device {src.device}")


def in_batches(src: Tensor, guide: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) and (B, 1 or 3, H, W), as the registered ops take them: images of one guide are channels."""
    if guide.ndim == 4:
        return src, guide
    size = src.shape[-2:]
    return src.reshape(1, src.shape[:-2].numel(), *size), guide.reshape(1, -1, *size)
