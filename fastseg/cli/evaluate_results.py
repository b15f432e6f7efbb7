"""What ``fastseg evaluate segmentation`` writes of many cases, and its comparison of two models."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fastseg.io.files import FileError, saving
from fastseg.training.evaluation import SCORES, SegmentationScores, shown_scores, written
from fastseg.training.metrics import RocCurve
from fastseg.training.summary import PairedTest, paired_test

_POINTS = 1000  # of a ROC curve in a file; a volume has millions


@dataclass(frozen=True)
class Comparison:
    """A paired test of one score in one region; None where fewer than two cases have the score with both models."""

    region: str
    score: str
    test: PairedTest | None
    left_out: int

    def as_dict(self) -> dict[str, Any]:
        test = None
        if self.test is not None:  # JSON has no infinity: that of t where all cases differ by the same
            test = {key: value if math.isfinite(value) else None for key, value in asdict(self.test).items()}
        return {"region": self.region, "score": self.score, "left_out": self.left_out, "result": test}

    def cells(self) -> list[str]:
        if self.test is None:
            return [self.region, SCORES[self.score], "-", "-", "-"]
        difference = ("+" if self.test.difference >= 0 else "") + written(self.score, self.test.difference)
        return [self.region, SCORES[self.score], difference, f"{self.test.p_value:.3g}", str(self.test.cases)]


def comparison_rows(
    first: Mapping[str, SegmentationScores], second: Mapping[str, SegmentationScores], test: Literal["wilcoxon", "t"]
) -> list[Comparison]:
    """A test for each region and score. Cases where a score of either model is infinite or NaN are left out."""
    rows = []
    for region in next(iter(first.values())).regions:
        for score in SCORES:
            if score == "auc":  # the other model's probabilities are not known
                continue
            pairs = {
                name: (getattr(first[name][region], score), getattr(second[name][region], score)) for name in first
            }
            finite = {name: pair for name, pair in pairs.items() if all(map(math.isfinite, pair))}
            result = None
            if len(finite) > 1:
                ours, theirs = ({name: pair[model] for name, pair in finite.items()} for model in (0, 1))
                result = paired_test(ours, theirs, test=test)
            rows.append(Comparison(region, score, result, len(pairs) - len(finite)))
    return rows


def write_csv(path: Path, cases: Mapping[str, SegmentationScores]) -> None:
    """A line for each case and region; a score that is NaN is empty, one that is infinite ``inf``."""
    shown = shown_scores(cases.values())

    def lines() -> Iterable[Sequence[object]]:
        for name, scores in cases.items():
            for region, of_region in scores.regions.items():
                values = [getattr(of_region, score) for score in shown]
                numbers = ["" if math.isnan(value) else value for value in values]
                yield [name, region, of_region.voxels, of_region.found, *numbers]

    _write(path, ["case", "region", "voxels", "found", *shown], lines())


def thinned(curve: RocCurve) -> RocCurve:
    """Of a long curve ``_POINTS`` points, evenly spaced in their order, with both ends."""
    last = len(curve.thresholds) - 1
    kept = np.unique(np.linspace(0, last, min(_POINTS, last + 1)).round().astype(int))
    return RocCurve(*(column[kept] for column in curve))


def write_roc(path: Path, curves: Mapping[tuple[str, str], RocCurve]) -> None:
    """A line for each point."""

    def lines() -> Iterable[Sequence[object]]:
        for (name, region), curve in curves.items():
            columns = (curve.thresholds, curve.false_positive_rate, curve.true_positive_rate)
            for point in zip(*columns, strict=True):
                yield [name, region, *map(float, point)]

    _write(path, ["case", "region", "threshold", "false_positive_rate", "true_positive_rate"], lines())


def _write(path: Path, header: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    with saving(path, FileError) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(lines)
