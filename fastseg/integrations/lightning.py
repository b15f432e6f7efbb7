"""A callback of Lightning that accelerates a LightningModule: its networks and its losses."""

from __future__ import annotations

from typing import Any

import torch

import fastseg
from fastseg.accelerate.memory_format import lay_out_state

try:
    from lightning.pytorch import Callback
except ImportError:
    from pytorch_lightning import Callback  # type: ignore[assignment]


class Accelerate(Callback):
    """``Trainer(callbacks=[Accelerate()])``: :func:`fastseg.accelerate` on the LightningModule before anything runs.

    Parameters stay the same objects and keys the same, so optimizers and checkpoints stay valid, both ways. Networks
    that the module makes in ``__init__``, ``setup`` or ``configure_model`` are met. With FSDP, which shards modules as
    they are, make networks in ``__init__`` or call :func:`fastseg.accelerate` in ``configure_model``. Also for a
    Trainer of the package ``pytorch_lightning``.

    Args:
        channels_last: also lay out the networks channels-last, with their inputs: each direct child of the
            LightningModule converts what it is called with.
    """

    def __init__(self, *, channels_last: bool = False) -> None:
        self.channels_last = channels_last

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._accelerate(pl_module)

    # By then configure_model has run, and the module's own setup.
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._accelerate(pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        for optimizer in trainer.optimizers:  # whose state may come from a checkpoint in another layout
            lay_out_state(optimizer)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self._accelerate(pl_module)

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        self._accelerate(pl_module)

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        self._accelerate(pl_module)

    def _accelerate(self, pl_module: Any) -> None:
        fastseg.accelerate(pl_module)
        if self.channels_last:
            for child in pl_module.children():
                if not isinstance(child, torch.jit.ScriptModule):
                    fastseg.accelerate(child, channels_last=True)
