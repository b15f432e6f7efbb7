"""From the probabilities of a network to one map of labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastseg.models import SegmentationNetwork
from fastseg.segmentation.labels import LABELS, REGIONS, labels_of, labels_of_classes, regions_of
from fastseg.segmentation.postprocess import Postprocessing


class Decoder:
    """What the channels of a network mean, and the labels that follow from their probabilities.

    Sigmoid: three channels are the nested regions of BraTS and give its labels 1, 2 and 4; a fourth, the background
    behind them, is not needed for that; one channel is a mask.
    Softmax: four classes are the background and the labels of BraTS; two are the background and a mask; of any other
    number the label is the index of the class.

    Args:
        network: says how many channels there are and of which kind.
        threshold: above which a voxel belongs to a region or mask. Networks with more than two classes have none: the
            most probable class counts.

    Raises:
        ValueError: regions in another number, which no one map of labels can hold; a threshold that is no probability,
            or is given for a network that has none.
    """

    def __init__(self, network: SegmentationNetwork, threshold: float | None = None) -> None:
        channels, softmax = network.out_channels, network.output == "softmax"
        if softmax and channels < 2:
            raise ValueError(f"{network.name}: a softmax over {channels} channel, expected two classes at least")
        if not softmax and channels not in (1, len(REGIONS), len(REGIONS) + 1):
            raise ValueError(
                f"{network.name}: {channels} regions, expected one or those of BraTS, {', '.join(REGIONS)}, with or "
                "without the background: one map of labels cannot hold others"
            )
        if threshold is not None and not 0 <= threshold < 1:
            raise ValueError(f"threshold is {threshold}, expected a probability from 0 to below 1")
        if threshold is not None and softmax and channels > 2:
            raise ValueError(
                f"threshold is {threshold}, expected none: of the {channels} classes of {network.name} the most "
                "probable one counts"
            )
        self._softmax, self._channels = softmax, channels
        self._threshold = 0.5 if threshold is None else threshold

    @property
    def channels(self) -> tuple[str, ...]:
        """A name for each channel of the probabilities."""
        if not self._softmax:
            return (*REGIONS, "background")[: self._channels] if self._channels > 1 else ("mask",)
        if self._channels == 2:
            return ("background", "mask")
        if self._channels == 1 + len(LABELS):
            return ("background", *LABELS.values())
        return ("background", *(f"class {index}" for index in range(1, self._channels)))

    def labels(
        self, probabilities: NDArray[np.float32], postprocessing: Postprocessing | None, voxel_mm3: float = 1.0
    ) -> NDArray[np.uint8]:
        """Labels (X, Y, Z), uint8, of probabilities (K, X, Y, Z).

        Args:
            postprocessing: of regions, or of a mask, which counts as a whole tumour; of classes that are not those of
                BraTS only components too small for a whole tumour become background.
            voxel_mm3: volume of a voxel in cubic millimetres.
        """
        if not self._softmax or self._channels == 2:
            foreground = probabilities[1:] if self._softmax else probabilities[: len(REGIONS)]
            regions = foreground > self._threshold
            if postprocessing is not None:
                regions = postprocessing(regions, voxel_mm3)
            return labels_of(regions) if len(regions) > 1 else regions[0].astype(np.uint8)
        classes = probabilities.argmax(0).astype(np.uint8)
        if self._channels == 1 + len(LABELS):
            labels = labels_of_classes(classes)
            return labels if postprocessing is None else labels_of(postprocessing(regions_of(labels), voxel_mm3))
        return classes if postprocessing is None else classes * postprocessing.large(classes > 0, voxel_mm3)
