"""SoftMaskAttention: with and without the convolution that makes the mask."""

from __future__ import annotations

import pytest
import torch

from fastseg.nn import SoftMaskAttention


@pytest.mark.parametrize("dims", (2, 3))
@pytest.mark.parametrize(("channels", "mask_channels"), ((None, None), (5, None), (3, 5), (5, 1)))
def test_forward_and_gradients(dims, channels, mask_channels):
    layer = SoftMaskAttention(channels, mask_channels, spatial_dims=dims)
    trunk = torch.randn(2, 5, *(6,) * dims)
    features = torch.randn(2, channels or 5, *(6,) * dims, requires_grad=True)
    y = layer(trunk, features)
    logits = features if channels is None else layer.mask(features)
    torch.testing.assert_close(y, (1 + torch.sigmoid(logits)) * trunk)
    y.sum().backward()
    assert features.grad is not None and all(p.grad is not None for p in layer.parameters())


def test_state_and_wrong_arguments():
    assert list(SoftMaskAttention().state_dict()) == []
    assert list(SoftMaskAttention(4, spatial_dims=2).state_dict()) == ["mask.weight", "mask.bias"]
    assert list(SoftMaskAttention(4, 1, bias=False).state_dict()) == ["mask.weight"]
    with pytest.raises(ValueError, match="spatial_dims is 4, expected 2 or 3"):
        SoftMaskAttention(4, spatial_dims=4)
    with pytest.raises(ValueError, match="mask_channels is 1 and channels is None, expected channels too"):
        SoftMaskAttention(mask_channels=1)
