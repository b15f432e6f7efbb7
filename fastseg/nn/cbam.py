"""Layers of channel and spatial attention."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from fastseg import ops
from fastseg.ops.cbam import MAP_ORDERS, MapOrder
from fastseg.ops.checks import check_choice, check_image

Variant = Literal["plain", "original"]
VARIANTS = ("plain", "original")

# What public code calls the parameters of the two halves, and what they are called here.
_CHANNEL_KEYS = {
    "mlp.1": "fc1",  # Jongchan/attention-module
    "mlp.3": "fc2",
    "fc.0": "fc1",  # luuuyi/CBAM.PyTorch, its later versions
    "fc.2": "fc2",
}
_SPATIAL_KEYS = {"spatial.conv": "conv", "spatial.bn": "norm", "conv1": "conv"}
_HALVES = {"ChannelGate": "channel", "ca": "channel", "SpatialGate": "spatial", "sa": "spatial"}


def _hidden(layer: str, channels: int, ratio: int) -> int:
    if ratio < 1 or channels // ratio < 1:
        raise ValueError(f"{layer}: ratio is {ratio}, expected 1 to {channels}, the number of channels")
    return channels // ratio


def _rename(state_dict: dict[str, Any], prefix: str, names: dict[str, str]) -> None:
    """Gives keys that begin with ``prefix`` and a public name ours."""
    for key in [key for key in state_dict if key.startswith(prefix)]:
        for public, own in names.items():
            if key.startswith(f"{prefix}{public}."):
                state_dict[prefix + own + key[len(prefix) + len(public) :]] = state_dict.pop(key)
                break


class _Dense(nn.Module):
    """Two dense layers, ``fc1`` and ``fc2``; weights of 1x1 convolutions can be loaded too."""

    fc1: nn.Linear
    fc2: nn.Linear

    def __init__(self, channels: int, ratio: int, bias: bool, device: Any, dtype: Any) -> None:
        super().__init__()
        hidden = _hidden(type(self).__name__, channels, ratio)
        self.fc1 = nn.Linear(channels, hidden, bias, device, dtype)
        self.fc2 = nn.Linear(hidden, channels, bias, device, dtype)

    def dense(self) -> dict[str, Any]:
        return {"fc1_bias": self.fc1.bias, "fc2_bias": self.fc2.bias}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Before the layers below load.
        _rename(state_dict, prefix, _CHANNEL_KEYS)
        for name in ("fc1", "fc2"):
            weight = state_dict.get(f"{prefix}{name}.weight")
            if isinstance(weight, Tensor) and weight.ndim > 2 and weight.shape[2:].numel() == 1:
                state_dict[f"{prefix}{name}.weight"] = weight.flatten(1)
        super()._load_from_state_dict(state_dict, prefix, *args)


class ChannelAttention(_Dense):
    """CBAM's channel attention, :func:`fastseg.ops.channel_attention`: keys ``fc1.weight``, ``fc2.weight``.

    Args:
        channels: of the input, (N, C, H, W) or (N, C, D, H, W).
        ratio: channels of the input for each one between the two layers.
        bias: of both layers.
    """

    def __init__(self, channels: int, ratio: int = 16, bias: bool = False, device: Any = None, dtype: Any = None):
        super().__init__(channels, ratio, bias, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        return ops.channel_attention(input, self.fc1.weight, self.fc2.weight, **self.dense())


class SqueezeExcitation(_Dense):
    """Squeeze and excitation, :func:`fastseg.ops.squeeze_excitation`: keys ``fc1.weight``, ``fc1.bias``, ``fc2...``.

    Arguments as in :class:`ChannelAttention`.
    """

    def __init__(self, channels: int, ratio: int = 16, bias: bool = True, device: Any = None, dtype: Any = None):
        super().__init__(channels, ratio, bias, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        return ops.squeeze_excitation(input, self.fc1.weight, self.fc2.weight, **self.dense())


class SpatialAttention(nn.Module):
    """CBAM's spatial attention, :func:`fastseg.ops.spatial_attention`: keys ``conv.weight`` and ``norm.*``.

    Args:
        kernel_size: of the convolution, odd.
        spatial_dims: 2 for (N, C, H, W), 3 for (N, C, D, H, W).
        norm: a batch norm of one channel after the convolution.
        order: of the two maps in the convolution's weight.
    """

    def __init__(
        self,
        kernel_size: int = 7,
        spatial_dims: int = 2,
        norm: bool = False,
        order: MapOrder = "mean_max",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if spatial_dims not in (2, 3):
            raise ValueError(f"{name}: spatial_dims is {spatial_dims}, expected 2 or 3")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"{name}: kernel_size is {kernel_size}, expected an odd number >= 1")
        check_choice(name, "order", order, MAP_ORDERS)
        convolution = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        batch_norm = nn.BatchNorm2d if spatial_dims == 2 else nn.BatchNorm3d
        self.conv = convolution(2, 1, kernel_size, padding="same", bias=False, device=device, dtype=dtype)
        # The authors' momentum.
        self.norm = batch_norm(1, momentum=0.01, device=device, dtype=dtype) if norm else None
        self.order = order

    def forward(self, input: Tensor) -> Tensor:
        check_image("SpatialAttention", "input", input, self.conv.weight.ndim)
        return ops.spatial_attention(input, self.conv.weight, **self.arguments())

    def arguments(self) -> dict[str, Any]:
        """Of the op, beside the input and the weights."""
        return {"order": self.order, **spatial_arguments(self.conv, self.norm)}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        _rename(state_dict, prefix, _SPATIAL_KEYS)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"order={self.order}"


def spatial_arguments(conv: Any, norm: nn.Module | None) -> dict[str, Any]:
    """What :func:`fastseg.ops.cbam` takes of a convolution and the batch norm after it, counted as torch counts."""
    arguments: dict[str, Any] = {"spatial_bias": conv.bias}
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
        return arguments
    momentum = 0.0 if norm.momentum is None else norm.momentum
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            momentum = 1.0 / float(norm.num_batches_tracked)
    return {
        **arguments,
        "normalize": True,
        "norm_weight": norm.weight,
        "norm_bias": norm.bias,
        "running_mean": norm.running_mean,
        "running_var": norm.running_var,
        "training": norm.training,
        "momentum": momentum,
        "eps": norm.eps,
    }


class CBAM(nn.Module):
    """Convolutional block attention, :func:`fastseg.ops.cbam`: channel attention, then spatial attention.

    Args:
        channels: of the input.
        ratio: channels of the input for each one between the two dense layers.
        kernel_size: of the spatial convolution, odd; 7 and 3 are usual.
        spatial_dims: 2 for (N, C, H, W), 3 for (N, C, D, H, W).
        variant: ``"plain"`` as the paper's formulas: dense layers without bias, the mean's map first, no norm.
            ``"original"`` as the authors' code: with bias, the maximum's map first, a batch norm after the convolution.
        bias, norm, order: each replaces what the variant says.

    ``load_state_dict`` takes the keys of the authors' code (``ChannelGate.mlp.1.weight``,
    ``SpatialGate.spatial.conv.weight``, ...) with ``variant="original"``, and those of code with ``ca.fc1.weight`` or
    ``ca.fc.0.weight`` and ``sa.conv1.weight`` with ``"plain"``.
    """

    _channel, _spatial = ChannelAttention, SpatialAttention

    def __init__(
        self,
        channels: int,
        ratio: int = 16,
        kernel_size: int = 7,
        spatial_dims: int = 2,
        variant: Variant = "plain",
        *,
        bias: bool | None = None,
        norm: bool | None = None,
        order: MapOrder | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        check_choice("CBAM", "variant", variant, VARIANTS)
        original = variant == "original"
        if order is None:
            order = "max_mean" if original else "mean_max"
        self.channel = self._channel(channels, ratio, original if bias is None else bias, device, dtype)
        self.spatial = self._spatial(
            kernel_size, spatial_dims, original if norm is None else norm, order, device, dtype
        )

    def forward(self, input: Tensor) -> Tensor:
        channel, spatial = self.channel, self.spatial
        check_image("CBAM", "input", input, spatial.conv.weight.ndim)
        return ops.cbam(
            input,
            channel.fc1.weight,
            channel.fc2.weight,
            spatial.conv.weight,
            **channel.dense(),
            **spatial.arguments(),
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        _rename(state_dict, prefix, _HALVES)
        super()._load_from_state_dict(state_dict, prefix, *args)


class SCSE(nn.Module):
    """Concurrent spatial and channel squeeze and excitation, :func:`fastseg.ops.scse`, with the keys of SMP's layer:
    ``cSE.1.weight``, ``cSE.3.weight``, ``sSE.0.weight`` and their biases.

    Args:
        channels: of the input.
        ratio: channels of the input for each one between the two layers.
        spatial_dims: 2 for (N, C, H, W), 3 for (N, C, D, H, W).
    """

    def __init__(
        self, channels: int, ratio: int = 16, spatial_dims: int = 2, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"SCSE: spatial_dims is {spatial_dims}, expected 2 or 3")
        hidden = _hidden("SCSE", channels, ratio)
        convolution = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        pool = nn.AdaptiveAvgPool2d(1) if spatial_dims == 2 else nn.AdaptiveAvgPool3d(1)
        self.cSE = nn.Sequential(
            pool,
            convolution(channels, hidden, 1, device=device, dtype=dtype),
            nn.ReLU(inplace=True),
            convolution(hidden, channels, 1, device=device, dtype=dtype),
            nn.Sigmoid(),
        )
        self.sSE = nn.Sequential(convolution(channels, 1, 1, device=device, dtype=dtype), nn.Sigmoid())

    def forward(self, input: Tensor) -> Tensor:
        fc1: Any = self.cSE[1]
        fc2: Any = self.cSE[3]
        point: Any = self.sSE[0]
        return ops.scse(
            input,
            fc1.weight,
            fc2.weight,
            point.weight,
            fc1_bias=fc1.bias,
            fc2_bias=fc2.bias,
            spatial_bias=point.bias,
        )
