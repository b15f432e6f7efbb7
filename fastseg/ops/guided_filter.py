"""The guided filter: edge-preserving averages of images and of whole cost volumes, in time that no radius changes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastseg import reference
from fastseg.backends import select
from fastseg.ops.arrays import Array, ArrayT, as_kind_of, as_tensor, check_numbers, reads_numbers
from fastseg.ops.checks import check_choice
from fastseg.ops.guided_images import check_guided_images, in_batches
from fastseg.ops.registry import register
from fastseg.reference.guided_filter import reduced_radius

_NAME = "guided_filter"
_ARGMIN = "guided_filter_argmin"
BORDERS = ("truncate", "reflect", "reflect_101")
#: The largest radius: a window's pixels must be counted in float32, and windows beyond an image change little.
_LARGEST_RADIUS = 1 << 15


def guided_filter(
    guide: Array, src: ArrayT, *, radius: int, eps: float, border: str = "truncate", subsample: int = 1
) -> ArrayT:
    """Average images, or the slices of a cost volume, over square windows, without crossing the edges of a guide.

    In every window of ``(2 radius + 1)^2`` pixels src p is taken for a linear map of the guide I, with
    ``a = (cov(I) + eps)^-1 cov(I, p)`` and ``b = mean(p) - a . mean(I)``, the full 3x3 covariance for a colour guide;
    a pixel's result is ``mean(a) . I + mean(b)`` over the windows that hold it. He et al. 2013, "Guided image
    filtering"; for cost volumes Hosni et al. 2013, "Fast cost-volume filtering". Statistics of the guide are computed
    once for all channels of src. The result is linear in src, and differentiable as often as needed; where the guide
    requires grad, or src with ``subsample`` above 1, plain PyTorch operations run.

    Args:
        guide: NumPy, CuPy or torch; float32, float64, float16, bfloat16 or uint8, on src's device. (H, W), (1, H, W) or
            (3, H, W): one for all images of src. (B, 1, H, W) or (B, 3, H, W): one for each src[b].
        src: (..., H, W), any of these dtypes. Beside a guide of rank 4 (B, C, H, W): C may be disparities.
        radius: from 0 (single pixels) to 32768 pixels; windows may be larger than the image.
        eps: > 0, in the guide's units squared: 1e-4 on [0, 1] is 6.5 on [0, 255]. Larger than the variance of what is
            to be smoothed, smaller than that of edges.
        border: windows at the edges of the image. ``"truncate"``: the part inside, as in He's code. ``"reflect"``: the
            image mirrored, edge pixels twice, as OpenCV has it (``BORDER_REFLECT``). ``"reflect_101"``: mirrored, edge
            pixels once, as kornia and torch name ``"reflect"``.
        subsample: >= 1. Above 1, the fast guided filter (He and Sun 2015): a and b come from every ``subsample``-th
            pixel with a radius divided by it, and are interpolated linearly, sample i at pixel ``i * subsample``.

    Returns:
        An array of src's kind, device, shape and dtype; for uint8 rounded to nearest and clipped. Computed in float32,
        in float64 for float64 src.

    Raises:
        ValueError: sizes that differ or are empty, a wrong number of guide channels, a number out of its range, an
            unknown border, different devices, NaN or infinity (not looked for under torch.compile).
        TypeError: another dtype, or no array.
    """
    other, image = as_tensor(_NAME, "guide", guide), as_tensor(_NAME, "src", src)
    check_guided_images(_NAME, image, other)
    check_guided_filter(_NAME, radius, eps, border, subsample)
    parameters = int(radius), float(eps), border, int(subsample)
    if not reads_numbers():
        return as_kind_of(src, _filter(other, image, *parameters))
    check_numbers(_NAME, "guide", other)
    # On CPUs, NaN and infinity spread over their whole image, so that one pixel of each result tells: looking for them
    # in a cost volume would take a good part of the time of filtering it. Pixels between samples go nowhere.
    spread = image.device.type == "cpu" and subsample == 1 and radius > 0
    if not spread:
        check_numbers(_NAME, "src", image)
    result = _filter(other, image, *parameters)
    if spread and not bool(torch.isfinite(result[..., 0, 0]).all()):
        check_numbers(_NAME, "src", image)
    return as_kind_of(src, result)


class GuidedArgmin(NamedTuple):
    """What :func:`guided_filter_argmin` finds at each pixel."""

    index: Any  #: int64, which slice is smallest after filtering; on CPUs the first of equal ones
    cost: Any  #: its filtered value


def guided_filter_argmin(
    guide: Array, costs: ArrayT, *, radius: int, eps: float, border: str = "truncate"
) -> GuidedArgmin:
    """The winner of a cost volume that is filtered by :func:`guided_filter`: the slice of least cost at each pixel.

    ``guided_filter(guide, costs, ...).min(-3)`` without storing the filtered volume: on CPUs in the time of filtering
    alone. On other devices the volume is filtered first. Nothing here has a gradient.

    Args:
        guide, radius, eps, border: as for :func:`guided_filter`.
        costs: (D, H, W), or (B, D, H, W) beside a guide of rank 4, of D >= 1 slices, such as disparities.

    Returns:
        ``index``, ``cost``: (H, W) or (B, H, W), of costs' kind and device; the cost in float32, in float64 for float64
        costs, and not rounded for uint8. With slices from :func:`matching_cost`, disparity = min_disparity + index.

    Raises:
        ValueError, TypeError: as :func:`guided_filter`, with ``costs`` for ``src``.
    """
    other, volume = as_tensor(_ARGMIN, "guide", guide), as_tensor(_ARGMIN, "costs", costs)
    check_guided_images(_ARGMIN, volume, other, names=("costs", "guide"))
    if volume.ndim != max(other.ndim, 3) or volume.shape[-3] == 0:
        raise ValueError(
            f"{_ARGMIN}: costs has shape {tuple(volume.shape)}, expected (D, H, W) with at least one slice, or "
            "(B, D, H, W) beside a guide of rank 4"
        )
    check_guided_filter(_ARGMIN, radius, eps, border)
    reads = reads_numbers()
    spread = volume.device.type == "cpu" and radius > 0  # see guided_filter
    if reads:
        check_numbers(_ARGMIN, "guide", other)
        if not spread:
            check_numbers(_ARGMIN, "costs", volume)
    volume, other = volume.detach(), other.detach()
    if select.runs_reference(_ARGMIN, volume, int(radius), border):
        index, cost = reference.guided_filter_argmin(other, volume, radius=int(radius), eps=float(eps), border=border)
    else:
        images, guides = in_batches(volume, other)
        index, cost = _argmin_op(guides, images, int(radius), float(eps), border)
        index, cost = (t.view(volume.shape[:-3] + volume.shape[-2:]) for t in (index, cost))
    if spread and reads and not bool(torch.isfinite(cost[..., 0, 0]).all()):
        check_numbers(_ARGMIN, "costs", volume)
    return GuidedArgmin(as_kind_of(costs, index), as_kind_of(costs, cost))


def check_guided_filter(op: str, radius: int, eps: float, border: str, subsample: int = 1) -> None:
    """The parameters of a guided filter inside ``op``.

    Raises:
        ValueError: a number out of its range, an unknown border.
    """
    if not (0 <= radius <= _LARGEST_RADIUS and radius == int(radius)):  # written so that NaN is refused
        raise ValueError(f"{op}: radius is {radius}, expected a whole number of pixels from 0 to {_LARGEST_RADIUS}")
    if not 0 < eps < float("inf"):
        raise ValueError(f"{op}: eps is {eps}, expected a finite number > 0, in the guide's units squared")
    check_choice(op, "border", border, BORDERS)
    if not (subsample >= 1 and subsample == int(subsample)):
        raise ValueError(f"{op}: subsample is {subsample}, expected a whole number >= 1")


def _filter(guide: Tensor, src: Tensor, radius: int, eps: float, border: str, subsample: int) -> Tensor:
    differentiated = torch.is_grad_enabled() and (guide.requires_grad or (src.requires_grad and subsample > 1))
    if differentiated or select.runs_reference(_NAME, src, radius, border, subsample):
        return reference.guided_filter(guide, src, radius=radius, eps=eps, border=border, subsample=subsample)
    images, guides = in_batches(src, guide)
    if torch.is_grad_enabled() and images.requires_grad:
        result: Tensor = _GuidedFilter.apply(images, guides, radius, eps, border)
    else:
        result = _op(guides, images, radius, eps, border, subsample)
    return result.view(src.shape)


class _GuidedFilter(torch.autograd.Function):
    """The filter is F = S Z, Z symmetric and S diagonal (:func:`_symmetric_scale`), so that its adjoint is S^-1 F S."""

    @staticmethod
    def forward(ctx: Any, src: Tensor, guide: Tensor, radius: int, eps: float, border: str) -> Tensor:
        ctx.save_for_backward(guide)
        ctx.parameters = radius, eps, border
        return _op(guide, src, radius, eps, border, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (guide,) = ctx.saved_tensors
        radius, eps, border = ctx.parameters
        if border == "reflect":
            result = _GuidedFilter.apply(grad, guide, radius, eps, border)
        else:
            wide = grad.to(torch.promote_types(grad.dtype, torch.float32))
            scale = _symmetric_scale(guide.shape[-2:], radius, border).to(wide)
            result = (_GuidedFilter.apply(wide * scale, guide, radius, eps, border) / scale).to(grad.dtype)
        return result, None, None, None, None


def _symmetric_scale(size: torch.Size, radius: int, border: str) -> Tensor:
    """S of F = S Z, (H, W), for either border but "reflect", whose windows make a symmetric matrix themselves.

    A window that is cut is divided by its pixels, each line of F by another number. Pixels on the edge come once in a
    mirrored line where all others come twice: their columns are to be doubled to make the matrix symmetric.
    """
    scales = []
    for n in size:
        pixels = torch.arange(n)
        if border == "truncate":
            count = (pixels + radius).clamp(max=n - 1) - (pixels - radius).clamp(min=0) + 1
            scales.append(min(2 * radius + 1, n) / count.double())
        else:
            edge = (pixels == 0) | (pixels == n - 1)
            scales.append(torch.where(edge & (n > 1), 2.0, 1.0))
    return scales[0][:, None] * scales[1]


def _forward(guide: Tensor, src: Tensor, radius: int, eps: float, border: str, subsample: int) -> Tensor:
    if src.numel() == 0:
        return src.new_empty(src.shape)
    if radius == 0 and subsample == 1:  # windows of one pixel: a is 0 and b the pixel
        return src.clone(memory_format=torch.contiguous_format)
    kernel = select.kernel(_NAME, src, radius, border, subsample)
    if subsample == 1:
        return kernel.guided_filter(guide, src, radius, eps, border)
    low = slice(None, None, subsample)
    radius = reduced_radius(radius, subsample)
    coefficients = kernel.guided_filter_coefficients(guide[..., low, low], src[..., low, low], radius, eps, border)
    return kernel.guided_filter_interpolate(guide, coefficients, subsample, src)


def _forward_fake(guide: Tensor, src: Tensor, radius: int, eps: float, border: str, subsample: int) -> Tensor:
    return src.new_empty(src.shape)


_op = register(
    "guided_filter(Tensor guide, Tensor src, int radius, float eps, str border, int subsample) -> Tensor",
    _forward,
    _forward_fake,
)


def _argmin(guide: Tensor, src: Tensor, radius: int, eps: float, border: str) -> tuple[Tensor, Tensor]:
    if src.numel() == 0:
        return _argmin_fake(guide, src, radius, eps, border)
    if radius == 0:  # nothing is filtered
        cost, index = src.to(torch.promote_types(src.dtype, torch.float32)).min(1)
        return index, cost
    return select.kernel(_ARGMIN, src, radius, border).guided_filter_argmin(guide, src, radius, eps, border)


def _argmin_fake(guide: Tensor, src: Tensor, radius: int, eps: float, border: str) -> tuple[Tensor, Tensor]:
    shape = src.shape[0], src.shape[2], src.shape[3]
    compute = torch.promote_types(src.dtype, torch.float32)
    return src.new_empty(shape, dtype=torch.int64), src.new_empty(shape, dtype=compute)


_argmin_op = register(
    "guided_filter_argmin(Tensor guide, Tensor src, int radius, float eps, str border) -> (Tensor index, Tensor cost)",
    _argmin,
    _argmin_fake,
)
