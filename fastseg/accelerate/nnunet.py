"""Rules for nnU-Net's networks (dynamic_network_architectures)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from fastseg.accelerate.blocks import BlockRule, hooks_refusal
from fastseg.accelerate.planning import Rule, Step, Swap, Uses, join
from fastseg.accelerate.swap import full_name, stock_class

_BLOCKS = "dynamic_network_architectures.building_blocks"
_CONV = f"{_BLOCKS}.simple_conv_blocks.ConvDropoutNormReLU"


class ConvRule(Rule):
    """ConvDropoutNormReLU registers its layers twice and runs ``all_modules``, which the Sequential rule then fuses."""

    unrun = ("conv", "dropout", "norm", "nonlin")

    def matches(self, module: nn.Module) -> bool:
        return full_name(stock_class(module)) == _CONV

    def plan(self, path: str, module: nn.Module, uses: Uses) -> Iterator[Step]:
        return iter(())


@dataclass(frozen=True)
class ResidualRule(BlockRule):
    """BasicBlockD, BottleneckD: the last norm takes the residual and the activation after the sum."""

    last: str  # the last ConvDropoutNormReLU, which holds the norm

    def plan(self, path: str, module: nn.Module, uses: Uses) -> Iterator[Step]:
        for step in super().plan(path, module, uses):
            yield step
            if isinstance(step, Swap) and step.module is module:
                done = "ConvNormResidual, hands the residual to its norm"
                conv = module.get_submodule(self.last)
                yield Swap(join(path, self.last), conv, "fastseg.accelerate.nnunet_blocks:ConvNormResidual", done)

    def refusal(self, block: nn.Module, uses: Uses) -> str | None:
        if block.apply_stochastic_depth:
            return "stochastic depth stands between the norm and the residual"
        if block.apply_se:
            return "squeeze-excitation stands between the norm and the residual"
        conv = block.get_submodule(self.last)
        if full_name(type(conv)) != _CONV or "forward" in vars(conv):
            return f"{self.last} is not a stock ConvDropoutNormReLU"
        if (why := super().refusal(block, uses)) is not None:
            return why
        layers = conv.get_submodule("all_modules")
        if list(layers.children())[-1] is not conv.norm:
            return f"{self.last} does not end in its norm"
        if uses.of(conv) > 1 or uses.of(layers) > 1:
            return f"{self.last} runs in several places"
        return hooks_refusal({self.last: conv, f"{self.last}.all_modules": layers})


RULES: tuple[Rule, ...] = (
    ResidualRule(
        stock=f"{_BLOCKS}.residual.BasicBlockD",
        fused="fastseg.accelerate.nnunet_blocks:FusedBasicBlockD",
        norms=("conv2.norm",),
        activation="nonlin2",
        last="conv2",
    ),
    ResidualRule(
        stock=f"{_BLOCKS}.residual.BottleneckD",
        fused="fastseg.accelerate.nnunet_blocks:FusedBottleneckD",
        norms=("conv3.norm",),
        activation="nonlin3",
        last="conv3",
    ),
    ConvRule(),
)
