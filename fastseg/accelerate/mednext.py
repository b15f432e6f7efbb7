"""Rules for MedNeXt, as MONAI and as its authors wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from fastseg.accelerate.convolutions import depthwise_refusal, is_pointwise, swap_pointwise
from fastseg.accelerate.fusion import has_hooks, norm_refusal
from fastseg.accelerate.planning import Left, Rule, Step, Swap, Uses, join
from fastseg.accelerate.swap import full_name, stock_class


@dataclass(frozen=True)
class MedNeXtRule(Rule):
    """The depthwise convolution gathers the norm's statistics, and the two 1x1 convolutions run ours."""

    package: str  # where the stock blocks are
    blocks: str  # the module with the fused ones, under the same names with Fused before

    def matches(self, module: nn.Module) -> bool:
        name = full_name(stock_class(module))
        return name in (f"{self.package}.MedNeXt{kind}Block" for kind in ("", "Down", "Up"))

    def plan(self, path: str, module: nn.Module, uses: Uses) -> Iterator[Step]:
        for name in ("conv2", "conv3"):
            layer = module.get_submodule(name)
            if is_pointwise(layer):
                yield swap_pointwise(join(path, name), layer)
        if (why := self.refusal(module, uses)) is not None:
            yield Left(path, module, why)
            return
        fused = f"Fused{stock_class(module).__name__}"
        yield Swap(path, module, f"{self.blocks}:{fused}", f"{fused}, conv1 gathers the statistics of norm")

    def refusal(self, block: nn.Module, uses: Uses) -> str | None:
        if "forward" in vars(block):
            return "its forward was replaced on the instance"
        conv, norm = block.get_submodule("conv1"), block.get_submodule("norm")
        if not isinstance(norm, nn.GroupNorm):
            return f"norm: {type(norm).__name__} has no fused kernel"
        for name, layer, why in (
            ("conv1", conv, depthwise_refusal(conv)),
            ("norm", norm, norm_refusal(norm)),
        ):
            if why is not None:
                return f"{name}: {why}"
            if has_hooks(layer):
                return f"{name} has hooks, which would not run"
        if getattr(conv, "padding_mode", "zeros") != "zeros":
            return f"conv1 pads with {conv.padding_mode!r}"
        return None


RULES: tuple[Rule, ...] = (
    MedNeXtRule("monai.networks.blocks.mednext_block", "fastseg.accelerate.mednext_monai"),
    MedNeXtRule("nnunet_mednext.network_architecture.mednextv1.blocks", "fastseg.accelerate.mednext_original"),
)
