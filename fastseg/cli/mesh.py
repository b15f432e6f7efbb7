"""``fastseg mesh``: the surface of a segmented region as a file of triangles."""

from __future__ import annotations

import argparse

import numpy as np

from fastseg.cli.errors import CommandError, require, sentences
from fastseg.segmentation.labels import labels_named


def run(options: argparse.Namespace) -> int:
    require("segmentation", "nibabel", "skimage", "trimesh")
    with sentences("nothing here runs on it"):
        _mesh(options)
    return 0


def _mesh(options: argparse.Namespace) -> None:
    from fastseg.io import FileError, load_labels
    from fastseg.io.files import check_ending
    from fastseg.io.ply import MESH_ENDINGS
    from fastseg.segmentation.mesh import label_mesh

    check_ending(options.output, FileError, *MESH_ENDINGS)
    try:
        asked = sorted({label for name in options.labels or () for label in labels_named(name)}) or None
    except ValueError as error:
        raise CommandError(f"argument --label: {error}") from error
    volume = load_labels(options.segmentation)
    try:
        mesh = label_mesh(volume.data, asked, volume.affine, smoothing=options.smooth, step=options.step)
    except ValueError as error:  # labels that are not there, or gone with --step
        raise CommandError(f"{options.segmentation}: {error}") from error
    mesh.save(options.output)
    wanted = volume.data != 0 if asked is None else np.isin(volume.data, asked)
    voxels = np.count_nonzero(wanted) * abs(np.linalg.det(volume.affine[:3, :3]))
    of = "all labels" if asked is None else f"label{'s' * (len(asked) > 1)} {', '.join(map(str, asked))}"
    print(f"{of}: {len(mesh.faces)} triangles, in millimetres to the right, to the front and up")
    print(f"volume   {mesh.volume / 1000:.2f} ml (its voxels: {voxels / 1000:.2f} ml)")
    print(f"surface  {mesh.area / 100:.2f} cm2")
    print(f"written  {options.output}")
