"""The demo from input to files: on a tiny phantom, on a file in another orientation, on a real scan; its refusals."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fastseg.cli import networks
from fastseg.cli.errors import installed
from fastseg.cli.main import main

nib = pytest.importorskip("nibabel")
pytest.importorskip("matplotlib")
pytest.importorskip("monai")

TINY = ["--only", "segmentation", "--size", "small", "--roi", "16", "--repeats", "1", "--overlap", "0"]
PHANTOM = [*TINY, "--shape", "32", "--train-steps", "0"]
DATA = Path(os.environ.get("FASTSEG_DATA") or Path(__file__).parents[2].parent / "shared" / "data")
MNI = DATA / "mri" / "mni_icbm152_nilearn" / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"

needs_nnunet = pytest.mark.skipif(
    not all(map(installed, networks.libraries("nnunet"))), reason="dynamic_network_architectures is not installed"
)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """One sequence of 20 x 16 x 18 voxels in an orientation that is not RAS."""
    affine = np.array([[0, -2.0, 0, 10], [-1.0, 0, 0, -20], [0, 0, 3.0, 30], [0, 0, 0, 1]])
    image = nib.Nifti1Image(np.random.default_rng(0).integers(1, 200, (20, 16, 18)).astype(np.int16), affine)
    image.set_sform(affine, code=4)
    path = tmp_path / "scan.nii.gz"
    nib.save(image, path)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("network", ["monai", "monai-unet", pytest.param("nnunet", marks=needs_nnunet)])
def test_phantom(tmp_path: Path, capsys: pytest.CaptureFixture[str], network: str) -> None:
    assert main(["demo", "--network", network, "-o", str(tmp_path), *PHANTOM]) == 0
    assert names(tmp_path) == [
        "demo.json", "demo.png", "phantom.nii.gz", "phantom_labels.nii.gz", "prediction.nii.gz",
    ]  # fmt: skip
    out = capsys.readouterr().out
    for words in ("random (seed 0): the labels mean nothing", "stock", "accelerated", "same label", "whole tumour"):
        assert words in out
    facts = json.loads((tmp_path / "demo.json").read_text())
    assert facts["largest_difference"] < 1e-3 and facts["same_label"] > 0.999
    assert facts["window"] == {"roi": [16, 16, 16], "overlap": 0.0, "count": 8}
    assert len(facts["times"]["stock"]["window_seconds"]) == 8
    prediction = nib.load(tmp_path / "prediction.nii.gz")
    assert prediction.shape == (32, 32, 32) and prediction.get_data_dtype() == np.uint8
    assert set(np.unique(prediction.dataobj)) <= {0, 1, 2, 4}
    np.testing.assert_array_equal(prediction.affine, nib.load(tmp_path / "phantom.nii.gz").affine)
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_a_few_steps_of_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*TINY, "--shape", "32", "--train-steps", "3", "--network", "monai", "-o", str(tmp_path)]
    assert main(["demo", *arguments]) == 0
    captured = capsys.readouterr()
    assert "trained for this run: 3 steps on other phantoms" in captured.out
    assert "training on other phantoms: 3 of 3" in captured.err
    assert json.loads((tmp_path / "demo.json").read_text())["same_label"] > 0.999


@pytest.mark.parametrize("options", [[], ["--no-channels-last", "--dtype", "bfloat16"]])
def test_a_file_keeps_its_grid_and_orientation(tmp_path: Path, scan: Path, options: list[str]) -> None:
    out = tmp_path / "out"
    arguments = ["--input", str(scan), "--network", "monai", "--classes", "3", "-o", str(out), *TINY, *options]
    assert main(["demo", *arguments]) == 0
    assert names(out) == ["demo.json", "demo.png", "prediction.nii.gz"]
    before, after = nib.load(scan), nib.load(out / "prediction.nii.gz")
    assert after.shape == before.shape
    np.testing.assert_array_equal(after.affine, before.affine)
    assert after.header["sform_code"] == 4


def test_the_prediction_is_turned_back(tmp_path: Path, scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that labels by brightness must give labels that lie where the bright voxels are in the file."""

    class Threshold(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([torch.zeros_like(x), x], dim=1)

    monkeypatch.setattr(
        networks, "build", lambda *args, **options: networks.StockNetwork(Threshold(), stride=8, features=(1,))
    )
    monkeypatch.setattr("fastseg.cli.demo_run.results.report", lambda model: _Nothing())
    assert main(["demo", "--input", str(scan), "--network", "monai", "-o", str(tmp_path / "out"), *TINY]) == 0
    data = nib.load(scan).get_fdata()
    found = np.asarray(nib.load(tmp_path / "out" / "prediction.nii.gz").dataobj)
    np.testing.assert_array_equal(found == 1, data > data.mean())


class _Nothing:
    swapped: tuple = ()
    left: tuple = ()


def test_weights_from_a_file(tmp_path: Path, scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = networks.build("monai", "small", channels=1, classes=4, seed=5).module
    weights = tmp_path / "weights.pt"
    torch.save({"network_weights": network.state_dict()}, weights)
    arguments = ["--input", str(scan), "--network", "monai", "--weights", str(weights), *TINY]
    assert main(["demo", *arguments, "-o", str(tmp_path / "out")]) == 0
    assert f"from {weights}" in capsys.readouterr().out


@pytest.mark.skipif(not MNI.is_file(), reason=f"the MNI T1 volume is not in {DATA}")
@needs_nnunet
def test_a_crop_of_a_real_scan(tmp_path: Path) -> None:
    image = nib.load(MNI).slicer[70:118, 90:138, 60:108]
    nib.save(image, tmp_path / "crop.nii.gz")
    arguments = ["--input", str(tmp_path / "crop.nii.gz"), "--size", "small", "--roi", "32"]
    assert main(["demo", *arguments, "-o", str(tmp_path / "out")]) == 0
    facts = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert facts["same_label"] > 0.999 and facts["largest_difference"] < 1e-3
    after = nib.load(tmp_path / "out" / "prediction.nii.gz")
    np.testing.assert_array_equal(after.affine, image.affine)
    assert (after.header["qform_code"], after.header["sform_code"]) == (0, 2)


REFUSED = {
    "stereo of a volume": (["--only", "stereo", "--input", __file__], "--only stereo renders its own pair"),
    "no file": (["--input", "nowhere.nii.gz"], "nowhere.nii.gz: there is no such file"),
    "no NIfTI": (["--input", __file__], "not a NIfTI file that can be read"),
    "window and stride": (["--roi", "20", "--size", "small"], "each size must be a multiple of 8"),
    "window too small": (["--roi", "8", "--size", "small"], "leaves one voxel at the lowest resolution"),
    "classes": (["--classes", "3"], "--classes 3: the phantom has 4"),
    "shape": (["--shape", "8"], "at least 16 voxels"),
    "training on a file": (["--input", __file__, "--train-steps", "5"], "needs labels, which only the phantom has"),
    "no weights": (["--weights", "nowhere.pt"], "nowhere.pt: there is no such file"),
    "not weights": (["--weights", __file__], "no file of weights that torch.load takes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    arguments, words = REFUSED[case]
    arguments = ["demo", "--network", "monai", "--shape", "32", *arguments, "-o", str(tmp_path / "out")]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("fastseg demo: ")
    assert error.count("\n") == 1 and "Traceback" not in error


def _drop(state: dict) -> None:
    state.pop(next(iter(state)))


def _add(state: dict) -> None:
    state["head.weight"] = torch.zeros(1)


def _reshape(state: dict) -> None:
    state[next(iter(state))] = torch.zeros(2, 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_drop, "input_block.conv1.conv.weight is missing"),
        (_add, "head.weight is unexpected"),
        (_reshape, "has shape (2, 2), expected"),
    ],
)
def test_weights_that_do_not_fit(
    tmp_path: Path, scan: Path, capsys: pytest.CaptureFixture[str], change: object, words: str
) -> None:
    state = dict(networks.build("monai", "small", channels=1, classes=4, seed=0).module.state_dict())
    change(state)  # type: ignore[operator]
    torch.save(state, tmp_path / "weights.pt")
    arguments = ["--input", str(scan), "--network", "monai", "--weights", str(tmp_path / "weights.pt"), *TINY]
    assert main(["demo", *arguments, "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "the weights do not fit the network: " in error and words in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--network", "vnet"], "invalid choice: 'vnet'"),
        (["--repeats", "0"], "0 is not positive"),
        (["--threads", "-1"], "-1 is not positive"),
        (["--train-steps", "-1"], "-1 is negative"),
        (["--only", "all"], "invalid choice: 'all'"),
        (["--roi", "16x16"], "'16x16' is not one size or three"),
        (["--roi", "big"], "'big' is not a whole number"),
        (["--overlap", "1"], "'1' is not a share"),
        (["--overlap", "nan"], "'nan' is not a share"),
    ],
)
def test_options_that_the_parser_refuses(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    with pytest.raises(SystemExit) as exit_code:
        main(["demo", *arguments])
    error = capsys.readouterr().err
    assert exit_code.value.code == 2
    assert words in error and error.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--device", "cuda"]) == 2
    assert "torch sees no CUDA device" in capsys.readouterr().err


def test_an_output_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("")
    assert main(["demo", "--network", "monai", "-o", str(tmp_path / "out"), *PHANTOM]) == 2
    assert "File exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ([], ["segmentation", "stereo"]),
        (["--only", "segmentation"], ["segmentation"]),
        (["--only", "stereo"], ["stereo"]),
        (["--input", "scan.nii.gz"], ["segmentation"]),
    ],
)
def test_parts(monkeypatch: pytest.MonkeyPatch, options: list[str], parts: list[str]) -> None:
    ran: list[str] = []
    monkeypatch.setattr("fastseg.cli.demo_run.run", lambda options: ran.append("segmentation"))
    monkeypatch.setattr("fastseg.cli.demo_stereo.run", lambda options: ran.append("stereo"))
    assert main(["demo", "--network", "monai", *options]) == 0
    assert ran == parts


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["demo"]) == 2
    error = capsys.readouterr().err
    names = "nibabel, monai, matplotlib, dynamic_network_architectures, PIL, trimesh, yaml"
    assert f"{names} are not installed" in error
    assert 'pip install "fastseg-kernels[demo]"' in error
