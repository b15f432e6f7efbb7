"""Counts of classes and regions, Dice of sums, and batches that no process sees twice."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fastseg.models import SegmentationNetwork
from fastseg.training.batches import WholeBatches
from fastseg.training.errors import TrainingError
from fastseg.training.validation import check_foreground, dice_of_counts, overlaps, validate


class Given(SegmentationNetwork):
    """Gives back its input as logits."""

    name = "given"

    def __init__(self, channels: int, output: str) -> None:
        super().__init__(spatial_dims=2, in_channels=channels, out_channels=channels, size_divisor=1, output=output)
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


def squared(logits: Tensor, target: Tensor) -> Tensor:
    return logits.square().mean()


def test_counts_of_classes() -> None:
    found = torch.tensor([[[0, 1, 2, 2]], [[1, 1, 0, 0]]])
    truth = torch.tensor([[[0, 1, 1, 2]], [[1, 2, 0, 2]]])
    logits = torch.nn.functional.one_hot(found, 3).movedim(-1, 1).float()
    counts = overlaps(Given(3, "softmax"), logits, truth)
    assert counts.dtype == torch.float64 and counts.tolist() == [[2, 1], [1, 1], [1, 2]]
    assert dice_of_counts(counts).tolist() == pytest.approx([4 / 6, 2 / 5])


def test_counts_of_regions() -> None:
    logits = torch.tensor([[[[1.0, -1.0, 2.0, -3.0]], [[-1.0, -1.0, -1.0, -1.0]]]])
    truth = torch.tensor([[[[True, True, False, False]], [[False, False, False, False]]]])
    counts = overlaps(Given(2, "sigmoid"), logits, truth)
    assert counts.tolist() == [[1, 0], [1, 0], [1, 0]]
    dice = dice_of_counts(counts)
    assert dice[0] == 0.5 and math.isnan(dice[1])


def test_all_images_count_together_and_regions_that_are_nowhere_do_not() -> None:
    logits = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    truth = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(1)) > 0.6
    logits[:, 1], truth[:, 1] = -1, False
    network = Given(3, "sigmoid")
    whole = validate(network, [(logits, truth)], squared, 3)
    parts = validate(network, [(logits[:2], truth[:2]), (logits[2:], truth[2:])], squared, 3)
    assert whole.dice_of[0] == parts.dice_of[0] and whole.dice == parts.dice
    assert whole.loss == pytest.approx(parts.loss) == pytest.approx(logits.square().mean().item())
    assert math.isnan(whole.dice_of[1]) and whole.dice == (whole.dice_of[0] + whole.dice_of[2]) / 2
    assert validate(network, [(logits, truth)], squared, 1).dice_of == whole.dice_of[:1]
    doubled = validate(network, [(logits, truth)], squared, 3, summed=lambda tensor: 2 * tensor)
    assert doubled.dice == whole.dice and doubled.loss == whole.loss  # two processes with the same images
    assert network.training
    with pytest.raises(TrainingError, match="no validation image has a foreground"):
        validate(network, [(logits, truth & False)], squared, 3)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 6, 7])
def test_no_image_twice_and_the_same_batches(count: int, world: int) -> None:
    shares = [list(WholeBatches(count, 3, rank, world)) for rank in range(world)]
    batches = sorted(batch for share in shares for batch in share)
    assert batches == list(WholeBatches(count, 3, 0, 1))
    assert [index for batch in batches for index in batch] == list(range(count))
    assert [len(WholeBatches(count, 3, rank, world)) for rank in range(world)] == [len(share) for share in shares]


def test_foreground_is_looked_for_in_the_channels_that_are_scored() -> None:
    image, empty = torch.zeros(2, 4, 4), torch.zeros(4, 4, dtype=torch.int64)
    check_foreground([(image, empty), (image, empty + 2)], Given(3, "softmax"), 2)
    with pytest.raises(TrainingError, match="no validation image has a foreground"):
        check_foreground([(image, empty), (image, empty + 2)], Given(3, "softmax"), 1)
    regions = torch.stack([empty == 1, empty == 0])
    check_foreground([(image, regions)], Given(2, "sigmoid"), 2)
    with pytest.raises(TrainingError, match="no validation image has a foreground"):
        check_foreground([(image, regions)], Given(2, "sigmoid"), 1)  # the background alone
