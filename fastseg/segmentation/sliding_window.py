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
    """How many windows :func:`predict_logits` runs on a volume of ``shape``."""
    padded = [max(size, window) for size, window in zip(shape, roi, strict=True)]
    steps = [
        window if window == size else max(1, int(window * (1 - overlap)))
        for size, window in zip(padded, roi, strict=True)
    ]
    return len(dense_patch_slices(padded, list(roi), steps))


def predict_logits(
    network: nn.Module,
    image: Tensor,
    roi: Sequence[int],
    *,
    overlap: float = 0.25,
    dtype: torch.dtype = torch.float32,
    on_window: Callable[[float], None] | None = None,
) -> Tensor:
    """Logits of a whole volume: windows of ``roi`` blended with Gaussian weights, in float32.

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

    with torch.inference_mode():
        logits = sliding_window_inference(
            image[None], tuple(roi), sw_batch_size=1, predictor=run, overlap=overlap, mode="gaussian"
        )
    assert isinstance(logits, Tensor), "MONAI returns what the network returns"
    return logits[0]
