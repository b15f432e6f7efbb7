"""What ``fastseg stereo`` says: text for the terminal, stereo.json, and disparities in colours."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fastseg.cli.info import machine, versions
from fastseg.cli.stereo import GIVE_ONE
from fastseg.io import written_whole

if TYPE_CHECKING:
    from fastseg.cli.stereo_run import Job, Outcome
    from fastseg.stereo import DisparityMap

#: Perceptual colours of disparities: blue is far, red is near.
COLOURS = "turbo"
_BAR_WIDTH = 64
_DPI = 100


def kind(image: NDArray[np.generic]) -> str:
    """Size and type of an image in words."""
    return f"{image.shape[1]} x {image.shape[0]}, {image.dtype} {'colours' if image.ndim == 3 else 'greys'}"


def heading(job: Job, image: NDArray[np.generic]) -> str:
    """What is going to run, a fact a line."""
    calibration = f"no calibration: no depth, cloud or mesh; {GIVE_ONE}"
    if job.calibration is not None:
        known = job.calibration
        calibration = f"focal length {known.focal_length:g}, baseline {known.baseline:g}, doffs {known.doffs:g}"
    facts = {
        "pair": f"{job.left}, {job.right}: {kind(image)}",
        "matcher": f"disparities {job.min_disparity} to {job.max_disparity - 1}, preset {job.preset}",
        "calibration": calibration,
        "machine": machine(torch.device(job.device)),
    }
    return "\n".join(f"{name:<13}{text}" for name, text in facts.items())


def summary(outcome: Outcome) -> str:
    """Times of the stages, what was found, and the files."""
    total = sum(outcome.seconds.values())
    lines = ["", f"{'stage':<22}{'seconds':>9}{'share':>8}"]
    lines += [f"{name:<22}{seconds:>9.3f}{100 * seconds / total:>6.0f} %" for name, seconds in outcome.seconds.items()]
    lines += [f"{'total':<22}{total:>9.3f}", ""]
    lines.append(f"{'valid':<13}{100 * outcome.found.valid.mean():.1f} % of {outcome.found.valid.size:,} pixels")
    space = outcome.space
    if space is not None:
        span = _span(space.depth)
        known = "unknown"
        if span is not None:
            unit = f"in the unit of the baseline; depth.png: times {space.scale:g}"
            known = f"{_figure(span[0])} to {_figure(span[1])} {unit}"
        lines.append(f"{'depth':<13}{known}")
        for name, asked, there in (("cloud", outcome.job.cloud, space.cloud), ("mesh", outcome.job.mesh, space.mesh)):
            if asked:
                lines.append(f"{name:<13}{'none: no pixels to make it of' if there is None else _count(there)}")
    written = f"written to {outcome.job.output}: {', '.join(path.name for path in outcome.files)}"
    return "\n".join([*lines, "", written])


def write_json(path: Path, outcome: Outcome) -> None:
    """Everything that was run and measured."""
    job, found, space = outcome.job, outcome.found, outcome.space
    options = {field.name: getattr(job, field.name) for field in dataclasses.fields(job)}
    calibration = options.pop("calibration")
    facts: dict[str, Any] = {
        "options": {name: str(value) if isinstance(value, Path) else value for name, value in options.items()},
        "images": {"height": outcome.image.shape[0], "width": outcome.image.shape[1], "kind": kind(outcome.image)},
        "calibration": None if calibration is None else dataclasses.asdict(calibration),
        "versions": versions(),
        "machine": machine(torch.device(job.device)),
        "threads": torch.get_num_threads(),
        "seconds": {**outcome.seconds, "total": sum(outcome.seconds.values())},
        "valid": float(found.valid.mean()),
        "disparity": _span(found.disparity[found.valid]),
        "depth": None,
        "files": [file.name for file in outcome.files],
    }
    if space is not None:
        facts["depth"] = {
            "unit": "that of the baseline",
            "span": _span(space.depth),
            "depth_png": f"depth times {space.scale:g}, 0 is unknown",
            "depth_png_scale": space.scale,
        }
        facts["points"] = 0 if space.cloud is None else len(space.cloud.points)
        facts["triangles"] = 0 if space.mesh is None else len(space.mesh.faces)
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(facts, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def disparity_range(found: DisparityMap) -> tuple[float, float]:
    """What the colours reach from and to: all but a few stray ones of the valid disparities, or else of all."""
    values = found.disparity[found.valid] if found.valid.any() else found.disparity
    low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
    return (low, high) if high - low >= 1 else (low - 0.5, high + 0.5)


def coloured(found: DisparityMap) -> NDArray[np.uint8]:
    """(H, W + 64, 3): the disparities, a colour a pixel, and a bar that says what the colours mean."""
    norm = Normalize(*disparity_range(found))
    pixels = matplotlib.colormaps[COLOURS](norm(found.disparity), bytes=True)[..., :3]
    return np.concatenate([pixels, _bar(norm, len(pixels))], axis=1)


def _bar(norm: Normalize, height: int) -> NDArray[np.uint8]:
    with matplotlib.rc_context({"font.family": "sans-serif", "font.size": 8}):
        figure = Figure(figsize=(_BAR_WIDTH / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
        canvas = FigureCanvasAgg(figure)
        margin = min(0.1, 12 / height)
        axes = figure.add_axes((0.15, margin, 0.25, 1 - 2 * margin))
        figure.colorbar(ScalarMappable(norm, COLOURS), cax=axes)
        axes.locator_params(nbins=max(1, min(8, height // 40)))
        axes.tick_params(length=3, pad=2)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[:height, :_BAR_WIDTH, :3]


def _count(there: Any) -> str:
    if hasattr(there, "faces"):
        return f"{len(there.faces):,} triangles of {len(there.vertices):,} points"
    return f"{len(there.points):,} points"


def _span(values: NDArray[np.floating]) -> tuple[float, float] | None:
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if known.size else None


def _figure(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
