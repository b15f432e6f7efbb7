"""Rules for residual networks with batch norm: torchvision's, which SMP's encoders are made of, and MONAI's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from fastseg.accelerate.blocks import BlockRule
from fastseg.accelerate.fusion import activation_refusal, carries_activation, swap_norm, takes_no_activation
from fastseg.accelerate.planning import Bypass, Left, Rule, Step, Uses, join
from fastseg.accelerate.swap import full_name, stock_class

_TORCHVISION = "torchvision.models.resnet"
_MONAI = "monai.networks.nets.resnet"


@dataclass(frozen=True)
class StemRule(Rule):
    """The network's own norm and activation, which its forward calls once, one after the other."""

    stock: tuple[str, ...]  # "package.module.Class"; subclasses do not match
    norm: str
    activation: str

    def matches(self, module: nn.Module) -> bool:
        return full_name(stock_class(module)) in self.stock

    def plan(self, path: str, module: nn.Module, uses: Uses) -> Iterator[Step]:
        norm, activation = module.get_submodule(self.norm), module.get_submodule(self.activation)
        if carries_activation(norm):
            return
        why = "its forward was replaced on the instance" if "forward" in vars(module) else None
        why = why or activation_refusal(activation) or takes_no_activation(norm, (activation,), uses)
        if why is not None:
            yield Left(join(path, self.activation), activation, why)
        else:
            yield swap_norm(join(path, self.norm), norm, activation)
            yield Bypass(join(path, self.activation), module, self.activation, self.norm)


def _block(stock: str, fused: str, norms: tuple[str, ...], activation: str) -> BlockRule:
    return BlockRule(stock=stock, fused=f"fastseg.accelerate.{fused}", norms=norms, activation=activation)


RULES: tuple[Rule, ...] = (
    _block(f"{_TORCHVISION}.BasicBlock", "resnet_torchvision:FusedBasicBlock", ("bn1", "bn2"), "relu"),
    _block(f"{_TORCHVISION}.Bottleneck", "resnet_torchvision:FusedBottleneck", ("bn1", "bn2", "bn3"), "relu"),
    _block(f"{_MONAI}.ResNetBlock", "resnet_monai:FusedResNetBlock", ("bn1", "bn2"), "act"),
    _block(f"{_MONAI}.ResNetBottleneck", "resnet_monai:FusedResNetBottleneck", ("bn1", "bn2", "bn3"), "act"),
    StemRule((f"{_TORCHVISION}.ResNet", "segmentation_models_pytorch.encoders.resnet.ResNetEncoder"), "bn1", "relu"),
    StemRule(tuple(f"{_MONAI}.{name}" for name in ("ResNet", "ResNetFeatures", "ResNetEncoder")), "bn1", "act"),
)
