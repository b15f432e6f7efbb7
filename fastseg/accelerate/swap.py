"""Changing a module's class in place, and changing it back.

The module object stays, and with it its Parameters, buffers, hooks and names. What undoing needs lies in the instance's
``__dict__`` and at importable classes, so that it travels with copies and pickles.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

_RECORD = "_fastseg_swap"


@dataclass(frozen=True)
class Record:
    """What one module was before its class changed."""

    original: type[nn.Module]
    fused: type[nn.Module]
    attributes: tuple[str, ...]  # set on the instance, to be removed again
    done: str


class PassThrough(nn.Identity):
    """Stands where an activation was that the norm before it now applies, as long as the norm is there.

    Where somebody puts another norm in its place, as torch.nn.SyncBatchNorm.convert_sync_batchnorm does, the activation
    runs here again.
    """

    original: nn.Module
    container: nn.Module
    norm: nn.Module

    def __init__(self, container: nn.Module, name: str, norm: str) -> None:
        super().__init__()
        original = container.get_submodule(name)
        # Past nn.Module.__setattr__: submodules would be found by modules(), but they do not run here.
        vars(self).update(original=original, container=container, norm=container.get_submodule(norm))
        self.training = original.training

    def runs_in_norm(self) -> bool:
        return any(layer is self.norm for layer in self.container._modules.values())

    def forward(self, input: Tensor) -> Tensor:
        if self.runs_in_norm():
            return input
        y: Tensor = self.original(input)
        return y

    def extra_repr(self) -> str:
        return f"{self.original} runs in the norm before it" if self.runs_in_norm() else f"{self.original}"


def record_of(module: nn.Module) -> Record | None:
    record: Record | None = vars(module).get(_RECORD)
    return record


def stock_class(module: nn.Module) -> type[nn.Module]:
    """The class that the module's library gave it."""
    record = record_of(module)
    return type(module) if record is None else record.original


def full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def change_class(
    module: nn.Module, replacement: type[nn.Module] | str, attributes: Mapping[str, Any], done: str
) -> None:
    """Make ``module`` a ``replacement`` (a subclass) with ``attributes``; a second change adds to the first.

    A ``replacement`` given as ``"module:Class"`` is imported now: it derives from a library that not everybody has.
    """
    fused = _imported(replacement) if isinstance(replacement, str) else replacement
    previous = record_of(module)
    names = tuple(attributes) if previous is None else (*previous.attributes, *attributes)
    record = Record(stock_class(module), fused, names, done)
    module.__class__ = fused
    vars(module).update(attributes)
    vars(module)[_RECORD] = record


def _imported(name: str) -> type[nn.Module]:
    module, _, cls = name.partition(":")
    fused: type[nn.Module] = getattr(importlib.import_module(module), cls)
    return fused


def undo_all(model: nn.Module) -> None:
    """Give every swapped module of ``model`` its class back, and every activation its place."""
    swapped = [(path, module, record) for path, module in model.named_modules() if (record := record_of(module))]
    for path, module, record in swapped:
        if type(module) is not record.fused:
            raise RuntimeError(
                f"restore: {path or 'model'} is a {type(module).__name__}, expected the {record.fused.__name__} that "
                "accelerate made it: first undo what changed its class"
            )
    for _, module, record in swapped:
        module.__class__ = record.original
        for name in (_RECORD, *record.attributes):
            del vars(module)[name]
    for container in list(model.modules()):
        for name, child in container._modules.items():
            if type(child) is PassThrough:
                container._modules[name] = child.original.train(child.training)
