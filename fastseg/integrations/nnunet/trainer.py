"""Any trainer of nnU-Net on fused layers and losses, with the checkpoints of the stock one."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, TypeVar

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from torch import nn

import fastseg

_STOCK, _FUSED = "nnUNetTrainer", "nnUNetTrainerFastseg"

_Trainer = TypeVar("_Trainer", bound=type[nnUNetTrainer])


def trainers_folder() -> Path:
    """The folder to put into the environment variable ``nnUNet_extTrainer``."""
    return Path(__file__).resolve().parent / "trainers"


def accelerated(trainer: _Trainer, *, channels_last: bool | None = None, loss: bool = True) -> _Trainer:
    """A subclass of an nnU-Net trainer that swaps the layers of its network, also at inference, and its loss.

    Usable as a decorator, of classes whose methods call ``super()`` without arguments. Checkpoints have the keys of
    ``trainer`` and name it as theirs, so that nnU-Net opens them where fastseg is not installed; those of ``trainer``
    open here.

    Args:
        trainer: ``nnUNetTrainer`` or a subclass, of either signature of ``build_network_architecture``.
        channels_last: whether networks are trained channels-last; None: on CPUs, but not by optimizers with
            ``fused=True``, which would take the moments of a stock checkpoint for channels-last ones. Not by several
            processes: DistributedDataParallel has buckets of the layout in which nnU-Net made the network.
        loss: whether the loss is swapped too.

    Returns:
        A class of ``trainer``'s name: name it anew where nnU-Net shall keep its results apart.

    Raises:
        TypeError: ``trainer`` is no nnU-Net trainer.
    """
    if not (isinstance(trainer, type) and issubclass(trainer, nnUNetTrainer)):
        raise TypeError(f"accelerated: trainer is {trainer!r}, expected nnUNetTrainer or a subclass")
    stock: Any = trainer

    class Accelerated(stock):
        def initialize(self) -> None:
            super().initialize()
            # After torch.compile, which sees the same Parameters in another layout. Fused optimizers take checkpoints'
            # moments as they lie: in the layout of the stock trainer.
            fused = any(group.get("fused") for group in self.optimizer.param_groups)
            wanted = self.device.type == "cpu" and not fused if channels_last is None else channels_last
            if wanted and not self.is_ddp:
                fastseg.accelerate(self.network, channels_last=True)
            for part in (self.network, self.loss):
                if isinstance(part, nn.Module):
                    self.print_to_log_file(fastseg.report(part), add_timestamp=False)

        # nnU-Net looks at the names of the arguments, which differ between its versions: wraps keeps them.
        @staticmethod
        @functools.wraps(stock.build_network_architecture)
        def build_network_architecture(*args: Any, **kwargs: Any) -> nn.Module:
            return fastseg.accelerate(stock.build_network_architecture(*args, **kwargs))

        def _build_loss(self) -> Any:
            criterion = super()._build_loss()
            return fastseg.accelerate(criterion) if loss and isinstance(criterion, nn.Module) else criterion

        def save_checkpoint(self, filename: str) -> None:
            if type(self) is not Accelerated:  # a subclass may need its own class to predict with
                return super().save_checkpoint(filename)
            # The name of the class goes into the file, and nnU-Net looks for that class to predict with.
            self.__class__ = stock
            try:
                self.save_checkpoint(filename)
            finally:
                self.__class__ = Accelerated

    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(Accelerated, name, getattr(trainer, name))
    return Accelerated  # type: ignore[return-value]


@functools.cache
def trainer_named(name: str) -> type[nnUNetTrainer]:
    """The accelerated form of a trainer that nnU-Net can find: ``nnUNetTrainerFastsegDA5`` of ``nnUNetTrainerDA5``.

    Raises:
        AttributeError: no such name, or nnU-Net finds no trainer of the rest of it. As a module's ``__getattr__`` this
            makes nnU-Net look further.
    """
    if not name.startswith(_FUSED):
        raise AttributeError(f"{name} is not a trainer of fastseg: their names begin with {_FUSED}")
    stock = _STOCK + name.removeprefix(_FUSED)
    try:
        fused = accelerated(recursive_find_trainer_class_by_name(stock))
    except RuntimeError as error:
        raise AttributeError(f"{name}: nnU-Net has no trainer {stock}") from error
    fused.__name__ = fused.__qualname__ = name
    return fused
