"""Prediction of a whole volume window by window, with MONAI's blending."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

try:
    from monai.data.utils import dense_patch_slices
    from monai.inferers.utils import sliding_window_inference
except ImportError as error:
    raise ImportError('Sliding windows need monai: pip install "fastseg-kernels[segmentation]"') from error


def window_count(shape: Sequence[int], roi: Sequence[int], overlap: float) -> int:
    """How many windows :func:`blended` runs on an image of ``shape``."""
    padded = [max(size, window) for size, window in zip(shape, roi, strict=True)]
    steps = [
        window if window == size else max(1, int(window * (1 - overlap)))
        for size, window in zip(padded, roi, strict=True)
    ]
    return len(dense_patch_slices(padded, list(roi), steps))


def blended(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    roi: Sequence[int],
    *,
    overlap: float = 0.25,
    batch_size: int = 1,
    device: torch.device | None = None,
    accumulators: torch.device | None = None,
) -> Tensor:
    """What ``predict`` gives for whole images: windows of ``roi``, blended with Gaussian weights in float32.

    Args:
        predict: maps (B, C, *roi), B at most ``batch_size``, to (B, K, *roi) of float32.
        images: (N, C, *spatial), float32. Those smaller than ``roi`` are padded with zeros on both sides.
        roi: the window in voxels.
        overlap: share of a window that the next one covers, in [0, 1).
        device: where the windows are predicted; None: where the images are.
        accumulators: where sums and weights of the whole images are held; None: where the images are.

    Returns:
        (N, K, *spatial), float32, on ``accumulators``.
    """
    with torch.no_grad():
        result = sliding_window_inference(
            images,
            tuple(roi),
            sw_batch_size=batch_size,
            predictor=predict,
            overlap=overlap,
            mode="gaussian",
            sw_device=device,
            device=accumulators,
        )
    assert isinstance(result, Tensor), "MONAI returns what the network returns"
    return result


def predict_logits(
    network: nn.Module,
    image: Tensor,
    roi: Sequence[int],
    *,
    overlap: float = 0.25,
    dtype: torch.dtype = torch.float32,
    on_window: Callable[[float], None] | None = None,
) -> Tensor:
    """Logits of a whole volume by any network, windows :func:`blended`.

    Args:
        network: maps (1, C, *roi) to (1, K, *roi); on image's device, its parameters in ``dtype``.
        image: (C, X, Y, Z), float32. Volumes smaller than ``roi`` are padded with zeros.
        roi: (x, y, z), the window in voxels.
        overlap: share of a window that the next one covers, in [0, 1).
        dtype: of the windows that the network gets; the sum over windows is float32 in any case.
        on_window: called after each window with the seconds that the network took.

    Returns:
        (K, X, Y, Z), float32, on image's device.
    """

    def run(window: Tensor) -> Tensor:
        start = time.perf_counter()
        logits: Tensor = network(window.to(dtype))
        if on_window is not None:
            if logits.is_cuda:  # kernels run behind the clock otherwise
                torch.cuda.synchronize(logits.device)
            on_window(time.perf_counter() - start)
        return logits.float()

    return blended(run, image[None], roi, overlap=overlap)[0]
