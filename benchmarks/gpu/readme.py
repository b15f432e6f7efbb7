"""The README's table of GPU figures, from the rows of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks import readme
from benchmarks.readme import Line
from benchmarks.report import Row, cases, duration
from benchmarks.turns import ours_in

BEGIN, END = "<!-- GPU figures, written by python -m benchmarks.gpu -->", "<!-- end of GPU figures -->"


VOLUME, HELD, LARGE = "1x32x128x128x128", "2x32x64x64x64", "2x32x128x128x128"
LOGITS = "2x4x128x128x128"
STEREO = "stereo on the device"
STEP = "training step, bf16 autocast"
LINES = (
    Line("instance norm + LeakyReLU, bfloat16, forward", "norm", "forward, bfloat16", VOLUME),
    Line("the same, backward", "norm", "backward, bfloat16", VOLUME),
    Line("instance norm + LeakyReLU, float32, forward", "norm", "forward, float32", HELD),
    Line("depthwise 3D k3, float32, forward + backward", "depthwise", "3D k3 forward + backward", LARGE),
    Line("depthwise 3D k5, float32, forward + backward", "depthwise", "3D k5 forward + backward", LARGE),
    Line("depthwise 3D k7, float32, forward + backward", "depthwise", "3D k7 forward + backward", LARGE),
    Line("(1 + sigmoid(S)) * T, bfloat16, forward", "soft_mask_attention", "forward, bfloat16", VOLUME),
    Line("attention gate, bfloat16, forward", "attention_gate", "forward, bfloat16", VOLUME),
    Line("CBAM, bfloat16, forward", "cbam", "forward, bfloat16", "8x64x256x256"),
    Line("Dice + cross-entropy, bfloat16, forward", "loss", "forward, bfloat16", LOGITS),
    Line("the same, backward", "loss", "backward, bfloat16", LOGITS),
    Line("guided filter, colour guide", STEREO, "guided_filter of a full HD volume, colour guide", "128x1080x1920"),
    Line("exact WLS, residual 1e-6", STEREO, "wls_filter", "1024x1024"),
    Line("stereo pipeline, accurate, teddy", STEREO, "pipeline, accurate, teddy", "375x450, 60 disparities"),
    Line("nnU-Net ResEnc-M, training step", "ResEnc-M", STEP, "2x1x128x128x128"),
    Line("nnU-Net PlainConvUNet, training step", "PlainConvUNet", STEP, "2x1x128x128x128"),
    Line("MedNeXt-S k3, training step", "MedNeXt-S k3", STEP, "2x1x128x128x128"),
    Line("MedNeXt-S k5, training step", "MedNeXt-S k5", STEP, "2x1x128x128x128"),
    Line("`da_unet_3d`, training step", "da_unet_3d", STEP, "1x4x128x128x128"),
    Line("`unet_cbam`, training step", "unet_cbam", STEP, "8x3x256x256"),
)
OTHERS = 3  # peers of a line, the fastest


def table(rows: Sequence[Row], machine: dict[str, Any]) -> list[str]:
    """Empty where nothing of it was measured. What a user gets by itself, not what a forced backend reaches."""
    by_case = cases(list(rows))
    lines = []
    for line in LINES:
        peers = by_case.get((line.family, line.case, line.shape, False), {})
        chosen = {name: row for name, row in peers.items() if not name.endswith("]")}
        ours = ours_in(chosen)
        if ours is None:
            continue
        others = sorted((row for row in chosen.values() if not row.peer.startswith("fastseg")), key=lambda r: r.median)
        told = ", ".join(_beside(row, ours) for row in others[:OTHERS])
        lines.append(f"| {line.what}, {line.shape.partition(',')[0]} | {_ours(ours)} | {told} |")
    if not lines:
        return []
    head = f"{machine['device']}, torch {machine['torch']}, medians ([all peers and aims](docs/benchmarks-gpu.md)):"
    return [head, "", "| what | fastseg | others |", "| --- | --- | --- |", *lines]


def _ours(row: Row) -> str:
    return duration(row.median) + (f", {row.memory / 2**30:.1f} GB" if row.memory else "")


def _beside(row: Row, ours: Row) -> str:
    memory = f", {row.memory / 2**30:.1f} GB" if row.memory else ""
    return f"{row.peer} {duration(row.median)} ({row.median / ours.median:.2g}x{memory})"


def filled(text: str, lines: Sequence[str]) -> str:
    """As that of benchmarks/readme.py, between the marks of the GPU figures."""
    return readme.filled(text, lines, BEGIN, END)
