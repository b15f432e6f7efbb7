"""Rules for torch's own layers: norms, and norm -> activation in nn.Sequential."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from fastseg.accelerate.fusion import (
    activation_refusal,
    carries_activation,
    is_norm,
    norm_refusal,
    swap_norm,
    takes_no_activation,
)
from fastseg.accelerate.planning import Bypass, Left, Rule, Step, Uses, join

# What may stand between norm and activation. Dropout multiplies by 0 or by 1 / (1 - p), neither of them negative, and
# act(s * x) = s * act(x) holds for relu and leaky_relu and every s >= 0. AlphaDropout adds a constant and so does not
# commute.
_COMMUTES = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity)


class SequentialRule(Rule):
    """nn.Sequential and subclasses that keep its forward (MONAI's ADN): a norm takes the activation after it."""

    def matches(self, module: nn.Module) -> bool:
        return isinstance(module, nn.Sequential)

    def plan(self, path: str, module: nn.Module, uses: Uses) -> Iterator[Step]:
        layers = [(name, layer) for name, layer in module._modules.items() if layer is not None]
        for index, (name, norm) in enumerate(layers):
            if norm_refusal(norm) is not None or carries_activation(norm):
                continue
            found = _activation_after(layers[index + 1 :])
            if found is None:
                continue
            between, activation_name, activation = found
            why = (
                _forward_refusal(module)
                or activation_refusal(activation)
                or _between_refusal(between)
                or takes_no_activation(norm, (*between, activation), uses)
            )
            if why is not None:
                yield Left(join(path, activation_name), activation, why)
            else:
                yield swap_norm(join(path, name), norm, activation)
                yield Bypass(join(path, activation_name), module, activation_name, name)


class NormRule(Rule):
    """A norm of which nothing is known about what follows it: the fused layer without activation."""

    def matches(self, module: nn.Module) -> bool:
        return is_norm(module)

    def plan(self, path: str, module: nn.Module, uses: Uses) -> Iterator[Step]:
        why = norm_refusal(module)
        yield swap_norm(path, module) if why is None else Left(path, module, why)


def _activation_after(layers: list[tuple[str, nn.Module]]) -> tuple[list[nn.Module], str, nn.Module] | None:
    """The first activation, with what stands before it, when that is dropout only."""
    between: list[nn.Module] = []
    for name, layer in layers:
        if type(layer).__module__ == nn.ReLU.__module__ or isinstance(layer, (nn.ReLU, nn.LeakyReLU)):
            return between, name, layer
        if not isinstance(layer, _DropoutNd) and type(layer) is not nn.Identity:
            return None
        between.append(layer)
    return None


def _forward_refusal(container: nn.Module) -> str | None:
    if type(container).forward is not nn.Sequential.forward or "forward" in vars(container):
        return f"{type(container).__name__} has a forward of its own"
    return None


def _between_refusal(between: list[nn.Module]) -> str | None:
    for layer in between:
        if type(layer) not in _COMMUTES:
            return f"{type(layer).__name__} stands between norm and activation, and the two do not commute"
    return None
