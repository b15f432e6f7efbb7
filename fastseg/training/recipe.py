"""What a training run is: everything that decides its result but the data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

if TYPE_CHECKING:
    from fastseg.models import SegmentationNetwork
    from fastseg.training.paper_losses import SegmentationLoss

#: What may differ between a run and its continuation: how long it goes on, not how a step is made.
LENGTH = ("epochs", "patience")

_OPTIMIZERS = ("adam", "adamw", "sgd")
_SCHEDULES = ("constant", "cosine")
_PRECISIONS = ("32-true", "bf16-mixed")


@dataclass(frozen=True)
class Recipe:
    """A training run.

    Attributes:
        network: a name that :func:`fastseg.models.create` knows.
        arguments: of the network.
        loss: a name that :func:`fastseg.training.losses.create_loss` knows; None: the one of the network's paper.
        optimizer: ``"adam"``, ``"adamw"`` or ``"sgd"`` (Nesterov, momentum 0.99).
        learning_rate: after warm-up.
        weight_decay: of the optimizer.
        schedule: ``"constant"``, or ``"cosine"``: down to zero at the last step.
        warmup_epochs: the learning rate rises linearly over them, step by step.
        epochs: passes over the training data.
        batch_size: samples of one forward pass of one process.
        accumulation: forward passes whose gradients make one step.
        precision: ``"32-true"``, or ``"bf16-mixed"``: bfloat16 under autocast, weights in float32.
        seed: of weights, order, augmentation and dropout.
        patience: stop after so many epochs without a better validation Dice; None: never.
        clip_norm: largest norm of all gradients together; None: no limit.
    """

    network: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    loss: str | None = None
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_epochs: int = 0
    epochs: int = 100
    batch_size: int = 8
    accumulation: int = 1
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    seed: int = 0
    patience: int | None = None
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        for name, choices in (("optimizer", _OPTIMIZERS), ("schedule", _SCHEDULES), ("precision", _PRECISIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(map(repr, choices))}")
        for name in ("epochs", "batch_size", "accumulation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a number >= 1")
        for name in ("warmup_epochs", "seed", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a number >= 0")
        for name in ("learning_rate", "clip_norm", "patience"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}, expected a finite number above 0")

    @classmethod
    def of_paper(cls, network: str, **changes: Any) -> Recipe:
        """The recipe of the paper of ``network``, or what it leaves open chosen by us, with ``changes``.

        Where the papers give numbers: ``resunet_ce_aspp`` learning rate 1e-3, batch 8, 300 epochs; ``unet`` and
        ``unet_cbam`` Adam 1e-4; ``msfen`` Adam 1e-3, warm-up, cosine, early stopping, batch 16, 50 epochs;
        ``resunet`` Adam. Everything else is our choice.
        """
        return replace(cls(network, **_PAPERS.get(network, {})), **changes)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, which JSON and checkpoints hold."""
        return {**asdict(self), "arguments": dict(self.arguments)}

    def difference(self, other: Mapping[str, Any]) -> str | None:
        """The first attribute that is not the same in :meth:`as_dict` of another run, as a sentence; not ``LENGTH``."""
        for name, value in self.as_dict().items():
            if name not in LENGTH and _plain(value) != _plain(other.get(name)):
                return f"{name} is {value!r}, but {other.get(name)!r} in the run that was begun"
        return None

    def create_loss(self, network: SegmentationNetwork) -> SegmentationLoss:
        """The loss for ``network``, by default that of its paper.

        Raises:
            ValueError: no loss of that name, or one that does not take the network's output.
        """
        from fastseg.training.losses import create_loss, default_loss

        return default_loss(network) if self.loss is None else create_loss(self.loss, output=network.output)

    def create_optimizer(self, network: nn.Module) -> Optimizer:
        """The optimizer over all parameters that are trained."""
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        lr, decay = self.learning_rate, self.weight_decay
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=lr, weight_decay=decay, momentum=0.99, nesterov=True)
        kind = torch.optim.AdamW if self.optimizer == "adamw" else torch.optim.Adam
        return kind(parameters, lr=lr, weight_decay=decay)

    def create_schedule(self, optimizer: Optimizer, steps_per_epoch: int) -> LambdaLR:
        """The learning rate of each step."""
        warmup, total = self.warmup_epochs * steps_per_epoch, self.epochs * steps_per_epoch

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            if self.schedule == "constant":
                return 1.0
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))

        return LambdaLR(optimizer, factor)


_ADAM_1E_4: dict[str, Any] = {"learning_rate": 1e-4, "epochs": 100, "batch_size": 8}
_PAPERS: dict[str, dict[str, Any]] = {
    "resunet_ce_aspp": {"learning_rate": 1e-3, "epochs": 300, "batch_size": 8},
    "unet": _ADAM_1E_4,
    "unet_cbam": _ADAM_1E_4,
    "msfen": {
        "learning_rate": 1e-3, "schedule": "cosine", "warmup_epochs": 5, "epochs": 50, "batch_size": 16, "patience": 15,
    },
    "resunet": {"learning_rate": 1e-3, "schedule": "cosine", "epochs": 60, "batch_size": 16},
    "dense_unet_2d": {"learning_rate": 1e-3, "schedule": "cosine", "epochs": 100, "batch_size": 8, "clip_norm": 12.0},
    "da_unet_3d": {"learning_rate": 1e-3, "schedule": "cosine", "epochs": 300, "batch_size": 1, "clip_norm": 12.0},
}  # fmt: skip


def _plain(value: Any) -> Any:
    """Tuples and lists alike: JSON knows lists alone."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
