"""fast_global_smoother beside OpenCV's, which runs on as many threads, over the copy of src as the floor."""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest
import torch

from benchmarks.peers import SMOOTHER_PEERS

cv2 = pytest.importorskip("cv2")

#: name -> (channels of src, its dtype, channels of the guide, which OpenCV takes as bytes only)
CASES = {
    "grey, uint8": (1, np.uint8, 1),
    "grey, float32": (1, np.float32, 1),
    "float32 by a colour guide": (1, np.float32, 3),
    "colour by itself, uint8": (3, np.uint8, 3),
}
SIZES = ((1024, 1024), (375, 450), (2000, 3000))
ROUNDS = 21


def photograph(height: int, width: int, channels: int) -> np.ndarray:
    """Smooth patches with noise on them: weights from near 0 to 1, as in photographs."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (height // 25 + 1, width // 25 + 1, channels), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST).reshape(height, width, channels)
    noisy = image + generator.normal(0, 4, image.shape)
    return noisy.clip(0, 255).astype(np.uint8).squeeze()


@pytest.mark.parametrize("peer", SMOOTHER_PEERS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_smooth(benchmark, size, case, peer):
    function, layout = SMOOTHER_PEERS[peer]
    channels, dtype, guide_channels = CASES[case]
    src = layout(photograph(*size, channels).astype(dtype))
    guide = layout(photograph(*size, guide_channels))
    copy = np.zeros_like(src)
    floor: list[float] = []

    def time_floor() -> None:
        start = time.perf_counter()
        copy[...] = src
        floor.append(time.perf_counter() - start)

    cv2.setNumThreads(torch.get_num_threads())
    shape = "x".join(map(str, size))
    benchmark.group = f"{case} {shape}"
    benchmark.pedantic(lambda: function(src, guide), setup=time_floor, rounds=ROUNDS, warmup_rounds=3)
    benchmark.extra_info.update(
        case=case, shape=shape, peer=peer, family="fast_global_smoother", floor=1e3 * statistics.median(floor[3:])
    )
