"""The steps of ``fastseg stereo``: read a pair, match it, place it in space, write the files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fastseg.cli import stereo_results as results
from fastseg.cli.errors import CommandError
from fastseg.cli.outputs import check_results_folder
from fastseg.cli.progress import share_progress
from fastseg.clock import StageClock
from fastseg.io import (
    load_image,
    save_depth_png,
    save_image,
    save_npy,
    save_pfm,
    written_together,
)
from fastseg.stereo import (
    DisparityMap,
    Mesh,
    PointCloud,
    RectifiedCalibration,
    StereoMatcher,
    StereoPairError,
    point_cloud,
    surface_mesh,
)

#: Of the mesh, as in :func:`fastseg.stereo.surface_mesh`.
MAX_DEPTH_STEP = 0.05
_LARGEST_UNIT = 65535
# What a run writes, so that one without a calibration leaves no depth of an earlier one.
_RESULTS = (
    "disparity.pfm", "disparity.png", "confidence.png", "valid.png", "depth.pfm", "depth.png", "depth.npy", "cloud.ply",
    "mesh.ply", "stereo.json",
)  # fmt: skip
# Nearer than the depth of this disparity, depth.png has room; half a pixel is a quarter of the depth there.
_LEAST_DISPARITY = 2.0


@dataclass(frozen=True)
class Job:
    """What is to be done; the options of the command, and a calibration that has been read."""

    left: Path
    right: Path
    output: Path
    calibration: RectifiedCalibration | None = None
    max_disparity: int = 0  #: 0 for that of the calibration
    min_disparity: int = 0
    preset: str = "accurate"
    check: bool = True
    device: str = "cpu"
    memory_limit: int = 1 << 30
    cloud: bool = True
    mesh: bool = True
    dense: bool = False
    max_depth: float | None = None
    max_depth_step: float = MAX_DEPTH_STEP
    depth_scale: float | None = None
    y_up: bool = False


@dataclass(frozen=True)
class Space:
    """The pair in space, in the unit of the baseline.

    Attributes:
        depth: (H, W), float32, NaN where it is not known.
        scale: units of depth.png in one unit of depth.
        cloud, mesh: None where they are not asked for, or empty.
    """

    depth: NDArray[np.float32]
    scale: float
    cloud: PointCloud | None
    mesh: Mesh | None


@dataclass(frozen=True)
class Outcome:
    """What came out.

    Attributes:
        image: the left image as read.
        found: NumPy arrays.
        space: None without a calibration.
        seconds: of every stage, reading and writing included.
        files: what was written.
    """

    job: Job
    image: NDArray[np.generic]
    found: DisparityMap
    space: Space | None
    seconds: Mapping[str, float]
    files: tuple[Path, ...] = ()


def run(job: Job) -> Outcome:
    """Do it, and print what is done and what came out.

    Raises:
        CommandError, FileError, OSError: input that cannot be worked with, or a folder that cannot be written to.
    """
    clock = StageClock(torch.device("cpu"), 1, None)
    check_results_folder(job.output)
    with clock.stage("reading"):
        left, right = load_image(job.left), load_image(job.right)
    job = _checked(job, left, right)
    print(results.heading(job, left), flush=True)
    try:
        matcher = StereoMatcher.preset(
            job.preset,
            max_disparity=job.max_disparity,
            min_disparity=job.min_disparity,
            device=torch.device(job.device),
            memory_limit=job.memory_limit,
            check_input=job.check,
        )
        with share_progress("matching") as report:
            found = matcher.match(left, right, on_progress=report)
    except StereoPairError as error:
        raise CommandError(f"{error} (--min-disparity; --no-check leaves this out)") from error
    except ValueError as error:  # what the matcher says of its options and images
        raise CommandError(str(error)) from error
    clock.seconds.update(found.seconds)
    space = None
    if job.calibration is not None:
        with clock.stage("points and surface"):
            space = _space(job, job.calibration, left, found)
    outcome = Outcome(job, left, found, space, clock.seconds)
    with written_together(job.output, _RESULTS) as folder:
        with clock.stage("writing"):
            _write(folder, outcome)
        files = sorted(path.name for path in folder.iterdir())
        outcome = replace(outcome, files=tuple(job.output / name for name in (*files, "stereo.json")))
        results.write_json(folder / "stereo.json", outcome)
    print(results.summary(outcome), flush=True)
    return outcome


def _checked(job: Job, left: NDArray[np.generic], right: NDArray[np.generic]) -> Job:
    """The job with its largest disparity, which the calibration may have to give."""
    if left.shape != right.shape or left.dtype != right.dtype:
        raise CommandError(f"{job.right}: {results.kind(right)}, expected the same as {job.left}, {results.kind(left)}")
    height, width = left.shape[:2]
    calibration, most = job.calibration, job.max_disparity
    if calibration is not None:
        expected = calibration.width or width, calibration.height or height
        if expected != (width, height):
            raise CommandError(
                f"the calibration is for images of {expected[0]} x {expected[1]}, but {job.left} has "
                f"{width} x {height}: expected the calibration of these images"
            )
        most = most or calibration.max_disparity or 0
    if not most:
        raise CommandError("--max-disparity is missing, and the calibration has no ndisp")
    if most > width:
        named = f"--max-disparity {most}" if job.max_disparity else f"the calibration's ndisp {most}"
        raise CommandError(f"{named}: expected at most {width}, the width of {job.left}")
    if not -width < job.min_disparity < most:
        raise CommandError(
            f"--min-disparity {job.min_disparity}: expected more than -{width}, the width of {job.left}, and less than "
            f"{most}, the largest disparity"
        )
    job = replace(job, max_disparity=most)
    if calibration is not None:
        _depth_scale(job, calibration)
    return job


def _space(job: Job, calibration: RectifiedCalibration, image: NDArray[np.generic], found: DisparityMap) -> Space:
    points = calibration.triangulate(found.disparity)
    shown = found.valid | job.dense
    cloud = point_cloud(points, image, shown, job.max_depth) if job.cloud else None
    mesh = None
    if job.mesh:
        mesh = surface_mesh(points, image, shown, max_depth_step=job.max_depth_step, max_depth=job.max_depth)
    return Space(
        depth=np.where(shown, points[..., 2], np.float32(np.nan)),
        scale=_depth_scale(job, calibration),
        cloud=cloud if cloud is not None and len(cloud.points) else None,
        mesh=mesh if mesh is not None and len(mesh.faces) else None,
    )


def _depth_scale(job: Job, calibration: RectifiedCalibration) -> float:
    """Units of depth.png in one of depth: those asked for, or a power of ten.

    The latter depends on cameras and options alone, so that all pairs of one rig have the same.

    Raises:
        CommandError: no depth that the range of disparities allows fits in 16 bits.
    """
    product = calibration.focal_length * calibration.baseline
    farthest = product / max(job.min_disparity + calibration.doffs, _LEAST_DISPARITY)
    nearest = product / max(job.max_disparity + calibration.doffs, _LEAST_DISPARITY)
    units = _LARGEST_UNIT / farthest if 0 < farthest < math.inf else 0.0
    if not 0 < units < math.inf:
        raise CommandError(
            f"focal length {calibration.focal_length:g} and baseline {calibration.baseline:g}: their product over a "
            f"disparity is a depth of {farthest:g}, expected one that can be written"
        )
    scale = job.depth_scale or float(10.0 ** math.floor(math.log10(units)))
    if not (farthest * scale >= 1 and nearest * scale <= _LARGEST_UNIT):
        raise CommandError(
            f"--depth-scale {scale:g}: depths from {nearest:g} to {farthest:g} are {nearest * scale:g} to "
            f"{farthest * scale:g} units, expected some from 1 to {_LARGEST_UNIT}"
        )
    return scale


def _write(folder: Path, outcome: Outcome) -> None:
    found, space = outcome.found, outcome.space
    save_pfm(folder / "disparity.pfm", found.disparity)
    save_image(folder / "disparity.png", results.coloured(found))
    save_image(folder / "confidence.png", np.rint(65535 * found.confidence).astype(np.uint16))
    save_image(folder / "valid.png", found.valid)
    if space is None:
        return
    save_pfm(folder / "depth.pfm", np.where(np.isnan(space.depth), np.float32(np.inf), space.depth))
    save_npy(folder / "depth.npy", space.depth)
    near_enough = space.depth * space.scale >= 1  # less is 0, which means unknown
    save_depth_png(
        folder / "depth.png",
        np.where(near_enough, space.depth, np.nan),
        scale=space.scale,
        max_depth=_LARGEST_UNIT / space.scale,
    )
    if space.cloud is not None:
        space.cloud.save(folder / "cloud.ply", y_up=outcome.job.y_up)
    if space.mesh is not None:
        space.mesh.save(folder / "mesh.ply", y_up=outcome.job.y_up)
