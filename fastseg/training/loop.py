"""The training loop, on Lightning Fabric: one process or many, on one machine or several, with the same code."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

try:
    # The same as lightning.fabric, without the import of Lightning's trainer and of torchvision.
    from lightning_fabric import Fabric
except ImportError as error:
    raise ImportError('Training needs lightning: pip install "fastseg-kernels[training]"') from error

from fastseg.models import SegmentationNetwork, create
from fastseg.models.weights import save_weights
from fastseg.training.batches import Samples, training_batches, validation_batches
from fastseg.training.checkpoint import BEST, CURVE, LAST, TABLE, check_run_folder, load_state, save_state
from fastseg.training.curve import save_curve
from fastseg.training.errors import TrainingError
from fastseg.training.history import Epoch, History
from fastseg.training.recipe import Recipe
from fastseg.training.validation import Scores, check_foreground, validate


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        epoch, epochs: the epoch that runs, from 1, and how many there are to be.
        share: of that epoch's training steps that are done.
        done: the epoch, once it is validated and saved; None before that.
    """

    epoch: int
    epochs: int
    share: float
    done: Epoch | None = None


def fit(
    recipe: Recipe,
    train: Samples,
    validation: Samples,
    *,
    folder: Path,
    resume: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    fabric: Fabric | None = None,
    names: tuple[str, ...] = (),
    facts: Mapping[str, Any] | None = None,
    workers: int = 0,
) -> History:
    """Train the network of ``recipe`` and keep its best weights.

    Writes into ``folder``, each file whole or not at all: ``last.ckpt`` after every epoch, from which ``resume`` goes
    on; ``best.safetensors``, which :func:`fastseg.models.weights.load_network` reads; ``history.csv``; ``curve.png``.
    A run that was interrupted and resumed gives bit for bit what it would have given at once.

    Args:
        recipe: what to train, and how.
        train: of (image, target): float32 (C, ...) and the target that the loss takes for one image. Its
            ``set_epoch(number)``, where it has one, is called before each epoch.
        validation: of the same; the same images each time.
        folder: of one run. All processes see the same one.
        resume: go on with the run in ``folder``; of the recipe only epochs and patience may be others then.
        on_progress: called in every process.
        fabric: None: one process on the CPU, or on a GPU where there is one. For several, with
            ``DDPStrategy(broadcast_buffers=False)``: otherwise the statistics of norms are those of the first process.
        names: of the regions or classes that are scored, without the background; default: all, by number.
        facts: about the data, written into ``best.safetensors``, such as how images are normalised.
        workers: processes of each process that load data; 0: none.

    Raises:
        TrainingError: ``folder`` holds a run and ``resume`` is false, or none and it is true; too little data; or a
            loss that is not finite: names the step. ``last.ckpt`` then holds the last good epoch.
        ValueError: the network or the loss refuses an argument.
    """
    fabric = fabric or Fabric(devices=1, precision=recipe.precision)
    fabric.launch()
    folder = Path(folder)
    check_run_folder(folder, resume)
    fabric.barrier()
    return _Run(fabric, recipe, train, validation, folder, resume, names, facts or {}, workers).go(on_progress)


class _Run:
    def __init__(
        self,
        fabric: Fabric,
        recipe: Recipe,
        train: Samples,
        validation: Samples,
        folder: Path,
        resume: bool,
        names: tuple[str, ...],
        facts: Mapping[str, Any],
        workers: int,
    ) -> None:
        self.fabric, self.recipe, self.folder, self.facts = fabric, recipe, folder, facts
        self.train = train
        torch.manual_seed(recipe.seed)
        self.network: SegmentationNetwork = create(recipe.network, **recipe.arguments)
        output = self.network.output
        self.loss = recipe.create_loss(self.network).to(fabric.device)
        foreground = self.network.out_channels - (output == "softmax")
        names = names or tuple(str(index + 1) for index in range(foreground))
        if len(names) > foreground:
            raise ValueError(f"names is {names}, expected {foreground} at most, one for each foreground channel")
        self.history = History(names)
        self.batches, self.sampler = training_batches(fabric, train, recipe, workers)
        self.held_out = validation_batches(fabric, validation, recipe, workers)
        check_foreground(validation, self.network, len(names))
        self.steps = math.ceil(len(self.batches) / recipe.accumulation)
        optimizer = recipe.create_optimizer(self.network)
        self.module, self.optimizer = fabric.setup(self.network, optimizer)
        self.schedule = recipe.create_schedule(optimizer, self.steps)
        self.rate = recipe.learning_rate
        if resume:
            self.history = load_state(folder / LAST, recipe, self.network, optimizer, self.schedule)
        else:
            self._save_state()  # so that there is something to resume, whenever the run ends

    def go(self, on_progress: Callable[[Progress], None] | None) -> History:
        def report(number: int, share: float, done: Epoch | None = None) -> None:
            if on_progress is not None:
                on_progress(Progress(number, self.recipe.epochs, share, done))

        for number in range(len(self.history.epochs) + 1, self.recipe.epochs + 1):
            if self._out_of_patience(number - 1):
                self.history.stopped = f"no better Dice in {self.recipe.patience} epochs"
                break
            report(number, 0.0)
            start = time.perf_counter()
            loss = self._train(number, lambda share, number=number: report(number, share))  # type: ignore[misc]
            scores = self._validate(number)
            seconds = time.perf_counter() - start
            self._keep(Epoch(number, loss, scores.loss, scores.dice, scores.dice_of, self.rate, seconds))
            report(number, 1.0, self.history.epochs[-1])
        return self.history

    def _train(self, number: int, report: Callable[[float], None]) -> float:
        """One epoch; the mean of the loss over steps and processes."""
        fabric, recipe = self.fabric, self.recipe
        # Dropout follows from epoch and process alone, so a run that is resumed needs no state of a generator.
        torch.manual_seed(int(np.random.SeedSequence([recipe.seed, number, fabric.global_rank]).generate_state(1)[0]))
        self.sampler.begin(number)
        if hasattr(self.train, "set_epoch"):
            self.train.set_epoch(number)
        self.module.train()
        total, count = 0.0, len(self.batches)
        left = count % recipe.accumulation
        losses = torch.zeros((), dtype=torch.float64, device=fabric.device)  # of the step's passes
        for index, (images, target) in enumerate(self.batches):
            step = index // recipe.accumulation
            last = (index + 1) % recipe.accumulation == 0 or index + 1 == count
            # The last step of an epoch may have fewer passes than the others.
            passes = left if index >= count - left else recipe.accumulation
            with fabric.no_backward_sync(self.module, enabled=not last):
                loss = self.loss(self.module(images), target)
                losses = losses + loss.detach().double()
                if last:
                    total += self._finite(losses, passes, number, step)
                    losses = torch.zeros_like(losses)
                fabric.backward(loss / passes)
            if last:
                self._step(number, step)
                report((index + 1) / count)
        return total / count

    def _finite(self, losses: Tensor, passes: int, number: int, step: int) -> float:
        """The sum of a step's losses, a mean over processes: so all refuse one that is not finite in any of them."""
        total = float(self._reduced(losses, "mean"))
        if not math.isfinite(total):
            self._refuse(f"the loss is {total / passes}", number, step)
        return total

    def _step(self, number: int, step: int) -> None:
        if self.recipe.clip_norm is not None:
            norm = self.fabric.clip_gradients(
                self.module, self.optimizer, max_norm=self.recipe.clip_norm, error_if_nonfinite=False
            )
            if norm is not None and not torch.isfinite(norm):
                self._refuse(f"the norm of the gradients is {float(norm)}", number, step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.rate = float(self.schedule.get_last_lr()[0])
        self.schedule.step()

    def _validate(self, number: int) -> Scores:
        self._share_statistics()
        with self.fabric.autocast():
            scores = validate(
                self.network,
                self.held_out,
                self.loss,
                len(self.history.names),
                summed=lambda tensor: self._reduced(tensor, "sum"),
            )
        if not math.isfinite(scores.loss):
            self._refuse(f"the validation loss is {scores.loss}", number, self.steps - 1)
        return scores

    def _reduced(self, tensor: Tensor, how: str) -> Tensor:
        """Sum or mean over all processes."""
        result = self.fabric.all_reduce(tensor, reduce_op=how)
        assert isinstance(result, Tensor), "Fabric returns what it is given"
        return result

    def _share_statistics(self) -> None:
        """The running statistics of norms, which each process gathers from its own images, become their mean."""
        buffers = [buffer for buffer in self.network.buffers() if buffer.is_floating_point()]
        if self.fabric.world_size == 1 or not buffers:
            return
        together = self._reduced(torch.cat([buffer.flatten() for buffer in buffers]), "mean")
        for buffer, mean in zip(buffers, together.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(mean.view_as(buffer))

    def _keep(self, epoch: Epoch) -> None:
        """Files after an epoch; the state comes last, so that what is resumed has written everything before it."""
        best = self.history.best
        self.history.epochs.append(epoch)
        if self.fabric.is_global_zero:
            if best is None or epoch.dice > best.dice:
                about = {**self.facts, "dice": dict(zip(self.history.names, epoch.dice_of, strict=True))}
                save_weights(self.network, self.folder / BEST, **about, epoch=epoch.number)
            self.history.save(self.folder / TABLE)
            save_curve(self.history, self.folder / CURVE, self.recipe.network)
        self._save_state()

    def _save_state(self) -> None:
        if self.fabric.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_state(
                self.folder / LAST, self.recipe, self.network, self.optimizer.optimizer, self.schedule, self.history
            )
        self.fabric.barrier()

    def _out_of_patience(self, number: int) -> bool:
        best = self.history.best
        return self.recipe.patience is not None and best is not None and number - best.number >= self.recipe.patience

    def _refuse(self, what: str, number: int, step: int) -> None:
        raise TrainingError(
            f"{what} in step {step + 1} of {self.steps} of epoch {number}: expected a finite number (a smaller "
            f"learning rate or a limit of the gradients' norm may help); {self.folder / LAST} is of epoch {number - 1}"
        )
