"""Probabilities of a whole volume by a network of :mod:`fastseg.models`: windows in 3D, slice by slice in 2D."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastseg.models import SegmentationNetwork
from fastseg.models.dm_da_unet import DMDAUNet
from fastseg.segmentation.augmentation import averaged, turns
from fastseg.segmentation.padding import padded, padded_size
from fastseg.segmentation.sliding_window import blended, window_count

#: Of a 3D network's window along each axis, where none is given and the volume is as large.
DEFAULT_WINDOW = 128
#: How many windows of a 2D and of a 3D network are predicted at a time.
DEFAULT_BATCH = {2: 8, 3: 1}


def predict_volume(
    network: SegmentationNetwork,
    image: Tensor,
    *,
    roi: int | Sequence[int] | None = None,
    overlap: float = 0.25,
    batch_size: int | None = None,
    augment: str | None = None,
    dtype: torch.dtype | None = None,
    accumulators: torch.device | str | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Tensor:
    """Probabilities of every voxel. A 2D network sees the slices along the third axis, which is axial in RAS order.

    Windows and augmented views are blended as probabilities, so that the result is their weighted mean. What is
    smaller than a window, or no multiple of ``network.size_divisor``, is padded with zeros on both sides and cut again.

    Args:
        network: in eval mode, on the device that is to work.
        image: (C, X, Y, Z), float32, prepared as for training; may be on another device than the network.
        roi: window in voxels, one size or ``network.spatial_dims`` of them, multiples of ``network.size_divisor``;
            None: whole slices in 2D, and 128 along each axis in 3D, or less for a smaller volume.
        overlap: share of a window that the next one covers, in [0, 1).
        batch_size: windows at a time; None: 8 in 2D and 1 in 3D.
        augment: views whose predictions are averaged, of :func:`fastseg.segmentation.augmentation.turns`.
        dtype: of the network's arithmetic, by autocast where its parameters have another; None: theirs.
        accumulators: device of the sums over windows and of the result; None: where the image is.
        on_progress: called after each batch with the share that is done.

    Returns:
        (K, X, Y, Z), float32.

    Raises:
        ValueError: an argument that the network cannot work with; names it and what was expected.
    """
    _check(network, image, overlap, batch_size)
    dims = network.spatial_dims
    window = window_of(network, image.shape[1 : 1 + dims], roi)
    batch = batch_size or DEFAULT_BATCH[dims]
    ways = turns(augment, dims)
    parameter = next(network.parameters(), image)
    held = torch.device(accumulators) if accumulators is not None else image.device
    windows = window_count(image.shape[1 : 1 + dims], window, overlap) * (1 if dims == 3 else image.shape[3])
    todo, done = windows * len(ways), 0

    def probabilities(x: Tensor) -> Tensor:
        nonlocal done
        lower = dtype is not None and dtype != parameter.dtype
        with torch.autocast(parameter.device.type, dtype=dtype, enabled=lower):
            logits = network(x.to(parameter.dtype))
        result = network.probabilities(logits.float())
        done += len(x)
        if on_progress is not None:
            on_progress(done / todo)
        return result

    def predict(images: Tensor) -> Tensor:
        def run(x: Tensor) -> Tensor:
            return averaged(probabilities, x, ways)

        if all(size <= most for size, most in zip(images.shape[2:], window, strict=True)):
            whole, inside = padded(images, window)
            parts = [run(part.to(parameter.device)) for part in whole.split(batch)]
            return torch.cat([part[inside].to(held) for part in parts])
        return blended(
            run, images, window, overlap=overlap, batch_size=batch, device=parameter.device, accumulators=held
        )

    with torch.no_grad():
        if dims == 3:
            return predict(image[None])[0]
        result = torch.empty(network.out_channels, *image.shape[1:], device=held)
        for first in range(0, image.shape[3], batch):
            slices = image[..., first : first + batch].permute(3, 0, 1, 2).contiguous()
            result[..., first : first + batch] = predict(slices).permute(1, 2, 3, 0)
        return result


def _check(network: SegmentationNetwork, image: Tensor, overlap: float, batch_size: int | None) -> None:
    if isinstance(network, DMDAUNet):
        raise ValueError(f"network is {network.name}, expected one stage: segment_cascade predicts both")
    if image.ndim != 4 or image.shape[0] != network.in_channels or 0 in image.shape:
        raise ValueError(
            f"image has shape {tuple(image.shape)}, expected ({network.in_channels}, X, Y, Z): {network.name} takes "
            f"{network.in_channels} channels"
        )
    if image.dtype != torch.float32:
        raise ValueError(f"image is {image.dtype}, expected torch.float32")
    check_overlap(overlap)
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected a number >= 1")
    if network.training:
        raise ValueError("network is in training mode, expected network.eval()")


def check_overlap(overlap: float) -> None:
    """Raises ValueError unless ``overlap`` is in [0, 1)."""
    if not 0 <= overlap < 1:  # also refuses NaN
        raise ValueError(f"overlap is {overlap}, expected a share from 0 to below 1")


def window_of(network: SegmentationNetwork, shape: Sequence[int], roi: int | Sequence[int] | None) -> tuple[int, ...]:
    """The window along the network's axes that :func:`predict_volume` takes for an image of ``shape``.

    Raises:
        ValueError: ``roi`` does not fit the network.
    """
    divisor = network.size_divisor
    if roi is None:
        most = DEFAULT_WINDOW if network.spatial_dims == 3 else math.inf
        return tuple(padded_size(min(size, most), divisor) for size in shape)
    sizes = (roi,) * network.spatial_dims if isinstance(roi, int) else tuple(roi)
    if len(sizes) != network.spatial_dims or any(size < 1 or size % divisor for size in sizes):
        raise ValueError(
            f"roi is {roi}, expected {network.spatial_dims} multiples of {divisor}, the size divisor of {network.name}"
        )
    return sizes
