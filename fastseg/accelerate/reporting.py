"""What was swapped in a model and what was left."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import nn

from fastseg.accelerate.memory_format import is_channels_last
from fastseg.accelerate.planning import Left, Step, Swap
from fastseg.accelerate.swap import PassThrough, record_of

_PATHS_SHOWN = 3


@dataclass(frozen=True)
class Entry:
    """One module: where it is, its stock class, and what was done with it or why it was left."""

    path: str
    cls: str
    note: str


@dataclass(frozen=True)
class Report:
    """``swapped`` and ``left``, one :class:`Entry` a module; ``str`` groups equal ones."""

    swapped: list[Entry] = field(default_factory=list)
    left: list[Entry] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"fastseg.accelerate: {len(self.swapped)} swapped, {len(self.left)} left"]
        lines += _lines("swapped", self.swapped)
        lines += _lines("left", self.left)
        return "\n".join(lines)


def describe(model: nn.Module, steps: Iterable[Step]) -> Report:
    """The report on ``model``, with the ``steps`` that accelerate would still take."""
    report = Report()
    for path, module in model.named_modules():
        if is_channels_last(module):
            report.swapped.append(Entry(path, type(module).__name__, "channels-last parameters and inputs"))
        if isinstance(module, PassThrough):
            name = type(module.original).__name__
            if module.runs_in_norm():
                report.swapped.append(Entry(path, name, "runs in the norm before it"))
            else:
                report.left.append(Entry(path, name, "another layer took the place of the norm that applied it"))
        elif (record := record_of(module)) is not None:
            report.swapped.append(Entry(path, record.original.__name__, record.done))
    for step in steps:
        if isinstance(step, Left):
            report.left.append(Entry(step.path, type(step.module).__name__, step.why))
        elif isinstance(step, Swap):
            report.left.append(Entry(step.path, type(step.module).__name__, f"accelerate makes it {step.done}"))
    return report


def _lines(title: str, entries: list[Entry]) -> list[str]:
    groups: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        groups.setdefault((entry.cls, entry.note), []).append(entry.path or "the model itself")
    lines = [f"{title}:"] if groups else []
    for (cls, note), paths in groups.items():
        more = f" and {len(paths) - _PATHS_SHOWN} more" if len(paths) > _PATHS_SHOWN else ""
        lines.append(f"  {len(paths)} x {cls}: {note}")
        lines.append(f"      {', '.join(paths[:_PATHS_SHOWN])}{more}")
    return lines
