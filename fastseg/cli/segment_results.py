"""What ``fastseg segment`` says: text for the terminal, and JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastseg.cli.info import machine, versions
from fastseg.cli.segment_inputs import Source
from fastseg.io import Volume, ras_spacing
from fastseg.models import SegmentationNetwork
from fastseg.segmentation import Segmentation
from fastseg.segmentation.labels import LABELS


def heading(options: argparse.Namespace, network: SegmentationNetwork, found: list[Source], many: bool) -> str:
    """What is going to run, a fact a line."""
    kinds = {"volume": "volume", "brats": "case of BraTS", "slices": "folder of slices"}
    parameters = sum(parameter.numel() for parameter in network.parameters())
    weights = f"random (seed {options.random_weights})"
    if options.weights is not None:
        weights = " and ".join(map(str, options.weights))
    facts = {
        "input": f"{options.input}: {f'{len(found)} cases' if many else kinds[found[0].kind]}",
        "network": f"{network.name}, {parameters:,} parameters, {options.dtype}",
        "weights": weights,
        "machine": machine(torch.device(options.device)),
    }
    return "\n".join(f"{name:<13}{text}" for name, text in facts.items())


def facts_of(
    source: Path, target: Path, found: Segmentation, seconds: Mapping[str, float], like: Volume
) -> dict[str, Any]:
    """What is known of one case after it, for JSON and the terminal."""
    spacing = ras_spacing(like.affine)
    values, counts = np.unique(found.labels, return_counts=True)
    of_brats = "ET" in found.channels or set(LABELS.values()) <= set(found.channels)
    # A mask may be the only channel, or follow that of the background.
    labels = {
        str(value): {
            "name": LABELS[value] if of_brats else found.channels[min(value, len(found.channels) - 1)],
            "voxels": count,
            "millilitres": float(count * np.prod(spacing) / 1000),
        }
        for value, count in zip(values.tolist(), counts.tolist(), strict=True)
        if value != 0
    }
    return {
        "input": str(source),
        "output": str(target),
        "shape": list(found.labels.shape),
        "spacing_ras_mm": list(spacing),
        "channels": list(found.channels),
        "labels": labels,
        "boxes_ras_voxels": {name: [[axis.start, axis.stop] for axis in box] for name, box in found.boxes.items()},
        "notes": list(found.notes),
        "seconds": {**seconds, "total": sum(seconds.values())},
    }


def summary(facts: Mapping[str, Any]) -> str:
    """Times of the stages, what was found, and the file."""
    *stages, (_, total) = facts["seconds"].items()
    lines = ["", f"{'stage':<22}{'seconds':>9}{'share':>8}"]
    lines += [f"{name:<22}{seconds:>9.3f}{100 * seconds / total:>6.0f} %" for name, seconds in stages]
    lines += [f"{'total':<22}{total:>9.3f}", ""]
    lines += [
        f"label {value}  {label['name']:<16}{label['voxels']:>12,} voxels {label['millilitres']:>10.2f} ml"
        for value, label in facts["labels"].items()
    ] or ["no voxel is labelled"]
    return "\n".join([*lines, "", f"written to {facts['output']}"])


def write_json(path: Path, options: argparse.Namespace, cases: list[dict[str, Any]], failed: Mapping[str, str]) -> None:
    """Everything that was run and measured."""
    facts = {
        "options": vars(options),
        "versions": versions(),
        "machine": machine(torch.device(options.device)),
        "threads": torch.get_num_threads(),
        "cases": cases,
        "failed": dict(failed),
    }
    path.write_text(json.dumps(facts, indent=2, allow_nan=False, default=str) + "\n", encoding="utf-8")
