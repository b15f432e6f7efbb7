"""Calls of channel and spatial attention that tests share: the op, what users write today, and random parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import fastseg
from fastseg.ops import cbam, channel_attention, scse, spatial_attention, squeeze_excitation

HIDDEN = 3


def dense(x: Tensor, fc1: Tensor, fc2: Tensor, bias1: Tensor | None, bias2: Tensor | None, max_pool: bool) -> Tensor:
    """The channel gate as public code computes it."""
    ones = (1,) * (x.ndim - 2)
    pools = [x.mean(tuple(range(2, x.ndim)))]
    if max_pool:
        largest = F.adaptive_max_pool2d if x.ndim == 4 else F.adaptive_max_pool3d
        pools.append(largest(x, 1).flatten(1))
    logits = [F.linear(F.relu(F.linear(pool, fc1, bias1)), fc2, bias2) for pool in pools]
    return torch.sigmoid(sum(logits[1:], logits[0])).unflatten(1, (-1, *ones))


def spatial(x: Tensor, weight: Tensor, bias: Tensor | None, order: str = "mean_max") -> Tensor:
    """The spatial convolution's output as public code computes it."""
    mean, largest = x.mean(1, keepdim=True), torch.max(x, 1, keepdim=True)[0]
    maps = torch.cat((mean, largest) if order == "mean_max" else (largest, mean), 1)
    convolution = F.conv2d if x.ndim == 4 else F.conv3d
    return convolution(maps, weight, bias, padding=[size // 2 for size in weight.shape[2:]])


def _cbam(x, fc1, bias1, fc2, bias2, weight, bias):
    return cbam(x, fc1, fc2, weight, fc1_bias=bias1, fc2_bias=bias2, spatial_bias=bias)


def _cbam_peer(x, fc1, bias1, fc2, bias2, weight, bias):
    x = x * dense(x, fc1, fc2, bias1, bias2, True)
    return x * torch.sigmoid(spatial(x, weight, bias))


def _normalized(x, fc1, fc2, weight, norm_weight, norm_bias):
    return cbam(x, fc1, fc2, weight, order="max_mean", normalize=True, norm_weight=norm_weight, norm_bias=norm_bias)


def _normalized_peer(x, fc1, fc2, weight, norm_weight, norm_bias):
    x = x * dense(x, fc1, fc2, None, None, True)
    logit = spatial(x, weight, None, "max_mean")
    return x * torch.sigmoid(F.batch_norm(logit, None, None, norm_weight, norm_bias, training=True))


def _scse(x, fc1, bias1, fc2, bias2, weight, bias):
    return scse(x, fc1, fc2, weight, fc1_bias=bias1, fc2_bias=bias2, spatial_bias=bias)


def _scse_peer(x, fc1, bias1, fc2, bias2, weight, bias):
    convolution = F.conv2d if x.ndim == 4 else F.conv3d
    return x * dense(x, fc1, fc2, bias1, bias2, False) + x * torch.sigmoid(convolution(x, weight, bias))


@dataclass(frozen=True)
class Case:
    fused: Callable[..., Tensor]
    peer: Callable[..., Tensor]
    parameters: tuple[str, ...]


CASES = {
    "cbam": Case(_cbam, _cbam_peer, ("fc1", "bias1", "fc2", "bias2", "conv", "one")),
    "normalized": Case(_normalized, _normalized_peer, ("fc1", "fc2", "conv", "one", "one")),
    "spatial": Case(spatial_attention, lambda x, w: x * torch.sigmoid(spatial(x, w, None)), ("conv",)),
    "channel": Case(channel_attention, lambda x, a, b: x * dense(x, a, b, None, None, True), ("fc1", "fc2")),
    "squeeze": Case(squeeze_excitation, lambda x, a, b: x * dense(x, a, b, None, None, False), ("fc1", "fc2")),
    "scse": Case(_scse, _scse_peer, ("fc1", "bias1", "fc2", "bias2", "point", "one")),
}


def parameters_of(
    case: str, shape: tuple[int, ...], dtype: torch.dtype, kernel: int = 3, seed: int = 0, hidden: int = HIDDEN
):
    generator = torch.Generator().manual_seed(seed)
    channels, rank = shape[1], len(shape) - 2
    sizes = {
        "fc1": (hidden, channels),
        "bias1": (hidden,),
        "fc2": (channels, hidden),
        "bias2": (channels,),
        "conv": (1, 2, *[kernel] * rank),
        "point": (1, channels, *[1] * rank),
        "one": (1,),
    }
    return [
        (0.5 * torch.randn(sizes[name], generator=generator, dtype=torch.float64)).to(dtype)
        for name in CASES[case].parameters
    ]


def gradients(function: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in inputs]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(y.dtype))]


def exact(case: str, inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    with fastseg.backend("reference"):
        return gradients(CASES[case].fused, [t.double() for t in inputs], grad.double())


def sizes_of_terms(case: str, inputs: list[Tensor], grad: Tensor, truth: list[Tensor], runs: int = 6) -> list[float]:
    """Of the numbers that each result adds up: what small relative changes of all that goes in make of it.

    The largest of some runs: what one change does may happen to cancel, and a parameter of one number has none beside
    it that does not. 16-bit x stays: it has ties, where a change would move the place of a maximum.
    """
    change = 1e-9
    generator = torch.Generator().manual_seed(0)

    def changed(t: Tensor) -> Tensor:
        return t.double() * (1 + change * torch.randn(t.shape, generator=generator, dtype=torch.float64))

    x, *parameters = inputs
    stays = x.dtype in (torch.bfloat16, torch.float16)
    sizes = [0.0] * len(truth)
    for _ in range(runs):
        near = exact(case, [x if stays else changed(x), *map(changed, parameters)], changed(grad))
        for i, (a, b) in enumerate(zip(near, truth, strict=True)):
            if b.numel():
                sizes[i] = max(sizes[i], (a - b).abs().max().item() / change)
    return sizes
