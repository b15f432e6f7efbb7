"""``fastseg evaluate``: scores of a result against a known truth."""

from __future__ import annotations

import argparse

from fastseg.cli.errors import require, sentences

#: What is evaluated -> the extra that it needs, and the modules of it.
_NEEDS = {"stereo": ("stereo", "PIL"), "segmentation": ("segmentation", "nibabel", "monai", "scipy")}


def run(options: argparse.Namespace) -> int:
    require(*_NEEDS[options.kind])
    with sentences("nothing here runs on it"):
        if options.kind == "stereo":
            from fastseg.cli import evaluate_stereo

            evaluate_stereo.run(options)
        else:
            from fastseg.cli import evaluate_segmentation

            evaluate_segmentation.run(options)
    return 0
