"""Sliding windows: the count that the progress bar shows, blending that leaves a constant alone, dtypes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("monai")

from fastseg.segmentation.sliding_window import predict_logits, window_count


class Copy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()


@pytest.mark.parametrize("shape", [(20, 33, 17), (8, 8, 8), (16, 9, 40)])
@pytest.mark.parametrize("roi", [(16, 16, 16), (8, 16, 12)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_every_window_is_reported(shape: tuple[int, ...], roi: tuple[int, ...], overlap: float) -> None:
    seconds: list[float] = []
    image = torch.randn(1, *shape)
    logits = predict_logits(Copy(), image, roi, overlap=overlap, on_window=seconds.append)
    assert len(seconds) == window_count(shape, roi, overlap)
    assert all(value >= 0 for value in seconds)
    # Blending with any weights gives back what all windows agree on.
    torch.testing.assert_close(logits, image, rtol=1e-5, atol=1e-5)


def test_the_network_gets_its_dtype_and_the_sum_is_float32() -> None:
    seen = []

    class Watch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.dtype)
            return x

    logits = predict_logits(Watch(), torch.randn(2, 9, 9, 9), (8, 8, 8), dtype=torch.bfloat16)
    assert set(seen) == {torch.bfloat16}
    assert logits.dtype == torch.float32 and logits.shape == (2, 9, 9, 9)
