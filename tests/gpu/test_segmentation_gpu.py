"""Whole volumes on a GPU: the labels of the CPU, wherever the sums over windows are."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

pytest.importorskip("monai")

from fastseg.models import create
from fastseg.segmentation import Segmenter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("full_precision"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

NETWORKS = {
    "dense_unet_2d": {"widths": (4, 8)},
    "da_unet_3d": {"widths": (4, 8)},
    "dm_da_unet": {"localiser": {"widths": (4, 8)}, "segmenter": {"widths": (4, 8)}, "crop_size": 16},
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("memory_limit", [None, 1])
def test_the_same_as_on_the_cpu(name: str, memory_limit: int | None) -> None:
    torch.manual_seed(0)
    network = create(name, **NETWORKS[name]).eval()
    image = np.random.default_rng(0).normal(50, 10, (4, 20, 18, 12)).astype(np.float32)
    # Every voxel is above 0: rounding does not move the cut-out.
    options = {"roi": 8 if name == "da_unet_3d" else None, "augment": "flips", "locate_threshold": 0.0}
    expected = Segmenter(network, **options).segment(image)
    on_gpu = copy.deepcopy(network).cuda()
    found = Segmenter(on_gpu, memory_limit=memory_limit, **options).segment(image)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)
    assert found.boxes == expected.boxes
