"""Rules for ASPP blocks: MONAI's SimpleASPP and the ASPP of segmentation_models_pytorch (SMP).

What the fused forwards read instead of calling it is asked for here: when the rule plans the swap, and again in each
forward, for hooks and wrappers may come later. A forward that finds another block runs the stock one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastseg.accelerate.convolutions import depthwise_refusal, is_dense, is_pointwise, padding_refusal, swap_pointwise
from fastseg.accelerate.dense_conv import DENSE
from fastseg.accelerate.fusion import has_hooks
from fastseg.accelerate.planning import Left, Rule, Step, Swap, Uses, join
from fastseg.accelerate.swap import full_name, record_of, stock_class

SMP_DECODER = "segmentation_models_pytorch.decoders.deeplabv3.decoder"


@dataclass(frozen=True)
class AsppRule(Rule):
    stock: str  # "package.module.Class"; subclasses do not match
    fused: str  # "module:Class", a subclass of stock
    done: str
    refusal: Callable[[Any], str | None]
    normed: Callable[[Any], list[nn.Sequential]]  # those whose layers the fused forward reads or calls one by one
    pointwise: tuple[str, ...] = ()  # 1x1 convolutions that run as layers

    def matches(self, module: nn.Module) -> bool:
        return full_name(stock_class(module)) == self.stock

    def reads(self, module: nn.Module) -> Iterator[nn.Module]:
        if self.refusal(module) is None:
            yield from (layer for layer in module.modules() if is_dense(layer))
        for layers in self.normed(module):
            norms = [layer for layer in layers if isinstance(layer, _BatchNorm)]
            if norms:
                yield from (layers, *norms)

    def plan(self, path: str, module: nn.Module, uses: Uses) -> Iterator[Step]:
        why = "its forward was replaced on the instance" if "forward" in vars(module) else self.refusal(module)
        if why is not None:
            yield Left(path, module, why)
            return
        yield Swap(path, module, self.fused, self.done)
        for name in self.pointwise:
            layer = module.get_submodule(name)
            if record_of(layer) is None and is_pointwise(layer):
                yield swap_pointwise(join(path, name), layer)


def monai_refusal(aspp: Any) -> str | None:
    """Why a SimpleASPP's convolutions cannot run as one."""
    if (why := _watched("convs", aspp.convs)) is not None:
        return why
    for name, conv in aspp.convs.named_children():
        if (why := _dense_refusal(conv)) is not None:
            return f"convs.{name}: {why}"
    return None


def smp_refusal(aspp: Any) -> str | None:
    """Why the branches of SMP's ASPP, and its projection, cannot run as one."""
    if (why := _watched("convs", aspp.convs)) is not None:
        return why
    *branches, pooling = aspp.convs
    for i, branch in enumerate(branches):
        if (why := _branch_refusal(branch)) is not None:
            return f"convs.{i}: {why}"
    if len(pooling) != 4 or type(pooling[0]) is not nn.AdaptiveAvgPool2d or pooling[0].output_size != 1:
        return f"convs.{len(branches)} is no pooled branch"
    if (why := _watched("its pooled branch", pooling)) is not None:
        return why
    if len(aspp.project) != 4:
        return f"project has {len(aspp.project)} layers, expected 4"
    return None if (why := _branch_refusal(aspp.project[:3], aspp.project)) is None else f"project: {why}"


def _branch_refusal(layers: Any, watched: Any = None) -> str | None:
    """Of a Sequential of a convolution, a batch norm and a ReLU."""
    if (why := _watched("the branch", layers if watched is None else watched)) is not None:
        return why
    if len(layers) != 3 or type(layers[1]) is not nn.BatchNorm2d or type(layers[2]) is not nn.ReLU:
        return "it is no convolution, batch norm and ReLU"
    conv, norm, relu = layers
    for layer in (norm, relu):
        if (why := _watched(type(layer).__name__, layer)) is not None:
            return why
    if full_name(stock_class(conv)) != f"{SMP_DECODER}.SeparableConv2d":
        return _dense_refusal(conv)
    if (why := _watched("SeparableConv2d", conv)) is not None:
        return why
    if len(conv) != 2 or not is_pointwise(conv[1]) or has_hooks(conv[1]):
        return "SeparableConv2d does not end in a 1x1 convolution without hooks"
    return depthwise_refusal(conv[0]) or _watched(stock_class(conv[0]).__name__, conv[0]) or padding_refusal(conv[0])


def _dense_refusal(conv: Any) -> str | None:
    cls = stock_class(conv)
    if cls not in DENSE:
        return f"{cls.__name__} has no kernel"
    if conv.groups != 1:
        return f"{conv.groups} groups have no kernel"
    return _watched(cls.__name__, conv) or padding_refusal(conv)


def _watched(name: str, module: nn.Module) -> str | None:
    if has_hooks(module):
        return f"{name} has hooks, which would not run"
    return f"{name} has a forward of its own" if "forward" in vars(module) else None


RULES: tuple[Rule, ...] = (
    AsppRule(
        stock="monai.networks.blocks.aspp.SimpleASPP",
        fused="fastseg.accelerate.context_monai:FusedSimpleASPP",
        done="FusedSimpleASPP, its convolutions run as one",
        refusal=monai_refusal,
        normed=lambda aspp: [aspp.conv_k1.adn] if hasattr(aspp.conv_k1, "adn") else [],
        pointwise=("conv_k1.conv",),
    ),
    AsppRule(
        stock=f"{SMP_DECODER}.ASPP",
        fused="fastseg.accelerate.context_smp:FusedASPP",
        done="FusedASPP, its branches run as one",
        refusal=smp_refusal,
        normed=lambda aspp: [*aspp.convs, aspp.project],
    ),
)
