"""``fastseg evaluate segmentation``: files or folders in; tables, JSON and CSV out; sentences otherwise."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

nib = pytest.importorskip("nibabel")
pytest.importorskip("monai")

from fastseg.cli import errors  # noqa: E402
from fastseg.cli.main import main  # noqa: E402
from fastseg.io import save_image  # noqa: E402
from fastseg.segmentation.labels import REGIONS  # noqa: E402
from fastseg.training.evaluation import evaluate_segmentation  # noqa: E402
from fastseg.training.metrics import diagonal, roc_curve  # noqa: E402
from fastseg.training.summary import paired_test, summarize  # noqa: E402

SPACING = (1.0, 2.0, 1.5)
AFFINE = np.diag([-1.0, 2.0, 1.5, 1.0])
SHAPE = (9, 8, 7)


def write(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)
    return data


def labels(seed: int, values: tuple[int, ...] = (0, 1, 2, 4)) -> np.ndarray:
    """Blocks of labels, of which some voxels are drawn anew."""
    rng = np.random.default_rng(seed)
    blocks = np.array(values, np.uint8)[np.indices(SHAPE).sum(0) // 5 % len(values)]
    return np.where(rng.random(SHAPE) < 0.1 * (seed + 1), rng.choice(values, SHAPE), blocks).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> int:
    return main(["evaluate", "segmentation", *words])


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert run(*words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_table_of_two_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pred, truth = write(folder / "pred.nii.gz", labels(1)), write(folder / "truth.nii", labels(0))
    assert run("pred.nii.gz", "truth.nii") == 0
    expected = evaluate_segmentation(pred, truth, regions=REGIONS, spacing=SPACING)
    assert capsys.readouterr().out == f"{expected}\n"


def test_the_rim_is_3_or_4(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pred, truth = labels(1), write(folder / "truth.nii", labels(0))
    write(folder / "pred.nii", np.where(pred == 4, 3, pred).astype(np.uint8))
    expected = evaluate_segmentation(pred, truth, regions=REGIONS, spacing=SPACING)
    assert printed(capsys, "pred.nii", "truth.nii")["cases"]["truth.nii"] == expected.as_dict()


@pytest.mark.parametrize(
    ("values", "options", "regions"),
    [
        ((0, 1), [], {"1": (1,)}),
        ((0, 1, 2, 7), [], {"1": (1,), "2": (2,), "7": (7,)}),
        ((0, 1, 2, 4), ["--labels", "2", "4"], {"2": (2,), "4": (4,)}),
        ((0, 1), ["--regions", "brats"], REGIONS),
    ],
)
def test_what_is_scored(
    folder: Path,
    values: tuple[int, ...],
    options: list[str],
    regions: dict[str, tuple[int, ...]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    pred, truth = write(folder / "pred.nii", labels(1, values)), write(folder / "truth.nii", labels(0, values))
    read = printed(capsys, "pred.nii", "truth.nii", *options)
    assert read["regions"] == {name: list(members) for name, members in regions.items()}
    for name, members in regions.items():
        expected = evaluate_segmentation(np.isin(pred, members), np.isin(truth, members), labels=[1], spacing=SPACING)
        assert read["cases"]["truth.nii"][name] == expected.as_dict()["1"]


@pytest.fixture
def cases(folder: Path) -> dict[str, list[np.ndarray]]:
    """Three cases: the truth in folders as BraTS has them, predictions of two models as files of one folder."""
    names = ("case_001", "case_002", "case_003")
    made = {}
    for index, name in enumerate(names):
        truth = write(folder / "truth" / name / f"{name}_seg.nii.gz", labels(index))
        write(folder / "truth" / name / f"{name}_t1.nii.gz", truth.astype(np.float32))
        ours = write(folder / "ours" / f"{name}.nii.gz", labels(index + 3))
        theirs = write(folder / "theirs" / f"{name}_labels.nii", labels(index + 6))
        made[name] = [truth, ours, theirs]
    write(folder / "ours" / "unlabelled.nii.gz", labels(1))
    (folder / "ours" / ".hidden.nii.gz").write_bytes(b"")
    return made


def test_folders(cases: dict[str, list[np.ndarray]], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = {
        name: evaluate_segmentation(ours, truth, regions=REGIONS, spacing=SPACING)
        for name, (truth, ours, _) in cases.items()
    }
    assert run("ours", "truth", "--csv", "scores.csv") == 0
    assert capsys.readouterr().out == f"3 cases\n{summarize(expected)}\n"
    with open("scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["region"]) for row in rows] == [(name, region) for name in cases for region in REGIONS]
    for row in rows:
        region = expected[row["case"]][row["region"]]
        assert (float(row["dice"]), float(row["hausdorff95"])) == (region.dice, region.hausdorff95)
        assert (int(row["voxels"]), int(row["found"])) == (region.voxels, region.found)
    read = printed(capsys, "ours", "truth")
    assert read["cases"] == {name: scores.as_dict() for name, scores in expected.items()}
    assert read["summary"] == summarize(expected).as_dict()


def test_two_models(cases: dict[str, list[np.ndarray]], capsys: pytest.CaptureFixture[str]) -> None:
    read = printed(capsys, "ours", "truth", "--against", "theirs", "--test", "t")["against"]
    of_models: list[dict[str, float]] = [
        {
            name: evaluate_segmentation(arrays[model], arrays[0], regions=REGIONS, spacing=SPACING)["TC"].dice
            for name, arrays in cases.items()
        }
        for model in (1, 2)
    ]
    found = next(row for row in read["comparisons"] if (row["region"], row["score"]) == ("TC", "dice"))
    expected = paired_test(*of_models, test="t")
    assert found == {"region": "TC", "score": "dice", "left_out": 0, "result": vars(expected)}
    assert run("ours", "truth", "--against", "theirs") == 0
    lines = capsys.readouterr().out.splitlines()
    title = lines.index("beside theirs (Wilcoxon)")
    assert lines[title + 1].split() == ["region", "score", "difference", "p", "cases"]
    assert len(lines) == title + 2 + 3 * 7


def test_a_region_that_one_of_both_lacks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without = np.where(labels(0) == 4, 0, labels(0)).astype(np.uint8)
    for name, pred in (("a", without), ("b", labels(0))):
        write(folder / "pred" / f"{name}.nii", pred)
        write(folder / "truth" / f"{name}.nii", labels(0))
    assert run("pred", "truth", "--csv", "scores.csv", "--against", "truth") == 0
    out = capsys.readouterr().out
    assert "HD95 of ET: 1 of 2 cases have none" in out
    assert out.splitlines()[-1].split() == ["ET", "HD95", "-", "-", "-"]
    with open("scores.csv", newline="") as file:
        et = next(row for row in csv.DictReader(file) if (row["case"], row["region"]) == ("a", "ET"))
    assert (et["dice"], et["hausdorff95"]) == ("0.0", "inf")
    read = printed(capsys, "pred", "truth", "--if-one-empty", "diagonal")
    assert read["cases"]["a"]["ET"]["hausdorff95"] == pytest.approx(diagonal(SHAPE, SPACING))


@pytest.mark.parametrize("channels", ["regions", "classes"])
def test_probabilities(folder: Path, channels: str, capsys: pytest.CaptureFixture[str]) -> None:
    pred, truth = write(folder / "pred.nii", labels(1)), write(folder / "truth.nii", labels(0))
    rng = np.random.default_rng(0)
    classes = rng.random((4, *SHAPE)).astype(np.float32)  # of 0, 1, 2 and 4
    regions = np.stack([classes[1] + classes[2] + classes[3], classes[1] + classes[3], classes[3]])
    stored = regions if channels == "regions" else classes
    write(folder / "p.nii", np.moveaxis(stored, 0, -1))
    read = printed(capsys, "pred.nii", "truth.nii", "--probabilities", "p.nii", "--roc", "roc.csv")
    expected = evaluate_segmentation(pred, truth, regions=REGIONS, spacing=SPACING, probabilities=regions)
    for name in REGIONS:
        assert read["cases"]["truth.nii"][name]["auc"] == pytest.approx(expected[name].auc, rel=1e-12)
    with open("roc.csv", newline="") as file:
        points = [row for row in csv.DictReader(file) if row["region"] == "ET"]
    curve = roc_curve(regions[2], truth == 4)
    assert len(points) == len(curve.thresholds) > 400
    assert [float(row["true_positive_rate"]) for row in points] == curve.true_positive_rate.tolist()
    assert math.isinf(float(points[0]["threshold"]))


def test_probabilities_of_folders(cases: dict[str, list[np.ndarray]], folder: Path, capsys) -> None:
    for name, (truth, _, _) in cases.items():
        write(folder / "maps" / f"{name}_probabilities.nii.gz", np.stack([(truth > 0) * 0.75] * 3, -1).astype("f4"))
    read = printed(capsys, "ours", "truth", "--probabilities", "maps")
    assert [case["WT"]["auc"] for case in read["cases"].values()] == [1, 1, 1]


def test_predictions_without_a_truth_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("pred/a.nii", "pred/b.nii", "pred/c.nii", "truth/b.nii"):
        write(folder / name, labels(0))
    assert run("pred", "truth", "--json") == 0
    said = capsys.readouterr()
    assert list(json.loads(said.out)["cases"]) == ["b"]
    assert said.err == "fastseg evaluate: note: pred: 2 of 3 cases are not in truth and not scored: a, c\n"


def patient(folder: Path, masks: np.ndarray, first: int = 1) -> Path:
    """A mask (S, H, W) as the slices of TCGA-LGG and as ``fastseg segment`` writes them."""
    folder.mkdir(parents=True)
    for number, mask in enumerate(masks, first):
        save_image(folder / f"TCGA_{number}_mask.tif", mask)
    return folder


def test_masks_of_slices(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pred, truth = (labels(seed, (0, 1)).astype(bool) for seed in (1, 0))
    patient(folder / "pred" / "A", pred)
    image = np.zeros((*SHAPE[1:], 3), np.uint8)
    save_image(patient(folder / "truth" / "A", truth) / "TCGA_1.tif", image)  # the data set has its slices beside
    expected = evaluate_segmentation(
        *(np.moveaxis(mask, 0, -1).astype(np.uint8) for mask in (pred, truth)), labels=(1,), spacing=(1, 1, 1)
    ).as_dict()
    assert printed(capsys, "pred/A", "truth/A")["cases"]["A"] == expected
    assert printed(capsys, "pred", "truth")["cases"]["A"] == expected
    volume = write(folder / "A.nii.gz", np.moveaxis(pred, 0, -1).astype(np.uint8), np.eye(4))
    assert volume.shape == (8, 7, 9)
    assert printed(capsys, "A.nii.gz", "truth/A")["cases"]["A"] == expected


@pytest.mark.parametrize(
    ("first", "count", "message"),
    [
        (2, 9, "there is no mask of slices 1 and a mask of slices 10"),
        (1, 8, "there is no mask of slices 9"),
        (0, 11, "there is a mask of slices 0, 10"),
    ],
)
def test_masks_of_other_slices(folder: Path, capsys, first: int, count: int, message: str) -> None:
    masks = labels(0, (0, 1)).astype(bool)
    patient(folder / "pred", np.resize(masks, (count, *SHAPE[1:])), first)
    patient(folder / "truth", masks)
    assert run("pred", "truth") == 2
    assert capsys.readouterr().err == f"fastseg evaluate: pred: {message}, expected the slices of truth\n"


def test_masks_are_no_probabilities(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("pred/A", "truth/A"):
        patient(folder / name, labels(0, (0, 1)).astype(bool))
    assert run("pred/A", "truth/A", "--probabilities", "pred/A") == 2
    assert "pred/A: this is not one case as truth/A is" in capsys.readouterr().err
    assert run("pred", "truth", "--probabilities", "pred") == 2
    assert "pred: holds no case" in capsys.readouterr().err


def test_long_curves_are_thinned(folder: Path) -> None:
    write(folder / "pred.nii", np.ones((20, 20, 20), np.uint8))
    write(folder / "truth.nii", (np.indices((20, 20, 20)).sum(0) > 30).astype(np.uint8))
    write(folder / "p.nii", np.random.default_rng(0).random((20, 20, 20)).astype(np.float32))
    assert run("pred.nii", "truth.nii", "--probabilities", "p.nii", "--roc", "roc.csv") == 0
    with open("roc.csv", newline="") as file:
        points = list(csv.DictReader(file))
    assert len(points) == 1000
    ends = [(float(row["false_positive_rate"]), float(row["true_positive_rate"])) for row in (points[0], points[-1])]
    assert ends == [(0, 0), (1, 1)]


REFUSED = {
    "no file": (["nowhere.nii", "truth.nii"], "nowhere.nii: there is no such file"),
    "no truth": (["pred.nii", "nowhere.nii"], "nowhere.nii: there is no such file"),
    "file and folder": (
        ["pred.nii", "many"],
        "pred.nii: this is one case; many is a folder of cases: expected two cases or two folders of cases",
    ),
    "folder and file": (
        ["many", "truth.nii"],
        "many: this is not one case as truth.nii is: expected two cases or two folders of cases",
    ),
    "no folder": (["nowhere", "many"], "nowhere: there is no such folder; many is a folder"),
    "missing cases": (["few", "many"], "few: 2 of 3 cases of many are missing: b, c"),
    "no case": (["nothing", "many"], "nothing: holds no case: expected NAME.nii.gz"),
    "two files": (["many", "doubtful"], "x: one.nii or two.nii? Expected one NIfTI file, or one named *_seg.nii.gz"),
    "twice": (["many", "twice"], "twice: a-seg.nii and a_seg.nii are both of case a, expected one"),
    "size": (["small.nii", "truth.nii"], "small.nii: 2 x 8 x 7 voxels, expected those of truth.nii, 9 x 8 x 7"),
    "place": (["moved.nii", "truth.nii"], "moved.nii: the affine is"),
    "no labels": (["noise.nii", "truth.nii"], "values are no whole numbers"),
    "empty": (["empty.nii", "empty.nii"], "empty.nii: all labels are 0, so say what to score"),
    "not of BraTS": (["seven.nii", "truth.nii", "--regions", "brats"], "seven.nii: labels 0, 7, expected those of"),
    "3 and 4": (["both.nii", "truth.nii"], "both.nii: labels 0, 3, 4, expected those of BraTS"),
    "channels": (
        ["pred.nii", "truth.nii", "--probabilities", "two.nii"],
        "two.nii: 2 channels, expected 3 for WT, TC, ET, or 4 for the labels 0, 1, 2, 4",
    ),
    "labels": (["pred.nii", "truth.nii", "--labels", "1", "7", "99"], "--labels: no file has 7, 99, expected some of"),
    "roc alone": (["pred.nii", "truth.nii", "--roc", "roc.csv"], "--roc needs --probabilities"),
    "one case": (["pred.nii", "truth.nii", "--against", "pred.nii"], "--against needs at least 2 cases"),
    "ending": (["pred.nii", "truth.nii", "--csv", "scores.txt"], "scores.txt: expected a name that ends in .csv"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_scored(folder: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, message = REFUSED[case]
    blank = np.zeros(SHAPE, np.uint8)
    write(folder / "pred.nii", labels(1))
    write(folder / "truth.nii", labels(0))
    write(folder / "small.nii", labels(1)[:2])
    write(folder / "moved.nii", labels(1), AFFINE + np.array([[0, 0, 0, 0.2], [0] * 4, [0] * 4, [0] * 4]))
    write(folder / "noise.nii", np.random.default_rng(0).random(SHAPE))
    write(folder / "empty.nii", blank)
    for name, values in (("seven", (7,)), ("both", (3, 4))):
        data = blank.copy()
        data[0, 0, : len(values)] = values
        write(folder / f"{name}.nii", data)
    write(folder / "two.nii", np.random.default_rng(0).random((*SHAPE, 2)).astype(np.float32))
    for name in ("many/a.nii", "many/b.nii", "many/c.nii", "few/a.nii", "doubtful/x/one.nii", "doubtful/x/two.nii"):
        write(folder / name, labels(0))
    for name in ("twice/a_seg.nii", "twice/a-seg.nii"):
        write(folder / name, labels(0))
    (folder / "nothing").mkdir()
    before = set(folder.rglob("*"))
    assert run(*words) == 2
    said = capsys.readouterr()
    assert said.err.startswith("fastseg evaluate: ") and message in said.err and said.err.count("\n") == 1
    assert said.out == "" and set(folder.rglob("*")) == before


def test_options_that_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("a.nii", "b.nii", "--regions", "brats", "--labels", "1")
    assert "not allowed with" in capsys.readouterr().err


def test_without_monai(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(errors, "installed", lambda module: module != "monai")
    assert run("a.nii", "b.nii") == 2
    assert 'monai is not installed: pip install "fastseg-kernels[segmentation]"' in capsys.readouterr().err
