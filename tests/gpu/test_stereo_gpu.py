"""The stereo pipeline on a GPU: as on the CPU, and how long its stages take."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastseg.stereo import PRESETS, StereoMatcher, rendered_pair

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


@pytest.mark.parametrize("preset", PRESETS)
def test_agrees_with_the_cpu(preset: str) -> None:
    scene = rendered_pair(160, 208)
    matcher = StereoMatcher.preset(preset, max_disparity=48)
    expected = matcher.match(scene.left, scene.right)
    pair = [torch.from_numpy(image).cuda() for image in (scene.left, scene.right)]
    found = matcher.match(*pair)
    assert found.disparity.is_cuda and found.valid.is_cuda and found.confidence.is_cuda
    assert (found.valid.cpu().numpy() == expected.valid).mean() > 0.999
    assert (np.abs(found.disparity.cpu().numpy() - expected.disparity) > 0.01).mean() < 1e-3
    again = matcher.match(*pair)
    assert torch.equal(found.disparity, again.disparity)


def test_device_option_keeps_the_kind_of_array() -> None:
    scene = rendered_pair(120, 160)
    found = StereoMatcher(40, device="cuda").match(scene.left, scene.right)
    assert isinstance(found.disparity, np.ndarray)
