"""The two stages of DM-DA-UNet on a whole volume: slices say where the tumour is, a cut-out says what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastseg.clock import StageClock
from fastseg.models import SegmentationNetwork, create
from fastseg.models.da_unet_3d import DAUNet3d
from fastseg.models.dense_unet_2d import DenseUNet2d
from fastseg.models.dm_da_unet import DMDAUNet
from fastseg.segmentation.boxes import Crop, Location, crop_around, locate
from fastseg.segmentation.labels import REGIONS
from fastseg.segmentation.prediction import check_overlap, predict_volume


@dataclass(frozen=True)
class CascadeResult:
    """What :func:`segment_cascade` finds.

    Attributes:
        probabilities: (K, X, Y, Z), float32, of the second stage; beyond the cut-out, of the network's ``outside``.
        whole_tumour: (X, Y, Z), float32, the first stage's probability of the whole tumour.
        location: where the first stage saw the largest component; its box is None if it saw nothing.
        crop: the second stage's cut-out.
        seconds: of each stage.
        notes: what a reader of the result should know: that the first stage found nothing.
    """

    probabilities: Tensor
    whole_tumour: Tensor
    location: Location
    crop: Crop
    seconds: Mapping[str, float]
    notes: tuple[str, ...]


def segment_cascade(
    network: DMDAUNet,
    image: Tensor,
    *,
    brain: Tensor | None = None,
    threshold: float | None = None,
    crop: int | Sequence[int] | None = None,
    roi: int | Sequence[int] | None = None,
    overlap: float = 0.25,
    batch_size: int | None = None,
    augment: str | None = None,
    dtype: torch.dtype | None = None,
    accumulators: torch.device | str | None = None,
    on_progress: Callable[[str, float], None] | None = None,
) -> CascadeResult:
    """Stage 1 on all axial slices, the largest component of its whole tumour, stage 2 on the cut-out around it.

    The cut-out is shifted to stay inside the volume, and padded with zeros where that is smaller. Where stage 1 finds
    nothing it is cut around the middle of the brain, and the notes say so.

    Args:
        network: in eval mode.
        image: (4, X, Y, Z), float32, RAS order, each sequence z-scored inside the brain and zero outside.
        brain: (X, Y, Z), bool; None: where any sequence is not zero.
        threshold: above which stage 1's probability of the whole tumour counts; None: the network's.
        crop: size of the cut-out in voxels, one or three; None: the network's.
        roi, overlap: of the windows in which stage 2 sees the cut-out, as in :func:`predict_volume`; None: the
            cut-out at once where ``crop`` is None, too, as in the network's ``forward``; else 128 along each axis.
        batch_size: slices of stage 1 at a time; None: the network's.
        augment, dtype, accumulators: of both stages, as in :func:`predict_volume`.
        on_progress: called after each batch with the stage's name and the share of that stage that is done.

    Raises:
        ValueError: an argument that the networks cannot work with; names it and what was expected.
    """
    threshold = network.threshold if threshold is None else threshold
    if not 0 <= threshold < 1:  # also refuses NaN
        raise ValueError(f"threshold is {threshold}, expected a probability from 0 to below 1")
    check_overlap(overlap)  # which stage 2 alone would see, after minutes of stage 1
    size = network.crop_size if crop is None else crop
    if image.ndim == 4:
        crop_around(image.shape[1:], (0, 0, 0), size)  # refuses a size that is none
    clock = StageClock(next(network.parameters()).device, 1, None)

    def report(stage: str) -> Callable[[float], None] | None:
        return None if on_progress is None else lambda share: on_progress(stage, share)

    with clock.stage("stage 1"):
        whole_tumour = _whole_tumour(
            network,
            image,
            batch_size=network.slice_batch if batch_size is None else batch_size,
            augment=augment,
            dtype=dtype,
            accumulators=accumulators,
            on_progress=report("stage 1"),
        )
    with clock.stage("cut-out"):
        inside = (image != 0).any(0) if brain is None else brain
        location = locate(whole_tumour > threshold, inside.to(whole_tumour.device))
        cut_out = crop_around(image.shape[1:], location.centre, size)
    with clock.stage("stage 2"):
        regions = predict_volume(
            network.segmenter,
            cut_out.cut(image),
            roi=network.window if roi is None and crop is None else roi,
            overlap=overlap,
            augment=augment,
            dtype=dtype,
            accumulators=accumulators,
            on_progress=report("stage 2"),
        )
        outside = network.probabilities(regions.new_tensor(network.outside)[None])[0]
        probabilities = outside.view(-1, 1, 1, 1).repeat(1, *image.shape[1:])
        cut_out.paste(probabilities, regions)
    notes: tuple[str, ...] = ()
    if location.box is None:
        notes = ("stage 1 found no tumour: stage 2 saw the middle of the brain, and what it found there is doubtful",)
    return CascadeResult(probabilities, whole_tumour, location, cut_out, clock.seconds, notes)


def cascade_of(localiser: DenseUNet2d, segmenter: DAUNet3d) -> DMDAUNet:
    """The cascade of two stages that were trained on their own, with copies of their weights; in eval mode.

    Raises:
        ValueError: they do not take the same channels.
    """
    if localiser.in_channels != segmenter.in_channels:
        raise ValueError(
            f"segmenter takes {segmenter.in_channels} channels, expected those of localiser, {localiser.in_channels}"
        )
    channels = segmenter.out_channels
    outside = [-20.0] * channels
    if segmenter.output == "softmax":
        outside[0] = 20.0
    elif channels > len(REGIONS):
        outside[-1] = 20.0
    network = create(
        DMDAUNet.name,
        in_channels=localiser.in_channels,
        out_channels=channels,
        outside=outside,
        localiser=_without_channels(localiser, "in_channels"),
        segmenter=_without_channels(segmenter, "in_channels", "out_channels"),
    )
    assert isinstance(network, DMDAUNet)
    network.localiser.load_state_dict(localiser.state_dict())
    network.segmenter.load_state_dict(segmenter.state_dict())
    return network.eval()


def _without_channels(network: SegmentationNetwork, *arguments: str) -> dict[str, Any]:
    return {name: value for name, value in network.config.items() if name not in arguments}


def _whole_tumour(network: DMDAUNet, image: Tensor, **options: Any) -> Tensor:
    """(X, Y, Z), of the first channel alone: the others are freed."""
    return network.whole_of(predict_volume(network.localiser, image, **options)[0])
