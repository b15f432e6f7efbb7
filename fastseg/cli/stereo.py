"""``fastseg stereo``: a rectified pair to disparity, depth, point cloud and mesh."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import torch

from fastseg.cli.errors import CommandError, require, sentences

if TYPE_CHECKING:
    from fastseg.stereo import RectifiedCalibration

#: What the pipeline needs of the extra "stereo"; rich may be missing.
LIBRARIES = ("PIL", "matplotlib", "trimesh", "yaml")
#: How somebody gives a calibration, for messages.
GIVE_ONE = "give --calib or --focal and --baseline"

_OF_FOCAL = ("doffs", "cx", "cy")
_OF_SPACE = ("cloud", "mesh", "dense", "max_depth", "max_depth_step", "depth_scale", "y_up")


def run(options: argparse.Namespace) -> int:
    _check(options)
    require("stereo", *LIBRARIES)
    # Only now: this imports the libraries of the extra.
    from fastseg.cli import stereo_run

    if options.threads:
        torch.set_num_threads(options.threads)
    with sentences("give a smaller --memory-limit"):
        stereo_run.run(
            stereo_run.Job(
                left=options.left,
                right=options.right,
                output=options.output,
                calibration=_calibration(options),
                max_disparity=options.max_disparity or 0,
                min_disparity=options.min_disparity,
                preset=options.preset,
                check=options.check,
                device=options.device,
                memory_limit=options.memory_limit,
                cloud=options.cloud is not False,
                mesh=options.mesh is not False,
                dense=options.dense,
                max_depth=options.max_depth,
                max_depth_step=options.max_depth_step or stereo_run.MAX_DEPTH_STEP,
                depth_scale=options.depth_scale,
                y_up=options.y_up,
            )
        )
    return 0


def _check(options: argparse.Namespace) -> None:
    """What the parser cannot see in one option alone."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise CommandError("--device cuda: torch sees no CUDA device (fastseg info says more)")
    numbers = {name: getattr(options, name) for name in ("focal", "baseline", *_OF_FOCAL)}
    given = [name for name, value in numbers.items() if value is not None]
    if options.calib is not None and given:
        raise CommandError(f"--calib and --{given[0]} exclude each other")
    if given and (options.focal is None or options.baseline is None):
        missing = [f"--{name}" for name in ("focal", "baseline") if numbers[name] is None]
        raise CommandError(f"--{given[0]} needs {' and '.join(missing)}, too")
    if options.calib is None and not given:
        for name in _OF_SPACE:
            if getattr(options, name):
                raise CommandError(f"--{name.replace('_', '-')} needs a calibration: {GIVE_ONE}")
        if options.max_disparity is None:
            raise CommandError("--max-disparity is missing: disparities are below it")
    if options.max_disparity is not None and options.min_disparity >= options.max_disparity:
        raise CommandError(
            f"--min-disparity {options.min_disparity}: expected less than --max-disparity {options.max_disparity}"
        )


def _calibration(options: argparse.Namespace) -> RectifiedCalibration | None:
    from fastseg.io import load_calibration
    from fastseg.stereo import RectifiedCalibration

    if options.calib is not None:
        return load_calibration(options.calib)
    if options.focal is None:
        return None
    return RectifiedCalibration(
        focal_length=options.focal,
        baseline=options.baseline,
        doffs=options.doffs or 0.0,
        cx=options.cx,
        cy=options.cy,
    )
