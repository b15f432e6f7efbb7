"""nnU-Net's own commands with our trainers: what they train, write and predict."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("nnunetv2")
pytest.importorskip("nibabel")

import nibabel
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

import fastseg
from fastseg.integrations.nnunet import accelerate_predictor, accelerated, accelerated_predictors, trainers_folder
from fastseg.integrations.nnunet.__main__ import main
from tests.integrations.conftest import Folder

# One worker makes the data set and trains on it.
pytestmark = pytest.mark.xdist_group("nnunet")

STOCK, FUSED = "nnUNetTrainerBrief", "nnUNetTrainerFastsegBrief"
MakeTrainer = Callable[[type], Any]


@pytest.fixture(scope="module")
def trained(nnunet: Folder) -> Path:
    """The folder of a model after a training and nnU-Net's validation."""
    nnunet.run("nnUNetv2_train", "1", "3d_fullres", "0", "-tr", FUSED, "-device", "cpu")
    return nnunet.results(FUSED)


def stock_predictor(model: Path) -> nnUNetPredictor:
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), use_folds=(0,))
    return predictor


def logits(predictor: nnUNetPredictor, image: Tensor) -> Tensor:
    result: Tensor = predictor.predict_logits_from_preprocessed_data(image)
    return result.float()


def swapped(module: nn.Module) -> int:
    return len(fastseg.report(module).swapped)


def test_a_training_by_nnunets_command(trained: Path) -> None:
    log = next((trained / "fold_0").glob("training_log*.txt")).read_text()
    assert "InstanceNorm3d" in log and "DC_and_CE_loss: FusedDiceCELoss" in log
    scores = json.loads((trained / "fold_0" / "validation" / "summary.json").read_text())
    assert scores["foreground_mean"]["Dice"] > 0.8


def test_stock_nnunet_opens_the_checkpoint(nnunet: Folder, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_extTrainer", nnunet.environment["nnUNet_extTrainer"])  # without our folder
    checkpoint = torch.load(trained / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert checkpoint["trainer_name"] == STOCK
    predictor = stock_predictor(trained)
    assert swapped(predictor.network) == 0
    image = torch.randn(1, 18, 20, 22)
    stock = logits(predictor, image)
    accelerate_predictor(predictor)
    assert swapped(predictor.network) > 0
    torch.testing.assert_close(logits(predictor, image), stock, rtol=1e-2, atol=1e-2)  # they are kept as float16


def test_prediction_by_nnunets_command(
    nnunet: Folder, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_extTrainer", nnunet.environment["nnUNet_extTrainer"])
    said = nnunet.run("nnUNetv2_predict", "-i", str(nnunet.images), "-o", str(tmp_path), "-d", "1", "-c", "3d_fullres",
                      "-tr", FUSED, "-f", "0", "-device", "cpu", "-npp", "0", "-nps", "0")  # fmt: skip
    assert re.search(r"^fastseg.accelerate: \d+ swapped, 0 left$", said, re.MULTILINE)
    predicted = sorted(tmp_path.glob("*.nii.gz"))
    assert len(predicted) == 6
    (tmp_path / "stock").mkdir()
    stock = stock_predictor(trained)
    stock.predict_from_files_sequential(str(nnunet.images), str(tmp_path / "stock"))
    for path in predicted:
        ours, theirs = (np.asarray(nibabel.load(file).dataobj) for file in (path, tmp_path / "stock" / path.name))
        assert (ours != theirs).mean() < 1e-3
        assert {1, 2} <= set(np.unique(ours))


@pytest.mark.parametrize("name", ["", "BN", "NoDeepSupervision", "DiceLoss", "CELoss", "Adam"])
def test_a_step_is_the_stock_trainers(name: str, trainer: MakeTrainer) -> None:
    stock = recursive_find_trainer_class_by_name(f"nnUNetTrainer{name}")
    targets = [torch.randint(3, (2, 1, n, n, n)).to(torch.int16) for n in (16, 8, 4)]
    batch = {
        "data": torch.randn(2, 1, 16, 16, 16),
        "target": targets[0] if name == "NoDeepSupervision" else targets,
    }
    losses, weights = [], []
    for cls in (stock, accelerated(stock)):
        torch.manual_seed(0)
        nnunet_trainer = trainer(cls)
        nnunet_trainer.initialize()
        assert (swapped(nnunet_trainer.network) > 0) == (cls is not stock)
        assert (swapped(nnunet_trainer.loss) > 0) == (cls is not stock and name not in ("DiceLoss", "CELoss"))
        nnunet_trainer.network.train()
        losses.append([float(nnunet_trainer.train_step(batch)["loss"]) for _ in range(3)])
        weights.append(nnunet_trainer.network.state_dict())
    np.testing.assert_allclose(*losses, rtol=1e-3 if name == "Adam" else 1e-4)
    assert list(weights[0]) == list(weights[1])
    for key in weights[0]:
        if name != "Adam":  # which makes steps of one size of gradients that are nothing but rounding
            torch.testing.assert_close(weights[1][key], weights[0][key], rtol=1e-3, atol=2e-5, msg=key)


def test_checkpoints_both_ways(trainer: MakeTrainer, tmp_path: Path) -> None:
    stock, fused = trainer(nnUNetTrainer), trainer(accelerated(nnUNetTrainer))
    path = str(tmp_path / "checkpoint.pth")
    for writer, reader in ((stock, fused), (fused, stock)):
        writer.initialize() if not writer.was_initialized else None
        with torch.no_grad():
            next(writer.network.parameters()).normal_()
        writer.save_checkpoint(path)
        reader.load_checkpoint(path)
        for key, value in writer.network.state_dict().items():
            assert torch.equal(reader.network.state_dict()[key], value), key
    assert type(fused) is not nnUNetTrainer


def test_a_decorated_trainer(trainer: MakeTrainer, tmp_path: Path) -> None:
    @accelerated
    class Mine(nnUNetTrainerDA5):
        """Of a laboratory."""

    assert Mine.__name__ == "Mine" and Mine.__doc__ == "Of a laboratory."
    mine = trainer(Mine)
    mine.initialize()
    assert "channels-last" in str(fastseg.report(mine.network))
    mine.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert torch.load(tmp_path / "checkpoint.pth", weights_only=False)["trainer_name"] == "Mine"


def test_a_subclass_is_named_in_its_checkpoints(trainer: MakeTrainer, tmp_path: Path) -> None:
    class Other(accelerated(nnUNetTrainer)):  # type: ignore[misc]
        pass

    other = trainer(Other)
    other.initialize()
    other.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert torch.load(tmp_path / "checkpoint.pth", weights_only=False)["trainer_name"] == "Other"


def test_a_loss_that_is_a_function(trainer: MakeTrainer) -> None:
    @accelerated
    class Mine(nnUNetTrainer):
        def _build_loss(self) -> Any:
            return lambda output, target: output[0].square().mean()

    mine = trainer(Mine)
    mine.initialize()
    assert swapped(mine.network) > 0


def test_fused_optimizers_keep_the_layout(trainer: MakeTrainer) -> None:
    @accelerated
    class Mine(nnUNetTrainer):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.network.parameters(), 1e-3, fused=True)
            return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer)

    mine = trainer(Mine)
    mine.initialize()
    assert swapped(mine.network) > 0 and "channels-last" not in str(fastseg.report(mine.network))


def test_options(trainer: MakeTrainer) -> None:
    plain = trainer(accelerated(nnUNetTrainer, channels_last=False, loss=False))
    plain.initialize()
    assert "channels-last" not in str(fastseg.report(plain.network))
    assert swapped(plain.network) > 0 and swapped(plain.loss) == 0


@pytest.mark.parametrize("name", ["", "DA5", "NoMirroring", "_250epochs"])
def test_nnunet_finds_trainers_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_folder()))
    found = recursive_find_trainer_class_by_name(f"nnUNetTrainerFastseg{name}")
    assert found.__name__ == f"nnUNetTrainerFastseg{name}"
    assert issubclass(found, recursive_find_trainer_class_by_name(f"nnUNetTrainer{name}"))


@pytest.mark.parametrize("name", ["nnUNetTrainerFastsegNoSuchThing", "nnUNetTrainerOther"])
def test_a_name_that_is_no_trainer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_folder()))
    with pytest.raises(RuntimeError, match=f"Could not find requested nnunet trainer {name}"):
        recursive_find_trainer_class_by_name(name)


def test_predictors_of_other_tools(nnunet: Folder, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_extTrainer", nnunet.environment["nnUNet_extTrainer"])
    stock = nnUNetPredictor.initialize_from_trained_model_folder
    with accelerated_predictors(channels_last=False):
        inside = stock_predictor(trained)
        given = nnUNetPredictor(device=torch.device("cpu"))
        given.manual_initialization(nn.Sequential(nn.InstanceNorm3d(2)), inside.plans_manager,
                                    inside.configuration_manager, None, inside.dataset_json, STOCK, (0,))  # fmt: skip
    assert swapped(inside.network) > 0 and swapped(given.network) > 0
    assert "channels-last" not in str(fastseg.report(inside.network))
    assert nnUNetPredictor.initialize_from_trained_model_folder is stock
    assert swapped(stock_predictor(trained).network) == 0


def test_errors() -> None:
    with pytest.raises(TypeError, match="trainer is <class 'int'>, expected nnUNetTrainer"):
        accelerated(int)
    with pytest.raises(ValueError, match=r"predictor.network is None, expected a network"):
        accelerate_predictor(nnUNetPredictor(device=torch.device("cpu")))


def test_without_nnunet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("fastseg.integrations.nnunet")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nnunetv2", None)
    with pytest.raises(ImportError, match=r"needs nnU-Net: pip install \"fastseg-kernels\[nnunet\]\""):
        importlib.import_module("fastseg.integrations.nnunet")


def test_command(nnunet: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = nnunet.run().splitlines()  # nothing else, for $(...)
    assert Path(line) == trainers_folder()
    assert [file.name for file in Path(line).glob("*.py") if file.name != "__init__.py"] == ["nnUNetTrainerFastseg.py"]
    assert main(["--help"]) == 0 and "nnUNet_extTrainer" in capsys.readouterr().out
    assert main(["nnUNetv2_trian"]) == 2
    assert "COMMAND is 'nnUNetv2_trian', expected one of" in capsys.readouterr().err
