"""What the losses share: the shapes and dtypes that they take, and arithmetic in float32 at least."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from fastseg.models.network import Output
from fastseg.ops.checks import check_choice


class SegmentationLoss(nn.Module):
    """A loss of logits (N, K, *spatial) against a truth; a scalar.

    With ``output="softmax"`` the truth is a map of classes (N, *spatial), integers from 0 to K - 1. With ``"sigmoid"``
    it is a map of regions (N, K, *spatial), bool or numbers from 0 to 1.

    Attributes:
        name: under which :func:`create_loss` makes it.
    """

    name: ClassVar[str]

    def __init__(self, output: Output) -> None:
        super().__init__()
        check_choice(self.name, "output", output, ("softmax", "sigmoid"))
        self.output: Output = output

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss; its dtype is float32, or float64 for logits of float64.

        Raises:
            TypeError, ValueError: a truth of another shape or dtype, or a class that the logits do not have.
        """
        self._check(logits, target)
        with torch.autocast(logits.device.type, enabled=False):
            precise = logits if logits.dtype == torch.float64 else logits.float()
            return self.value(precise, target)

    def value(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of checked arguments, in the dtype of ``logits``."""
        raise NotImplementedError

    def truth(self, logits: Tensor, target: Tensor) -> Tensor:
        """The truth as (N, K, *spatial) in the dtype of ``logits``."""
        if self.output == "sigmoid":
            return target.to(logits.dtype)
        return torch.zeros_like(logits).scatter_(1, target.long().unsqueeze(1), 1)

    def _check(self, logits: Tensor, target: Tensor) -> None:
        if logits.ndim < 3 or not logits.is_floating_point():
            raise ValueError(
                f"{self.name}: logits are {logits.dtype} of shape {tuple(logits.shape)}, expected (N, K, *spatial), "
                "floating point"
            )
        shape, whole = tuple(logits.shape), not (target.is_floating_point() or target.is_complex())
        expected = shape if self.output == "sigmoid" else shape[:1] + shape[2:]
        if tuple(target.shape) != expected:
            raise ValueError(
                f"{self.name}: target has shape {tuple(target.shape)}, expected {expected} for logits of shape {shape} "
                f"({self.output})"
            )
        if self.output == "softmax" and (not whole or target.dtype == torch.bool):
            raise TypeError(f"{self.name}: target is {target.dtype}, expected integers: a class for each voxel")
        if target.dtype == torch.bool or not target.numel():
            return
        least, most = (bound.item() for bound in target.detach().aminmax())
        largest = 1 if self.output == "sigmoid" else shape[1] - 1
        if not (least >= 0 and most <= largest):  # written so that NaN is refused
            raise ValueError(f"{self.name}: target has values from {least} to {most}, expected 0 to {largest}")


def check_positive(loss: str, argument: str, number: float) -> None:
    if not 0 < number < float("inf"):  # also refuses NaN
        raise ValueError(f"{loss}: {argument} is {number}, expected a finite number > 0")
