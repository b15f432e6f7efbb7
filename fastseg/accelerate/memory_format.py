"""Channels-last parameters and inputs, on and off."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def channels_last_inputs(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The forward pre-hook. A plain function of this module: copies and pickles of a model refer to the same one."""
    return tuple(map(_channels_last, args)), {name: _channels_last(value) for name, value in kwargs.items()}


def _channels_last(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point() and value.dim() in _CHANNELS_LAST:
        return value.contiguous(memory_format=_CHANNELS_LAST[value.dim()])
    return value


def channels_last_on(model: nn.Module) -> None:
    for module in model.modules():
        # Transposed convolutions follow their input's layout with either weight. On a CPU channels-last weights of
        # torch's were no faster, up to 2x slower in backward, and their gradients arrive contiguous, about which
        # autograd warns. Ours would be spared a copy, but torch's may run in the same layer: in 16 bit, or on a GPU.
        if not isinstance(module, _ConvTransposeNd):
            _lay_out(module, _CHANNELS_LAST)
    if not is_channels_last(model):
        model.register_forward_pre_hook(channels_last_inputs, with_kwargs=True)


def channels_last_off(model: nn.Module) -> None:
    for module in model.modules():
        if is_channels_last(module):
            for inner in module.modules():
                _lay_out(inner, dict.fromkeys(_CHANNELS_LAST, torch.contiguous_format))
            for key in [key for key, hook in module._forward_pre_hooks.items() if hook is channels_last_inputs]:
                del module._forward_pre_hooks[key]
                del module._forward_pre_hooks_with_kwargs[key]


def lay_out_state(optimizer: Optimizer) -> None:
    """Give what an optimizer keeps of each parameter the parameter's strides, as it has them where it starts: fused
    optimizers walk both as they lie in memory."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def is_channels_last(module: nn.Module) -> bool:
    """Whether accelerate(..., channels_last=True) was called on this very module."""
    return channels_last_inputs in module._forward_pre_hooks.values()


def _lay_out(module: nn.Module, formats: dict[int, torch.memory_format]) -> None:
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        if not is_lazy(tensor) and tensor.dim() in formats:
            # By .data, which keeps the Parameter that an optimizer holds. Of one channel, which lies the same in both
            # formats, torch's convolutions look at the strides: contiguous() would leave these.
            laid_out = torch.empty_like(tensor.data, memory_format=formats[tensor.dim()])
            if laid_out.stride() != tensor.stride():
                tensor.data = laid_out.copy_(tensor.data)
