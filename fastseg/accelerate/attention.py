"""Rules for squeeze and excitation, scSE and CBAM as MONAI, SMP and public code have them."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import nn

from fastseg.accelerate.attention_blocks import FusedCBAM, FusedSCSE
from fastseg.accelerate.fusion import has_hooks
from fastseg.accelerate.planning import Left, Rule, Step, Swap, Uses
from fastseg.accelerate.swap import full_name, stock_class


def _structure_refusal(module: nn.Module, layers: tuple[tuple[str, type[nn.Module]], ...]) -> str | None:
    """Whether the named layers are torch's own, and nobody looks at what goes through them."""
    if "forward" in vars(module):
        return "its forward was replaced on the instance"
    for name, expected in layers:
        try:
            layer = module.get_submodule(name)
        except AttributeError:
            return f"it has no {name}"
        if stock_class(layer) is not expected or "forward" in vars(layer):
            return f"{name} is {type(layer).__name__}, expected torch.nn.{expected.__name__}"
    for name, layer in module.named_modules():
        if name and has_hooks(layer):
            return f"{name} has hooks, which would not run"
    return None


def _convolutions(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


class MonaiSqueezeRule(Rule):
    """MONAI's ChannelSELayer; its subclasses with other activations are left."""

    def matches(self, module: nn.Module) -> bool:
        return full_name(stock_class(module)) == "monai.networks.blocks.squeeze_and_excitation.ChannelSELayer"

    def plan(self, path: str, module: nn.Module, uses: Uses) -> Iterator[Step]:
        layers = (("fc.0", nn.Linear), ("fc.1", nn.ReLU), ("fc.2", nn.Linear), ("fc.3", nn.Sigmoid))
        why = _structure_refusal(module, layers)
        if why is None and isinstance(module.get_submodule("avg_pool"), nn.AdaptiveAvgPool1d):
            why = "one spatial axis has no fused kernel"
        if why is not None:
            yield Left(path, module, why)
        else:
            yield Swap(path, module, "fastseg.accelerate.attention_monai:FusedChannelSELayer", "FusedChannelSELayer")


class SMPConcurrentRule(Rule):
    """SCSEModule of segmentation_models_pytorch."""

    def matches(self, module: nn.Module) -> bool:
        return full_name(stock_class(module)) == "segmentation_models_pytorch.base.modules.SCSEModule"

    def reads(self, module: nn.Module) -> list[nn.Module]:
        return _convolutions(module)

    def plan(self, path: str, module: nn.Module, uses: Uses) -> Iterator[Step]:
        layers = (
            ("cSE.0", nn.AdaptiveAvgPool2d),
            ("cSE.1", nn.Conv2d),
            ("cSE.2", nn.ReLU),
            ("cSE.3", nn.Conv2d),
            ("cSE.4", nn.Sigmoid),
            ("sSE.0", nn.Conv2d),
            ("sSE.1", nn.Sigmoid),
        )
        why = _structure_refusal(module, layers)
        yield Swap(path, module, FusedSCSE, "FusedSCSE") if why is None else Left(path, module, why)


class PublicCBAMRule(Rule):
    """CBAM as its authors wrote it, which many projects carry a copy of.

    Copies differ in what structure does not show, such as the order of the two maps. So one is swapped when it has the
    authors' structure and gives what the fused layer gives, on a small image.
    """

    def matches(self, module: nn.Module) -> bool:
        cls = stock_class(module)
        return cls.__name__ == "CBAM" and {"ChannelGate", "SpatialGate"} <= set(module._modules)

    def reads(self, module: nn.Module) -> list[nn.Module]:
        return _convolutions(module)

    def plan(self, path: str, module: nn.Module, uses: Uses) -> Iterator[Step]:
        layers = (
            ("ChannelGate.mlp.1", nn.Linear),
            ("ChannelGate.mlp.2", nn.ReLU),
            ("ChannelGate.mlp.3", nn.Linear),
            ("SpatialGate.spatial.conv", nn.Conv2d),
        )
        why = _structure_refusal(module, layers)
        order = None
        if why is None:
            order = next((order for order in ("max_mean", "mean_max") if _agrees(module, order)), None)
            if order is None:
                why = "on a small image it gives something else than CBAM"
        if order is None:
            yield Left(path, module, str(why))
        else:
            yield Swap(path, module, FusedCBAM, f"FusedCBAM, maps {order}", {"_fastseg_order": order})


def _agrees(module: nn.Module, order: str) -> bool:
    """Whether copies of the stock module and of the fused one give the same, in float64, in eval mode."""
    parameter = next(module.parameters())
    if parameter.device.type == "meta":
        return False
    stock = copy.deepcopy(module).to("cpu", torch.float64).eval()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for t in stock.parameters():  # fresh layers may have zeros, which hide what they multiply
            t.copy_(torch.randn(t.shape, generator=generator, dtype=t.dtype))
        fused = copy.deepcopy(stock)
        fused.__class__ = FusedCBAM
        vars(fused)["_fastseg_order"] = order
        channels = stock.get_submodule("ChannelGate.mlp.1").get_parameter("weight").shape[1]
        x = torch.randn((2, channels, 9, 11), generator=generator, dtype=torch.float64)
        try:
            return torch.allclose(stock(x), fused(x), rtol=1e-9, atol=1e-12)
        except (RuntimeError, ValueError, TypeError, AttributeError):
            return False  # of another structure than the authors' after all


RULES: tuple[Rule, ...] = (MonaiSqueezeRule(), SMPConcurrentRule(), PublicCBAMRule())
