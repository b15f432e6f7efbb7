"""Validation of a network over all processes: the numbers do not depend on how many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastseg.models import SegmentationNetwork
from fastseg.training.batches import Samples
from fastseg.training.errors import TrainingError

_NO_FOREGROUND = "no validation image has a foreground, so there is no Dice: expected at least one"


@dataclass(frozen=True)
class Scores:
    """Attributes: the mean loss over the images; the Dice of each region or class (NaN: nowhere) and their mean."""

    loss: float
    dice: float
    dice_of: tuple[float, ...]


def overlaps(network: SegmentationNetwork, logits: Tensor, target: Tensor) -> Tensor:
    """True positives, false positives and false negatives of each foreground channel: (3, K), float64.

    Args:
        network: says whether channels are classes, of which the first is the background, or regions.
        logits: (N, C, ...).
        target: class indices (N, ...) for classes, {0, 1} of (N, C, ...) for regions.
    """
    if network.output == "softmax":
        found_class = logits.argmax(1)
        classes = range(1, logits.shape[1])
        found = torch.stack([found_class == index for index in classes], 1)
        true = torch.stack([target == index for index in classes], 1)
    else:
        found, true = logits > 0, target > 0.5
    axes = [0, *range(2, found.ndim)]
    counts = [(found & true).sum(axes), (found & ~true).sum(axes), (~found & true).sum(axes)]
    return torch.stack(counts).double()


def dice_of_counts(counts: Tensor) -> Tensor:
    """2 TP / (2 TP + FP + FN) of (3, K); NaN where all are zero."""
    hits, false_alarms, misses = counts
    return 2 * hits / (2 * hits + false_alarms + misses)


def check_foreground(samples: Samples, network: SegmentationNetwork, scored: int) -> None:
    """Refuse images without any foreground; reads them up to the first that has one.

    Args:
        samples: as :func:`fastseg.training.fit` takes them.
        network, scored: as in :func:`validate`.

    Raises:
        TrainingError: no image has a foreground.
    """
    for index in range(len(samples)):
        target = samples[index][1]
        found = (target > 0) & (target <= scored) if network.output == "softmax" else target[:scored] > 0.5
        if found.any():
            return
    raise TrainingError(_NO_FOREGROUND)


@torch.no_grad()
def validate(
    network: SegmentationNetwork,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    scored: int,
    summed: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> Scores:
    """Scores in eval mode; the network is then in training mode again.

    Args:
        network: the module itself, not a wrapper whose forward waits for other processes: they may have fewer batches.
        batches: of this process, (images, targets), on the device of ``network``.
        loss: of logits and targets, a mean over the images of the batch.
        scored: how many foreground channels are scored, from the first on.
        summed: adds a tensor up over all processes.

    Raises:
        TrainingError: no image has a foreground, so there is no Dice.
    """
    network.eval()
    device = next(network.parameters()).device
    counts = torch.zeros((3, scored), dtype=torch.float64, device=device)
    total = torch.zeros(2, dtype=torch.float64, device=device)  # sum of losses, number of images
    for images, target in batches:
        logits = network(images).float()
        counts += overlaps(network, logits, target)[:, :scored]
        total += torch.stack([loss(logits, target).double() * len(images), total.new_tensor(len(images))])
    counts, total = summed(counts), summed(total)
    network.train()
    if not (counts[0] + counts[2]).any():
        raise TrainingError(_NO_FOREGROUND)
    dice_of = dice_of_counts(counts)
    return Scores(float(total[0] / total[1]), float(dice_of.nanmean()), tuple(dice_of.tolist()))
