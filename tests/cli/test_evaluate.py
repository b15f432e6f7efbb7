"""``fastseg evaluate stereo``: files in, table or JSON out, and one sentence for what cannot be scored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fastseg.cli import errors
from fastseg.cli.main import main
from fastseg.stereo import evaluate_disparity, middlebury_masks, rendered_pair
from tests.support import data_file

image = pytest.importorskip("PIL.Image")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """The truth of a rendered pair, a worse copy of it with holes, and masks; returns what was written."""
    monkeypatch.chdir(tmp_path)
    pair = rendered_pair(40, 60, samples=1)
    rng = np.random.default_rng(0)
    ours = pair.disparity + rng.normal(0, 1, pair.disparity.shape).astype(np.float32)
    ours[rng.random(ours.shape) < 0.1] = np.nan
    valid = rng.random(ours.shape) < 0.7
    truth = np.where(rng.random(ours.shape) < 0.2, np.inf, pair.disparity).astype(np.float32)
    disc = rng.choice(np.array([0, 128, 255], np.uint8), ours.shape)
    np.save("ours.npy", ours)
    np.savez("truth.npz", truth)
    nonocc = np.where(pair.occluded, 0, 255).astype(np.uint8)
    for name, pixels in (("nonocc", nonocc), ("disc", disc), ("valid", valid * np.uint8(255))):
        image.fromarray(pixels).save(f"{name}.png")
    return {"ours": ours, "truth": truth, "nonocc": nonocc, "disc": disc, "valid": valid}


def test_table(files: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "stereo", "ours.npy", "truth.npz"]) == 0
    assert capsys.readouterr().out == f"{evaluate_disparity(files['ours'], files['truth'])}\n"


@pytest.mark.parametrize("only_valid", [False, True])
def test_masks_and_json(files: dict[str, np.ndarray], only_valid: bool, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--disc", "disc.png", "--nonocc", "nonocc.png", "--valid", "valid.png", "--json"]
    options += ["--only-valid"] if only_valid else []
    assert main(["evaluate", "stereo", "ours.npy", "truth.npz", *options]) == 0
    read = json.loads(capsys.readouterr().out)
    masks = middlebury_masks(nonocc=files["nonocc"], disc=files["disc"])
    scores = evaluate_disparity(
        files["ours"], files["truth"], masks=masks, valid=files["valid"], only_valid=only_valid
    ).as_dict()
    assert read == {"disparity": "ours.npy", "truth": "truth.npz", **scores}
    assert list(read["regions"]) == ["nonocc", "disc"] and read["regions"]["disc"]["invalid"] > 0.3


def test_scales(files: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    """Maps stored as integers: a PNG of 16 bits with 0 for what is not known, and four bits below the point."""
    stored = np.where(np.isfinite(files["truth"]), np.rint(files["truth"] * 256), 0).astype(np.uint16)
    image.fromarray(stored).save("truth.png")
    np.save("sixteenths.npy", np.rint(16 * np.nan_to_num(files["ours"], nan=3)).astype(np.int16))
    options = ["--scale", "16", "--truth-scale", "256", "--json"]
    assert main(["evaluate", "stereo", "sixteenths.npy", "truth.png", *options]) == 0
    known = json.loads(capsys.readouterr().out)["regions"]["known"]
    ours = np.rint(16 * np.nan_to_num(files["ours"], nan=3)) / 16
    expected = evaluate_disparity(ours, stored / 256, unknown=0)["known"]
    assert known["pixels"] == expected.pixels < stored.size
    assert (known["average"], known["bad"]["1"]) == (expected.average, expected.bad[1])


def test_files_of_middlebury(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The truth against itself, in every region, with masks that have palettes."""
    folder = data_file("stereo/middv2/cones")
    truth = str(folder / "groundtruth.png")
    masks = [word for region in ("nonocc", "all", "disc") for word in (f"--{region}", str(folder / f"{region}.png"))]
    assert main(["evaluate", "stereo", truth, truth, "--scale", "4", "--truth-scale", "4", *masks, "--json"]) == 0
    regions = json.loads(capsys.readouterr().out)["regions"]
    for name, scores in regions.items():
        white = np.array(image.open(folder / f"{name}.png").convert("L")) == 255
        assert scores["pixels"] == np.count_nonzero(white & (np.array(image.open(truth)) > 0)) > 0
    assert list(regions) == ["nonocc", "all", "disc"]
    assert all(scores["average"] == scores["invalid"] == 0 for scores in regions.values())


REFUSED = {
    "no file": (["nowhere.npy", "truth.npz"], "nowhere.npy: there is no such file"),
    "no scale": (["nonocc.png", "truth.npz"], "give it with --scale"),
    "no scale of the truth": (["ours.npy", "nonocc.png"], "give it with --truth-scale"),
    "another size": (["small.npy", "truth.npz"], "truth.npz: 40 x 60, expected the size of small.npy, 3 x 4"),
    "mask of another size": (["ours.npy", "truth.npz", "--all", "tiny.png"], "tiny.png: 2 x 2, expected the size of"),
    "a mask in colours": (["ours.npy", "truth.npz", "--valid", "colours.png"], "40 x 60, in colours, expected"),
    "indices for greys": (
        ["ours.npy", "truth.npz", "--disc", "indices.png"],
        "indices.png: middlebury_masks: disc has",
    ),
    "nothing known": (["ours.npy", "unknown.npy"], "unknown.npy: no pixel is known"),
    "no map": (["ours.npy", "text.npy"], "text.npy:"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(files: dict[str, np.ndarray], case: str, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("small.npy", np.ones((3, 4)))
    np.save("unknown.npy", np.full((40, 60), np.nan))
    Path("text.npy").write_text("no map at all")
    image.fromarray(np.zeros((2, 2), np.uint8)).save("tiny.png")
    image.fromarray(np.arange(40 * 60 * 3).astype(np.uint8).reshape(40, 60, 3)).save("colours.png")
    image.fromarray(files["disc"] // 127).save("indices.png")
    arguments, message = REFUSED[case]
    assert main(["evaluate", "stereo", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fastseg evaluate: ") and message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate"], "required"),
        (["evaluate", "stereo", "a.npy"], "required: TRUTH"),
        (["evaluate", "stereo", "a.npy", "b.npy", "--scale", "0"], "'0' is not a finite number above zero"),
        (["evaluate", "stereo", "a.npy", "b.npy", "--scale", "four"], "'four' is not a finite number above zero"),
    ],
)
def test_the_parser_refuses(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_code:
        main(arguments)
    assert exit_code.value.code == 2
    assert message in capsys.readouterr().err


def test_without_pillow(
    files: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(errors, "installed", lambda module: module != "PIL")
    assert main(["evaluate", "stereo", "ours.npy", "truth.npz"]) == 2
    assert 'PIL is not installed: pip install "fastseg-kernels[stereo]"' in capsys.readouterr().err
