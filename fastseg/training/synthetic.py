"""Scans with synthetic lesions as patients: data for a first run where no patients are at hand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fastseg.io import Volume, load_nifti, to_ras
from fastseg.segmentation.scan import prepared
from fastseg.training.cases import Case, Source, in_memory
from fastseg.training.errors import TrainingError
from fastseg.training.lesions import with_lesions

#: Half axes in voxels, and how many there are in a copy of a scan: from, to, with both ends.
RADIUS = (5.0, 16.0)
COUNT = (3, 6)


def synthetic_sources(scans: Sequence[Path], *, copies: int = 8, seed: int = 0) -> list[Source]:
    """``copies`` patients of each scan, which differ in their lesions.

    Args:
        scans: NIfTI files, zero outside the brain.
        copies: of each.
        seed: of the lesions.
    """
    sources = []
    for scan in scans:
        if not scan.is_file():
            raise TrainingError(f"{scan}: there is no such file")
        stem = scan.name.removesuffix(".gz").removesuffix(".nii")
        for copy in range(copies):
            name = f"{stem}-{copy + 1:03d}"
            sources.append(Source(name, (scan,), partial(_case, name, scan, seed, copy), f"{seed} {copy}", group=stem))
    return sources


def _case(name: str, scan: Path, seed: int, copy: int) -> Case:
    volume = load_nifti(scan)
    rng = np.random.default_rng([seed, copy, *scan.name.encode()])
    try:
        count = int(rng.integers(*COUNT, endpoint=True))
        data, mask = with_lesions(volume.data, rng, count, radius=RADIUS)
    except ValueError as error:
        raise TrainingError(f"{scan}: {error}") from error
    image = prepared(Volume(data, volume.affine, volume.header)).image.numpy()
    return in_memory(name, image, to_ras(mask, volume.affine).astype(np.uint8))
