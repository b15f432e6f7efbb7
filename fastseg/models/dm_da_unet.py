"""DM-DA-UNet: a 2D network finds the glioma in a whole volume, a 3D network segments the cut-out around it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastseg.accelerate.memory_format import channels_last_on, is_channels_last
from fastseg.models.da_unet_3d import DAUNet3d
from fastseg.models.dense_unet_2d import DenseUNet2d
from fastseg.models.network import SegmentationNetwork
from fastseg.segmentation.boxes import Location, crop_around, locate
from fastseg.segmentation.padding import padded, padded_size


class DMDAUNet(SegmentationNetwork):
    """The cascade of "Glioma Segmentation Based on DM-DA-Unet", section 3: ``localiser``, then ``segmenter``.

    From the paper: the 2D network sees all axial slices; the 3D network sees the 128x128x128 voxels around the centre
    of the box that holds the glioma. The two are trained separately, each with its own loss: ``localiser`` and
    ``segmenter`` are networks of their own. Here ``forward`` is their joint prediction; gradients reach the segmenter
    alone, since a box has none.

    Chosen here: the box is that of the largest component where the whole tumour's probability exceeds ``threshold``;
    the cut-out is shifted to stay inside the volume, and padded with zeros where the volume is smaller. Where the first
    stage finds nothing, the cut-out is around the middle of the brain (nonzero voxels), and a warning says so. Both
    stages are channels-last, as each is fastest, with ``channels_last=False`` too.

    Args:
        in_channels: of the volumes (N, C, X, Y, Z): T1, T1ce, T2 and FLAIR, zero outside the brain; the last axis
            counts the axial slices. Any sizes.
        out_channels: of the 3D network.
        threshold: of the whole tumour's probability, in (0, 1).
        crop_size: edge of the cut-out in voxels.
        slice_batch: slices that the 2D network sees at once.
        outside: logit of voxels outside the cut-out, for each channel or one for all; with a background channel
            (-20, -20, -20, 20).
        localiser, segmenter: further arguments of :class:`DenseUNet2d` and :class:`DAUNet3d`.
    """

    name = "dm_da_unet"

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 3,
        *,
        threshold: float = 0.5,
        crop_size: int = 128,
        slice_batch: int = 8,
        outside: float | Sequence[float] = -20.0,
        localiser: Mapping[str, Any] | None = None,
        segmenter: Mapping[str, Any] | None = None,
    ) -> None:
        first = DenseUNet2d(in_channels, **(localiser or {}))
        second = DAUNet3d(in_channels, out_channels, **(segmenter or {}))
        super().__init__(
            spatial_dims=3, in_channels=in_channels, out_channels=out_channels, size_divisor=1, output=second.output
        )
        if not 0 < threshold < 1:
            raise ValueError(f"{self.name}: threshold is {threshold}, expected a probability in (0, 1)")
        if crop_size < 1 or crop_size % second.size_divisor:
            raise ValueError(
                f"{self.name}: crop_size is {crop_size}, expected a multiple of {second.size_divisor}, which the 3D "
                "network divides"
            )
        if slice_batch < 1:
            raise ValueError(f"{self.name}: slice_batch is {slice_batch}, expected a number >= 1")
        constants = [float(outside)] * out_channels if isinstance(outside, (int, float)) else list(outside)
        if len(constants) != out_channels:
            raise ValueError(f"{self.name}: outside is {outside}, expected one number or {out_channels}")
        self.localiser = first
        self.segmenter = second
        self.threshold = threshold
        self.crop_size = crop_size
        self.slice_batch = slice_batch
        self.outside = constants
        for stage in (first, second):  # each has inputs of its own, which create's conversion of ours does not reach
            if stage.channels_last:
                channels_last_on(stage)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, X, Y, Z) to logits (N, out_channels, X, Y, Z), of the cut-outs and ``outside`` elsewhere."""
        self.check_input(x)
        crops = [crop_around(x.shape[2:], place.centre, self.crop_size) for place in self.locate(x)]
        # One by one: a cut-out of 128 fills a batch, and so no padding or order of the batch changes another's result.
        segmented = []
        for volume, crop in zip(x, crops, strict=True):
            whole, inside = padded(crop.cut(volume)[None], self.window)
            segmented.append(self.segmenter(_laid_out(whole, self.segmenter))[inside][0])
        constants = segmented[0].new_tensor(self.outside).view(-1, 1, 1, 1)
        logits = constants.repeat(len(x), 1, *x.shape[2:])
        for index, (crop, values) in enumerate(zip(crops, segmented, strict=True)):
            crop.paste(logits[index], values)
        return logits

    @property
    def window(self) -> tuple[int, ...]:
        """The voxels that the second stage sees at once: the cut-out, with zeros around one too small for the norms."""
        return (padded_size(self.crop_size, self.segmenter.size_divisor),) * 3

    def locate(self, x: Tensor) -> list[Location]:
        """Where the first stage sees the glioma, for each volume of (N, in_channels, X, Y, Z); warns where nowhere."""
        places = []
        for index, volume in enumerate(x):
            mask = self.whole_tumour(volume) > self.threshold
            place = locate(mask, (volume != 0).any(0))
            if place.box is None:
                warnings.warn(
                    f"{self.name}: the first stage found no tumour in volume {index}: segmenting around the middle of "
                    f"the brain, voxel {place.centre}",
                    stacklevel=3,
                )
            places.append(place)
        return places

    @torch.no_grad()
    def whole_tumour(self, volume: Tensor) -> Tensor:
        """The first stage's probability of whole tumour: (in_channels, X, Y, Z) to (X, Y, Z).

        One minus the first class, the background, or with ``output="sigmoid"`` the first region.
        """
        slices = volume.permute(3, 0, 1, 2)
        sizes = [padded_size(size, self.localiser.size_divisor) for size in slices.shape[2:]]
        parts = []
        for batch in slices.split(self.slice_batch):
            whole, inside = padded(batch, sizes)
            probabilities = self.localiser.probabilities(self.localiser(_laid_out(whole, self.localiser)).float())
            parts.append(self.whole_of(probabilities[inside][:, 0]))
        return torch.cat(parts).permute(1, 2, 0)

    def whole_of(self, first: Tensor) -> Tensor:
        """The whole tumour's probability from the first channel of the first stage: background or whole tumour."""
        return 1 - first if self.localiser.output == "softmax" else first


def _laid_out(x: Tensor, network: SegmentationNetwork) -> Tensor:
    """A cut-out or slices, which lie scattered in the volume, in the network's layout."""
    return x if is_channels_last(network) else x.contiguous()
