"""A small network learns synthetic lesions in one person's scan, and finds others in that of another.

Trained on: copies of the voxelmorph scan (one person). Validated on: the ICBM152 template (an average of 152 others),
all slices, with lesions of its own. Both at half their resolution.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

pytest.importorskip("nibabel")
pytest.importorskip("lightning_fabric")
pytest.importorskip("monai")
pytest.importorskip("safetensors")
pytest.importorskip("scipy")

import nibabel as nib

from fastseg.segmentation.scan import prepared
from fastseg.training.cases import Case, in_memory
from fastseg.training.datasets import Target
from fastseg.training.lesions import with_lesions
from fastseg.training.loop import Progress, fit
from fastseg.training.recipe import Recipe
from fastseg.training.slices import Slices
from fastseg.training.transforms import Augmentation
from tests.support import data_file

SIZE = (112, 128)
ENOUGH = 0.8


def case(name: str, scan: NDArray[np.float32], seed: int) -> Case:
    rng = np.random.default_rng(seed)
    image, mask = with_lesions(np.ascontiguousarray(scan), rng, 8, radius=(4, 9), contrast=(3.0, 4.5))
    return in_memory(name, prepared(image[None]).image.numpy(), mask.astype(np.uint8))


class EnoughError(Exception):
    """Ends the run."""


def stop(progress: Progress) -> None:
    if progress.done is not None and progress.done.dice > ENOUGH:
        raise EnoughError


def test_lesions_of_another_scan_are_found(tmp_path: Path) -> None:
    person = np.load(data_file("mri/voxelmorph/test_scan.npz"))["vol"].astype(np.float32)
    person = person.transpose(0, 2, 1)[::2, ::-2, ::-2]  # to the right, to the front and up
    template = nib.load(data_file("mri/mni_icbm152_nilearn/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"))
    template = template.get_fdata(dtype=np.float32)[::2, ::2, ::2]
    target = Target("sigmoid", ("lesion",))
    train = Slices([case(f"person-{copy}", person, copy) for copy in range(3)], target, SIZE, Augmentation(SIZE))
    validation = Slices([case("template", template, 100)], target, SIZE)
    arguments = {"in_channels": 1, "widths": (8, 16, 32, 64), "momentum": 0.1}
    recipe = Recipe("resunet", arguments, "dice_cross_entropy", learning_rate=0.02, schedule="cosine", epochs=5)
    torch.set_num_threads(1)  # so small a network waits for its threads more than it works
    try:
        with pytest.raises(EnoughError):
            fit(recipe, train, validation, folder=tmp_path, on_progress=stop)
    finally:
        torch.set_num_threads(2)
