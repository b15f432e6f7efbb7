"""Tumour or no tumour in a slice: a classifier that lets segmentation be skipped."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastseg.models.resnet_weights import load_resnet
from fastseg.models.weights import WeightsError, fit, read_weights


class TumourGate(nn.Module):
    """ResNet-50 features, average pool 4, a dense layer with ReLU and dropout, a dense layer to (no tumour, tumour).

    Of "Head Tumor Segmentation and Detection Based on Resunet" (Deng et al. 2024). The paper: images of 3x256x256,
    25,685,634 parameters counted with running statistics, segmentation skipped where P(no tumour) > .99; accuracy
    .9475. The ResNet-50 is MONAI's, with torchvision's state_dict keys under ``features.``.

    Args:
        image_size: height and width of the images, multiples of 128.
        in_channels: of the images.
        hidden: outputs of the first dense layer.
        dropout: after it.
        conv_bias: whether the ResNet's convolutions have a bias, as those of Keras have. Weights of torchvision's
            ResNet-50 have none, and then they start at zero.
        feature_weights: a file with the state_dict of a ResNet-50 (keys ``conv1.weight``, ``layer1.0.conv1.weight``,
            ...; ``fc.*`` is left out) that the features start from.

    ``forward`` maps (N, in_channels, *image_size) to logits (N, 2).

    Raises:
        ImportError: MONAI is not installed; names the extra.
        ValueError: an image size that is none.
        WeightsError: a file that does not hold a ResNet-50.
    """

    name = "tumour_gate"

    def __init__(
        self,
        image_size: tuple[int, int] = (256, 256),
        in_channels: int = 3,
        *,
        hidden: int = 256,
        dropout: float = 0.3,
        conv_bias: bool = True,
        feature_weights: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        image_size = (image_size[0], image_size[1])
        if any(size < 128 or size % 128 for size in image_size):
            raise ValueError(f"TumourGate: image_size is {image_size}, expected multiples of 128")
        self.config: dict[str, Any] = {
            "image_size": image_size,
            "in_channels": in_channels,
            "hidden": hidden,
            "dropout": dropout,
            "conv_bias": conv_bias,
        }
        self.image_size = image_size
        self.in_channels = in_channels
        self.features = _resnet50(in_channels)
        if conv_bias:
            for module in self.features.modules():
                if isinstance(module, nn.Conv2d):
                    module.bias = nn.Parameter(torch.zeros(module.out_channels))
        if feature_weights is not None:
            load_resnet(self.features, feature_weights)
        pixels = (image_size[0] // 128) * (image_size[1] // 128)
        self.dense = nn.Linear(2048 * pixels, hidden)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 2) of no tumour and tumour."""
        expected = (self.in_channels, *self.image_size)
        if x.ndim != 4 or tuple(x.shape[1:]) != expected:
            raise ValueError(f"TumourGate: x has shape {tuple(x.shape)}, expected (N, {', '.join(map(str, expected))})")
        resnet = self.features
        x = resnet.maxpool(resnet.act(resnet.bn1(resnet.conv1(x))))
        for stage in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4):
            x = stage(x)
        x = F.avg_pool2d(x, 4).flatten(1)
        return self.head(self.dropout(F.relu_(self.dense(x))))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (N, 2) to the probabilities of no tumour and tumour."""
        return torch.softmax(logits, 1)


def skips(probabilities: Tensor, threshold: float = 0.99) -> Tensor:
    """Which images need no segmentation: bool (N,), true where P(no tumour) is above ``threshold``.

    Args:
        probabilities: (N, 2) of no tumour and tumour, as :meth:`TumourGate.probabilities` gives them.
        threshold: 0 to 1; the paper has .99.

    Raises:
        ValueError: another shape, or a threshold out of range.
    """
    if probabilities.ndim != 2 or probabilities.shape[1] != 2:
        raise ValueError(f"skips: probabilities has shape {tuple(probabilities.shape)}, expected (N, 2)")
    if not 0 <= threshold <= 1:
        raise ValueError(f"skips: threshold is {threshold}, expected 0 to 1")
    return probabilities[:, 0] > threshold


def load_gate(path: str | os.PathLike[str]) -> tuple[TumourGate, dict[str, Any]]:
    """The gate that :func:`fastseg.models.weights.save_weights` wrote, in eval mode, and the facts of the file.

    Raises:
        WeightsError: the file cannot be read, or is of another network.
    """
    state, about = read_weights(path)
    if about.get("network") != TumourGate.name:
        raise WeightsError(f"{path}: holds weights of {about.get('network', 'no known network')}, expected tumour_gate")
    try:
        gate = TumourGate(**about["config"])
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{path}: its network cannot be made: {error}") from error
    fit(gate, state, path)
    return gate.eval(), about["facts"]


def _resnet50(in_channels: int) -> Any:
    try:
        from monai.networks.nets.resnet import resnet50
    except ImportError as error:
        raise ImportError('TumourGate needs: pip install "fastseg-kernels[segmentation]"') from error
    return resnet50(
        spatial_dims=2, n_input_channels=in_channels, conv1_t_stride=2, feed_forward=False, bias_downsample=False
    )
