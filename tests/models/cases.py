"""One small network of each kind, and what is known of the networks of the papers' size.

A new network adds its line to CASES. ``python -m tests.models.cases NAME`` prints ``keys`` and ``parameters`` for it.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import fastseg
from fastseg import models
from fastseg.models import SegmentationNetwork


@dataclass(frozen=True)
class Case:
    """Constructor arguments that make a small network, an input for it, and golden numbers.

    ``keys``: number of keys, first and last key of the small network, and a checksum of all keys and shapes: a change
    makes weight files unreadable. ``parameters``: trainable ones of the network with its default arguments.
    """

    arguments: Mapping[str, Any]
    shape: tuple[int, ...]
    keys: tuple[int, str, str, int]
    parameters: int
    #: Variants of ``arguments`` that other tests build and run too.
    variants: tuple[Mapping[str, Any], ...] = field(default=())

    def all_arguments(self) -> list[dict[str, Any]]:
        return [dict(self.arguments), *({**self.arguments, **variant} for variant in self.variants)]


CASES: dict[str, Case] = {}


def build(name: str, *, plain: bool = False, **arguments: Any) -> SegmentationNetwork:
    """A network with the same weights and running statistics at every call, none of them one or zero."""
    torch.manual_seed(0)
    with fastseg.backend("reference") if plain else nullcontext():
        network = models.create(name, **arguments)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.rand(parameter.shape, generator=generator)
        else:
            scale = parameter[0].numel() ** -0.5
            parameter.data.copy_(scale * torch.randn(parameter.shape, generator=generator))
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.data += 0.2 * torch.rand(buffer.shape, generator=generator)
    return network


def image(name: str, batch: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(batch, *CASES[name].shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def outcome(network: nn.Module, x: Tensor, autocast: bool = False) -> dict[str, Tensor]:
    """Logits, and the gradients of a sum of them with random weights by all parameters."""
    network.zero_grad(set_to_none=True)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
        logits = network(x)
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (logits * weights.to(logits)).sum().backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    without = [name for name, gradient in gradients.items() if gradient is None]
    assert not without, f"no gradient: {without}"
    return {"logits": logits.detach(), **{name: g.double() for name, g in gradients.items() if g is not None}}


def assert_as_exact(
    actual: dict[str, Tensor], peer: dict[str, Tensor], exact: dict[str, Tensor], eps: float = 2.0**-23
) -> None:
    """No tensor is further from float64 than twice the peer's worst, relative to its norm.

    Numbers that only rounding makes differ from zero have no relative error: gradients of biases before a norm.
    """

    ours, worst = _errors(actual, exact), max(_errors(peer, exact).values())
    for name, error in ours.items():
        assert error <= 2 * worst + eps, f"{name}: error {error:.2e}, the peer's worst is {worst:.2e}"


def assert_as_close(actual: dict[str, Tensor], peer: dict[str, Tensor], exact: dict[str, Tensor], eps: float) -> None:
    """Neither the logits nor the gradients together are further from float64 than twice the peer's.

    Together, as the root of the mean square of their relative errors: through the depth of a network in 16 bits some
    gradient has no digit that is right, whoever computes it, and which one is chance.
    """
    ours, theirs = _errors(actual, exact), _errors(peer, exact)
    for errors in (ours, theirs):
        squares = [error**2 for name, error in errors.items() if name != "logits"]
        errors["gradients"] = (sum(squares) / len(squares)) ** 0.5
    for name in ("logits", "gradients"):
        assert ours[name] <= 2 * theirs[name] + eps, f"{name}: error {ours[name]:.2e}, the peer's is {theirs[name]:.2e}"


def _errors(of: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """Of each tensor, relative to its norm; without those that are zero but for rounding."""
    largest = max(float(t.norm()) for name, t in exact.items() if name != "logits")
    counted = {name for name, t in exact.items() if float(t.norm()) > 1e-9 * largest}
    assert "logits" in counted and len(counted) > len(exact) // 2
    return {name: float((of[name].double() - t).norm() / t.norm()) for name, t in exact.items() if name in counted}


def keys_of(network: nn.Module) -> tuple[int, str, str, int]:
    state = network.state_dict()
    names = list(state)
    text = "\n".join(f"{name} {tuple(tensor.shape)}" for name, tensor in state.items())
    return len(names), names[0], names[-1], zlib.crc32(text.encode())


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def full_size(name: str, **arguments: Any) -> SegmentationNetwork:
    """With default arguments, without memory for the weights."""
    with torch.device("meta"):
        return models.create(name, **arguments)


CASES["unet"] = Case(
    {"widths": (4, 6, 8)},
    shape=(3, 16, 24),
    keys=(26, "down.0.0.conv.weight", "head.bias", 3066497188),
    parameters=31_031_810,
    variants=({"norm": "batch"}, {"norm": "instance", "up_kernel_size": 3}),
)
CASES["unet_cbam"] = Case(
    {"widths": (4, 6, 8), "ratio": 2},
    shape=(3, 16, 24),
    keys=(41, "down.0.0.conv.weight", "head.bias", 1465324468),
    parameters=31_250_804,
    variants=({"norm": "batch", "variant": "original"}, {"norm": "instance", "kernel_size": 3, "up_kernel_size": 3}),
)
CASES["resunet"] = Case(
    {"widths": (4, 6, 8)},
    shape=(3, 16, 24),
    keys=(100, "stem.0.weight", "head.bias", 1172109778),
    parameters=1_206_129,
    variants=({"block_bias": False},),
)
CASES["resunet_ce_aspp"] = Case(
    {"out_channels": 3, "widths": (8, 8, 12, 16, 20), "aspp_channels": 8},
    shape=(3, 64, 96),
    keys=(340, "encoder.conv1.weight", "head.4.bias", 3312344226),
    parameters=31_379_586,
    variants=({"separable": True, "image_pooling": True, "stem_skip": False},),
)
CASES["dense_unet_2d"] = Case(
    {"widths": (4, 6, 8)},
    shape=(4, 16, 24),
    keys=(100, "encoder.0.first.conv.weight", "head.bias", 605038667),
    parameters=6_295_396,
    variants=({"upsampling": "linear", "growth": (3, 5, 2), "output": "sigmoid"},),
)
CASES["da_unet_3d"] = Case(
    {"widths": (4, 6, 8), "dropout": 0.0},
    shape=(4, 8, 16, 12),
    keys=(65, "input.conv.weight", "fusion.head.bias", 515695278),
    parameters=1_769_219,
    variants=(
        {"upsampling": "linear", "growth": (3, 2), "localization_convs": 2, "fusion_channels": 5, "out_channels": 4},
    ),
)
CASES["msfen"] = Case(
    {"widths": (8, 12, 20), "bottleneck_channels": 12, "reduction": 1, "modality_channels": 4, "dropout": 0.0},
    shape=(4, 24, 32),
    keys=(133, "fusion.stem.weight", "head.bias", 1078584252),
    parameters=8_511_606,
    variants=({"norm": "instance", "blocks_per_level": 2, "own_key": True},),
)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(name, keys_of(build(name, **CASES[name].arguments)), count(full_size(name)))
