"""Rules for MONAI's networks. ADN and Convolution need none: they are nn.Sequential."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastseg.accelerate.blocks import BlockRule
from fastseg.accelerate.convolutions import is_pointwise
from fastseg.accelerate.fusion import has_hooks
from fastseg.accelerate.planning import Left, Rule, Step, Swap, Uses
from fastseg.accelerate.swap import full_name, stock_class

_BLOCKS = "monai.networks.blocks.dynunet_block"


class AttentionBlockRule(Rule):
    """AttentionBlock of AttentionUnet: in eval its batch norms are affine maps, and the block is one attention gate."""

    _STOCK = "monai.networks.nets.attentionunet.AttentionBlock"

    def matches(self, module: nn.Module) -> bool:
        return full_name(stock_class(module)) == self._STOCK

    def plan(self, path: str, module: nn.Module, uses: Uses) -> Iterator[Step]:
        if (why := self.refusal(module)) is not None:
            yield Left(path, module, why)
            return
        fused = "fastseg.accelerate.monai_attention:FusedAttentionBlock"
        yield Swap(path, module, fused, "FusedAttentionBlock, one attention_gate in eval")

    def refusal(self, block: nn.Module) -> str | None:
        if "forward" in vars(block):
            return "its forward was replaced on the instance"
        for name in ("W_g", "W_x", "psi"):
            branch = block.get_submodule(name)
            if not isinstance(branch, nn.Sequential) or [*branch._modules] != [*"012"[: 2 + (name == "psi")]]:
                return f"{name} is not a convolution and a norm"
            for layer in branch.modules():
                if has_hooks(layer) or "forward" in vars(layer):
                    return (
                        f"{name}: {stock_class(layer).__name__} has hooks or a forward of its own, which would not run"
                    )
            if [*branch[0]._modules] != ["conv"] or not is_pointwise(branch[0].get_submodule("conv")):
                return f"{name}.0 is no 1x1 convolution alone"
            norm = stock_class(branch[1])
            if not issubclass(norm, _BatchNorm) or norm.__module__ != _BatchNorm.__module__:
                return f"{name}.1: {norm.__name__} is no batch norm of torch"
            if name == "psi" and type(branch[2]) is not nn.Sigmoid:
                return f"psi.2: {type(branch[2]).__name__} is no Sigmoid"
        relu = block.get_submodule("relu")
        if type(relu) is not nn.ReLU or has_hooks(relu):
            return f"relu: {type(relu).__name__} is no ReLU without hooks"
        return None


# The DynUNet blocks call one shared lrelu twice. UnetUpBlock runs a UnetBasicBlock.
RULES: tuple[Rule, ...] = (
    AttentionBlockRule(),
    BlockRule(
        stock=f"{_BLOCKS}.UnetBasicBlock",
        fused="fastseg.accelerate.monai_blocks:FusedUnetBasicBlock",
        norms=("norm1", "norm2"),
        activation="lrelu",
    ),
    BlockRule(
        stock=f"{_BLOCKS}.UnetResBlock",
        fused="fastseg.accelerate.monai_blocks:FusedUnetResBlock",
        norms=("norm1", "norm2"),
        activation="lrelu",
    ),
    BlockRule(
        stock="monai.networks.blocks.segresnet_block.ResBlock",
        fused="fastseg.accelerate.monai_blocks:FusedResBlock",
        norms=("norm1", "norm2"),
        activation="act",
    ),
)
