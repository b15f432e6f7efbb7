"""Peak memory and time of the whole cascade on a volume of BraTS's size, with random weights.

``python benchmarks/cascade_memory.py``: a process of its own, so that nothing but libraries and the volume is there
before. Ends with 1 above the limit.
"""

from __future__ import annotations

import argparse
import sys

import torch

from fastseg.cli.info import machine
from fastseg.cli.memory import PeakMemory, meaning
from fastseg.models import create
from fastseg.segmentation import Segmenter
from fastseg.segmentation.phantom import brain_phantom

LIMIT = 6e9


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--augment", choices=("flips", "flips_rotations"))
    parser.add_argument("--slices", type=int, default=155, help="fewer are quicker; the result then is no answer")
    options = parser.parse_args()
    device = torch.device(options.device)
    image = brain_phantom((240, 240, options.slices)).image
    network = create("dm_da_unet").eval().to(device)
    segmenter = Segmenter(
        network,
        augment=options.augment,
        batch_size=options.batch_size,
        dtype=torch.bfloat16 if options.dtype == "bfloat16" else None,
    )
    memory = PeakMemory(device)
    found = segmenter.segment(image)
    peak = memory.read()
    print(f"{machine(device)}; 4 x 240 x 240 x {options.slices}, {options.dtype}")
    for stage, seconds in found.seconds.items():
        print(f"{stage:<18}{seconds:>8.2f} s")
    print(
        f"peak memory {'not measured' if peak is None else f'{peak / 1e9:.2f} GB, {meaning(device)}, without weights'}"
    )
    return int(peak is not None and peak > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
