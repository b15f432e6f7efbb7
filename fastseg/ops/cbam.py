"""Attention over channels and over space, in as few passes over memory as the definition allows."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fastseg.backends.views import ELEMENT
from fastseg.ops import checks
from fastseg.ops.cbam_registered import attend

MapOrder = Literal["mean_max", "max_mean"]
MAP_ORDERS = ("mean_max", "max_mean")


def cbam(
    x: Tensor,
    fc1_weight: Tensor,
    fc2_weight: Tensor,
    spatial_weight: Tensor,
    *,
    fc1_bias: Tensor | None = None,
    fc2_bias: Tensor | None = None,
    spatial_bias: Tensor | None = None,
    order: MapOrder = "mean_max",
    normalize: bool = False,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.01,
    eps: float = 1e-5,
) -> Tensor:
    r"""Convolutional block attention (Woo et al. 2018, arXiv:1807.06521): channel attention, then spatial attention.

    .. math::
        M_c &= \sigma(mlp(mean_s\, x) + mlp(max_s\, x)), \quad mlp(p) = W_2\, relu(W_1 p + b_1) + b_2 \\
        M_s &= \sigma(conv([mean_c\, M_c x;\; max_c\, M_c x])), \quad y = x \cdot M_c \cdot M_s

    Args:
        x: (N, C, H, W) or (N, C, D, H, W); float32, float64, bfloat16 or float16, any strides
            (contiguous and channels-last are read as they lie).
        fc1_weight: (H, C), or (H, C, 1, ...) of a 1x1 convolution; any floating dtype, as of all parameters: 16-bit x
            with float32 parameters is the usual mix.
        fc2_weight: (C, H), or (C, H, 1, ...).
        spatial_weight: (1, 2, *kernel) with as many axes as x and odd sizes; zeros lie around the maps.
        fc1_bias: (H,); fc2_bias: (C,), which counts twice, once for each pool; spatial_bias: (1,).
        order: of the maps in ``spatial_weight``: ``"mean_max"``, or ``"max_mean"`` as the authors' own code has it.
        normalize: a batch norm between the convolution and its sigmoid, as in the authors' code, with ``norm_weight``
            and ``norm_bias`` (1,). The other arguments are those of ``torch.nn.functional.batch_norm``: with
            ``training``, or without running statistics, the batch's own statistics are taken, and running ones
            updated in place; otherwise the norm costs nothing.

    Returns:
        Tensor of x's shape, dtype and memory format. Gates are computed in float32 (float64 for float64 x).

    Raises:
        ValueError: wrong rank, shape, device or order; an even kernel; no spatial element.
        TypeError: an integer or complex tensor.

    The gradient of a maximum goes to the first index that has it, as in ``torch.max(x, 1)`` and max pooling. Backward
    keeps x and the small tensors. Not twice differentiable: use ``fastseg.backend("reference")`` for that.
    """
    check_input("cbam", x)
    fc1, fc2 = check_dense("cbam", x, fc1_weight, fc1_bias, fc2_weight, fc2_bias)
    return _spatial(
        "cbam",
        x,
        (fc1, fc1_bias, fc2, fc2_bias),
        spatial_weight,
        spatial_bias,
        order,
        normalize,
        (norm_weight, norm_bias, running_mean, running_var),
        training,
        momentum,
        eps,
    )


def spatial_attention(
    x: Tensor,
    spatial_weight: Tensor,
    *,
    spatial_bias: Tensor | None = None,
    order: MapOrder = "mean_max",
    normalize: bool = False,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.01,
    eps: float = 1e-5,
) -> Tensor:
    r"""The second half of :func:`cbam` alone: :math:`y = x \cdot \sigma(conv([mean_c\, x;\; max_c\, x]))`.

    Arguments, result and errors as there.
    """
    check_input("spatial_attention", x)
    return _spatial(
        "spatial_attention",
        x,
        (None, None, None, None),
        spatial_weight,
        spatial_bias,
        order,
        normalize,
        (norm_weight, norm_bias, running_mean, running_var),
        training,
        momentum,
        eps,
    )


def _spatial(
    op: str,
    x: Tensor,
    dense: tuple[Tensor | None, ...],
    weight: Tensor,
    bias: Tensor | None,
    order: str,
    normalize: bool,
    norm: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None],
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    if weight.ndim != x.ndim or tuple(weight.shape[:2]) != (1, 2) or any(size % 2 == 0 for size in weight.shape[2:]):
        kernel = ", ".join(("kD", "kH", "kW")[-(x.ndim - 2) :])
        raise ValueError(
            f"{op}: spatial_weight has shape {tuple(weight.shape)}, expected (1, 2, {kernel}) with an odd kernel"
        )
    check_parameter(op, "spatial_weight", weight, x)
    checks.check_vector(op, "spatial_bias", bias, 1, x)
    checks.check_choice(op, "order", order, MAP_ORDERS)
    checks.check_not_negative(op, "momentum", momentum)
    checks.check_not_negative(op, "eps", eps)
    names = ("norm_weight", "norm_bias", "running_mean", "running_var")
    for name, vector in zip(names, norm, strict=True):
        checks.check_vector(op, name, vector, 1, x, "the convolution has one output")
        if vector is not None and not normalize:
            raise ValueError(f"{op}: {name} is given and normalize is False, expected True with a batch norm")
    norm_weight, norm_bias, running_mean, running_var = norm
    if (running_mean is None) != (running_var is None):
        raise ValueError(f"{op}: one of running_mean and running_var is None, expected both or none")
    own_statistics = normalize and (training or running_mean is None)
    count = x.shape[0] * x.shape[2:].numel()
    if own_statistics and count == 1:
        raise ValueError(
            f"{op}: x has shape {tuple(x.shape)}, expected more than one pixel in the batch: one has no variance"
        )
    if normalize and not own_statistics:
        assert running_mean is not None and running_var is not None
        weight, bias = _folded(weight, bias, norm_weight, norm_bias, running_mean, running_var, eps)
        norm_weight = norm_bias = None
    y, statistics = attend(
        op,
        x,
        (*dense, weight, bias, norm_weight, norm_bias),
        spatial="pooled",
        max_first=order == "max_mean",
        normalize=own_statistics,
        eps=eps,
    )
    if statistics is not None and training and running_mean is not None and running_var is not None and count:
        with torch.no_grad():
            mean, variance = statistics[0], statistics[1] * (count / (count - 1))
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_(variance.to(running_var.dtype), momentum)
    return y


def _folded(
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """A batch norm with given statistics inside the convolution before it: few numbers, which autograd follows."""
    compute = torch.promote_types(weight.dtype, torch.float32)
    scale = torch.rsqrt(variance.to(compute) + eps)
    if norm_weight is not None:
        scale = scale * norm_weight.to(compute)
    shift = -mean.to(compute) if bias is None else bias.to(compute) - mean.to(compute)
    shift = shift * scale
    if norm_bias is not None:
        shift = shift + norm_bias.to(compute)
    return weight.to(compute) * scale, shift


def check_dense(
    op: str, x: Tensor, fc1_weight: Tensor, fc1_bias: Tensor | None, fc2_weight: Tensor, fc2_bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The weights of the two dense layers as matrices; those of 1x1 convolutions lose their last axes."""
    channels = x.shape[1]
    if not _is_matrix(fc1_weight) or fc1_weight.shape[1] != channels or fc1_weight.shape[0] == 0:
        raise ValueError(
            f"{op}: fc1_weight has shape {tuple(fc1_weight.shape)}, expected (H, {channels}): x has {channels} channels"
        )
    hidden = fc1_weight.shape[0]
    if not _is_matrix(fc2_weight) or tuple(fc2_weight.shape[:2]) != (channels, hidden):
        raise ValueError(f"{op}: fc2_weight has shape {tuple(fc2_weight.shape)}, expected ({channels}, {hidden})")
    check_parameter(op, "fc1_weight", fc1_weight, x)
    check_parameter(op, "fc2_weight", fc2_weight, x)
    checks.check_vector(op, "fc1_bias", fc1_bias, hidden, x)
    checks.check_vector(op, "fc2_bias", fc2_bias, channels, x)
    return fc1_weight.flatten(1), fc2_weight.flatten(1)


def check_parameter(op: str, name: str, parameter: Tensor, x: Tensor) -> None:
    """Floating point, on x's device."""
    if parameter.dtype not in ELEMENT:
        raise TypeError(f"{op}: {name} is {parameter.dtype}, expected float32, float64, bfloat16 or float16")
    checks.check_device(op, name, parameter, x)


def _is_matrix(weight: Tensor) -> bool:
    return weight.ndim >= 2 and weight.shape[2:].numel() == 1


def check_input(op: str, x: Tensor) -> None:
    """(N, C, *spatial) with two or three spatial axes, of one channel and one pixel at least."""
    if x.ndim not in (4, 5):
        raise ValueError(f"{op}: x has shape {tuple(x.shape)}, expected rank 4 or 5: (N, C, *spatial)")
    checks.check_image(op, "x", x)
    if 0 in x.shape[1:]:
        raise ValueError(
            f"{op}: x has shape {tuple(x.shape)}, expected at least one channel and one pixel: there is no maximum"
        )
