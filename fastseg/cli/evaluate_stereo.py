"""``fastseg evaluate stereo``: scores of a disparity map against a known truth."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.cli.errors import CommandError

_REGIONS = ("nonocc", "all", "disc")


def run(options: argparse.Namespace) -> None:
    from fastseg.io import load_disparity, load_image
    from fastseg.stereo.evaluation import evaluate_disparity, middlebury_masks

    def load_map(path: Path, scale: float | None, option: str) -> NDArray[np.float32]:
        if scale is None and path.suffix.lower() == ".png" and path.is_file():
            raise CommandError(f"{path}: a PNG holds disparity times a number, such as 4 or 256: give it with {option}")
        return load_disparity(path, scale=scale)

    def load_mask(path: Path) -> NDArray[Any]:
        mask = load_image(path)
        _check_size(path, mask, disparity, options.disparity)
        return mask

    disparity = load_map(options.disparity, options.scale, "--scale")
    truth = load_map(options.truth, options.truth_scale, "--truth-scale")
    _check_size(options.truth, truth, disparity, options.disparity)
    if np.isnan(truth).all():
        raise CommandError(f"{options.truth}: no pixel is known, so there is nothing to compare with")
    files = {name: path for name in _REGIONS if (path := getattr(options, name)) is not None}
    masks: dict[str, NDArray[np.bool_]] = {}
    for name, path in files.items():
        image = load_mask(path)
        try:
            masks |= middlebury_masks(**{name: image})
        except (TypeError, ValueError) as error:
            raise CommandError(f"{path}: {error}") from error
    scores = evaluate_disparity(
        disparity,
        truth,
        masks=masks or None,
        valid=load_mask(options.valid) > 0 if options.valid is not None else None,
        only_valid=options.only_valid,
    )
    if options.json:
        paths = {"disparity": str(options.disparity), "truth": str(options.truth)}
        print(json.dumps({**paths, **scores.as_dict()}, indent=2))
    else:
        print(scores)


def _check_size(path: Path, image: NDArray[np.generic], like: NDArray[np.generic], like_path: Path) -> None:
    if image.shape != like.shape:
        raise CommandError(f"{path}: {_size(image)}, expected the size of {like_path}, {_size(like)}")


def _size(image: NDArray[np.generic]) -> str:
    colours = ", in colours" if image.ndim == 3 else ""
    return f"{image.shape[0]} x {image.shape[1]}{colours}"
