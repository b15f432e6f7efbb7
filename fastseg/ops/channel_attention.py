"""Attention over channels alone, and squeeze and excitation."""

from __future__ import annotations

from torch import Tensor

from fastseg.ops import checks
from fastseg.ops.cbam import check_dense, check_input, check_parameter
from fastseg.ops.cbam_registered import attend


def channel_attention(
    x: Tensor,
    fc1_weight: Tensor,
    fc2_weight: Tensor,
    *,
    fc1_bias: Tensor | None = None,
    fc2_bias: Tensor | None = None,
) -> Tensor:
    r"""The first half of :func:`fastseg.ops.cbam` alone: :math:`y = x \cdot \sigma(mlp(mean_s\, x) + mlp(max_s\, x))`.

    Arguments, result and errors as there.
    """
    return _channel("channel_attention", x, fc1_weight, fc2_weight, fc1_bias, fc2_bias, max_pool=True)


def squeeze_excitation(
    x: Tensor,
    fc1_weight: Tensor,
    fc2_weight: Tensor,
    *,
    fc1_bias: Tensor | None = None,
    fc2_bias: Tensor | None = None,
) -> Tensor:
    r"""Squeeze and excitation (Hu et al. 2018, arXiv:1709.01507): :math:`y = x \cdot \sigma(mlp(mean_s\, x))`.

    Arguments, result and errors as in :func:`fastseg.ops.cbam`.
    """
    return _channel("squeeze_excitation", x, fc1_weight, fc2_weight, fc1_bias, fc2_bias, max_pool=False)


def scse(
    x: Tensor,
    fc1_weight: Tensor,
    fc2_weight: Tensor,
    spatial_weight: Tensor,
    *,
    fc1_bias: Tensor | None = None,
    fc2_bias: Tensor | None = None,
    spatial_bias: Tensor | None = None,
) -> Tensor:
    r"""Concurrent spatial and channel squeeze and excitation (Roy et al. 2018, arXiv:1803.02579).

    .. math:: y = x \cdot \sigma(mlp(mean_s\, x)) + x \cdot \sigma(w \cdot x + b)

    Args:
        spatial_weight: (1, C, 1, ...) of a 1x1 convolution to one channel; ``spatial_bias``: (1,). The other arguments,
            the result and the errors are those of :func:`fastseg.ops.cbam`.
    """
    check_input("scse", x)
    fc1, fc2 = check_dense("scse", x, fc1_weight, fc1_bias, fc2_weight, fc2_bias)
    expected = (1, x.shape[1], *[1] * (x.ndim - 2))
    if tuple(spatial_weight.shape) != expected:
        raise ValueError(f"scse: spatial_weight has shape {tuple(spatial_weight.shape)}, expected {expected}")
    check_parameter("scse", "spatial_weight", spatial_weight, x)
    checks.check_vector("scse", "spatial_bias", spatial_bias, 1, x)
    parameters = (fc1, fc1_bias, fc2, fc2_bias, spatial_weight, spatial_bias, None, None)
    return attend("scse", x, parameters, spatial="projected", max_pool=False)[0]


def _channel(
    op: str,
    x: Tensor,
    fc1_weight: Tensor,
    fc2_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_bias: Tensor | None,
    max_pool: bool,
) -> Tensor:
    check_input(op, x)
    fc1, fc2 = check_dense(op, x, fc1_weight, fc1_bias, fc2_weight, fc2_bias)
    parameters = (fc1, fc1_bias, fc2, fc2_bias, None, None, None, None)
    return attend(op, x, parameters, spatial="none", max_pool=max_pool)[0]
