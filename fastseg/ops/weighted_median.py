"""The bilateral weighted median: outliers and holes of a map are filled with what lies on the same surface."""

from __future__ import annotations

import torch
from torch import Tensor

from fastseg import reference
from fastseg.backends import select
from fastseg.ops.arrays import Array, ArrayT, as_kind_of, as_tensor, check_numbers, reads_numbers
from fastseg.ops.guided_images import IMAGE_DTYPES, check_guided_images, in_batches
from fastseg.ops.registry import register

_NAME = "weighted_median"
#: Of windows whose weights are added up in float32, in memory of 1 MB a thread.
_LARGEST_RADIUS = 127
# What can be squared and divided by in float32; of weights, what can be added up.
_SIGMAS = (1e-15, 1e15)
_LARGEST_WEIGHT = 1e30


def weighted_median(
    src: ArrayT,
    guide: Array,
    *,
    radius: int = 9,
    sigma_color: float = 0.1,
    sigma_space: float = 9.0,
    mask: Array | None = None,
    weights: Array | None = None,
) -> ArrayT:
    """Replace pixels by the weighted median of their window; pixels near in colour and place weigh most.

    The result at p is the smallest v of src in the window of (2 radius + 1)^2 pixels around p, cut at the edges of the
    image, for which the pixels with ``src <= v`` have half of the window's weight or more. A pixel q weighs

        w(p, q) = weights_q * exp(-|I_p - I_q|^2 / sigma_color^2) * exp(-|p - q|^2 / sigma_space^2)

    with |I_p - I_q| the Euclidean distance of the guide's colours. Hosni et al. 2013, "Fast cost-volume filtering for
    visual correspondence and beyond", equation 6: squared distances, without the factor 2 of a Gaussian. (The authors'
    MATLAB code takes the distances themselves and smooths the guide by a 3x3 median before.) Where pixels of the mask
    are to be filled from others, give them the weight 0. Every result is one of src's values. There is no gradient.

    Args:
        src: (..., H, W): NumPy, CuPy or torch; float32, float64, float16, bfloat16 or uint8.
        guide: any of these dtypes, on src's device. (H, W), (1, H, W) or (3, H, W): one for all images of src.
            (B, 1, H, W) or (B, 3, H, W): one for each src[b], and src is (B, C, H, W).
        radius: 0 (nothing happens) to 127.
        sigma_color: > 0, in the guide's units: 0 to 255 for uint8, where 0.1 of colours in [0, 1] is 25.5.
        sigma_space: > 0, in pixels.
        mask: bool, (H, W) or any shape that broadcasts to src's: where to filter; elsewhere src is copied. Default:
            everywhere.
        weights: of src's pixels, a shape as mask's, >= 0, of any of src's dtypes or bool: 0 for invalid pixels, or a
            confidence. Default: 1. Only their ratios matter. Where all of a window are 0, the pixel stays as it is.

    Returns:
        An array of src's kind, device, shape and dtype. Weights are computed and added up in float32, in float64 for
        float64 src: where the weights up to a value are half of all within that rounding, either neighbour may result.

    Raises:
        ValueError: sizes that differ or are empty, a wrong number of guide channels, a number out of its range,
            different devices, NaN or infinity (not looked for under torch.compile), or src or guide require grad.
        TypeError: another dtype, or no array.
    """
    image, other = as_tensor(_NAME, "src", src), as_tensor(_NAME, "guide", guide)
    where = None if mask is None else as_tensor(_NAME, "mask", mask)
    given = None if weights is None else as_tensor(_NAME, "weights", weights)
    check_guided_images(_NAME, image, other)
    for name, t in (("src", image), ("guide", other)):
        if t.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"{_NAME}: {name} requires grad, expected one that does not: there is no gradient. Pass {name}.detach()"
            )
    _check_over("mask", where, image, (torch.bool,), "bool")
    _check_over("weights", given, image, (*IMAGE_DTYPES, torch.bool), "a dtype of src's or bool")
    check_weighted_median(_NAME, radius, sigma_color, sigma_space)
    if reads_numbers():
        check_numbers(_NAME, "src", image)
        check_numbers(_NAME, "guide", other)
        _check_weights(given)
    parameters = int(radius), float(sigma_color), float(sigma_space)
    image, other = image.detach(), other.detach()
    if select.runs_reference(_NAME, image):
        return as_kind_of(
            src,
            reference.weighted_median(
                image,
                other,
                radius=parameters[0],
                sigma_color=parameters[1],
                sigma_space=parameters[2],
                mask=where,
                weights=given,
            ),
        )
    images, guides = in_batches(image, other)
    if given is not None:
        given = given.detach().to(torch.promote_types(image.dtype, torch.float32))
    batched = (None if t is None else _over_batches(t, image, images) for t in (where, given))
    return as_kind_of(src, _op(images, guides, *batched, *parameters).view(image.shape))


def _over_batches(t: Tensor, src: Tensor, images: Tensor) -> Tensor:
    """(1 or B, 1 or C, H, W) beside the images that :func:`in_batches` makes of src."""
    if (src.ndim == 4 and images.shape == src.shape) or t.shape[:-2].numel() == 1:
        return t.reshape((1,) * (4 - min(t.ndim, 4)) + tuple(t.shape[-4:]))
    return t.expand(src.shape).reshape(images.shape)


def _check_over(name: str, t: Tensor | None, src: Tensor, dtypes: tuple[torch.dtype, ...], expected: str) -> None:
    """An optional tensor that is repeated over src's images."""
    if t is None:
        return
    if t.dtype not in dtypes:
        raise TypeError(f"{_NAME}: {name} is {t.dtype}, expected {expected}")
    leading = zip(reversed(t.shape[:-2]), reversed(src.shape[:-2]), strict=False)
    if not 2 <= t.ndim <= src.ndim or t.shape[-2:] != src.shape[-2:] or any(a not in (1, b) for a, b in leading):
        raise ValueError(
            f"{_NAME}: {name} has shape {tuple(t.shape)}, expected {tuple(src.shape[-2:])} or a shape of such images "
            f"that broadcasts to src's {tuple(src.shape)}"
        )
    if t.device != src.device:
        raise ValueError(f"{_NAME}: {name} is on {t.device}, expected src's device {src.device}")


def check_weighted_median(op: str, radius: int, sigma_color: float, sigma_space: float) -> None:
    """The parameters of a weighted median inside ``op``.

    Raises:
        ValueError: a number out of its range.
    """
    if not (0 <= radius <= _LARGEST_RADIUS and radius == int(radius)):  # written so that NaN is refused
        raise ValueError(f"{op}: radius is {radius}, expected a whole number of pixels from 0 to {_LARGEST_RADIUS}")
    for name, sigma in (("sigma_color", sigma_color), ("sigma_space", sigma_space)):
        if not _SIGMAS[0] <= sigma <= _SIGMAS[1]:
            raise ValueError(f"{op}: {name} is {sigma}, expected a number > 0, from {_SIGMAS[0]:g} to {_SIGMAS[1]:g}")


def _check_weights(weights: Tensor | None) -> None:
    if weights is None or weights.dtype in (torch.bool, torch.uint8) or weights.numel() == 0:
        return
    least, most = (t.item() for t in weights.aminmax())  # NaN comes through
    if not (least >= 0 and most <= _LARGEST_WEIGHT):
        raise ValueError(
            f"{_NAME}: weights has values from {least} to {most}, expected numbers from 0 to {_LARGEST_WEIGHT:g}"
        )


def _forward(
    src: Tensor,
    guide: Tensor,
    mask: Tensor | None,
    weights: Tensor | None,
    radius: int,
    sigma_color: float,
    sigma_space: float,
) -> Tensor:
    if src.numel() == 0:
        return src.new_empty(src.shape)
    if radius == 0:
        return src.clone(memory_format=torch.contiguous_format)
    launcher = select.kernel(_NAME, src)
    return launcher.weighted_median(src, guide, mask, weights, radius, sigma_color, sigma_space)


def _forward_fake(
    src: Tensor,
    guide: Tensor,
    mask: Tensor | None,
    weights: Tensor | None,
    radius: int,
    sigma_color: float,
    sigma_space: float,
) -> Tensor:
    return src.new_empty(src.shape)


_op = register(
    "weighted_median(Tensor src, Tensor guide, Tensor? mask, Tensor? weights, int radius, float sigma_color, "
    "float sigma_space) -> Tensor",
    _forward,
    _forward_fake,
)
