"""The stereo part of the demo: the files of a rendered pair, which the other commands read, and their picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fastseg.cli.main import main
from fastseg.stereo import RectifiedCalibration, evaluate_disparity, rendered_pair

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")
pytest.importorskip("trimesh")
pytest.importorskip("yaml")

from fastseg.cli import demo_stereo
from fastseg.io import load_calibration, load_disparity, load_image


def small_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that it has written."""
    monkeypatch.setattr(demo_stereo, "SIZE", (96, 128))
    assert main(["demo", "--only", "stereo", "--seed", "3", "-o", str(tmp_path / "out")]) == 0
    return tmp_path / "out"


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = small_demo(tmp_path, monkeypatch)
    assert sorted(path.name for path in out.iterdir()) == ["demo-stereo.png", "stereo"]
    assert sorted(path.name for path in (out / "stereo").iterdir()) == [
        "calib.txt", "cloud.ply", "confidence.png", "depth.npy", "depth.pfm", "depth.png", "disparity.pfm",
        "disparity.png", "left.png", "mesh.ply", "nonocc.png", "right.png", "scores.json", "stereo.json", "truth.pfm",
        "valid.png",
    ]  # fmt: skip
    pair = rendered_pair(96, 128, seed=3)
    for name, side in (("left", pair.left), ("right", pair.right)):
        np.testing.assert_array_equal(load_image(out / "stereo" / f"{name}.png"), np.moveaxis(side, 0, -1))
    np.testing.assert_array_equal(load_disparity(out / "stereo" / "truth.pfm"), pair.disparity)
    assert load_image(out / "demo-stereo.png").shape == (1044, 1740, 3)


def test_the_table_is_that_of_the_other_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """fastseg stereo on the files gives the same disparities, and fastseg evaluate the same scores."""
    out = small_demo(tmp_path, monkeypatch)
    said = capsys.readouterr().out
    folder, again = out / "stereo", out / "again"
    pair = rendered_pair(96, 128, seed=3)
    disparity, valid = load_disparity(folder / "disparity.pfm"), load_image(folder / "valid.png") > 0
    masks = {"visible": ~pair.occluded, "all": np.ones_like(pair.occluded)}
    scores = evaluate_disparity(disparity, pair.disparity, masks=masks, valid=valid)
    assert str(scores) in said
    assert json.loads((folder / "scores.json").read_text()) == scores.as_dict()
    assert scores["visible"].bad[2] < 0.05
    files = [str(folder / f"{name}.png") for name in ("left", "right")]
    assert main(["stereo", *files, "--calib", str(folder / "calib.txt"), "-o", str(again)]) == 0
    for name in ("disparity.pfm", "mesh.ply"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    capsys.readouterr()
    maps, mask = [str(again / "disparity.pfm"), str(folder / "truth.pfm")], str(folder / "nonocc.png")
    assert main(["evaluate", "stereo", *maps, "--nonocc", mask, "--valid", str(folder / "valid.png"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["regions"]["nonocc"] == scores.as_dict()["regions"]["visible"]


@pytest.mark.parametrize("doffs", [0.0, 2.5])
def test_calib_txt(tmp_path: Path, doffs: float) -> None:
    """In millimetres, as Middlebury has it."""
    known = rendered_pair(32, 48, samples=1, doffs=doffs).calibration
    (tmp_path / "calib.txt").write_text(demo_stereo.calib_txt(known))
    read = load_calibration(tmp_path / "calib.txt")
    assert read == RectifiedCalibration(
        focal_length=known.focal_length,
        baseline=160,
        doffs=doffs,
        cx=known.cx,
        cy=known.cy,
        width=48,
        height=32,
        max_disparity=known.max_disparity,
    )


def test_an_output_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("")
    assert main(["demo", "--only", "stereo", "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fastseg demo: ") and error.count("\n") == 1
