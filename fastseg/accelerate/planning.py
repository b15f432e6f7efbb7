"""What accelerate would change in a model: steps that rules propose, none of which touches the model yet.

:func:`fastseg.accelerate.accelerate` applies the steps, :func:`fastseg.accelerate.report` reads the reasons.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fastseg.accelerate.swap import PassThrough, change_class, record_of


@dataclass(frozen=True)
class Swap:
    """Give ``module`` the class ``replacement`` (a class, or ``"module:Class"`` to import) and ``attributes``."""

    path: str
    module: nn.Module
    replacement: type[nn.Module] | str
    done: str
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Bypass:
    """Put a :class:`PassThrough` in the place of ``container``'s child ``name``, which runs in its child ``norm``."""

    path: str
    container: nn.Module
    name: str
    norm: str


@dataclass(frozen=True)
class Left:
    """Leave ``module`` as it is."""

    path: str
    module: nn.Module
    why: str


Step = Swap | Bypass | Left


class Uses:
    """In how many places of the model each module runs."""

    def __init__(self, model: nn.Module, rules: Sequence[Rule]) -> None:
        self._places: Counter[int] = Counter()
        for module in model.modules():
            unrun = {name for rule in rules if rule.matches(module) for name in rule.unrun}
            for name, child in module._modules.items():
                if child is not None and name not in unrun:
                    self._places[id(child)] += 1

    def of(self, module: nn.Module) -> int:
        return self._places[id(module)]


class Rule:
    """What accelerate does with one kind of module."""

    # Children that the module registers and never runs itself: they do not count as uses.
    unrun: tuple[str, ...] = ()

    def matches(self, module: nn.Module) -> bool:
        raise NotImplementedError

    def reads(self, module: nn.Module) -> Iterable[nn.Module]:
        """Layers that ``module`` reads instead of calling, now or once it is swapped: they stay as they are."""
        return ()

    def plan(self, path: str, module: nn.Module, uses: Uses) -> Iterator[Step]:
        """The steps for one module that matches; ``path`` is its name in the model."""
        raise NotImplementedError


def plan(model: nn.Module, rules: Sequence[Rule]) -> list[Step]:
    """The steps that are still to do; a module is swapped by the first rule that wants to."""
    uses = Uses(model, rules)
    steps: list[Step] = []
    settled = {id(module) for module in model.modules() if record_of(module)}
    for rule in rules:
        for path, module in model.named_modules():
            if not rule.matches(module):
                continue
            if id(module) not in settled:
                proposed = list(rule.plan(path, module, uses))
                settled.update(id(step.module) for step in proposed if isinstance(step, Swap))
                steps += proposed
            settled.update(map(id, rule.reads(module)))
    return steps


def apply(steps: Iterable[Step]) -> None:
    for step in steps:
        if isinstance(step, Swap):
            change_class(step.module, step.replacement, step.attributes, step.done)
        elif isinstance(step, Bypass):
            step.container._modules[step.name] = PassThrough(step.container, step.name, step.norm)


def join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
