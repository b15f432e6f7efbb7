"""Fused layers inside other people's models: :func:`accelerate`, :func:`report`, :func:`restore`.

How it works: ``planning.py`` asks the rules of ``registry.py`` (``torch_layers.py``, ``nnunet.py``, ``monai.py``,
``resnet.py``) what they would change, ``swap.py`` changes it and records on each module how to undo it.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fastseg.accelerate.memory_format import channels_last_off, channels_last_on
from fastseg.accelerate.planning import apply, plan
from fastseg.accelerate.registry import RULES
from fastseg.accelerate.reporting import Entry, Report, describe
from fastseg.accelerate.swap import undo_all

__all__ = ["Entry", "Report", "accelerate", "report", "restore"]

_Model = TypeVar("_Model", bound=nn.Module)


def accelerate(model: _Model, *, channels_last: bool = False) -> _Model:
    """Swap the layers of ``model`` that have a fused kernel, in place.

    Modules and Parameters stay the same objects under the same names, so optimizers, checkpoints and hooks stay valid.
    Calling it again is harmless, and picks up what could not be swapped before. ``report(model)`` tells what was
    swapped and what was left, with the reason; ``restore(model)`` undoes it.

    Args:
        model: any module, also inside wrappers such as DistributedDataParallel or ``torch.compile``.
        channels_last: also lay out 4-D and 5-D parameters and buffers channels-last (but for transposed convolutions),
            and convert the inputs of ``model`` to match. False leaves the layout as it is. Not of a
            DistributedDataParallel, whose buckets for gradients have the layout that weights had: before it is made.

    Returns:
        ``model``.

    Raises:
        TypeError: ``model`` is no ``torch.nn.Module``, or a ScriptModule.
        ValueError: ``channels_last`` of a DistributedDataParallel.
    """
    root = _root(model, "accelerate")
    if channels_last and isinstance(root, DistributedDataParallel):
        raise ValueError(
            "accelerate: channels_last is True and model is a DistributedDataParallel, whose first gradients would be "
            "permuted: call accelerate on the module before wrapping it"
        )
    apply(plan(root, RULES))
    if channels_last:
        channels_last_on(root)
    return model


def report(model: nn.Module) -> Report:
    """What :func:`accelerate` swapped in ``model`` and what it left, with the reason; ``print`` it.

    The swapped layers are read from the model, the reasons are derived anew: on a model that was not accelerated, what
    could be swapped is listed as left.

    Raises:
        TypeError: ``model`` is no ``torch.nn.Module``, or a ScriptModule.
    """
    root = _root(model, "report")
    return describe(root, plan(root, RULES))


def restore(model: _Model) -> _Model:
    """Undo :func:`accelerate` in place, also on a deep copy or an unpickled copy; returns ``model``.

    Raises:
        TypeError: ``model`` is no ``torch.nn.Module``, or a ScriptModule.
        RuntimeError: something else changed the class of a swapped module since (FSDP, a parametrization); nothing is
            restored then.
    """
    root = _root(model, "restore")
    undo_all(root)
    channels_last_off(root)
    return model


def _root(model: nn.Module, function: str) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{function}: model is {type(model).__name__}, expected a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            f"{function}: model is a {type(model).__name__}, whose forward is compiled already: call {function} on the "
            "torch.nn.Module it was made from"
        )
    # torch.compile's wrapper. Its hooks would not be compiled, those of the module inside are.
    return model._modules.get("_orig_mod") or model
