"""The steps of ``fastseg train``: prepare the patients, train, and say how it goes."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

from fastseg.cli import train_data
from fastseg.cli.errors import CommandError
from fastseg.cli.info import machine, versions
from fastseg.cli.progress import Report, share_progress
from fastseg.cli.train_data import Data
from fastseg.io import FileError, written_whole
from fastseg.io.files import first_bytes, listed
from fastseg.training.checkpoint import FILES, LAST, check_resumable, check_run_folder
from fastseg.training.history import Epoch, History
from fastseg.training.loop import Progress, fit
from fastseg.training.recipe import Recipe
from fastseg.training.split import Split

#: As :func:`fastseg.segmentation.scan.prepared` does it before prediction, too.
NORMALISATION = "z-score of each channel inside the brain, zero outside"
_FACTS = "train.json"


def run(options: argparse.Namespace, changes: Mapping[str, Any]) -> History:
    """Do it, and print what is done and what comes out.

    Args:
        options: of the command.
        changes: of the recipe of the network's paper.

    Raises:
        CommandError, FileError, OSError: input that cannot be worked with, or a folder that cannot be written to.
    """
    try:
        recipe = Recipe.of_paper(options.network, arguments=dict(options.arguments), **changes)
        check_run_folder(options.output, options.resume)
        fabric = _fabric(options, recipe)
        recipe, data = train_data.load(options, recipe, fabric)
        if options.resume:
            _check_same(options.output, recipe, data)
        fabric.barrier()
        first = fabric.is_global_zero
        if first:
            _write_facts(options, recipe, data, fabric)
            print(_heading(recipe, data, fabric), flush=True)
        out = sys.stdout
        bar = share_progress("training") if first else nullcontext(None)
        with bar as report:
            history = fit(
                recipe,
                data.train,
                data.validation,
                folder=options.output,
                resume=options.resume,
                # Where both are the terminal, lines go around the bar; what is redirected stays pure.
                on_progress=_Table(data.target.names, report, lambda: sys.stdout if out.isatty() else out),
                fabric=fabric,
                names=data.target.names,
                facts={("regions" if data.target.output == "sigmoid" else "classes"): list(data.target.names),
                       "normalisation": NORMALISATION},
                workers=options.workers,
            )  # fmt: skip
    except FileError:
        raise
    except (TypeError, ValueError) as error:  # what recipe, network, loss and split say of their arguments
        raise CommandError(str(error)) from error
    if first:
        print(_summary(history, options.output), flush=True)
    return history


def _fabric(options: argparse.Namespace, recipe: Recipe) -> Fabric:
    """One process, those that torchrun has started, or those that Fabric starts for ``--devices``."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", options.devices))
    world = int(os.environ.get("WORLD_SIZE", local)) if "LOCAL_WORLD_SIZE" in os.environ else local
    fabric = Fabric(
        accelerator=options.device,
        devices=local,
        num_nodes=max(1, world // local),
        # Buffers are the statistics of norms: each process gathers its own, and fit takes their mean.
        strategy=DDPStrategy(broadcast_buffers=False) if world > 1 else "auto",
        precision=recipe.precision,
    )
    fabric.launch()
    return fabric


class _Table:
    """Prints a line an epoch, and moves the bar."""

    def __init__(self, names: tuple[str, ...], report: Report | None, out: Callable[[], Any]) -> None:
        self._names, self._report, self._out = names, report, out
        self._headed = False

    def __call__(self, state: Progress) -> None:
        if self._report is None:
            return
        if state.done is not None:
            if not self._headed:
                print(_columns("epoch", "loss", "validation", "Dice", *self._short(), "rate", "s"), file=self._out())
                self._headed = True
            print(_line(state.done, self._names), file=self._out(), flush=True)
        else:
            done = (state.epoch - 1 + state.share) / state.epochs
            self._report(f"epoch {state.epoch} of {state.epochs}", done)

    def _short(self) -> list[str]:
        return [name[:10] for name in self._names] if len(self._names) > 1 else []


def _line(epoch: Epoch, names: tuple[str, ...]) -> str:
    dice = [f"{value:.4f}" for value in epoch.dice_of] if len(names) > 1 else []
    losses = f"{epoch.train_loss:.4f}", f"{epoch.validation_loss:.4f}"
    return _columns(
        str(epoch.number), *losses, f"{epoch.dice:.4f}", *dice, f"{epoch.learning_rate:.2e}", f"{epoch.seconds:.1f}"
    )


def _columns(first: str, *others: str) -> str:
    return f"{first:>5}" + "".join(f"{text:>11}" for text in others)


def _heading(recipe: Recipe, data: Data, fabric: Fabric) -> str:
    split, arguments = data.split, ", ".join(f"{key}={value}" for key, value in recipe.arguments.items())
    patients = f"{len(split.train)} for training, {len(split.validation)} for validation, {len(split.test)} for test"
    processes = f", {fabric.world_size} processes" if fabric.world_size > 1 else ""
    facts = {
        "network": f"{recipe.network} ({arguments})",
        "data": f"{data.layout}, patients: {patients}",
        "images": f"{len(data.train)} and {len(data.validation)} of {' x '.join(map(str, data.size))}",
        "recipe": f"{recipe.optimizer} {recipe.learning_rate:g}, {recipe.schedule}, batch {recipe.batch_size}, "
        f"{recipe.epochs} epochs, loss {recipe.loss or 'of the paper'}, {recipe.precision}",
        "machine": f"{machine(fabric.device)}{processes}",
    }
    return "\n".join(f"{name:<9}{text}" for name, text in facts.items())


def _summary(history: History, folder: Path) -> str:
    best = history.best
    lines = [f"stopped: {history.stopped}"] if history.stopped else []
    if best is not None:
        lines.append(f"best Dice {best.dice:.4f} in epoch {best.number}")
    return "\n".join([*lines, *(f"wrote {folder / name}" for name in (*FILES, _FACTS))])


def _check_same(folder: Path, recipe: Recipe, data: Data) -> None:
    """Before anything of the run that was begun is written over."""
    check_resumable(folder / LAST, recipe)
    path = folder / _FACTS
    begun = _read_facts(path)
    if begun["size"] != list(data.size):
        raise CommandError(f"{path}: cannot be resumed: the size of the data is another now ({list(data.size)})")
    before, now = begun["split"], data.split.as_dict()
    moved = {name for part in now for name in set(now[part]) ^ set(before[part])}
    if moved:
        names = listed(sorted(moved))
        raise CommandError(f"{path}: cannot be resumed: the split of the data is another now (of {names})")


def _read_facts(path: Path) -> dict[str, Any]:
    """What :func:`_write_facts` wrote; it alone knows which patients the run was begun with.

    Raises:
        FileError: there is no such file, or another one.
    """
    first_bytes(path, FileError)  # says why it cannot be read
    try:
        facts = json.loads(path.read_bytes())
        Split(**{part: tuple(map(str, names)) for part, names in facts["split"].items()})
        list(facts["size"])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise FileError(f"{path}: cannot be resumed: it does not say the size and split of a run's data") from error
    return dict(facts)


def _write_facts(options: argparse.Namespace, recipe: Recipe, data: Data, fabric: Fabric) -> None:
    facts = {
        "options": {name: _plain(value) for name, value in vars(options).items()},
        "recipe": recipe.as_dict(),
        "layout": data.layout,
        "split": data.split.as_dict(),
        "names": list(data.target.names),
        "size": list(data.size),
        "normalisation": NORMALISATION,
        "processes": fabric.world_size,
        "machine": machine(fabric.device),
        "versions": versions(),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    with written_whole(options.output / _FACTS) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
