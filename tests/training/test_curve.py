"""The picture of a run: as many points as epochs, and a file that is a picture."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")
image = pytest.importorskip("PIL.Image")

from fastseg.training.curve import draw_curve, save_curve  # noqa: E402
from fastseg.training.errors import TrainingError  # noqa: E402
from fastseg.training.history import Epoch, History  # noqa: E402


def history(epochs: int) -> History:
    made = [Epoch(n, 1 / n, 2 / n, 0.1 * n, (0.1 * n, math.nan), 1e-3, 1.5) for n in range(1, epochs + 1)]
    return History(("WT", "TC"), made)


def test_every_epoch_is_a_point_of_every_line() -> None:
    losses, dice = draw_curve(history(5), "unet").axes
    lines = {line.get_label(): line for line in (*losses.lines, *dice.lines)}
    assert set(lines) == {"training", "validation", "WT", "TC", "mean", "best 0.500"}
    np.testing.assert_allclose(lines["training"].get_xydata(), [(n, 1 / n) for n in range(1, 6)])
    np.testing.assert_allclose(lines["validation"].get_ydata(), [2 / n for n in range(1, 6)])
    np.testing.assert_allclose(lines["mean"].get_ydata(), [0.1 * n for n in range(1, 6)])
    assert lines["best 0.500"].get_xydata().tolist() == [[5, 0.5]]


@pytest.mark.parametrize("epochs", [0, 1, 4])
def test_the_file_is_a_picture(tmp_path: Path, epochs: int) -> None:
    save_curve(history(epochs), tmp_path / "curve.png")
    with image.open(tmp_path / "curve.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert picture.format == "PNG" and pixels.shape[1] > pixels.shape[0] > 300 and pixels.std() > 5


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"curve\.png: cannot be written"):
        save_curve(history(1), tmp_path / "none" / "curve.png")
    with pytest.raises(TrainingError, match=r"a\.csv: cannot be written"):
        history(1).save(tmp_path / "none" / "a.csv")


def test_a_history_out_of_plain_values_is_the_same() -> None:
    made = History(("WT",), [Epoch(1, 0.5, 0.25, 0.75, (0.75,), 1e-3, 2.0)])
    assert History.from_dict(made.as_dict()) == made
    assert History(("WT",)).best is None
