"""What all pictures of the package share: colours, panels without a frame, and a file that appears whole.

Figures are drawn without pyplot, which would keep a state for the whole process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError('Pictures need matplotlib: pip install "fastseg-kernels[segmentation]"') from error

from fastseg.io.files import FileError, check_ending, saving

BACKGROUND, TEXT, MUTED = "#0f1317", "#e8eaed", "#8b949e"
GREY, ACCENT = "#6b7683", "#2ec4b6"


@contextmanager
def picture(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches; the PNG appears whole when the block ends, and not at all when it fails.

    Raises:
        FileError: another ending than ``.png``, or a folder that cannot be written to.
    """
    check_ending(path, FileError, ".png")
    with matplotlib.rc_context({"text.color": TEXT, "font.family": "sans-serif", "font.size": 11}):
        figure = Figure(figsize=(width, height), facecolor=BACKGROUND)
        yield figure
        with saving(path, FileError) as temporary:
            figure.savefig(temporary, dpi=120, facecolor=BACKGROUND)


def without_frame(panel: Axes) -> None:
    """No ticks and no lines around it."""
    panel.set_xticks([])
    panel.set_yticks([])
    for spine in panel.spines.values():
        spine.set_visible(False)
