"""From a rectified pair to a disparity map: :class:`StereoMatcher`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from contextvars import Context, copy_context
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastseg import ops
from fastseg.clock import StageClock
from fastseg.ops.arrays import Array, as_kind_of, as_tensor, numbers_known
from fastseg.ops.checks import check_not_negative, whole_number
from fastseg.ops.cross_scale_levels import MOST_LEVELS
from fastseg.ops.guided_filter import check_guided_filter
from fastseg.ops.winner_takes_all import check_costs
from fastseg.stereo.disparity_map import DisparityMap
from fastseg.stereo.options import MatchingCost, Refinement, WLSLevels, preset_options
from fastseg.stereo.pair import check_rectified, load_pair
from fastseg.stereo.scales import CostFilter, Scales, disparity_chunks, image_pyramid, luminance, wls_scales
from fastseg.stereo.stages import Stages

_NAME = "StereoMatcher"
_LARGEST = 1 << 30

#: Called after each piece of work with the stage's name and the share of all work that is done, 0 to 1.
OnProgress = Callable[[str, float], None]


@dataclass(frozen=True)
class StereoMatcher:
    """Dense disparities of rectified pairs, by filtered costs and cross-scale aggregation.

    Costs of every candidate (:func:`fastseg.ops.matching_cost`) on several levels, each filtered with the image as its
    guide (:func:`fastseg.ops.guided_filter`), coupled (:func:`fastseg.ops.cross_scale_aggregate`); the least cost wins
    (:func:`fastseg.ops.winner_takes_all`); then :mod:`fastseg.stereo.refinement`. Hosni et al. 2013, "Fast cost-volume
    filtering", Zhang et al. 2014, "Cross-scale cost aggregation"; with ``wls`` the levels are those of multi-scale WLS
    smoothing. The volume is never whole in memory.

    Attributes:
        max_disparity: candidates are the whole disparities from ``min_disparity`` to below this.
        min_disparity: may be negative.
        levels: how many are coupled; 1 is the image alone.
        cost: the matching cost.
        radius: of the guided filter, in pixels of each level.
        eps: of the guided filter, for images in [0, 1].
        cross_scale_lambda: how strongly levels are coupled.
        wls: None for a pyramid of halved images; otherwise levels of one size by WLS smoothing.
        refine: what follows the winner.
        device: where to compute; None is where the images are.
        memory_limit: bytes for volumes of costs. Fewer disparities at a time are computed where more would not fit.
            Images and what is kept of every pixel (about 100 bytes) come on top.
        check_input: whether a small copy of each pair is looked at first for swapped or unrectified views.
        stages: the functions that are called; replace any of them.
    """

    max_disparity: int
    min_disparity: int = 0
    levels: int = 4
    cost: MatchingCost = field(default_factory=MatchingCost)
    radius: int = 9
    eps: float = 1e-4
    cross_scale_lambda: float = 0.3
    wls: WLSLevels | None = None
    refine: Refinement = field(default_factory=Refinement)
    device: torch.device | str | None = None
    memory_limit: int = 1 << 30
    check_input: bool = True
    stages: Stages = field(default_factory=Stages)

    def __post_init__(self) -> None:
        for name, value in checked(self).items():
            object.__setattr__(self, name, value)  # whole numbers may come as floating point

    @classmethod
    def preset(cls, name: str, *, max_disparity: int, **options: Any) -> StereoMatcher:
        """A matcher with a preset's options. ``options`` replace them, ``refine`` and ``cost`` each as a whole.

        ``"accurate"``: the defaults. ``"fast"``: the image alone, sub-pixel by the winner's own costs. ``"paper"``: as
        multi-scale WLS stereo describes it: WLS levels, sub-pixel by the winner's own costs, WLS smoothing at last.
        To change a part, ``dataclasses.replace(matcher, refine=dataclasses.replace(matcher.refine, smooth=False))``.
        """
        return cls(max_disparity=max_disparity, **{**preset_options(name), **options})

    def match(self, left: Array, right: Array, *, on_progress: OnProgress | None = None) -> DisparityMap:
        """The left image's disparities.

        Args:
            left, right: NumPy, CuPy or torch, of one shape, dtype and device: (H, W), (C, H, W), (H, W, C),
                (B, C, H, W) or (B, H, W, C), C 1 or 3; uint8, uint16, or floating point in [0, 1]. Grey images of a
                batch need their channel: (3, H, W) is one image in colours.
            on_progress: called after each piece of work with the stage's name and the share that is done, 0 to 1.

        Returns:
            Arrays of the images' kind, (H, W) or (B, H, W); on the images' device, or on ``device`` for torch tensors.

        Raises:
            ValueError: images that are no pair, a range of disparities wider than the images, a memory limit that is
                too small.
            StereoPairError: views that look swapped or unrectified.
            TypeError: another dtype, or no array.
        """
        images = load_pair(left, right, torch.device(self.device) if self.device is not None else None)
        check_width(self, images[0].shape[-1])
        report = None
        if on_progress is not None:  # its calls of ops look at what they are given
            report = partial(_called_in, copy_context(), on_progress)
        # The images have been looked at, and what the library's own stages make of numbers are numbers.
        with numbers_known() if self.stages == Stages() else nullcontext():
            result = self._match(*images, report)
        home = as_tensor(_NAME, "left", left).device

        def as_given(values: Tensor) -> Any:
            one = values if len(left.shape) == 4 else values[0]
            return as_kind_of(left, one if isinstance(left, Tensor) else one.to(home))

        return DisparityMap(
            as_given(result.disparity), as_given(result.valid), as_given(result.confidence), result.seconds
        )

    def _match(self, left: Tensor, right: Tensor, on_progress: OnProgress | None) -> DisparityMap:
        refine, stages = self.refine, self.stages
        own = CostFilter(
            self.cost.arguments(), self.radius, self.eps, self.cross_scale_lambda,
            stages.matching_cost, stages.filter, stages.combine,
        )  # fmt: skip
        costs = stages.costs or own
        local = refine.subpixel_radius if refine.subpixel and stages.costs is None else None
        each = own.bytes_per_disparity(left.shape, self.levels, pyramid=self.wls is None)
        chunks = disparity_chunks(self.min_disparity, self.max_disparity, each, self.memory_limit)
        clock = StageClock(left.device, len(chunks) * (2 if local is None else 3) + 4, on_progress)

        with clock.stage("scales"):
            if self.check_input and self.min_disparity >= 0:
                check_rectified(left, right, self.max_disparity)
            scales = self._scales(left, right)
        winner = self._winner(costs, scales, "left", chunks, clock)
        if costs is own and own.plain and len(scales.left) == 1:
            other = self._least(own, scales, chunks, clock)
        else:
            other = self._winner(costs, scales, "right", chunks, clock).index
        with clock.stage("check"):
            whole = winner.index.float() + self.min_disparity
            seen = torch.where(
                other >= 0, other + float(self.min_disparity), torch.inf
            )  # nothing agrees with no winner
            valid = stages.check(whole, seen, tolerance=refine.left_right_tolerance)
            sure = stages.confidence(winner.cost, winner.second)
            valid = valid & (winner.index >= 0) & (sure >= refine.least_confidence)
            confidence = torch.where(valid, sure, 0.0)
        with clock.stage("fill"):
            disparity = stages.fill(whole, valid)
            if refine.median_radius:
                sigmas = {"sigma_color": refine.sigma_color, "sigma_space": refine.sigma_space}
                median = stages.median(
                    disparity.unsqueeze(1), left, radius=refine.median_radius, mask=~valid.unsqueeze(1), **sigmas
                )
                disparity = median.squeeze(1)
        if local is not None:
            finest = replace(own, radius=local)
            at = Scales(scales.left[:1], scales.right[:1], pyramid=True)
            winner = self._winner(finest, at, "left", chunks, clock, "sub-pixel", near=winner.index, reach=1)
        with clock.stage("refine"):
            if refine.subpixel:
                offset = stages.offset(winner.before, winner.cost, winner.after)
                disparity = torch.where(valid, winner.index + self.min_disparity + offset, disparity)
            if refine.smooth:
                disparity = stages.smooth(disparity)
            if refine.wls is not None:
                weight = confidence.clamp(min=refine.wls.least_confidence)
                parameters = {"lambda_": refine.wls.lambda_, "alpha": refine.wls.alpha}
                disparity = stages.wls(disparity, weight, luminance(left).clamp(min=0), **parameters)
        check_costs(_NAME, winner.cost)  # an eps that float32 loses beside a flat image makes NaN; one look for all
        return DisparityMap(disparity, valid, confidence, clock.seconds)

    def _scales(self, left: Tensor, right: Tensor) -> Scales:
        if self.stages.scales is not None:
            return self.stages.scales(left, right)
        if self.wls is None:
            return image_pyramid(left, right, self.levels)
        return wls_scales(left, right, self.levels, self.wls)

    def _winner(
        self,
        costs: Callable[[Scales, str, int, int], Tensor],
        scales: Scales,
        view: str,
        chunks: Sequence[tuple[int, int]],
        clock: StageClock,
        name: str | None = None,
        **near: Any,
    ) -> ops.Winner:
        winner = None
        for first, last in chunks:
            with clock.stage(name or f"costs, {view} view"):
                volume = costs(scales, view, first, last)
                winner = self.stages.winner(volume, previous=winner, **near)
                del volume  # before the next one is made
        assert winner is not None  # there is at least one disparity
        return winner

    def _least(self, costs: CostFilter, scales: Scales, chunks: Sequence[tuple[int, int]], clock: StageClock) -> Tensor:
        """The right view's winners where nothing but their index is needed: no filtered volume is stored for them."""
        best: ops.GuidedArgmin | None = None
        for first, last in chunks:
            with clock.stage("costs, right view"):
                found = costs.least(scales, "right", first, last)
                index = found.index + (first - self.min_disparity)
                if best is None:
                    best = ops.GuidedArgmin(index, found.cost)
                else:
                    less = found.cost < best.cost
                    best = ops.GuidedArgmin(
                        torch.where(less, index, best.index), torch.where(less, found.cost, best.cost)
                    )
        assert best is not None  # there is at least one disparity
        return best.index


def checked(matcher: StereoMatcher) -> dict[str, Any]:
    """Options that need no image: those whose values take another type.

    Raises:
        ValueError: a number out of its range, or no device.
    """
    first = whole_number(_NAME, "min_disparity", matcher.min_disparity, -_LARGEST, _LARGEST)
    last = matcher.max_disparity
    if not (first < last <= _LARGEST and last == int(last)):  # written so that NaN is refused
        raise ValueError(f"{_NAME}: max_disparity is {last}, expected a whole number above min_disparity {first}")
    levels = whole_number(_NAME, "levels", matcher.levels, 1, MOST_LEVELS)
    check_guided_filter(_NAME, matcher.radius, matcher.eps, "truncate")
    check_not_negative(_NAME, "cross_scale_lambda", matcher.cross_scale_lambda)
    limit = whole_number(_NAME, "memory_limit", matcher.memory_limit, 1, 1 << 62)
    try:
        device = None if matcher.device is None else torch.device(matcher.device)
    except RuntimeError:
        raise ValueError(f"{_NAME}: device is {matcher.device!r}, expected a device of torch, such as 'cuda'") from None
    return {
        "min_disparity": first,
        "max_disparity": int(last),
        "levels": levels,
        "radius": int(matcher.radius),
        "memory_limit": limit,
        "device": device,
    }


def check_width(matcher: StereoMatcher, width: int) -> None:
    """Raises ValueError where disparities reach beyond the images."""
    if matcher.max_disparity > width or matcher.min_disparity <= -width:
        raise ValueError(
            f"{_NAME}: disparities from {matcher.min_disparity} to below {matcher.max_disparity} reach beyond "
            f"images of width {width}; expected less than the width"
        )


def _called_in(context: Context, on_progress: OnProgress, name: str, share: float) -> None:
    context.run(on_progress, name, share)
