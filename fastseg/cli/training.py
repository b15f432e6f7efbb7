"""A short training of an accelerated network on phantoms, so that the demo's picture shows a tumour that was found."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from monai.losses.dice import DiceCELoss
from torch import Tensor, nn

from fastseg.segmentation.labels import LABELS, REGION_NAMES, classes_of, regions_of
from fastseg.segmentation.phantom import brain_phantom
from fastseg.segmentation.preprocess import zscore

_PHANTOMS = 8
_LEARNING_RATE = 3e-3


def train(
    network: nn.Module,
    *,
    steps: int,
    shape: tuple[int, int, int],
    roi: tuple[int, int, int],
    seed: int,
    on_step: Callable[[], None],
) -> float:
    """Train ``network`` in place on windows of phantoms that the demo does not predict.

    Args:
        network: maps (1, 4, *roi) to (1, 4, *roi), logits of background and the labels 1, 2, 4.
        steps: one window each.
        shape: of the phantoms; smaller than ``roi`` is padded with zeros.
        roi: the window in voxels.
        seed: the demo's phantom has this seed, the training phantoms the ones after it.

    Returns:
        Seconds of training, without the making of the phantoms.
    """
    rng = np.random.default_rng(seed)
    device = next(network.parameters()).device
    pool = [_sample(shape, roi, seed + 1 + index) for index in range(min(_PHANTOMS, steps))]
    loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=_LEARNING_RATE, total_steps=steps)
    network.train()
    start = time.perf_counter()
    for step in range(steps):
        image, classes = _window(rng, *pool[step % len(pool)], roi)
        value = loss(network(image.to(device)), classes.to(device))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        on_step()
    network.eval()
    return time.perf_counter() - start


def dice_by_region(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Dice of the regions that BraTS scores; both arrays hold labels 0, 1, 2, 4."""
    scores = {}
    for region, found, true in zip(REGION_NAMES.values(), regions_of(predicted), regions_of(truth), strict=True):
        total = int(found.sum()) + int(true.sum())
        scores[region] = 2 * int((found & true).sum()) / total if total else 1.0
    return scores


def _sample(shape: tuple[int, int, int], roi: tuple[int, int, int], seed: int) -> tuple[Tensor, Tensor]:
    """A normalised phantom (4, X, Y, Z) and its class indices (X, Y, Z), padded to ``roi`` at least."""
    phantom = brain_phantom(shape, seed=seed)
    classes = classes_of(phantom.labels)
    image = zscore(torch.from_numpy(phantom.image))
    # torch pads the last axis first, and before and behind it.
    short = [max(0, window - size) for size, window in zip(shape, roi, strict=True)]
    padding = [0, short[2], 0, short[1], 0, short[0]]
    return nn.functional.pad(image, padding), nn.functional.pad(torch.from_numpy(classes), padding)


def _window(
    rng: np.random.Generator, image: Tensor, classes: Tensor, roi: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """A window at a random place, every other time around a voxel of one of the labels, mirrored or not."""
    region = torch.nonzero(classes.eq(int(rng.integers(1, 1 + len(LABELS)))))
    anchor = region[int(rng.integers(len(region)))].tolist()
    around_anchor = rng.random() < 0.5
    place = []
    for size, window, voxel in zip(classes.shape, roi, anchor, strict=True):
        start = voxel - rng.integers(window) if around_anchor else rng.integers(size - window + 1)
        place.append(slice(first := int(np.clip(start, 0, size - window)), first + window))
    image, classes = image[(slice(None), *place)], classes[tuple(place)]
    if rng.random() < 0.5:
        image, classes = image.flip(1), classes.flip(0)
    return image[None], classes[None, None]
