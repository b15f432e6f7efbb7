"""Scores of many cases: their mean, median and deviation, and whether one model is better than another."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fastseg.ops.checks import check_choice
from fastseg.training.evaluation import SCORES, SegmentationScores, shown_scores, table, written


@dataclass(frozen=True)
class Spread:
    """One score of one region over cases.

    Attributes:
        mean, median: of the cases that count; NaN where none does.
        std: the sample's standard deviation (n - 1); NaN below two cases.
        cases: how many count.
        left_out: how many do not, because the score is infinite or NaN.
    """

    mean: float
    median: float
    std: float
    cases: int
    left_out: int


@dataclass(frozen=True)
class SegmentationSummary:
    """Region -> score -> :class:`Spread`: ``summary["WT"]["dice"].median``. ``str`` makes a table."""

    regions: Mapping[str, Mapping[str, Spread]]

    def __getitem__(self, region: str) -> Mapping[str, Spread]:
        return self.regions[region]

    def as_dict(self) -> dict[str, Any]:
        """The numbers ready for JSON: None for NaN."""
        return {
            region: {
                score: {key: None if math.isnan(value) else value for key, value in vars(spread).items()}
                for score, spread in scores.items()
            }
            for region, scores in self.regions.items()
        }

    def __str__(self) -> str:
        shown = list(next(iter(self.regions.values())))
        rows = [["region", "", *(SCORES[score] for score in shown)]]
        notes = []
        for region, scores in self.regions.items():
            for kind in ("mean", "median", "std"):
                rows.append([region, kind, *(written(score, getattr(scores[score], kind)) for score in shown)])
            notes += [
                f"{SCORES[score]} of {region}: {spread.left_out} of {spread.left_out + spread.cases} cases have none"
                for score, spread in scores.items()
                if spread.left_out
            ]
        return "\n".join([table(rows), *notes])


def summarize(cases: Mapping[str, SegmentationScores]) -> SegmentationSummary:
    """Mean, median and deviation of every score over cases, by region.

    Raises:
        ValueError: no case, or cases with other regions than the first.
    """
    if not cases:
        raise ValueError("summarize: cases is empty, expected at least one")
    regions = list(next(iter(cases.values())).regions)
    for name, scores in cases.items():
        if list(scores.regions) != regions:
            raise ValueError(f"summarize: {name} has the regions {list(scores.regions)}, expected {regions}")
    shown = shown_scores(cases.values())
    return SegmentationSummary(
        {
            region: {score: _spread([getattr(scores[region], score) for scores in cases.values()]) for score in shown}
            for region in regions
        }
    )


@dataclass(frozen=True)
class PairedTest:
    """Whether two models differ over the same cases.

    Attributes:
        statistic: of Wilcoxon's signed ranks or of Student's t.
        p_value: how likely a difference at least this large is if the models are equally good.
        difference: median (Wilcoxon) or mean (t) of the first model's value minus the second's.
        cases: how many were compared.
    """

    statistic: float
    p_value: float
    difference: float
    cases: int


def paired_test(
    first: Mapping[str, float],
    second: Mapping[str, float],
    *,
    test: Literal["wilcoxon", "t"] = "wilcoxon",
    alternative: Literal["two-sided", "less", "greater"] = "two-sided",
) -> PairedTest:
    """A test of paired differences over cases, as paper E asks between models: SciPy's ``wilcoxon`` or ``ttest_rel``.

    Args:
        first, second: case -> score of a model, the same cases in both.
        test: ``"wilcoxon"`` asks nothing of the distribution; ``"t"`` takes the differences for normal.
        alternative: ``"greater"`` asks whether the first model's scores are.

    Returns:
        The test; p is 1 where no case differs.

    Raises:
        ValueError: fewer than two cases, other cases in one of both, a score that is not finite, or another test.
        ImportError: SciPy is not installed.
    """
    check_choice("paired_test", "test", test, ("wilcoxon", "t"))
    check_choice("paired_test", "alternative", alternative, ("two-sided", "less", "greater"))
    alone = sorted(set(first) ^ set(second))
    if alone:
        raise ValueError(f"paired_test: {alone[0]} is a case of one model only ({len(alone)} in all)")
    if len(first) < 2:
        raise ValueError(f"paired_test: there are {len(first)} cases, expected at least 2")
    for values in (first, second):
        for case, value in values.items():
            if not math.isfinite(value):
                raise ValueError(f"paired_test: the score of {case} is {value}, expected a finite number")
    pairs = [(first[case], second[case]) for case in first]
    differences = [ours - theirs for ours, theirs in pairs]
    middle: Callable[[list[float]], float] = statistics.median if test == "wilcoxon" else statistics.fmean
    if not any(differences):  # SciPy's t is 0/0 then
        return PairedTest(0.0, 1.0, 0.0, len(pairs))
    try:
        from scipy import stats
    except ImportError as error:
        raise ImportError('paired_test needs scipy: pip install "fastseg-kernels[segmentation]"') from error
    run = stats.wilcoxon if test == "wilcoxon" else stats.ttest_rel
    result = run(*zip(*pairs, strict=True), alternative=alternative)
    return PairedTest(float(result.statistic), float(result.pvalue), middle(differences), len(pairs))


def _spread(values: list[float]) -> Spread:
    finite = [value for value in values if math.isfinite(value)]
    return Spread(
        mean=statistics.fmean(finite) if finite else math.nan,
        median=statistics.median(finite) if finite else math.nan,
        std=statistics.stdev(finite) if len(finite) > 1 else math.nan,
        cases=len(finite),
        left_out=len(values) - len(finite),
    )
