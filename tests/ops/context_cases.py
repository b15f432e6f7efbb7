"""What the tests of the context family share: branches, their inputs, and the truth in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastseg import ops
from tests.support import in_layout

CONV = {2: F.conv2d, 3: F.conv3d}
ASPP = {2: ops.aspp_conv2d, 3: ops.aspp_conv3d}
SEPARABLE = {2: ops.separable_aspp_conv2d, 3: ops.separable_aspp_conv3d}


@dataclass(frozen=True)
class Case:
    """x (batch, channels, *image) and branches of (outputs, kernel, dilation)."""

    image: tuple[int, ...]
    branches: tuple[tuple[int, int | tuple[int, ...], int | tuple[int, ...]], ...]
    batch: int = 2
    channels: int = 5
    multiplier: int = 1

    def __str__(self) -> str:
        return f"{self.batch}x{self.channels}x{'x'.join(map(str, self.image))}-" + "-".join(
            f"{o}k{k}d{d}".replace(" ", "") for o, k, d in self.branches
        )

    @property
    def dilations(self) -> list[int | tuple[int, ...]]:
        return [dilation for _, _, dilation in self.branches]

    def kernels(self) -> list[tuple[int, ...]]:
        return [(k,) * len(self.image) if isinstance(k, int) else k for _, k, _ in self.branches]

    def inputs(self, dtype: torch.dtype, separable: bool = False, seed: int = 0) -> list[Tensor]:
        """x, then the weights and biases, branch by branch for each kind, and the gradient of y."""
        generator = torch.Generator().manual_seed(seed)
        outputs = [o for o, _, _ in self.branches]
        inner = self.channels * self.multiplier
        shapes: list[tuple[int, ...]] = [(self.batch, self.channels, *self.image)]
        if separable:
            shapes += [(inner, 1, *k) for k in self.kernels()]
            shapes += [(o, inner, *[1] * len(self.image)) for o in outputs]
            shapes += [(inner,) for _ in outputs]
        else:
            shapes += [(o, self.channels, *k) for o, k in zip(outputs, self.kernels(), strict=True)]
        shapes += [(o,) for o in outputs]
        shapes += [(self.batch, sum(outputs), *self.image)]
        return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]

    def dense(self, x: Tensor, *parameters: Tensor) -> Tensor:
        weights, biases = halves(parameters, 2)
        return ASPP[len(self.image)](x, weights, dilations=self.dilations, biases=biases)

    def dense_of_torch(self, x: Tensor, *parameters: Tensor) -> Tensor:
        conv, (weights, biases) = CONV[len(self.image)], halves(parameters, 2)
        return torch.cat(
            [
                conv(x, w, b, padding="same", dilation=d)
                for w, b, d in zip(weights, biases, self.dilations, strict=True)
            ],
            1,
        )

    def separable(self, x: Tensor, *parameters: Tensor) -> Tensor:
        depthwise, pointwise, between, after = halves(parameters, 4)
        return SEPARABLE[len(self.image)](
            x, depthwise, pointwise, dilations=self.dilations, depthwise_biases=between, pointwise_biases=after
        )

    def separable_of_torch(self, x: Tensor, *parameters: Tensor) -> Tensor:
        conv = CONV[len(self.image)]
        return torch.cat(
            [
                conv(conv(x, w, b, padding="same", dilation=d, groups=self.channels), p, a)
                for w, p, b, a, d in zip(*halves(parameters, 4), self.dilations, strict=True)
            ],
            1,
        )


def halves(parameters: Sequence[Tensor], parts: int) -> list[list[Tensor]]:
    count = len(parameters) // parts
    return [list(parameters[i * count : (i + 1) * count]) for i in range(parts)]


def run(function: Callable[..., Tensor], inputs: list[Tensor], layout: str = "contiguous") -> list[Tensor]:
    """The result, and the gradients of all inputs but the last, which is the result's."""
    x, *parameters, grad = inputs
    leaves = [in_layout(x, layout), *(t.clone() for t in parameters)]
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, in_layout(grad, layout))]


def magnitudes(function: Callable[..., Tensor], inputs: list[Tensor]) -> list[float]:
    """The size of what is added up for the result and for each gradient."""
    return [t.abs().max().item() for t in run(function, [t.double().abs() for t in inputs])]


#: Kernels of one pixel beside larger ones, taps that reach far or only padding, channels that fill no vector or several
#: blocks, bands of rows, several panels, even kernels, volumes.
CASES = (
    Case((9, 11), ((4, 3, 1), (3, 3, 2), (2, 1, 1))),
    Case((20, 13), ((17, 1, 1), (17, 3, 6), (9, 3, 12), (5, 3, 18)), channels=33),
    Case((3, 4), ((7, 3, 18),), batch=3),
    Case((40, 33), ((70, 3, 6), (130, 3, 1)), batch=1, channels=150),
    Case((12, 10), ((5, (2, 3), (3, 2)), (6, (1, 4), (1, 3)), (1, 5, 2))),
    Case((1, 1), ((6, 3, 1), (2, 1, 4)), channels=7),
    Case((5, 700), ((20, 3, 2),), batch=1, channels=18),
    Case((6, 7, 8), ((4, 3, 1), (5, 3, 2), (3, 1, 1)), batch=1),
    Case((3, 9, 10), ((20, (1, 3, 3), (1, 2, 2)), (33, 3, (1, 4, 6))), channels=19),
)
