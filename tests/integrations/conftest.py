"""A small data set of nnU-Net, planned and preprocessed by nnU-Net's own command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import torchvision_imports

torchvision_imports()  # for Lightning's metrics and one of nnU-Net's trainers

CASES, SHAPE = 6, (20, 24, 28)
DATASET, PLANS, CONFIGURATION = "Dataset001_Balls", "nnUNetPlans", "3d_fullres"

#: ``python -m fastseg.integrations.nnunet``. To find a trainer nnU-Net imports them all, and torchvision with one.
COMMAND = """
import sys
from tests.support import torchvision_imports
torchvision_imports()
from fastseg.integrations.nnunet.__main__ import main
sys.exit(main(sys.argv[1:]))
"""

#: A trainer of somebody else, in a folder of theirs: a few steps that learn much. After 60 not every run had found the
#: bright balls.
BRIEF = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

class nnUNetTrainerBrief(nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 4, 30, 2
"""


@dataclass(frozen=True)
class Folder:
    """The three folders of nnU-Net."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        folders = {f"nnUNet_{name}": str(self.root / name) for name in ("raw", "preprocessed", "results")}
        folders["nnUNet_extTrainer"] = str(self.root / "trainers")
        # One process each for files, evaluation and augmentation.
        return {**folders, "nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "1"}

    @property
    def images(self) -> Path:
        return self.root / "raw" / DATASET / "imagesTr"

    @property
    def plans(self) -> Path:
        return self.root / "preprocessed" / DATASET / f"{PLANS}.json"

    def results(self, trainer: str) -> Path:
        return self.root / "results" / DATASET / f"{trainer}__{PLANS}__{CONFIGURATION}"

    def run(self, *command: str) -> str:
        """What a command of nnU-Net prints, which is to succeed."""
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, *command],
            env={**os.environ, **self.environment, "OMP_NUM_THREADS": "2"},
            cwd=Path(__file__).resolve().parents[2],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def nnunet(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = Folder(tmp_path_factory.mktemp("nnunet"))
    write_balls(folder.root / "raw" / DATASET)
    (folder.root / "trainers").mkdir()
    (folder.root / "trainers" / "nnUNetTrainerBrief.py").write_text(BRIEF)
    folder.run("nnUNetv2_plan_and_preprocess", "-d", "1", "-c", CONFIGURATION, "-np", "1", "-npfp", "1")
    plans = json.loads(folder.plans.read_text())
    make_small(plans["configurations"][CONFIGURATION])
    folder.plans.write_text(json.dumps(plans))
    return folder


@pytest.fixture
def trainer(nnunet: Folder, monkeypatch: pytest.MonkeyPatch) -> Callable[[type], Any]:
    """Makes a trainer of this class, on the data set."""
    for name, value in nnunet.environment.items():
        monkeypatch.setenv(name, value)

    def make(cls: type) -> Any:
        import torch

        return cls(
            plans={**json.loads(nnunet.plans.read_text()), "continue_training": False},
            configuration=CONFIGURATION,
            fold=0,
            dataset_json=json.loads((nnunet.plans.parent / "dataset.json").read_text()),
            device=torch.device("cpu"),
        )

    return make


def write_balls(folder: Path) -> None:
    """Noisy volumes with a bright ball (label 1) and a darker one (label 2)."""
    nibabel = pytest.importorskip("nibabel")
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for case in range(CASES):
        labels = np.zeros(SHAPE, np.uint8)
        for label in (1, 2):
            centre = rng.uniform(6, np.array(SHAPE) - 6)
            labels[((grid - centre) ** 2).sum(-1) < rng.uniform(3.5, 5.5) ** 2] = label
        image = np.array([0.0, 3.0, -3.0])[labels] + rng.normal(0, 0.5, SHAPE)
        for path, array in (("imagesTr/case{}_0000", image.astype(np.float32)), ("labelsTr/case{}", labels)):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / f"{path.format(case)}.nii.gz")
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "bright": 1, "dark": 2},
        "numTraining": CASES,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))


def make_small(configuration: dict[str, Any]) -> None:
    """A network of three levels on patches of 16^3."""
    configuration.update(batch_size=2, patch_size=[16, 16, 16])
    configuration["architecture"]["arch_kwargs"].update(
        n_stages=3,
        features_per_stage=[8, 16, 16],
        kernel_sizes=[[3, 3, 3]] * 3,
        strides=[[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        n_conv_per_stage=[1, 1, 1],
        n_conv_per_stage_decoder=[1, 1],
    )
