"""The demo's stereo part: a rendered pair through the steps of ``fastseg stereo``, scored against its exact truth."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from fastseg.cli import picture_stereo, stereo_run
from fastseg.io import load_calibration, save_image, save_pfm, written_together, written_whole
from fastseg.stereo import RectifiedCalibration, RenderedPair, StereoScores, evaluate_disparity, rendered_pair

#: Height and width of the pair.
SIZE = 480, 640
_PRESET = "accurate"


def run(options: argparse.Namespace) -> None:
    """Render, match from the files, score, draw.

    Raises:
        CommandError, FileError, OSError: a folder that cannot be written to.
    """
    folder = options.output / "stereo"
    pair = rendered_pair(*SIZE, seed=options.seed)
    _write_pair(folder, pair)
    # From its files, as any other pair.
    job = stereo_run.Job(
        left=folder / "left.png",
        right=folder / "right.png",
        output=folder,
        calibration=load_calibration(folder / "calib.txt"),
        preset=_PRESET,
        device=options.device,
    )
    outcome = stereo_run.run(job)
    scores = _scores(pair, outcome)
    print(f"\nagainst the truth\n{scores}")
    facts = folder / "scores.json"
    with written_whole(facts) as temporary:
        temporary.write_text(json.dumps(scores.as_dict(), indent=2) + "\n", encoding="utf-8")
    picture = options.output / "demo-stereo.png"
    picture_stereo.draw(picture, pair, outcome, scores)
    print(f"\nwritten  {facts}\n         {picture}")


def _write_pair(folder: Path, pair: RenderedPair) -> None:
    with written_together(folder) as staged:
        save_image(staged / "left.png", np.moveaxis(pair.left, 0, -1))
        save_image(staged / "right.png", np.moveaxis(pair.right, 0, -1))
        save_pfm(staged / "truth.pfm", pair.disparity)
        save_image(staged / "nonocc.png", ~pair.occluded)
        (staged / "calib.txt").write_text(calib_txt(pair.calibration), encoding="utf-8")


def calib_txt(known: RectifiedCalibration) -> str:
    """As calib.txt of Middlebury, whose baselines are in millimetres."""
    f, cx, cy = known.focal_length, known.cx or 0.0, known.cy or 0.0
    return (
        f"cam0=[{f} 0 {cx}; 0 {f} {cy}; 0 0 1]\n"
        f"cam1=[{f} 0 {cx + known.doffs}; 0 {f} {cy}; 0 0 1]\n"
        f"doffs={known.doffs}\n"
        f"baseline={1000 * known.baseline:.3f}\n"
        f"width={known.width}\nheight={known.height}\nndisp={known.max_disparity}\n"
    )


def _scores(pair: RenderedPair, outcome: stereo_run.Outcome) -> StereoScores:
    everywhere = np.ones_like(pair.occluded)
    return evaluate_disparity(
        outcome.found.disparity,
        pair.disparity,
        masks={"visible": ~pair.occluded, "all": everywhere},
        valid=outcome.found.valid,
    )
