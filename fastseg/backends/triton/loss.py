"""Losses of segmentation in Triton: overlap and cross-entropy of logits.

Bytes to move, in u, one pass over the logits (a map of classes in bytes adds 1/(4K) of u to float32 logits, in int64
eight times as much; regions, as large as the logits, 1/4 in bytes):

    forward                                      backward
    u + truth: read logits and truth             2u + truth: read logits and truth, write dlogits

Forward is two kernels. The first leaves four sums of each class over each part of the voxels in a slot of its own; the
second, of one program, adds these and has the loss and its slopes by the sums, from which backward is one kernel. It
computes the probabilities again. No atomics: results are deterministic. Nothing is read on the host.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from fastseg.backends.loss_call import SLOPES, SUMS, Formula, truth_for
from fastseg.backends.triton import loss_formula_kernel
from fastseg.backends.triton import loss_kernels as kernels
from fastseg.backends.triton.tensors import Strided, alignment, compute_dtype, launch, strided, tl_dtype
from fastseg.backends.views import Layout, layout_of, strides3

WARPS = 4  # of a program, for many classes twice as many
ELEMENTS = 16  # of a thread; of float64 half as many, here and below
MOST_ELEMENTS = 32  # of a thread with all classes of its voxels; with more, threads and warps share them
SECTOR_BYTES = 32  # the least that device memory hands out
PROGRAMS = 528  # of the sums: 4 for each multiprocessor of an H100, which run at once where registers allow
MOST_TILES = 64  # of such a program, which adds in float32
FORMULA_ELEMENTS = 2048  # numbers of a kind that its one program adds at once
FORMULA_SLOTS = 64 * 1024  # numbers that it adds in the time of a launch; of more, torch adds the parts


class Tile(NamedTuple):
    """What one program holds at a time, and with how many warps."""

    classes: int
    pixels: int
    warps: int


class Truth(NamedTuple):
    """As kernels take it; a map of classes has one channel."""

    data: Tensor
    batch: int
    channel: int
    pixel: int


def tile_of(classes: int, dtype: torch.dtype, sigmoid: bool) -> Tile:
    """All classes of some voxels."""
    vector, wide = 16 // dtype.itemsize, compute_dtype(dtype).itemsize // 4
    block = triton.next_power_of_2(classes)
    if block * vector <= MOST_ELEMENTS // wide and not sigmoid:
        return Tile(block, 32 * WARPS * max(vector, ELEMENTS // wide // block), WARPS)
    warps = WARPS if sigmoid and block <= ELEMENTS else 2 * WARPS
    return Tile(block, max(32 * warps * ELEMENTS // wide // block, SECTOR_BYTES // dtype.itemsize), warps)


def tiles_of_program(samples: int, tiles: int) -> int:
    """Of the ``tiles`` of a sample: programs are enough for the device, and their slots few."""
    return min(triton.cdiv(tiles, max(PROGRAMS // samples, 1)), MOST_TILES)


def _share(formula: Formula, samples: int, classes: int) -> float:
    """Of a group of samples, or of one of its classes, in the mean."""
    groups = 1 if formula.batch else samples
    return 1 / (groups if formula.generalized else groups * (classes - (not formula.include_background)))


def _truth(target: Tensor) -> Truth:
    target = truth_for(target)
    return Truth(target, *strides3(target))


def _truth_alignment(truth: Truth, channels: int, spatial: int, tile: Tile) -> int:
    if truth.pixel == 1:
        outer = truth.channel if channels > 1 else 0
        return min(alignment(spatial, Strided(truth.data, truth.batch, outer)), tile.pixels)
    if truth.channel == 1:
        return alignment(channels, Strided(truth.data, truth.batch, truth.pixel))
    return 1


def _constants(
    logits: Tensor, truth: Truth, sigmoid: bool, layout: Layout, tile: Tile, *views: Strided | None
) -> dict[str, Any]:
    """Of the kernels of both ways."""
    classes, spatial = logits.shape[1], logits.shape[2:].numel()
    return {
        "ACC": tl_dtype(compute_dtype(logits.dtype)),
        "SIGMOID": sigmoid,
        "TRUTH_LAST": truth.pixel != 1,
        "TRUTH_ALIGN": _truth_alignment(truth, classes if sigmoid else 1, spatial, tile),
        "CHANNELS_LAST": layout == "channels_last",
        "ALIGN": min(alignment(spatial, *views), tile.pixels) if layout == "rows" else alignment(classes, *views),
        "PADDED": tile.classes != classes,
        "BLOCK_K": tile.classes,
        "BLOCK_S": tile.pixels,
    }


def segmentation_loss_forward(
    logits: Tensor, target: Tensor, class_weights: Tensor | None, sigmoid: bool, ignore_index: int, formula: Formula
) -> tuple[Tensor, Tensor, tuple[int, float]]:
    """The loss, NaN for a truth that is none, and its slopes by the sums; no voxels are told that are wrong, which the
    host would have to wait for."""
    layout = layout_of(logits)
    if layout is None:
        logits, layout = logits.contiguous(), "rows"
    samples, classes = logits.shape[:2]
    spatial = logits.shape[2:].numel()
    source, truth = strided(logits, layout), _truth(target)
    tile = tile_of(classes, logits.dtype, sigmoid)
    tiles = triton.cdiv(spatial, tile.pixels)
    each = tiles_of_program(samples, tiles)
    parts = triton.cdiv(tiles, each)
    constants = _constants(logits, truth, sigmoid, layout, tile, source)
    fold = min(16 // logits.dtype.itemsize, tile.pixels)
    slots = logits.new_empty((samples, parts, SUMS, classes), dtype=torch.float64)
    with torch.cuda.device_of(logits):
        launch(
            kernels.sums, samples * parts, tile.warps,
            source, truth, slots, classes, spatial, parts, each, ignore_index,
            # A thread that reads 16 bytes of a row has neighbours.
            FOLD=fold, NEIGHBOURS=layout == "rows" and constants["ALIGN"] >= fold, **constants,
        )  # fmt: skip
        loss, slopes = _of_sums(slots, logits, class_weights, sigmoid, formula)
    return loss, slopes, (0, 0.0)


def _of_sums(
    slots: Tensor, logits: Tensor, class_weights: Tensor | None, sigmoid: bool, formula: Formula
) -> tuple[Tensor, Tensor]:
    if slots.numel() > FORMULA_SLOTS and slots.shape[1] > 1:
        slots = slots.sum(1, keepdim=True)
    samples, parts, _, classes = slots.shape
    block = triton.next_power_of_2(classes)
    of_parts = min(triton.next_power_of_2(parts), max(FORMULA_ELEMENTS // block, 1))
    of_samples = min(triton.next_power_of_2(samples), max(FORMULA_ELEMENTS // block // of_parts, 1))
    loss = logits.new_empty((), dtype=compute_dtype(logits.dtype))
    slopes = logits.new_empty((samples, SLOPES, classes), dtype=torch.float64)
    f = formula
    launch(
        loss_formula_kernel.formula, 1, 8,
        slots, class_weights, loss, slopes, samples, classes, parts, float(logits.numel()), _share(f, samples, classes),
        *map(float, (f.overlap_weight, f.ce_weight, f.fp_weight, f.fn_weight, f.smooth, f.gamma)),
        SIGMOID=sigmoid, GENERALIZED=f.generalized, FOCAL=f.gamma != 1, BALANCED=f.balanced, WHOLE_BATCH=f.batch,
        FIRST=int(not f.include_background), BLOCK_N=of_samples, BLOCK_P=of_parts, BLOCK_K=block,
    )  # fmt: skip
    return loss, slopes


def segmentation_loss_backward(
    grad: Tensor, logits: Tensor, target: Tensor, slopes: Tensor, sigmoid: bool, ignore_index: int
) -> Tensor:
    layout = layout_of(logits)
    if layout is None:
        logits, layout = logits.contiguous(), "rows"
    classes, spatial = logits.shape[1], logits.shape[2:].numel()
    dlogits = torch.empty_like(logits)
    views = strided(logits, layout), strided(dlogits, layout)
    truth, tile = _truth(target), tile_of(classes, logits.dtype, sigmoid)
    with torch.cuda.device_of(logits):
        launch(
            kernels.gradient, logits.shape[0] * triton.cdiv(spatial, tile.pixels), tile.warps,
            grad, views[0], truth, slopes, views[1], classes, spatial, ignore_index,
            **_constants(logits, truth, sigmoid, layout, tile, *views),
        )  # fmt: skip
    return dlogits
