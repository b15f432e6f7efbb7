"""The same volume through a stock network and its accelerated twin: time, memory and difference."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from fastseg.cli.memory import PeakMemory
from fastseg.cli.progress import progress
from fastseg.segmentation.sliding_window import predict_logits, window_count


@dataclass
class Timing:
    """What the predictions of one network took.

    Attributes:
        seconds: of each whole volume.
        window_seconds: of the network alone on each window of every prediction.
        peak_bytes: memory needed for one window, None where it cannot be measured.
    """

    seconds: list[float] = field(default_factory=list)
    window_seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None

    def summary(self) -> dict[str, Any]:
        return asdict(self) | {"median_seconds": self.volume, "median_window_seconds": self.window}

    @property
    def volume(self) -> float:
        return median(self.seconds)

    @property
    def window(self) -> float:
        return median(self.window_seconds)


@dataclass(frozen=True)
class Comparison:
    """Timings and how far apart the outputs are.

    Attributes:
        classes: (X, Y, Z), class indices of the accelerated network.
        largest_difference: of the logits, absolute.
        logits_range: smallest and largest logit of the stock network.
        same_label: share of voxels with the same class.
    """

    stock: Timing
    accelerated: Timing
    classes: Tensor
    largest_difference: float
    logits_range: tuple[float, float]
    same_label: float

    @property
    def speed_up(self) -> float:
        return self.stock.volume / self.accelerated.volume


def compare(
    stock: nn.Module,
    accelerated: nn.Module,
    image: Tensor,
    roi: tuple[int, int, int],
    *,
    overlap: float,
    dtype: torch.dtype,
    repeats: int,
) -> Comparison:
    """Predict ``image`` (C, X, Y, Z) with both networks in turn, after a warm-up on one window."""
    timings = {"stock": Timing(), "accelerated": Timing()}
    networks = {"stock": stock, "accelerated": accelerated}
    logits: dict[str, Tensor] = {}
    corner = image[:, : roi[0], : roi[1], : roi[2]]
    for name, network in networks.items():
        predict_logits(network, corner, roi, dtype=dtype)
        # Not while the clock runs: it sets out from empty caches, which costs time.
        memory = PeakMemory(image.device)
        predict_logits(network, corner, roi, dtype=dtype)
        timings[name].peak_bytes = memory.read()
    windows = window_count(image.shape[1:], roi, overlap)
    for repeat in range(repeats):
        for name, network in networks.items():  # taken in turn, so that a slow minute of the machine hits both
            title = f"{name} network" + (f", run {repeat + 1} of {repeats}" if repeats > 1 else "")
            logits.pop(name, None)
            logits[name] = _timed(network, image, roi, overlap, dtype, timings[name], title, windows)
    difference = (logits["stock"] - logits["accelerated"]).abs_().max()
    classes = {name: values.argmax(0) for name, values in logits.items()}
    return Comparison(
        timings["stock"],
        timings["accelerated"],
        classes["accelerated"].cpu(),
        float(difference),
        (float(logits["stock"].min()), float(logits["stock"].max())),
        float((classes["stock"] == classes["accelerated"]).double().mean()),
    )


def _timed(
    network: nn.Module,
    image: Tensor,
    roi: tuple[int, int, int],
    overlap: float,
    dtype: torch.dtype,
    timing: Timing,
    title: str,
    windows: int,
) -> Tensor:
    with progress(title, windows) as advance:

        def on_window(seconds: float) -> None:
            timing.window_seconds.append(seconds)
            advance()

        start = time.perf_counter()
        logits = predict_logits(network, image, roi, overlap=overlap, dtype=dtype, on_window=on_window)
        timing.seconds.append(time.perf_counter() - start)
    return logits
