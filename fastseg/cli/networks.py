"""The stock networks of the demo, as their libraries build them; nothing of fastseg is in here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from fastseg.segmentation.labels import LABELS

#: Output channels for the phantom: its labels and the background.
PHANTOM_CLASSES = 1 + len(LABELS)

# nnU-Net's 3d_fullres widths for 128^3 patches, and a quarter of its depth and width for short runs.
_FEATURES = {"full": (32, 64, 128, 256, 320, 320), "small": (16, 32, 64, 128)}


@dataclass(frozen=True)
class StockNetwork:
    """A network and what its input must satisfy.

    Attributes:
        module: maps (N, C, *roi) to (N, K, *roi).
        stride: each size of a window must be a multiple of it.
        features: channels at each resolution.
    """

    module: nn.Module
    stride: int
    features: tuple[int, ...]


def libraries(name: str) -> tuple[str, ...]:
    """The modules that :func:`build` imports for ``name``."""
    return ("dynamic_network_architectures",) if name.startswith("nnunet") else ("monai",)


def build(name: str, size: str, *, channels: int, classes: int, seed: int) -> StockNetwork:
    """A stock network with random weights drawn by ``seed``, in eval mode."""
    features = _FEATURES[size]
    torch.manual_seed(seed)
    module = _BUILDERS[name](channels, classes, features).eval()
    return StockNetwork(module, 2 ** (len(features) - 1), features)


def _nnunet(channels: int, classes: int, features: tuple[int, ...]) -> nn.Module:
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    stages = len(features)
    network = PlainConvUNet(
        channels,
        stages,
        features,
        nn.Conv3d,
        kernel_sizes=3,
        strides=_strides(stages),
        n_conv_per_stage=2,
        num_classes=classes,
        n_conv_per_stage_decoder=2,
        **_nnunet_layers(),
    )
    network.apply(network.initialize)
    return network


def _nnunet_residual(channels: int, classes: int, features: tuple[int, ...]) -> nn.Module:
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

    stages = len(features)
    network = ResidualEncoderUNet(
        channels,
        stages,
        features,
        nn.Conv3d,
        kernel_sizes=3,
        strides=_strides(stages),
        n_blocks_per_stage=(1, 3, 4, 6, 6, 6)[:stages],
        num_classes=classes,
        n_conv_per_stage_decoder=1,
        **_nnunet_layers(),
    )
    network.apply(network.initialize)
    return network


def _nnunet_layers() -> dict[str, object]:
    return {
        "conv_bias": True,
        "norm_op": nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
    }


def _strides(stages: int) -> list[int]:
    return [1] + [2] * (stages - 1)


def _monai_dynunet(channels: int, classes: int, features: tuple[int, ...]) -> nn.Module:
    from monai.networks.nets.dynunet import DynUNet

    stages = len(features)
    return DynUNet(
        spatial_dims=3,
        in_channels=channels,
        out_channels=classes,
        kernel_size=[3] * stages,
        strides=_strides(stages),
        upsample_kernel_size=[2] * (stages - 1),
        filters=features,
    )


def _monai_unet(channels: int, classes: int, features: tuple[int, ...]) -> nn.Module:
    from monai.networks.nets.unet import UNet

    return UNet(
        spatial_dims=3,
        in_channels=channels,
        out_channels=classes,
        channels=features,
        strides=[2] * (len(features) - 1),
        num_res_units=2,
    )


_BUILDERS: dict[str, Callable[[int, int, tuple[int, ...]], nn.Module]] = {
    "nnunet": _nnunet,
    "nnunet-resenc": _nnunet_residual,
    "monai": _monai_dynunet,
    "monai-unet": _monai_unet,
}
