"""Cross-entropy of classes and of regions, with weights for classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fastseg.models.network import Output
from fastseg.ops.checks import check_choice, check_not_negative
from fastseg.training.segmentation_loss import SegmentationLoss

#: One number a class, ``"balanced"`` or None.
ClassWeights = Sequence[float] | Literal["balanced"] | None


class CrossEntropy(SegmentationLoss):
    """Cross-entropy, the mean over voxels; binary for sigmoid, the mean over regions, too. Paper D.

    Args:
        class_weights: None; K numbers; or ``"balanced"``: each class of the batch counts the same, however few its
            voxels, and one that is absent counts nothing. With weights the mean over voxels is a weighted one (softmax
            only).
    """

    name = "cross_entropy"

    def __init__(
        self,
        *,
        output: Output = "softmax",
        class_weights: ClassWeights = None,
    ) -> None:
        super().__init__(output)
        if class_weights is not None and output == "sigmoid":
            raise ValueError(f"{self.name}: class_weights is {class_weights!r}, expected None for output 'sigmoid'")
        if isinstance(class_weights, str):
            check_choice(self.name, "class_weights", class_weights, ("balanced",))
        elif class_weights is not None:
            for weight in class_weights:
                check_not_negative(self.name, "class_weights", weight)
        self.class_weights = class_weights

    def value(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.output == "sigmoid":
            return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))
        classes = target.long()
        # Where all weights of a batch are zero, so is the loss: the mean would be 0/0.
        weights = self._weights(logits, classes)
        if weights is None:
            return F.cross_entropy(logits, classes)
        total = weights[classes].sum()
        return F.cross_entropy(logits, classes, weights, reduction="sum") / torch.where(total > 0, total, 1)

    def _weights(self, logits: Tensor, classes: Tensor) -> Tensor | None:
        if self.class_weights is None:
            return None
        number = logits.shape[1]
        if isinstance(self.class_weights, str):
            counts = torch.bincount(classes.flatten(), minlength=number).to(logits.dtype)
            return torch.where(counts > 0, 1 / counts.clamp_min(1), 0)
        if len(self.class_weights) != number:
            raise ValueError(
                f"{self.name}: class_weights has {len(self.class_weights)} numbers, expected {number}, one a class"
            )
        return logits.new_tensor(self.class_weights)
