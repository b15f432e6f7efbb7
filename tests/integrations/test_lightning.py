"""The callback in trainers of both packages."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("lightning")

import lightning.pytorch
import pytorch_lightning

import fastseg
from fastseg.integrations.lightning import Accelerate

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")
PACKAGES = pytest.mark.parametrize(
    "package", [lightning.pytorch, pytorch_lightning], ids=lambda package: package.__name__
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True), nn.LeakyReLU(), nn.Conv2d(8, 3, 1)
    )


def module_class(package: ModuleType) -> type:
    class Segmenter(package.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self, made_in: str = "__init__") -> None:
            super().__init__()
            self.made_in, self.losses, self.layouts = made_in, [], []
            self.make("__init__")

        def make(self, place: str) -> None:
            if place == self.made_in and not hasattr(self, "network"):
                self.network = network()

        def setup(self, stage: str) -> None:
            self.make("setup")

        def configure_model(self) -> None:
            self.make("configure_model")

        def training_step(self, batch: Any, index: int) -> Tensor:
            x, target = batch
            y = self.network(x)
            self.layouts.append(y.is_contiguous(memory_format=torch.channels_last))
            loss = nn.functional.cross_entropy(y, target)
            self.losses.append(loss.item())
            return loss

        def validation_step(self, batch: Any, index: int) -> None:
            self.log("score", self.network(batch[0]).mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    return Segmenter


def data() -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    return DataLoader(
        TensorDataset(
            torch.randn(4, 2, 16, 16, generator=generator), torch.randint(3, (4, 16, 16), generator=generator)
        ),
        batch_size=2,
    )


def fit(
    package: ModuleType, module: Any, folder: Path, *callbacks: Any, epochs: int = 2, checkpoint: Path | None = None
) -> Any:
    trainer = package.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, data(), data(), ckpt_path=checkpoint)
    return trainer


@PACKAGES
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("made_in", ["__init__", "setup", "configure_model"])
def test_training_is_the_stock_one(package: ModuleType, made_in: str, channels_last: bool, tmp_path: Path) -> None:
    Segmenter = module_class(package)
    stock, fused = Segmenter(made_in), Segmenter(made_in)
    fit(package, stock, tmp_path)
    trainer = fit(package, fused, tmp_path, Accelerate(channels_last=channels_last))
    assert len(fastseg.report(fused).swapped) > 0 == len(fastseg.report(stock).swapped)
    assert fused.losses == pytest.approx(stock.losses, rel=1e-4)
    assert all(fused.layouts) == channels_last
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    stock.load_state_dict(state)
    assert list(state) == list(stock.state_dict())


@PACKAGES
def test_a_checkpoint_of_a_fused_optimizer(package: ModuleType, tmp_path: Path) -> None:
    """Its moments lie as the stock network's parameters did."""

    class Fused(module_class(package)):  # type: ignore[misc]
        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), 0.01, fused=True)

    first = Fused()
    fit(package, first, tmp_path).save_checkpoint(tmp_path / "first.ckpt")
    losses = []
    for callbacks in ((), (Accelerate(channels_last=True),)):
        module = Fused()
        fit(package, module, tmp_path, *callbacks, epochs=4, checkpoint=tmp_path / "first.ckpt")
        losses.append(module.losses)
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@PACKAGES
def test_validation_alone(package: ModuleType, tmp_path: Path) -> None:
    module = module_class(package)("setup")
    trainer = package.Trainer(
        accelerator="cpu", logger=False, callbacks=[Accelerate()], enable_progress_bar=False, default_root_dir=tmp_path
    )
    trainer.validate(module, data(), verbose=False)
    assert len(fastseg.report(module).swapped) > 0
