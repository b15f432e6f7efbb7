"""Augmentation of a training image and its labels: MONAI's transforms, with random numbers that the caller gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

try:
    from monai.transforms.compose import Compose
    from monai.transforms.intensity.dictionary import (
        RandGaussianNoised,
        RandScaleIntensityd,
        RandShiftIntensityd,
    )
    from monai.transforms.spatial.dictionary import RandAffined, RandFlipd, RandRotate90d
except ImportError as error:
    raise ImportError('Augmentation needs monai: pip install "fastseg-kernels[training]"') from error

_KEYS = ("image", "labels")


class Augmentation:
    """Random flips, quarter turns, small rotations, shifts and scalings, and changes of intensity.

    Args:
        size: spatial, of the images that come; quarter turns are left out where they would change it.
        rotation: largest angle in degrees; in 3D about each axis.
        translation: largest shift, as a share of the size.
        scaling: largest change of the scale.
        affine_share: how many of the images are rotated, shifted and scaled.
        intensity: deviation of added noise, and largest shift, in units of the image; images are z-scored.
    """

    def __init__(
        self,
        size: Sequence[int],
        *,
        rotation: float = 15.0,
        translation: float = 0.05,
        scaling: float = 0.1,
        affine_share: float = 0.5,
        intensity: float = 0.1,
    ) -> None:
        steps: list[Any] = [RandFlipd(_KEYS, prob=0.5, spatial_axis=axis) for axis in range(len(size))]
        if size[0] == size[1]:
            steps.append(RandRotate90d(_KEYS, prob=0.5, max_k=3, spatial_axes=(0, 1)))
        steps.append(
            RandAffined(
                _KEYS,
                prob=affine_share,
                rotate_range=[np.deg2rad(rotation)] * (1 if len(size) == 2 else 3),
                translate_range=[translation * extent for extent in size],
                scale_range=[scaling] * len(size),
                mode=("bilinear", "nearest"),
                padding_mode="border",
            )
        )
        steps += [
            RandScaleIntensityd("image", factors=intensity, prob=0.5),
            RandShiftIntensityd("image", offsets=intensity, prob=0.5),
            RandGaussianNoised("image", prob=0.3, std=intensity),
        ]
        self._steps = Compose(steps)

    def __call__(
        self, image: NDArray[np.float32], labels: NDArray[np.uint8], rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """image (C, ...) and labels (...) to others of the same shapes and dtypes."""
        self._steps.set_random_state(seed=int(rng.integers(2**31)))
        done = self._steps({"image": torch.from_numpy(image), "labels": torch.from_numpy(labels[None])})
        return np.asarray(done["image"], np.float32), np.asarray(done["labels"], np.uint8)[0]
