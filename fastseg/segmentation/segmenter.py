"""From a case to its labels: preparation, network or cascade, post-processing, and back to the file's grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fastseg.clock import StageClock
from fastseg.models import SegmentationNetwork
from fastseg.models.dm_da_unet import DMDAUNet
from fastseg.models.tumour_gate import TumourGate, skips
from fastseg.segmentation.boxes import Box
from fastseg.segmentation.cascade import segment_cascade
from fastseg.segmentation.decoding import Decoder
from fastseg.segmentation.limits import accumulators_on, batch_within
from fastseg.segmentation.postprocess import Postprocessing
from fastseg.segmentation.prediction import DEFAULT_BATCH, predict_volume, window_of
from fastseg.segmentation.scan import Case, Scan, prepared

Report = Callable[[str, float], None]

# About from where to where each stage brings the work.
_SHARES = {
    "gate": (0.0, 0.05),
    "network": (0.05, 0.98),
    "stage 1": (0.0, 0.85),
    "stage 2": (0.85, 0.98),
    "post-processing": (0.98, 1.0),
}


@dataclass(frozen=True)
class Segmentation:
    """What :meth:`Segmenter.segment` finds, on the grid and in the orientation of the source.

    Attributes:
        labels: (X, Y, Z), uint8; of slices (H, W, S).
        probabilities: (K, X, Y, Z), float32, before post-processing.
        channels: a name for each channel of ``probabilities``.
        seconds: of each stage.
        boxes: of the cascade: "tumour", the first stage's, and "cut-out", the second stage's; slices of voxels in RAS
            order, after resampling.
        notes: what a reader of the labels should know.
    """

    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    channels: tuple[str, ...]
    seconds: Mapping[str, float]
    boxes: Mapping[str, Box] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Segmenter:
    """A network and how it is to be used.

    Args:
        network: in eval mode, on the device that is to work; a DMDAUNet runs as the cascade.
        roi, overlap, batch_size, augment, dtype: as in :func:`fastseg.segmentation.predict_volume`; of the cascade
            ``roi`` and ``overlap`` are those of stage 2, and ``batch_size`` is that of stage 1.
        threshold: above which a voxel belongs to a region or mask; None: 0.5.
        postprocessing: None: the labels stay as the network gives them.
        gate: of 2D networks: a slice in which it sees no tumour is not segmented, and is background.
        gate_threshold: above which P(no tumour) skips a slice.
        crop: of the cascade: voxels of the cut-out, one size or three; None: the network's.
        locate_threshold: of the cascade: above which stage 1's probability of the whole tumour counts; None: the
            network's.
        spacing: millimetres of a voxel to which volumes are resampled; None: they keep theirs.
        memory_limit: bytes; None: none. Bounds the number of windows at a time by the outputs of all layers, and on a
            GPU moves the sums over windows to the CPU if they would take more than half. One window more is predicted
            to find out. The weights, and volumes on the CPU, are not covered; a single window runs whatever it takes.

    Raises:
        ValueError: an argument that does not fit the network; names it and what was expected.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        *,
        roi: int | Sequence[int] | None = None,
        overlap: float = 0.25,
        batch_size: int | None = None,
        augment: str | None = None,
        threshold: float | None = None,
        postprocessing: Postprocessing | None = Postprocessing(),  # noqa: B008 - frozen
        gate: TumourGate | None = None,
        gate_threshold: float = 0.99,
        crop: int | Sequence[int] | None = None,
        locate_threshold: float | None = None,
        spacing: float | None = None,
        dtype: torch.dtype | None = None,
        memory_limit: int | None = None,
    ) -> None:
        self._cascade = network if isinstance(network, DMDAUNet) else None
        if gate is not None and (self._cascade is not None or network.spatial_dims != 2):
            raise ValueError(f"gate is given, expected none: {network.name} does not see slices one by one")
        if memory_limit is not None and memory_limit < 1:
            raise ValueError(f"memory_limit is {memory_limit}, expected bytes >= 1")
        if not 0 <= gate_threshold <= 1:
            raise ValueError(f"gate_threshold is {gate_threshold}, expected a probability")
        self._decoder = Decoder(network, threshold)
        self._network = network
        self._windowed = self._cascade.segmenter if self._cascade is not None else network
        window_of(self._windowed, (1,) * self._windowed.spatial_dims, roi)  # refuses a roi that does not fit
        self._options: dict[str, Any] = {"roi": roi, "overlap": overlap, "augment": augment, "dtype": dtype}
        self._batch_size, self._limit = batch_size, memory_limit
        self._postprocessing = postprocessing
        self._gate, self._gate_threshold = gate, gate_threshold
        self._crop, self._locate_threshold, self._spacing = crop, locate_threshold, spacing

    def segment(self, case: Case, *, on_progress: Report | None = None) -> Segmentation:
        """Labels and probabilities of one case.

        Args:
            case: as :func:`fastseg.segmentation.scan.prepared` takes it.
            on_progress: called after each piece of work with the stage's name and about the share of all that is done.

        Raises:
            ValueError: the case has not the network's channels, or cannot be prepared.
        """
        clock = StageClock(self._device, 1, None)

        def report(stage: str, share: float) -> None:
            if on_progress is not None:
                first, last = _SHARES[stage]
                on_progress(stage, first + (last - first) * share)

        with clock.stage("preparation"):
            scan = prepared(case, spacing=self._spacing)
        if scan.image.shape[0] != self._network.in_channels:
            raise ValueError(
                f"case has {scan.image.shape[0]} channels, expected {self._network.in_channels}, those of "
                f"{self._network.name}"
            )
        boxes: dict[str, Box] = {}
        notes: tuple[str, ...] = ()
        if self._cascade is not None:
            probabilities, boxes, notes = self._by_cascade(self._cascade, scan, clock, report)
        else:
            probabilities, notes = self._by_network(scan, clock, report)
        with clock.stage("post-processing"):
            report("post-processing", 0.0)
            found = scan.resampled_back(probabilities).cpu().numpy()
            labels = self._decoder.labels(found, self._postprocessing, scan.voxel_mm3)
            report("post-processing", 1.0)
        return Segmentation(
            scan.oriented_back(labels).astype(np.uint8, copy=False),
            scan.oriented_back(found).astype(np.float32, copy=False),
            self._decoder.channels,
            clock.seconds,
            boxes,
            (*scan.notes, *notes),
        )

    @property
    def _device(self) -> torch.device:
        return next(self._network.parameters()).device

    def _by_cascade(
        self, network: DMDAUNet, scan: Scan, clock: StageClock, report: Report
    ) -> tuple[Tensor, dict[str, Box], tuple[str, ...]]:
        image, batch = self._within_limit(scan.image, network.localiser, None)
        found = segment_cascade(
            network,
            image,
            brain=scan.brain,
            threshold=self._locate_threshold,
            crop=self._crop,
            batch_size=batch,
            on_progress=report,
            **self._options,
        )
        clock.seconds.update(found.seconds)
        boxes = {"cut-out": found.crop.slices}
        if found.location.box is not None:
            boxes["tumour"] = found.location.box
        return found.probabilities, boxes, found.notes

    def _by_network(self, scan: Scan, clock: StageClock, report: Report) -> tuple[Tensor, tuple[str, ...]]:
        wanted: Tensor | None = None
        notes: tuple[str, ...] = ()
        if self._gate is not None:
            with clock.stage("gate"):
                wanted = self._seen_by(self._gate, scan.image, report)
            skipped = int((~wanted).sum())
            notes = (f"the gate saw no tumour in {skipped} of {len(wanted)} slices, which were skipped",)
        with clock.stage("network"):
            seen = scan.image if wanted is None else scan.image[..., wanted]
            if seen.shape[-1] == 0:
                return self._background(scan.image), notes
            image, batch = self._within_limit(seen, self._network, self._options["roi"])
            probabilities = predict_volume(
                self._network,
                image,
                batch_size=batch,
                on_progress=lambda share: report("network", share),
                **self._options,
            )
            if wanted is not None and not wanted.all():
                everywhere = self._background(scan.image)
                everywhere[..., wanted] = probabilities.cpu()
                probabilities = everywhere
        return probabilities, notes

    def _background(self, image: Tensor) -> Tensor:
        """Probabilities of a volume without tumour."""
        result = torch.zeros(self._network.out_channels, *image.shape[1:])
        if self._network.output == "softmax":
            result[0] = 1
        return result

    def _seen_by(self, gate: TumourGate, image: Tensor, report: Report) -> Tensor:
        """In which slices (S,) the gate does not rule out a tumour."""
        batch, device = self._batch_size or DEFAULT_BATCH[2], next(gate.parameters()).device
        wanted = []
        with torch.no_grad():
            for first in range(0, image.shape[3], batch):
                slices = image[..., first : first + batch].permute(3, 0, 1, 2).to(device)
                fitted = F.interpolate(slices, gate.image_size, mode="bilinear", align_corners=False)
                probabilities = gate.probabilities(gate(fitted))
                wanted.append(~skips(probabilities, self._gate_threshold).cpu())
                report("gate", min(1.0, (first + batch) / image.shape[3]))
        return torch.cat(wanted)

    def _within_limit(
        self, image: Tensor, network: SegmentationNetwork, roi: int | Sequence[int] | None
    ) -> tuple[Tensor, int]:
        """The image on the device that is to hold it, and how many windows of ``network`` are predicted at a time."""
        usual = DEFAULT_BATCH[network.spatial_dims] if self._cascade is None else self._cascade.slice_batch
        most = self._batch_size or usual
        shape = tuple(image.shape[1:])
        channels = self._network.in_channels + self._network.out_channels
        image = image.to(accumulators_on(self._device, channels, shape, limit=self._limit))
        if self._limit is None:
            return image, most
        window = torch.zeros(1, len(image), *window_of(network, shape[: network.spatial_dims], roi))
        window = window.to(self._device, next(network.parameters()).dtype)
        return image, batch_within(network, window, limit=self._limit, most=most)
