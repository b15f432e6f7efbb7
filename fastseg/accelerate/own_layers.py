"""Layers of fastseg.nn that a model's author put there: what they hold, they read instead of calling."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from fastseg.accelerate.planning import Rule, Step, Uses
from fastseg.accelerate.swap import record_of


class OwnLayerRule(Rule):
    """They stay as they are, and so do the layers in them, whose classes and parameters they look at."""

    def matches(self, module: nn.Module) -> bool:
        return record_of(module) is None and type(module).__module__.startswith("fastseg.nn.")

    def plan(self, path: str, module: nn.Module, uses: Uses) -> Iterator[Step]:
        return iter(())

    def reads(self, module: nn.Module) -> Iterable[nn.Module]:
        return list(module.modules())[1:]
