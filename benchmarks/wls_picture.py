"""docs/images/wls.png: time a pixel of the WLS solver over the size of the image, lambda and alpha."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any


def draw(rows: list[Any], subtitle: str, path: Path) -> bool:
    """From rows of report.py; whether there were any of this family."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sizes, parameters = [], {}
    for row in rows:
        if row.family != "wls" or row.huge_pages:
            continue
        pixels = int.__mul__(*(int(n) for n in row.shape.split(" ")[0].split("x")))
        nanoseconds = 1e6 * row.median / pixels
        setting = re.fullmatch(r"lambda ([\d.]+), alpha ([\d.]+)", row.case)
        if row.case == "growing image":
            sizes.append((pixels / 1e6, nanoseconds))
        elif setting:
            parameters.setdefault(float(setting[2]), []).append((float(setting[1]), nanoseconds))
    if not sizes or not parameters:
        return False
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    left.plot(*zip(*sorted(sizes), strict=True), marker="o", color="#1b7f5c")
    left.set(xscale="log", xlabel="megapixels (lambda 1, alpha 1.2)", ylabel="nanoseconds a pixel", ylim=(0, None))
    for alpha, points in sorted(parameters.items()):
        right.plot(*zip(*sorted(points), strict=True), marker="o", label=f"alpha {alpha:g}")
    right.set(xscale="log", xlabel="lambda (1 megapixel)", ylabel="nanoseconds a pixel", ylim=(0, None))
    right.legend(frameon=False)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(subtitle, fontsize=9)
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=110)
    temporary.replace(path)
    plt.close(figure)
    return True
