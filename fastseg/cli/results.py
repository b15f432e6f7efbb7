"""What the demo says: text for the terminal, demo.json, and the choice of what the picture shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fastseg.accelerate import report
from fastseg.backends import select
from fastseg.cli import picture
from fastseg.cli.compare import Comparison
from fastseg.cli.info import machine, versions
from fastseg.cli.memory import meaning
from fastseg.io import Volume, ras_spacing, to_ras, written_whole
from fastseg.segmentation.labels import LABELS
from fastseg.segmentation.phantom import SEQUENCES, Phantom

_LEGEND_ENTRIES = 8


@dataclass(frozen=True)
class Setup:
    """What was run. ``network`` and ``weights`` are descriptions, ``roi`` is in voxels."""

    input: Path
    volume: Volume
    network: str
    parameters: int
    weights: str
    random_weights: bool
    roi: tuple[int, int, int]
    overlap: float
    windows: int
    device: torch.device
    dtype: str
    channels_last: bool


def heading(setup: Setup, accelerated: nn.Module) -> str:
    """What is going to run, a fact a line."""
    channels, *shape = setup.volume.data.shape
    spacing = " x ".join(f"{step:.3g}" for step in ras_spacing(setup.volume.affine))
    changes = report(accelerated)
    layout = ", channels-last" if setup.channels_last else ""
    return _table(
        input=f"{setup.input}: {channels} x {' x '.join(map(str, shape))} voxels of {spacing} mm",
        network=f"{setup.network}, {setup.parameters / 1e6:.1f} M parameters",
        weights=setup.weights,
        accelerated=f"{len(changes.swapped)} changes, {len(changes.left)} modules left as they were{layout}",
        kernels=select.choose("instance_norm_act", torch.empty((1, 1, 2, 2, 2), device=setup.device)).backend,
        windows=f"{setup.windows} of {_by(setup.roi)}, overlap {setup.overlap:g}, Gaussian blending",
        machine=f"{machine(setup.device)}, {setup.dtype}",
    )


def outcome(comparison: Comparison, setup: Setup, dice: Mapping[str, float] | None) -> str:
    """Times, memory and differences, stock against accelerated."""
    stock, fast = comparison.stock, comparison.accelerated
    runs = len(stock.seconds)
    rows = [
        ("", "stock", "accelerated", ""),
        (
            "whole volume" + (f" (median of {runs})" if runs > 1 else ""),
            f"{stock.volume:.2f} s",
            f"{fast.volume:.2f} s",
            f"{comparison.speed_up:.2f} x",
        ),
        (
            f"one window (median of {len(stock.window_seconds)})",
            f"{1000 * stock.window:.0f} ms",
            f"{1000 * fast.window:.0f} ms",
            f"{stock.window / fast.window:.2f} x",
        ),
    ]
    if stock.peak_bytes is not None and fast.peak_bytes is not None:
        rows.append(("peak memory of a window", _mib(stock.peak_bytes), _mib(fast.peak_bytes), ""))
    lines = ["", *(f"{name:<36}{a:>12}{b:>14}{ratio:>10}".rstrip() for name, a, b, ratio in rows), ""]
    if stock.peak_bytes is None:
        lines.insert(-1, "peak memory is not measured on this system")
    low, high = comparison.logits_range
    lines.append(f"largest difference of the logits {comparison.largest_difference:.2g}, of {low:.3g} to {high:.3g}")
    lines.append(f"same label in {100 * comparison.same_label:.4f} % of {comparison.classes.numel():,} voxels")
    if dice is not None:
        lines.append("Dice against the phantom's truth: " + _dice(dice))
    return "\n".join(lines)


def draw_picture(
    path: Path, setup: Setup, comparison: Comparison, labels: NDArray[np.integer], phantom: Phantom | None
) -> None:
    """Sections through the tumour of a phantom, or through what was found, or through the centre."""
    image = to_ras(setup.volume.data, setup.volume.affine)
    shown = labels
    if phantom is not None:
        names: Mapping[int, str] = LABELS
        shown = phantom.labels
        rows = [
            picture.Row("T1ce, prediction", image[SEQUENCES.index("T1ce")], labels),
            picture.Row("FLAIR, truth", image[SEQUENCES.index("FLAIR")], phantom.labels),
        ]
    else:
        present = [int(label) for label in np.unique(labels) if label][:_LEGEND_ENTRIES]
        names = {label: f"label {label}" for label in present}
        if setup.random_weights:
            inside = np.where(image[0] != 0, labels, 0)
            rows = [picture.Row("input", image[0], np.zeros_like(labels))]
            rows.append(picture.Row("labels of random weights", image[0], inside, outlined=False))
        else:
            rows = [picture.Row("prediction", image[0], labels)]
    picture.draw(
        path,
        rows,
        spacing=ras_spacing(setup.volume.affine),
        centre=_centre(shown, trusted=phantom is not None or not setup.random_weights),
        label_names=names,
        seconds=(comparison.stock.volume, comparison.accelerated.volume),
        title=f"{setup.input.name}  |  {setup.network}",
        subtitle=f"weights {setup.weights}  |  {machine(setup.device)}, {setup.dtype}",
        note=f"largest difference of the logits {comparison.largest_difference:.2g}, "
        f"same label in {100 * comparison.same_label:.4f} % of voxels",
    )


def write_json(
    path: Path,
    setup: Setup,
    accelerated: nn.Module,
    comparison: Comparison,
    dice: Mapping[str, float] | None,
    options: Mapping[str, Any],
) -> None:
    """Everything that was run and measured."""
    facts = {
        "options": {name: str(value) if isinstance(value, Path) else value for name, value in options.items()},
        "versions": versions(),
        "machine": machine(setup.device),
        "input": {"file": str(setup.input), "shape": setup.volume.data.shape, "affine": setup.volume.affine.tolist()},
        "network": {"name": setup.network, "parameters": setup.parameters, "weights": setup.weights},
        "window": {"roi": setup.roi, "overlap": setup.overlap, "count": setup.windows},
        "accelerated": str(report(accelerated)).splitlines(),
        "times": {"stock": comparison.stock.summary(), "accelerated": comparison.accelerated.summary()},
        "speed_up": comparison.speed_up,
        "peak_memory": f"bytes above the level before the prediction, {meaning(setup.device)}",
        "largest_difference": comparison.largest_difference,
        "logits_range": comparison.logits_range,
        "same_label": comparison.same_label,
        "dice": dice,
    }
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _centre(labels: NDArray[np.integer], *, trusted: bool) -> tuple[int, int, int]:
    """The sections with most of the labels along each axis, or the middle."""
    x, y, z = labels.shape
    if not trusted or not labels.any():
        return x // 2, y // 2, z // 2
    found = labels > 0
    sagittal, coronal, axial = (int(found.sum(axis=axes).argmax()) for axes in ((1, 2), (0, 2), (0, 1)))
    return sagittal, coronal, axial


def _table(**facts: str) -> str:
    return "\n".join(f"{name:<13}{text}" for name, text in facts.items())


def _by(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes))


def _mib(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"


def _dice(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{region} {score:.3f}" for region, score in scores.items())
