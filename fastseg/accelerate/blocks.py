"""The common part of the rules for blocks whose own forward calls the activation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from fastseg.accelerate.fusion import activation_refusal, has_hooks, swap_norm, takes_no_activation
from fastseg.accelerate.planning import Left, Rule, Step, Swap, Uses, join
from fastseg.accelerate.swap import full_name, stock_class


@dataclass(frozen=True)
class BlockRule(Rule):
    """Swap a block for a subclass whose forward leaves the activation to the norms.

    Classes are given by name, so that no library is imported before a model of it is met.
    """

    stock: str  # "package.module.Class"; subclasses do not match
    fused: str  # "module:Class", a subclass of stock
    norms: tuple[str, ...]  # the norms that take the activation
    activation: str

    def matches(self, module: nn.Module) -> bool:
        return full_name(stock_class(module)) == self.stock

    def plan(self, path: str, module: nn.Module, uses: Uses) -> Iterator[Step]:
        why = self.refusal(module, uses)
        if why is not None:
            yield Left(path, module, why)
            return
        activation = module.get_submodule(self.activation)
        for name in self.norms:
            yield swap_norm(join(path, name), module.get_submodule(name), activation)
        done = f"{self.fused.partition(':')[2]}, {self.activation} runs in {' and '.join(self.norms)}"
        yield Swap(path, module, self.fused, done)

    def refusal(self, block: nn.Module, uses: Uses) -> str | None:
        """Why the block stays as it is; a subclass adds what its block can hold beside norms and activation."""
        if "forward" in vars(block):
            return "its forward was replaced on the instance"
        activation = getattr(block, self.activation)
        if (why := activation_refusal(activation)) is not None:
            return f"{self.activation}: {why}"
        for name in self.norms:
            try:
                norm = block.get_submodule(name)
            except AttributeError:
                return f"it has no {name}"
            if (why := takes_no_activation(norm, (activation,), uses)) is not None:
                return f"{name}: {why}"
        return None


def hooks_refusal(modules: dict[str, nn.Module]) -> str | None:
    for name, module in modules.items():
        if has_hooks(module):
            return f"{name} has hooks, which would see another tensor"
    return None
