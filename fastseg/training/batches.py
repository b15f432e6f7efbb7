"""Batches of a run: each process gets its share of an epoch, in an order that follows from the seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, Sampler

from fastseg.training.errors import TrainingError
from fastseg.training.recipe import Recipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Samples(Protocol):
    """What :func:`fastseg.training.fit` asks of a data set: a torch ``Dataset`` of (image, target) with a length."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]: ...


class WholeBatches(Sampler[list[int]]):
    """Batches of neighbouring indices, every ``world``-th one: none twice, and the same batches for any ``world``."""

    def __init__(self, count: int, batch_size: int, rank: int, world: int) -> None:
        starts = range(0, count, batch_size)[rank::world]
        self._batches = [list(range(start, min(count, start + batch_size))) for start in starts]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


class EpochOrder(DistributedSampler[Any]):
    """An order that follows from seed and epoch. Each process gets its share."""

    def set_epoch(self, epoch: int) -> None:
        """Fabric calls this with the passes it has counted; in a run that was resumed those are not the epochs."""

    def begin(self, epoch: int) -> None:
        """The epoch whose order comes next."""
        super().set_epoch(epoch)


def training_batches(fabric: Fabric, samples: Samples, recipe: Recipe, workers: int) -> tuple[Any, EpochOrder]:
    """Batches in random order, and the sampler that is told the epoch.

    Raises:
        TrainingError: a process would get no whole batch.
    """
    needed = recipe.batch_size * fabric.world_size
    if len(samples) < needed:
        processes = f" in each of {fabric.world_size} processes" if fabric.world_size > 1 else ""
        raise TrainingError(
            f"{len(samples)} images to train on, expected at least {needed}: a batch of {recipe.batch_size}{processes}"
        )
    sampler = EpochOrder(
        samples,  # type: ignore[arg-type]
        fabric.world_size,
        fabric.global_rank,
        seed=recipe.seed,
    )
    options = _options(fabric, workers)
    # The last images of an epoch that fill no batch are left out: norms cannot learn from a single image.
    loader: Any = DataLoader(samples, recipe.batch_size, sampler=sampler, drop_last=True, **options)  # type: ignore[arg-type]
    return fabric.setup_dataloaders(loader, use_distributed_sampler=False), sampler


def validation_batches(fabric: Fabric, samples: Samples, recipe: Recipe, workers: int) -> Any:
    """Every image once. Fabric's own sampler would repeat some, so that all processes have as many.

    Raises:
        TrainingError: there is no image.
    """
    if len(samples) == 0:
        raise TrainingError("no image to validate on, expected at least one")
    batches = WholeBatches(len(samples), recipe.batch_size, fabric.global_rank, fabric.world_size)
    loader: Any = DataLoader(samples, batch_sampler=batches, **_options(fabric, workers))  # type: ignore[arg-type]
    return fabric.setup_dataloaders(loader, use_distributed_sampler=False)


def _options(fabric: Fabric, workers: int) -> dict[str, Any]:
    return {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "pin_memory": fabric.device.type == "cuda",
    }
