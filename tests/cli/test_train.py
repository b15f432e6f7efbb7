"""``fastseg train``: from folders to weights that load, resumed, and one sentence for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("nibabel")
pytest.importorskip("PIL")
pytest.importorskip("lightning_fabric")
pytest.importorskip("monai")
pytest.importorskip("safetensors")
pytest.importorskip("scipy")
pytest.importorskip("matplotlib")

import nibabel as nib

from fastseg.cli import errors
from fastseg.cli.main import main
from fastseg.models.weights import load_network
from tests.training.squares import write_pictures

SMALL = ["--network", "resunet", "--set", "widths=4,8", "--workers", "0", "--device", "cpu", "-o", "out"]
FILES = ["best.safetensors", "curve.png", "history.csv", "last.ckpt", "prepared", "train.json"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with pictures of five patients."""
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "data", patients=5)
    return tmp_path


def train(*options: str, data: tuple[str, ...] = ("--data", "data")) -> int:
    return main(["train", *SMALL, *data, *options])


def scan(path: Path) -> Path:
    axes = np.meshgrid(*[np.linspace(-1, 1, 40)] * 3, indexing="ij")
    inside = sum(axis**2 for axis in axes) < 0.9
    values = np.random.default_rng(0).integers(90, 140, inside.shape) * inside
    nib.save(nib.Nifti1Image(values.astype(np.int16), np.diag([-1.0, -1, 1, 1])), path)
    return path


def test_pictures_to_weights_and_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--epochs", "2", "--batch-size", "4", "--loss", "cross_entropy", "--lr", "0.01") == 0
    assert sorted(path.name for path in Path("out").iterdir()) == FILES
    told = capsys.readouterr().out.splitlines()
    for words in ("resunet (in_channels=1, out_channels=1, widths=(4, 8))", "4 for training, 1 for validation, 0 for"):
        assert any(words in line for line in told), words
    rows = [line.split() for line in told if line.split()[:1] in (["1"], ["2"])]
    assert [len(row) for row in rows] == [6, 6]
    assert any(line.startswith("best Dice") for line in told)
    facts = json.loads(Path("out/train.json").read_text())
    assert facts["layout"] == "images" and facts["recipe"]["learning_rate"] == 0.01 and facts["size"] == [16, 16]
    assert len(facts["split"]["train"]) == 4 and set(facts["split"]["validation"]).isdisjoint(facts["split"]["train"])
    network, said = load_network("out/best.safetensors")
    assert network.in_channels == 1 and said["regions"] == ["lesion"] and "z-score" in said["normalisation"]
    assert said["dice"]["lesion"] == pytest.approx(max(float(row[3]) for row in rows), abs=1e-4)

    assert train("--epochs", "2", "--batch-size", "4", "--loss", "cross_entropy", "--lr", "0.01") == 2
    assert "holds last.ckpt of another run" in capsys.readouterr().err
    assert train("--epochs", "3", "--batch-size", "4", "--loss", "cross_entropy", "--lr", "0.01", "--resume") == 0
    assert [line.split()[0] for line in Path("out/history.csv").read_text().replace(",", " ").splitlines()] == [
        "epoch", "1", "2", "3",
    ]  # fmt: skip
    capsys.readouterr()
    assert train("--epochs", "3", "--batch-size", "4", "--lr", "0.5", "--resume") == 2
    assert "out/last.ckpt: cannot be resumed: loss is None, but 'cross_entropy'" in capsys.readouterr().err
    facts = Path("out/train.json").read_bytes()
    others = ["--epochs", "3", "--batch-size", "4", "--loss", "cross_entropy", "--lr", "0.01", "--limit-cases", "4"]
    assert train(*others, "--resume") == 2
    assert "out/train.json: cannot be resumed: the split of the data is another now" in capsys.readouterr().err
    assert Path("out/train.json").read_bytes() == facts
    for broken in (b"{", b"[]", b'{"size": [16, 16], "split": {"train": []}}'):
        Path("out/train.json").write_bytes(broken)
        assert train(*others, "--resume") == 2
        assert "out/train.json: cannot be resumed: it does not say the size and split" in capsys.readouterr().err
    Path("out/train.json").unlink()
    assert train(*others, "--resume") == 2
    assert "out/train.json: there is no such file" in capsys.readouterr().err


def test_synthetic_lesions_and_slices(capsys: pytest.CaptureFixture[str]) -> None:
    scan(Path("scan.nii.gz"))
    limits = ["--copies", "3", "--limit-train", "8", "--limit-validation", "40", "--epochs", "1", "--batch-size", "4"]
    assert train(*limits, data=("--synthetic", "scan.nii.gz")) == 0
    assert "2 for training, 1 for validation" in capsys.readouterr().out
    facts = json.loads(Path("out/train.json").read_text())
    assert facts["size"] == [40, 40] and facts["layout"] == "synthetic"


def test_two_scans_are_not_mixed() -> None:
    options = ["--copies", "2", "--limit-train", "4", "--limit-validation", "40", "--epochs", "1", "--batch-size", "4"]
    scans = [str(scan(Path("a.nii.gz"))), str(scan(Path("b.nii.gz")))]
    assert train(*options, "--image-size", "48", data=("--synthetic", *scans)) == 0
    facts = json.loads(Path("out/train.json").read_text())
    assert sorted([*facts["split"]["train"], *facts["split"]["validation"]]) == ["a", "b"]
    assert facts["size"] == [48, 48]


def test_volumes_for_a_3d_network() -> None:
    scan(Path("scan.nii.gz"))
    options = ["--network", "da_unet_3d", "--set", "widths=4,8", "--workers", "0", "--device", "cpu", "-o", "out"]
    options += ["--copies", "2", "--patch-size", "32", "--patches", "2", "--epochs", "1", "--no-augment"]
    assert main(["train", *options, "--synthetic", "scan.nii.gz"]) == 0
    network, said = load_network("out/best.safetensors")
    assert network.spatial_dims == 3 and network.in_channels == 1 and list(said["dice"]) == ["lesion"]


def test_slices_of_brats_for_classes_and_regions() -> None:
    rng = np.random.default_rng(0)
    for case in ("BraTS_1", "BraTS_2", "BraTS_3"):
        labels = np.zeros((16, 20, 4), np.uint8)
        labels[4:12, 5:15], labels[5:10, 6:12], labels[6:9, 7:10] = 2, 4, 1
        Path("brats", case).mkdir(parents=True)
        for ending in ("t1", "t1ce", "t2", "flair"):
            values = rng.integers(50, 60, labels.shape) + 20 * labels
            nib.save(nib.Nifti1Image(values.astype(np.int16), np.eye(4)), f"brats/{case}/{case}_{ending}.nii.gz")
        nib.save(nib.Nifti1Image(labels, np.eye(4)), f"brats/{case}/{case}_seg.nii.gz")
    options = ["--set", "widths=4,8", "--workers", "0", "--device", "cpu", "--epochs", "1", "--batch-size", "4"]
    for network, kind, names in (
        ("dense_unet_2d", "classes", ["necrotic core", "oedema", "enhancing rim"]),
        ("resunet", "regions", ["WT", "TC", "ET"]),
    ):
        command = ["train", "--network", network, *options, "--data", "brats", "-o", network, "--cache", "cache"]
        assert main(command) == 0
        trained, said = load_network(f"{network}/best.safetensors")
        assert (trained.in_channels, trained.out_channels) == (4, len(names) + (kind == "classes"))
        assert said[kind] == names == list(said["dice"])
        assert json.loads(Path(network, "train.json").read_text())["size"] == [16, 20]
    assert len(list(Path("cache").iterdir())) == 3  # both read the same


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image-size", "18x17"], "--image-size 18x17: expected multiples of 2 for resunet"),
        (["--image-size", "16x16x16"], "--image-size has 3 sizes, expected one or 2"),
        (["--patch-size", "32"], "--patch-size is not for resunet, a 2D network: give --image-size"),
        (["--copies", "3"], "--copies is for --synthetic"),
        (["--network", "da_unet_3d"], "holds pictures, expected volumes for da_unet_3d, a 3D network"),
        (["--fold", "1"], "--fold 1 needs --folds, too"),
        (["--folds", "3", "--fold", "3"], "expected 2 folds or more, and a fold below"),
        (["--set", "in_channels=4"], "--set in_channels=4: expected 1, the channels of case0"),
        (["--set", "depth=3"], "resunet has no argument 'depth', expected one of in_channels"),
        (["--loss", "hinge"], "'focal_tversky'"),
        (["--limit-cases", "1"], "1 patient, expected at least 2"),
        (["--batch-size", "100"], "16 images to train on, expected at least 100: a batch of 100"),
        (["--resume"], "out: holds no last.ckpt, so there is no run to resume"),
    ],
)
def test_what_cannot_be(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(*options) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("fastseg train: ") and message in said
    assert not Path("out/last.ckpt").exists()


def test_folders_that_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert train(data=("--data", "none")) == 2
    assert "none: there is no such folder" in capsys.readouterr().err
    assert train(data=("--synthetic", "none.nii.gz")) == 2
    assert "none.nii.gz: there is no such file" in capsys.readouterr().err
    Path("out").write_text("")
    assert train() == 2
    assert "out: File exists, expected a folder" in capsys.readouterr().err


def test_an_interrupted_run_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fastseg.training.loop._Run._step", interrupt)
    assert train("--epochs", "1", "--batch-size", "4") == 130
    assert "--resume goes on from out/last.ckpt" in capsys.readouterr().err
    assert torch.load("out/last.ckpt", weights_only=True)["history"]["epochs"] == []
    monkeypatch.setattr("fastseg.cli.train_data.load", interrupt)
    assert train("-o", "other") == 130
    assert "--resume" not in capsys.readouterr().err


def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(errors, "installed", lambda module: module != "lightning_fabric")
    assert train() == 2
    assert 'lightning_fabric is not installed: pip install "fastseg-kernels[training]"' in capsys.readouterr().err
