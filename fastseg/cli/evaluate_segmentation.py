"""``fastseg evaluate segmentation``: scores of label volumes against the truth, for one case or for many."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.cli.errors import CommandError
from fastseg.cli.evaluate_cases import PROBABILITIES, matched
from fastseg.cli.evaluate_labels import check_same_voxels, read
from fastseg.cli.evaluate_results import comparison_rows, thinned, write_csv, write_roc
from fastseg.cli.progress import Advance, progress
from fastseg.io import FileError, LabelVolume, load_nifti
from fastseg.io.files import check_ending, listed
from fastseg.io.grid import check_same_grid
from fastseg.segmentation.labels import REGIONS
from fastseg.training.evaluation import SegmentationScores, evaluate_masks, table
from fastseg.training.metrics import RocCurve, diagonal, roc_curve
from fastseg.training.summary import summarize

Regions = dict[str, tuple[int, ...]]
_BRATS = {0, 1, 2, 3, 4}  # the enhancing rim is 4 up to 2021, and 3 from 2023 on


def run(options: argparse.Namespace) -> None:
    for path in (options.csv, options.roc):
        if path is not None:
            check_ending(path, FileError, ".csv")
    pairs = matched(options.pred, options.truth)
    names = list(pairs)
    if options.roc is not None and options.probabilities is None:
        raise CommandError("--roc needs --probabilities")
    if options.against is not None and len(names) < 2:
        raise CommandError(f"--against needs at least 2 cases to test over, {options.truth} has {len(names)}")
    others = matched(options.against, options.truth) if options.against is not None else None
    maps = None
    if options.probabilities is not None:
        maps = matched(options.probabilities, options.truth, PROBABILITIES)
    regions = _regions(options, [path for pair in pairs.values() for path in pair])

    curves: dict[tuple[str, str], RocCurve] = {}
    scores, against = {}, {}
    total = len(names) * (1 if others is None else 2)
    with progress("predictions", total) if total > 1 else nullcontext(lambda: None) as advance:
        for name, (pred, truth) in pairs.items():
            case = _Case(truth, regions, options.if_one_empty)
            probabilities = None if maps is None else case.probabilities(maps[name][0])
            scores[name] = case.scores(pred, probabilities, advance)
            if others is not None:
                against[name] = case.scores(others[name][0], None, advance)
            if options.roc is not None and probabilities is not None:
                curves |= {(name, region): curve for region, curve in case.curves(probabilities).items()}
    if options.csv is not None:
        write_csv(options.csv, scores)
    if options.roc is not None:
        write_roc(options.roc, curves)
    _print(options, regions, scores, against)


class _Case:
    """The truth of a case, and what is scored against it."""

    def __init__(self, path: Path, regions: Regions, if_one_empty: str) -> None:
        self._path = path
        self._regions = regions
        self._labels = read(path)
        self._truth = self._labels.volume
        self._masks = self._split(path, self._truth)
        self._spacing = tuple(float(step) for step in np.linalg.norm(self._truth.affine[:3, :3], axis=0))
        self._one_empty = math.inf
        if if_one_empty == "diagonal":
            self._one_empty = diagonal(self._truth.data.shape, self._spacing)

    def scores(
        self, path: Path, probabilities: dict[str, NDArray[np.float32]] | None, advance: Advance
    ) -> SegmentationScores:
        pred = read(path)
        check_same_voxels(pred, self._labels)
        result = evaluate_masks(
            self._split(path, pred.volume),
            self._masks,
            spacing=self._spacing,
            probabilities=probabilities,
            one_empty=self._one_empty,
        )
        advance()
        return result

    def probabilities(self, path: Path) -> dict[str, NDArray[np.float32]]:
        """Of each region; those of classes, with the background first, are added up."""
        volume = load_nifti(path)
        check_same_grid(path, volume, self._path, self._truth)
        classes = sorted({label for labels in self._regions.values() for label in labels})
        if len(volume.data) == len(self._regions):
            return dict(zip(self._regions, volume.data, strict=True))
        if len(volume.data) != 1 + len(classes):
            raise CommandError(
                f"{path}: {len(volume.data)} channels, expected {len(self._regions)} for {listed(self._regions)}, "
                f"or {1 + len(classes)} for the labels {listed([0, *classes])}"
            )
        return {
            region: sum(volume.data[1 + classes.index(label)] for label in labels)
            for region, labels in self._regions.items()
        }

    def curves(self, probabilities: dict[str, NDArray[np.float32]]) -> dict[str, RocCurve]:
        """Of the regions that are in the truth, thinned at once: a volume's curve has a point for each voxel."""
        return {
            region: thinned(roc_curve(probabilities[region], mask))
            for region, mask in self._masks.items()
            if mask.any() and not mask.all()
        }

    def _split(self, path: Path, volume: LabelVolume) -> dict[str, NDArray[np.bool_]]:
        labels = volume.data
        if self._regions == REGIONS:
            labels = _brats_labels(path, labels)
        return {region: np.isin(labels, members) for region, members in self._regions.items()}


def _regions(options: argparse.Namespace, paths: Sequence[Path]) -> Regions:
    """What to score: as asked for, or by the labels that all files together have."""
    if options.regions == "brats":
        return dict(REGIONS)
    present = {int(label) for path in paths for label in np.unique(read(path).volume.data)}
    if options.labels is not None:
        # Absent from a case, a label has Dice 1 there; absent from all, it is a mistake.
        if unknown := [label for label in options.labels if label not in present]:
            raise CommandError(f"--labels: no file has {listed(unknown)}, expected some of {listed(sorted(present))}")
        return {str(label): (label,) for label in options.labels}
    if present <= _BRATS and not present <= {0, 1}:
        return dict(REGIONS)
    labels = sorted(present - {0})
    if not labels:
        raise CommandError(f"{options.truth}: all labels are 0, so say what to score with --labels or --regions")
    return {str(label): (label,) for label in labels}


def _brats_labels(path: Path, labels: NDArray[np.integer]) -> NDArray[np.integer]:
    """Labels with 4 for the enhancing rim."""
    present = {int(label) for label in np.unique(labels)}
    if not present <= _BRATS or {3, 4} <= present:
        raise CommandError(
            f"{path}: labels {listed(sorted(present))}, expected those of BraTS: 0, 1, 2 and 4, or 0, 1, 2 and 3"
        )
    return np.where(labels == 3, 4, labels)


def _print(
    options: argparse.Namespace,
    regions: Regions,
    scores: dict[str, SegmentationScores],
    against: dict[str, SegmentationScores],
) -> None:
    summary = summarize(scores)
    tests = comparison_rows(scores, against, options.test) if against else []
    if options.json:
        content: dict[str, Any] = {"pred": str(options.pred), "truth": str(options.truth), "regions": regions}
        content["cases"] = {name: case.as_dict() for name, case in scores.items()}
        content["summary"] = summary.as_dict()
        if against:
            content["against"] = {
                "pred": str(options.against),
                "test": options.test,
                "summary": summarize(against).as_dict(),
                "comparisons": [row.as_dict() for row in tests],
            }
        print(json.dumps(content, indent=2))
        return
    if len(scores) == 1:
        print(next(iter(scores.values())))
    else:
        print(f"{len(scores)} cases\n{summary}")
    if tests:
        print(f"\nbeside {options.against} ({'Wilcoxon' if options.test == 'wilcoxon' else 'paired t'})")
        print(table([["region", "score", "difference", "p", "cases"], *(row.cells() for row in tests)]))
