"""Which norm has a fused layer, which activation it can take, and why not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _LazyNormBase, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from fastseg.accelerate.batch_norm import SwappedBatchNorm2d, SwappedBatchNorm3d
from fastseg.accelerate.planning import Swap, Uses
from fastseg.accelerate.swap import record_of, stock_class
from fastseg.nn import GroupNormAct, InstanceNormAct1d, InstanceNormAct2d, InstanceNormAct3d
from fastseg.nn.norm import FusedActivation

FUSED_NORM: dict[type[nn.Module], type[nn.Module]] = {
    nn.InstanceNorm1d: InstanceNormAct1d,
    nn.InstanceNorm2d: InstanceNormAct2d,
    nn.InstanceNorm3d: InstanceNormAct3d,
    nn.GroupNorm: GroupNormAct,
    nn.BatchNorm2d: SwappedBatchNorm2d,
    nn.BatchNorm3d: SwappedBatchNorm3d,
}


def is_norm(module: nn.Module) -> bool:
    """Any norm layer, but for the fused ones that the model's author put there."""
    if isinstance(module, FusedActivation) and record_of(module) is None:
        return False
    return isinstance(module, (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm))


def norm_refusal(module: nn.Module) -> str | None:
    """Why ``module`` cannot become a fused norm (or is none)."""
    cls = stock_class(module)
    if cls not in FUSED_NORM:
        if issubclass(cls, _LazyNormBase):
            return f"{cls.__name__} does not know its channels yet: run one batch, then accelerate"
        for known in FUSED_NORM:
            if issubclass(cls, known):
                return f"a subclass of {known.__name__} may compute something else"
        if cls is nn.SyncBatchNorm:
            return "SyncBatchNorm takes its statistics over all processes"
        return f"{cls.__name__} has no fused kernel"
    if "forward" in vars(module):
        return "its forward was replaced on the instance"
    # running_mean too: setting track_running_stats = False afterwards does not stop the updates in training.
    if isinstance(module, _InstanceNorm) and (module.track_running_stats or module.running_mean is not None):
        return "track_running_stats=True: in eval it is an affine map, which has nothing to fuse"
    if isinstance(module, nn.GroupNorm) and module.num_groups != module.num_channels:
        groups = f"{module.num_groups} groups of {module.num_channels} channels"
        return f"{groups}: only one channel a group is an instance norm"
    return None


def activation_refusal(module: Any) -> str | None:
    """Why a fused norm cannot apply ``module`` (or it is no activation)."""
    if type(module) is nn.ReLU:
        return None
    if type(module) is nn.LeakyReLU:
        # Written so that NaN is refused.
        return None if module.negative_slope >= 0 else f"LeakyReLU has negative_slope {module.negative_slope}, below 0"
    return f"{type(module).__name__} has no fused kernel"


def takes_no_activation(norm: nn.Module, between: Iterable[nn.Module], uses: Uses) -> str | None:
    """Why ``norm`` cannot apply an activation that runs after it, with the modules ``between`` (and the activation)."""
    if (why := norm_refusal(norm)) is not None:
        return why
    for module in (norm, *between):
        if has_hooks(module):
            return f"{type(module).__name__} has hooks, which would see another tensor"
    if uses.of(norm) > 1:
        return f"the norm runs in {uses.of(norm)} places"
    return None


def carries_activation(norm: nn.Module) -> bool:
    """Whether a swap has given ``norm`` the activation after it."""
    record = record_of(norm)
    return record is not None and "activation" in record.attributes


def take_activation(*norms: nn.Module) -> bool:
    """Whether the norms of a swapped block still apply its activation, or somebody put others in their place since.

    torch.nn.SyncBatchNorm.convert_sync_batchnorm does, of all of them.

    Raises:
        RuntimeError: only some were replaced: neither forward is right then.
    """
    taking = {isinstance(norm, FusedActivation) for norm in norms}
    if len(taking) > 1:
        raise RuntimeError(
            "accelerate: some norms of a block were replaced, and the others still apply its activation: call restore, "
            "replace them, and accelerate again"
        )
    return taking.pop()


def has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def swap_norm(path: str, norm: nn.Module, activation: nn.Module | None = None) -> Swap:
    """The step that makes ``norm`` its fused class and lets it apply ``activation``."""
    replacement = FUSED_NORM[stock_class(norm)]
    if activation is None:
        return Swap(path, norm, replacement, f"{replacement.__name__}, no activation")
    attributes: dict[str, Any] = {"activation": "relu"}
    name = "relu"
    if isinstance(activation, nn.LeakyReLU):
        attributes = {"activation": "leaky_relu", "negative_slope": float(activation.negative_slope)}
        name = f"leaky_relu({activation.negative_slope:g})"
    return Swap(path, norm, replacement, f"{replacement.__name__} with {name}", attributes)
