"""Scores of a disparity map against a known truth, in the regions of the Middlebury benchmark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastseg.ops.arrays import Array, as_tensor
from fastseg.ops.checks import check_not_negative

_SCORES = "evaluate_disparity"
_MASKS = "middlebury_masks"


@dataclass(frozen=True)
class RegionScores:
    """The scores of one region. Shares are from 0 to 1, and NaN where no pixel counts.

    Attributes:
        pixels: of the region whose truth is known, the valid and the invalid ones.
        invalid: share of them without a valid disparity.
        bad: threshold -> share of the scored pixels whose error exceeds it.
        average: mean absolute error of the scored pixels that have a disparity.
        rms: root of their mean squared error.
    """

    pixels: int
    invalid: float
    bad: Mapping[float, float]
    average: float
    rms: float


@dataclass(frozen=True)
class StereoScores:
    """Scores by region: ``scores["nonocc"].bad[1]``. ``str`` makes a table.

    Attributes:
        regions: name of the region -> its scores.
        only_valid: whether bad, average and RMS leave the invalid pixels out.
    """

    regions: Mapping[str, RegionScores]
    only_valid: bool = False

    def __getitem__(self, region: str) -> RegionScores:
        return self.regions[region]

    def as_dict(self) -> dict[str, Any]:
        """The numbers ready for JSON, which has no NaN: None where no pixel counts."""
        regions = {}
        for name, scores in self.regions.items():
            bad = {f"{threshold:g}": _number(share) for threshold, share in scores.bad.items()}
            numbers = {"invalid": scores.invalid, "average": scores.average, "rms": scores.rms}
            regions[name] = {
                "pixels": scores.pixels,
                "bad": bad,
                **{key: _number(value) for key, value in numbers.items()},
            }
        return {"only_valid": self.only_valid, "regions": regions}

    def __str__(self) -> str:
        thresholds = next(iter(self.regions.values())).bad
        titles = ["region", "pixels", "invalid", *(f"bad {threshold:g}" for threshold in thresholds), "average", "RMS"]
        rows = [titles]
        for name, scores in self.regions.items():
            shares = [_percent(share) for share in (scores.invalid, *scores.bad.values())]
            rows.append([name, str(scores.pixels), *shares, _pixels(scores.average), _pixels(scores.rms)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for name, *cells in rows:
            padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
            lines.append("  ".join([name.ljust(widths[0]), *padded]))
        if self.only_valid:
            lines.append("bad, average and RMS are those of the valid pixels")
        return "\n".join(lines)


def evaluate_disparity(
    disparity: Array,
    truth: Array,
    *,
    masks: Mapping[str, Array] | None = None,
    valid: Array | None = None,
    thresholds: Iterable[float] = (0.5, 1, 2, 4),
    unknown: float | None = None,
    only_valid: bool = False,
) -> StereoScores:
    """How far a disparity map is from the truth, in each region.

    A pixel counts where it is in the region's mask and its truth is known. It is invalid where ``valid`` is False or
    the disparity is NaN or infinite; ``invalid`` is the share of such pixels. The other scores come from

    - dense (the default): every pixel that counts. An invalid pixel is scored by the disparity it was filled with, and
      one without a number is bad at every threshold; the average and the RMS leave it out, for it has no error.
    - ``only_valid``: the valid ones of them alone.

    ``bad[t]`` is the share of |disparity - truth| > t (Scharstein and Szeliski 2002, "A taxonomy and evaluation of
    dense two-frame stereo correspondence algorithms"). Everything is computed in float64 where the disparity lies;
    arrays of several kinds and devices may be mixed.

    Args:
        disparity: (H, W), real numbers: NumPy, CuPy or torch.
        truth: (H, W), NaN or infinite where it is not known.
        masks: region -> (H, W), bool; :func:`middlebury_masks` makes them. None: one region, "known".
        valid: (H, W), bool; None: wherever the disparity is a finite number.
        thresholds: in pixels.
        unknown: a number that also means "not known" in the truth: 0 for Middlebury's PNG files.
        only_valid: leave invalid pixels out of everything but ``pixels`` and ``invalid``.

    Returns:
        The scores; NaN in a region where no pixel counts.

    Raises:
        TypeError: an array of another kind or dtype, a mask that is not bool.
        ValueError: another size, no mask, no threshold, or one that is negative or not finite.
    """
    ours = _plane("disparity", disparity)
    device, shape = ours.device, tuple(ours.shape)
    true = _plane("truth", truth, shape).to(device)
    limits = [float(threshold) for threshold in thresholds]
    if not limits:
        raise ValueError(f"{_SCORES}: thresholds is empty, expected at least one, in pixels")
    for limit in limits:
        check_not_negative(_SCORES, "thresholds", limit)
    if masks is not None and not masks:
        raise ValueError(f"{_SCORES}: masks is empty, expected at least one region, or None")
    known = torch.isfinite(true)
    if unknown is not None:
        known &= true != unknown
    present = torch.isfinite(ours)
    good = present if valid is None else present & _mask("valid", valid, shape).to(device)
    regions = {"known": known}
    if masks is not None:
        regions = {name: _mask(f"masks[{name!r}]", mask, shape).to(device) & known for name, mask in masks.items()}
    # An error above every threshold where there is no disparity; numbers without a truth are masked below.
    error = torch.where(present, (ours.double() - true.double()).abs(), math.inf)
    return StereoScores(
        {name: _score(error, region, good, limits, only_valid) for name, region in regions.items()}, only_valid
    )


def middlebury_masks(
    nonocc: Array | None = None, all: Array | None = None, disc: Array | None = None
) -> dict[str, Array]:
    """The regions of the Middlebury benchmark, as bool masks, from the images of its second version.

    A pixel is evaluated where its mask is 255. ``nonocc`` leaves out what the right image does not see, ``all`` is
    everything known, ``disc`` what is near a discontinuity of depth: there 128 is visible but not near one, and 0
    occluded or at the border.

    Args:
        nonocc, all, disc: (H, W), uint8, with the grey values of the files (theirs have a palette: convert them to grey
            first). Those that are None are left out.

    Returns:
        Region -> (H, W), bool, NumPy for NumPy, torch for torch, CuPy for CuPy.

    Raises:
        TypeError, ValueError: another dtype or shape, other values than 0, 128 and 255, no image.
    """
    images = {"nonocc": nonocc, "all": all, "disc": disc}
    masks: dict[str, Array] = {}
    for name, image in images.items():
        if image is None:
            continue
        values = as_tensor(_MASKS, name, image)
        if values.dtype != torch.uint8:
            raise TypeError(f"{_MASKS}: {name} is {values.dtype}, expected uint8")
        if values.ndim != 2:
            raise ValueError(f"{_MASKS}: {name} has shape {tuple(values.shape)}, expected (H, W)")
        levels = (0, 128, 255) if name == "disc" else (0, 255)
        strange = sorted(set(values.unique().tolist()) - set(levels))
        if strange:
            raise ValueError(
                f"{_MASKS}: {name} has the value {strange[0]}, expected {' and '.join(map(str, levels))}; 255 is where "
                "to evaluate (indices of a palette must be turned into its greys first)"
            )
        masks[name] = image == 255
    if not masks:
        raise ValueError(f"{_MASKS}: nonocc, all and disc are None, expected at least one image")
    return masks


def _plane(name: str, array: Array, shape: tuple[int, ...] | None = None) -> Tensor:
    values = as_tensor(_SCORES, name, array).detach()
    if values.dtype == torch.bool or values.is_complex():
        raise TypeError(f"{_SCORES}: {name} is {values.dtype}, expected real numbers")
    _check_plane(name, values, shape)
    return values


def _mask(name: str, array: Array, shape: tuple[int, ...]) -> Tensor:
    values = as_tensor(_SCORES, name, array)
    if values.dtype != torch.bool:
        raise TypeError(f"{_SCORES}: {name} is {values.dtype}, expected bool")
    _check_plane(name, values, shape)
    return values


def _check_plane(name: str, values: Tensor, shape: tuple[int, ...] | None) -> None:
    if values.ndim != 2:
        raise ValueError(f"{_SCORES}: {name} has shape {tuple(values.shape)}, expected (H, W)")
    if shape is not None and tuple(values.shape) != shape:
        raise ValueError(f"{_SCORES}: {name} has shape {tuple(values.shape)}, expected the disparity's {shape}")


def _score(error: Tensor, region: Tensor, good: Tensor, thresholds: list[float], only_valid: bool) -> RegionScores:
    pixels = int(region.sum())
    scored = error[region & good if only_valid else region]
    measured = scored[torch.isfinite(scored)]
    bad = {threshold: _share(int((scored > threshold).sum()), scored.numel()) for threshold in thresholds}
    average, square = (values.mean().item() for values in (measured, measured.square()))  # NaN where there are none
    return RegionScores(pixels, _share(int((region & ~good).sum()), pixels), bad, average, math.sqrt(square))


def _share(count: int, of: int) -> float:
    return count / of if of else math.nan


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.2f} %"


def _pixels(error: float) -> str:
    return "-" if math.isnan(error) else f"{error:.3f}"
