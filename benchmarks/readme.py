"""The README's tables of CPU figures, from the rows of a whole run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.stereo_report import headline
from benchmarks.turns import OURS, ours_in, ratio

BEGIN, END = "<!-- CPU figures, written by make bench -->", "<!-- end of CPU figures -->"


@dataclass(frozen=True)
class Line:
    what: str
    family: str
    case: str
    shape: str


VOLUME, BLOCK, IMAGES = "1x32x128x128x128", "1x32x64x64x64", "8x64x256x256"
CNN = (
    Line("depthwise conv 3D k3, 1x32x64^3, forward", "depthwise", "3D k3 forward", BLOCK),
    Line("the same, forward + backward", "depthwise", "3D k3 forward + backward", BLOCK),
    Line("depthwise conv 3D k7, forward + backward", "depthwise", "3D k7 forward + backward", BLOCK),
    Line("depthwise conv 2D k3, 8x64x256^2, forward", "depthwise", "2D k3 forward", IMAGES),
    Line("depthwise-separable 3D k3, 32 to 64, forward", "depthwise", "separable 3D k3 to 64 forward", BLOCK),
    Line("dense conv 3D k3, 32 to 32, 2x32x64^3, forward", "dense", "3D to 32 forward", "2x32x64x64x64"),
    Line("dense conv 3D k3, forward + backward", "dense", "3D to 32 forward + backward", "2x32x64x64x64"),
    Line(
        "the same with stride 2, 32 to 64, forward + backward",
        "dense",
        "3D to 64, stride 2 forward + backward",
        "2x32x64x64x64",
    ),
    Line(
        "up-convolution 3D k2, 64 to 32, 2x64x32^3, forward + backward",
        "up_conv",
        "3D to 32 forward + backward",
        "2x64x32x32x32",
    ),
    Line("instance norm + LeakyReLU, 1x32x128^3, forward", "norm", "forward", VOLUME),
    Line("CBAM 4x64x256^2, forward + backward", "cbam", "CBAM, forward + backward", "4x64x256x256"),
    Line(
        "separable ASPP 2x256x64^2, rates 1/6/12/18, forward",
        "context",
        "separable ASPP 1/6/12/18 forward",
        "2x256x64x64",
    ),
    Line("(1 + sigmoid(S)) * T, 1x32x128^3, forward", "soft_mask_attention", "forward", VOLUME),
    Line("attention gate, 32 to 16 channels, 64^3, forward", "attention_gate", "forward, same grid", BLOCK),
    Line(
        "Dice + cross-entropy of 2x4x128^3 logits, forward + backward",
        "loss",
        "Dice + cross-entropy, forward + backward",
        "2x4x128x128x128",
    ),
    Line("MONAI MedNeXt-S k3, 64^3, training step", "MedNeXt", "training step, small, k3", "1x1x64x64x64"),
    Line("nnU-Net PlainConvUNet, 2x1x64^3, training step", "PlainConvUNet", "training step", "2x1x64x64x64"),
    Line("nnU-Net PlainConvUNet, 64x128x128 patch, inference", "PlainConvUNet", "inference", "1x1x64x128x128"),
    Line(
        "MONAI UNet, 1x1x96^3, training step",
        "UNet",
        "training step, two residual units, 16 to 256 channels",
        "1x1x96x96x96",
    ),
    Line("`da_unet_3d`, 1x4x64^3, training step", "da_unet_3d", "training step", "1x4x64x64x64"),
    Line("`msfen`, 2x4x256^2, training step", "msfen", "training step", "2x4x256x256"),
    Line("`unet_cbam`, 2x3x256^2, training step", "unet_cbam", "training step", "2x3x256x256"),
)
MAP = "64x375x450"
STEREO = (
    Line(
        "exact WLS, 1 megapixel, lambda 1, alpha 1.2, residual 1e-6",
        "wls",
        "lambda 1, alpha 1.2, residual 1e-06",
        "1024x1024 (Aloe)",
    ),
    Line("fast global smoother, 1 megapixel, uint8", "fast_global_smoother", "grey, uint8", "1024x1024"),
    Line("guided filter, 64 slices of 375x450, colour guide, radius 9", "guided_filter", "volume, colour guide", MAP),
    Line("the same, grey guide", "guided_filter", "volume, grey guide", MAP),
    Line(
        "and the winner of the filtered volume, colour guide", "guided_filter", "winner of a volume, colour guide", MAP
    ),
    Line("costs of 64 disparities: AD, gradient, census", "matching_cost", "AD, gradient and census 7x9", MAP),
    Line("cross-scale aggregation of 4 such volumes", "cross_scale", "4 levels, full size, float32", MAP),
    Line(
        "weighted median of the holes of a 375x450 map, radius 9, colour guide",
        "weighted_median",
        "holes, float32",
        "375x450",
    ),
)
PIPELINES = {
    "cones": "whole pipeline, Middlebury's cones, 60 disparities: time, wrong pixels",
    "teddy": "the same on teddy",
}
LAST = ("eager channels-last", "eager, channels-last", "stock channels-last")
PLAIN = ("eager", "stock")
COMPILED = "torch.compile"


def tables(rows: Sequence[Any], machine: dict[str, Any]) -> list[str]:
    """Empty unless all lines were measured, ours and others: a run of some benchmarks leaves the README as it is."""
    found: dict[tuple[str, str, str], dict[str, Any]] = defaultdict(dict)
    pipelines: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        if row.stereo:
            pipelines[row.case].append(row)
        elif not row.huge_pages:
            found[row.family, row.case, row.shape][row.peer] = row
    cnn, stereo = ({line.what: found[line.family, line.case, line.shape] for line in lines} for lines in (CNN, STEREO))
    pairs = {what: {row.peer: row for row in pipelines[name]} for name, what in PIPELINES.items()}
    complete = (
        machine["device"] == "cpu"
        and all(any(name in PLAIN for name in peers) for peers in cnn.values())
        and all("fastseg" in peers for peers in stereo.values())
        and all(ours_in(peers) and _others(peers) for group in (cnn, stereo, pairs) for peers in group.values())
    )
    if not complete:
        return []
    return [
        f"{machine['processor']}, {machine['threads']} threads, float32, torch {machine['torch']}, medians of one run",
        f"({machine['commit']}), fastseg in its faster layout ([all peers and layouts](docs/benchmarks.md)):",
        "",
        "| what | fastseg | torch, channels-last | torch |",
        "| --- | --- | --- | --- |",
        *(_of_torch(what, peers) for what, peers in cnn.items()),
        "",
        "| stereo | fastseg | others |",
        "| --- | --- | --- |",
        *(_of_others(what, peers) for what, peers in stereo.items()),
        *(_of_pipelines(what, peers) for what, peers in pairs.items()),
    ]


def filled(text: str, lines: Sequence[str], begin: str = BEGIN, end: str = END) -> str:
    """The README with these lines between its two marks; without lines, as it is."""
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"README.md has no {begin} ... {end}")
    return "\n".join([before + begin, "", *lines, "", end + after]) if lines else text


def _of_torch(what: str, peers: dict[str, Any]) -> str:
    ours = ours_in(peers)
    last = [_beside(row, ours) for name, row in peers.items() if name in LAST]
    plain = [_beside(row, ours) for name, row in peers.items() if name in PLAIN]
    compiled = [row for name, row in peers.items() if name.startswith(COMPILED)]
    more = {name: row for name, row in peers.items() if name == "MONAI"}
    if compiled:
        more[COMPILED] = min(compiled, key=lambda row: ratio(row, ours))
    plain += [f"{name} {_beside(row, ours)}" for name, row in more.items()]
    return f"| {what} | {_short(ours.median)} | {', '.join(last)} | {', '.join(plain)} |"


def _of_others(what: str, peers: dict[str, Any]) -> str:
    ours = peers["fastseg"]
    others = sorted(_others(peers), key=lambda row: row.median)
    return f"| {what} | {_short(ours.median)} | {', '.join(f'{row.peer} {_beside(row, ours)}' for row in others)} |"


def _of_pipelines(what: str, peers: dict[str, Any]) -> str:
    """Not the preset that does what a paper did."""
    rows = sorted((row for name, row in peers.items() if name != "fastseg paper"), key=lambda row: row.median)
    others = _others(peers)
    cells = ("; ".join(_scored(row) for row in rows if (row in others) == other) for other in (False, True))
    return f"| {what} | {' | '.join(cells)} |"


def _scored(row: Any) -> str:
    return f"{row.peer.removeprefix('fastseg ')} {_short(row.median)}, {100 * headline(row)[1]:.1f} %"


def _others(peers: dict[str, Any]) -> list[Any]:
    return [row for name, row in peers.items() if not name.startswith(OURS)]


def _beside(row: Any, ours: Any) -> str:
    """Of what took turns with ours, the time that it would have taken when ours was measured."""
    times = ratio(row, ours)
    return f"{_short(times * ours.median)} ({times:.{0 if times >= 10 else 1}f}x)"


def _short(milliseconds: float) -> str:
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.1f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"
