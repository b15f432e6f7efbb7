"""The options of each command. Imports nothing that a command needs, so that --help is quick and always works."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from fastseg.cli.options import bench, demo, evaluate, info, mesh, segment, stereo, train

#: Name of the command -> its summary and the function that adds its options.
COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "info": ("Versions, CPU features, GPU, and which kernels are available or why not.", info.add_options),
    "demo": ("Segment a phantom, stock and accelerated, and reconstruct a rendered stereo pair.", demo.add_options),
    "segment": ("Label tumours in MRI volumes and slices with a trained network.", segment.add_options),
    "stereo": ("Disparity, depth, point cloud and mesh of a rectified stereo pair.", stereo.add_options),
    "mesh": ("The surface of a segmented region as PLY, OBJ or STL, with its volume and area.", mesh.add_options),
    "bench": ("Run the repository's benchmarks and print the report.", bench.add_options),
    "train": ("Train a network of the papers on pictures, slices or volumes.", train.add_options),
    "evaluate": ("Score a result against a known truth.", evaluate.add_options),
}
