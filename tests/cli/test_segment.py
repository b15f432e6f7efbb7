"""``fastseg segment``: cases, volumes, slices and folders of cases to files, all or nothing, and one sentence else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

nib = pytest.importorskip("nibabel")
pytest.importorskip("monai")
pytest.importorskip("PIL")
pytest.importorskip("safetensors")

from fastseg.cli import errors  # noqa: E402
from fastseg.cli.main import main  # noqa: E402
from fastseg.cli.options import segment as options  # noqa: E402
from fastseg.io import Volume, from_ras, load_image, load_labels, load_lgg, load_nifti, save_image, save_nifti  # noqa: E402
from fastseg.models import create  # noqa: E402
from fastseg.models.weights import load_network, save_weights  # noqa: E402
from fastseg.segmentation import Segmenter, cascade_of  # noqa: E402
from fastseg.segmentation.augmentation import KINDS  # noqa: E402

SHAPE = (20, 16, 12)
TURNED = nib.affines.from_matvec([[0, -0.99, 0.1], [-0.99, 0, 0.05], [0.1, 0.1, -0.98]], [10, -20, 30])
NAMES = ("t1", "t1ce", "t2", "flair")
TINY = {"localiser": {"widths": (4, 8)}, "segmenter": {"widths": (4, 8)}, "crop_size": 16}


def brain() -> np.ndarray:
    """(4, X, Y, Z) in RAS order."""
    data = np.random.default_rng(0).normal(50, 10, (4, *SHAPE)).astype(np.float32)
    data[:, :3] = 0
    return data


def volume(channels: int = 4, affine: np.ndarray = TURNED) -> Volume:
    return Volume.from_array(from_ras(brain()[:channels], affine), affine)


def write_case(folder: Path, name: str, affine: np.ndarray = TURNED) -> Path:
    folder.mkdir(parents=True)
    given = volume(4, affine)
    for channel, sequence in zip(given.data, NAMES, strict=True):
        save_nifti(folder / f"{name}_{sequence}.nii.gz", channel, like=given)
    return folder


def write_slices(folder: Path, count: int = 3) -> Path:
    folder.mkdir()
    for index in range(1, count + 1):
        pixels = np.random.default_rng(index).integers(1, 255, (12, 10, 3)).astype(np.uint8)
        save_image(folder / f"patient_{index}.tif", pixels)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of weights of tiny networks, by name."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    for name, arguments in (
        ("dm_da_unet", TINY),
        ("da_unet_3d", {"widths": (4, 8)}),
        ("dense_unet_2d", {"widths": (4, 8)}),
        ("resunet", {"widths": (4, 8)}),
    ):
        save_weights(create(name, **arguments), folder / f"{name}.safetensors")
    torch.save(create("da_unet_3d").state_dict(), folder / "bare.pt")
    return folder


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder: str = ".") -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


def expected(network: Path, case: object, **options: object) -> np.ndarray:
    return Segmenter(load_network(network)[0], **options).segment(case).labels  # type: ignore[arg-type]


def test_a_case_and_all_files(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    write_case(Path("case"), "BraTS_1")
    file = weights / "dm_da_unet.safetensors"
    more = ["--probabilities", "p.nii.gz", "--overlay", "o.png", "--json", "f.json"]
    assert main(["segment", "case", "-o", "out.nii.gz", "--weights", str(file), *more]) == 0
    found = load_labels("out.nii.gz")
    np.testing.assert_array_equal(found.data, expected(file, volume()))
    assert found.data.any()
    before, after = nib.load("case/BraTS_1_t1.nii.gz"), nib.load("out.nii.gz")
    np.testing.assert_array_equal(after.affine, before.affine)
    for field in ("qform_code", "sform_code", "xyzt_units"):
        assert after.header[field] == before.header[field]
    probabilities = load_nifti("p.nii.gz")
    assert probabilities.data.shape == (3, *found.data.shape)
    assert probabilities.data.min() >= 0 and probabilities.data.max() <= 1
    assert load_image("o.png").ndim == 3
    case = json.loads(Path("f.json").read_text())["cases"][0]
    values, counts = np.unique(found.data[found.data > 0], return_counts=True)
    assert {int(label): facts["voxels"] for label, facts in case["labels"].items()} == dict(
        zip(values.tolist(), counts.tolist(), strict=True)
    )
    assert case["channels"] == ["WT", "TC", "ET"] and case["shape"] == list(found.data.shape)
    assert len(case["boxes_ras_voxels"]["cut-out"]) == 3
    *stages, total = case["seconds"].items()
    names = ["reading", "preparation", "stage 1", "cut-out", "stage 2", "post-processing", "writing"]
    assert [name for name, _ in stages] == names
    assert total == ("total", pytest.approx(sum(seconds for _, seconds in stages)))
    captured = capsys.readouterr()
    assert "written to out.nii.gz" in captured.out and "random" not in captured.out + captured.err
    assert captured.err.splitlines()[-1] == "segmenting: 100% (post-processing)"
    assert [name for name in files() if name.startswith(".")] == []


@pytest.mark.parametrize("affine", [np.eye(4), np.diag([-1.0, -1, 1, 1]), TURNED])
def test_the_same_labels_in_space_whatever_the_orientation(weights: Path, affine: np.ndarray) -> None:
    given = volume(4, affine)
    save_nifti("in.nii", given.data, like=given)
    command = ["segment", "in.nii", "-o", "out.nii", "--weights", str(weights / "da_unet_3d.safetensors")]
    assert main(command) == 0
    in_ras = expected(weights / "da_unet_3d.safetensors", brain())
    np.testing.assert_array_equal(load_labels("out.nii").data, from_ras(in_ras, affine))
    np.testing.assert_allclose(load_labels("out.nii").affine, affine)


def test_options_of_prediction_reach_the_network(weights: Path) -> None:
    given = volume()
    save_nifti("in.nii", given.data, like=given)
    file = weights / "da_unet_3d.safetensors"
    words = [
        "--roi",
        "8x12x8",
        "--overlap",
        "0.5",
        "--batch-size",
        "2",
        "--tta",
        "--threshold",
        "0.4",
        "--min-volume",
        "0",
    ]
    command = ["segment", "in.nii", "-o", "out.nii", "--weights", str(file), "--memory-limit", "1M", *words]
    assert main([*command, "--network", "da_unet_3d", "--probabilities", "p.nii"]) == 0
    segmenter = Segmenter(load_network(file)[0], roi=(8, 12, 8), overlap=0.5, augment="flips", threshold=0.4)
    found = segmenter.segment(given)
    np.testing.assert_allclose(load_nifti("p.nii").data, found.probabilities, rtol=1e-4, atol=1e-5)
    assert main([*command, "--no-postprocess"]) == 2  # with --min-volume
    plain = expected(file, given, postprocessing=None)
    assert main(["segment", "in.nii", "-o", "out.nii", "--weights", str(file), "--no-postprocess"]) == 0
    np.testing.assert_array_equal(load_labels("out.nii").data, plain)
    assert main(["segment", "in.nii", "-o", "out.nii", "--weights", str(file), "--dtype", "bfloat16"]) == 0
    assert main(["segment", "in.nii", "-o", "out.nii", "--weights", str(file), "--spacing", "2"]) == 0
    assert load_labels("out.nii").data.shape == given.data.shape[1:]


def test_every_option_reaches_the_segmenter(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def record(network: object, **options: object) -> Segmenter:
        seen.update(options)
        raise ValueError("enough")

    monkeypatch.setattr("fastseg.cli.segment_run.Segmenter", record)
    given = volume()
    save_nifti("in.nii", given.data, like=given)
    words = "--spacing 2 --dtype bfloat16 --memory-limit 2K --batch-size 3 --crop 8x16x24 --locate-threshold 0.3"
    file = str(weights / "dm_da_unet.safetensors")
    assert main(["segment", "in.nii", "-o", "out.nii", "--weights", file, *words.split()]) == 2
    expected = {"spacing": 2.0, "dtype": torch.bfloat16, "memory_limit": 2048, "batch_size": 3, "crop": (8, 16, 24)}
    assert expected.items() <= seen.items() and seen["locate_threshold"] == 0.3


def test_random_weights_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    save_nifti("in.nii", volume().data[..., :6], like=Volume.from_array(volume().data[..., :6], TURNED))
    command = ["segment", "in.nii", "--network", "dense_unet_2d", "--random-weights", "3"]
    state = torch.get_rng_state()
    assert main([*command, "-o", "a.nii"]) == 0
    assert "warning: the weights are random: the labels mean nothing" in capsys.readouterr().err
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert main([*command, "-o", "b.nii"]) == 0
    np.testing.assert_array_equal(load_labels("a.nii").data, load_labels("b.nii").data)


def test_an_empty_first_stage_is_a_warning(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_case(Path("case"), "a")
    command = ["segment", "case", "-o", "out.nii", "--weights", str(weights / "dm_da_unet.safetensors")]
    assert main([*command, "--locate-threshold", "0.9999", "--json", "f.json"]) == 0
    error = capsys.readouterr().err
    assert "fastseg segment: warning: case: stage 1 found no tumour" in error
    case = json.loads(Path("f.json").read_text())["cases"][0]
    assert "stage 1 found no tumour" in case["notes"][0] and list(case["boxes_ras_voxels"]) == ["cut-out"]


def test_the_stages_of_a_cascade_from_two_files(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = volume()
    save_nifti("in.nii", given.data, like=given)
    stages = [str(weights / f"{name}.safetensors") for name in ("dense_unet_2d", "da_unet_3d")]
    command = ["segment", "in.nii", "-o", "out.nii", "--crop", "16", "--weights", *stages]
    assert main(command) == 0
    network = cascade_of(*(load_network(stage)[0] for stage in stages))  # type: ignore[arg-type]
    np.testing.assert_array_equal(load_labels("out.nii").data, Segmenter(network, crop=16).segment(given).labels)
    capsys.readouterr()
    assert main([*command[:-2], *reversed(stages)]) == 2
    assert "of dense_unet_2d, expected dense_unet_2d and da_unet_3d" in capsys.readouterr().err
    assert main([*command, "--network", "unet"]) == 2
    assert "--network unet: two files of --weights are the stages of dm_da_unet" in capsys.readouterr().err
    assert main([*command, stages[0]]) == 2
    assert "--weights: 3 files, expected one" in capsys.readouterr().err


def test_slices_to_masks_or_a_volume(weights: Path) -> None:
    write_slices(Path("patient"))
    file = weights / "resunet.safetensors"
    case = load_lgg("patient")
    middle = float(np.median(Segmenter(load_network(file)[0]).segment(case).probabilities))
    command = ["segment", "patient", "--weights", str(file), "--no-postprocess", "--threshold", str(middle)]
    labels = expected(file, case, postprocessing=None, threshold=middle)
    assert labels.any() and not labels.all()
    assert main([*command, "-o", "masks"]) == 0
    assert files("masks") == [f"patient_{index}_mask.tif" for index in (1, 2, 3)]
    for index in range(3):
        np.testing.assert_array_equal(load_image(f"masks/patient_{index + 1}_mask.tif"), labels[..., index] * 255)
    assert main([*command, "-o", "out.nii.gz", "--probabilities", "p.nii.gz"]) == 0
    np.testing.assert_array_equal(load_labels("out.nii.gz").data, labels)
    assert load_nifti("p.nii.gz").data.shape == (1, 12, 10, 3)


def test_a_folder_of_cases(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that cannot be read does not stop the others, but the exit code tells."""
    for name in ("a", "b", "c"):
        write_case(Path("cases") / name, name)
    command = ["segment", "cases", "-o", "out", "--weights", str(weights / "da_unet_3d.safetensors")]
    assert main(command) == 0
    assert files("out") == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    Path("cases/b/b_t2.nii.gz").unlink()
    Path("out/b.nii.gz").unlink()
    capsys.readouterr()
    assert main([*command, "--json", "f.json"]) == 2
    assert files("out") == ["a.nii.gz", "c.nii.gz"]
    error = capsys.readouterr().err
    assert "there is no file for T2" in error and "1 of 3 cases could not be segmented: cases/b" in error
    facts = json.loads(Path("f.json").read_text())
    assert len(facts["cases"]) == 2 and list(facts["failed"]) == ["cases/b"]


REFUSED = {
    "no file": (["nowhere.nii"], "nowhere.nii: there is no such file"),
    "nothing in the folder": (["empty"], "empty: neither this folder nor those in it hold a case"),
    "both kinds": (["mixed"], "holds volumes of BraTS and"),
    "sequences": (["half"], "half: there is no file for T1ce"),
    "NaN": (["nan.nii"], "values are not finite (NaN or infinite)"),
    "channels": (["three.nii"], "three.nii: case has 3 channels, expected 4, those of da_unet_3d"),
    "ending": (["in.nii", "-o", "out.mha"], "-o out.mha: expected a name that ends in .nii or .nii.gz"),
    "capitals": (["in.nii", "-o", "OUT.NII"], "-o OUT.NII: expected a name that ends in .nii or .nii.gz"),
    "a folder": (["in.nii", "-o", "empty.nii"], "-o empty.nii: this is a folder"),
    "no folder": (["in.nii", "-o", "no/out.nii"], "-o no/out.nii: there is no folder no"),
    "itself": (["in.nii", "-o", "in.nii"], "-o in.nii: this is INPUT, too"),
    "twice": (["in.nii", "--probabilities", "out.nii"], "--probabilities out.nii: this is -o, too"),
    "json": (["in.nii", "--json", "facts.txt"], "--json facts.txt: expected a name that ends in .json"),
    "roi": (["in.nii", "--roi", "7"], "roi is 7, expected 3 multiples of 2"),
    "name": (["in.nii", "--network", "vnet"], "--network vnet: expected one of resunet_ce_aspp, dense_unet_2d"),
    "other network": (["in.nii", "--network", "unet"], "holds weights of da_unet_3d"),
    "no weights": (["in.nii", "--weights", "nowhere.pt"], "nowhere.pt: there is no such file"),
    "bare": (["in.nii", "--weights", "BARE"], "bare.pt does not say which network it is of: give --network"),
    "misfit": (["in.nii", "--weights", "BARE", "--network", "unet"], "the weights do not fit the network"),
    "gate in 3D": (["in.nii", "--gate", "BARE"], "expected tumour_gate"),
    "gate": (["in.nii", "--gate-threshold", "0.5"], "--gate-threshold needs --gate"),
    "overlay of slices": (["patient", "-o", "masks", "--overlay", "o.png"], "--overlay: expected a volume"),
    "many": (
        ["cases", "-o", "out", "--probabilities", "p.nii"],
        "--probabilities: expected one case, but cases holds 2",
    ),
    "itself in many": (["patients", "-o", "patients"], "would be among its own files"),
    "masks among slices": (["patient", "-o", "patient"], "the results of patient would be among its own files"),
    "a sequence": (["whole", "-o", "whole/b_t2.nii.gz"], "b_t2.nii.gz: this is one of the files of whole"),
    "a file for many": (["cases", "-o", "o.nii"], "-o o.nii: expected a folder, cases holds 2 cases"),
    "out of many": (["cases", "-o", "notes"], "notes: File exists, expected a folder"),
    "slices of another network": (["patient", "-o", "masks"], "patient: case has 3 channels, expected 4"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_one_sentence_and_write_nothing(
    case: str, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, message = REFUSED[case]
    given = volume()
    save_nifti("in.nii", given.data, like=given)
    save_nifti("three.nii", given.data[:3], like=given)
    broken = given.data.copy()
    broken[0, 3, 3, 3] = np.nan
    save_nifti("nan.nii", broken, like=given)
    Path("notes").write_text("mine")
    Path("empty").mkdir()
    Path("empty.nii").mkdir()
    write_slices(Path("patient"))
    for name in ("cases/a", "cases/b", "mixed/a", "half"):
        write_case(Path(name), "a")
    Path("half/a_t1ce.nii.gz").unlink()
    write_case(Path("whole"), "b")
    Path("patients").mkdir()
    for name in ("patients/a", "patients/b"):
        write_slices(Path(name))
    save_image("mixed/patient_1.tif", np.ones((4, 4, 3), np.uint8))
    words = [str(weights / "bare.pt") if word == "BARE" else word for word in words]
    if "-o" not in words:
        words += ["-o", "out.nii"]
    if "--weights" not in words:
        words += ["--weights", str(weights / "da_unet_3d.safetensors")]
    before = files()
    assert main(["segment", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fastseg segment: ") and message in error, error
    assert error.count("\n") == 1 and "Traceback" not in error
    assert files() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["in.nii", "-o", "out.nii"], "--weights is missing (--random-weights SEED runs without"),
        (["in.nii", "-o", "out.nii", "--random-weights", "0"], "--random-weights needs --network"),
        (["in.nii", "-o", "o.nii", "--weights", "a.pt", "--no-postprocess", "--min-volume", "1"], "exclude each other"),
    ],
)
def test_options_that_do_not_go_together(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["segment", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "the following arguments are required: -o/--output"),
        (["a", "-o", "b", "--weights", "c", "--random-weights", "0"], "not allowed with argument"),
        (["a", "-o", "b", "--tta", "twist"], "invalid choice: 'twist'"),
        (["a", "-o", "b", "--roi", "1x2x3x4"], "'1x2x3x4' is not one, two or three sizes"),
        (["a", "-o", "b", "--threshold", "1"], "'1' is not a share from 0 to below 1"),
        (["a", "-o", "b", "--min-volume", "-1"], "'-1' is negative"),
    ],
)
def test_the_parser_refuses(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_code:
        main(["segment", *words])
    assert exit_code.value.code == 2
    assert message in capsys.readouterr().err


def test_the_parser_knows_every_augmentation() -> None:
    """It has a list of its own, because --help imports nothing."""
    assert options.AUGMENTATIONS == KINDS


def test_all_or_nothing(weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A disk that is full at the last file leaves what was there before."""

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device", "f.json")

    given = volume()
    save_nifti("in.nii", given.data, like=given)
    Path("out.nii").write_text("of yesterday")
    monkeypatch.setattr("fastseg.cli.segment_results.write_json", full)
    command = ["segment", "in.nii", "-o", "out.nii", "--weights", str(weights / "da_unet_3d.safetensors")]
    assert main([*command, "--probabilities", "p.nii", "--json", "f.json"]) == 2
    assert capsys.readouterr().err.endswith("fastseg segment: f.json: No space left on device\n")
    assert files() == ["in.nii", "out.nii"] and Path("out.nii").read_text() == "of yesterday"


def test_the_number_of_threads(weights: Path) -> None:
    given = volume()
    save_nifti("in.nii", given.data, like=given)
    before = torch.get_num_threads()
    try:
        command = ["segment", "in.nii", "-o", "out.nii", "--weights", str(weights / "da_unet_3d.safetensors")]
        assert main([*command, "--threads", "1", "--json", "f.json"]) == 0
        assert json.loads(Path("f.json").read_text())["threads"] == torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["segment", "a", "-o", "b.nii", "--weights", "c.pt", "--device", "cuda"]) == 2
    assert "torch sees no CUDA device" in capsys.readouterr().err


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(errors, "installed", lambda module: module != "monai")
    assert main(["segment", "a", "-o", "b.nii", "--weights", "c.pt"]) == 2
    error = capsys.readouterr().err
    assert error == 'fastseg segment: monai is not installed: pip install "fastseg-kernels[segmentation]"\n'
