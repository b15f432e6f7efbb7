"""A training step of nnU-Net's own trainer: network, deep supervision, loss, clipped gradients, SGD."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

pytest.importorskip("nnunetv2")

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from benchmarks.conftest import rounds_for, synchronized
from fastseg.integrations.nnunet import accelerated

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PATCH, BATCH, STAGES = (64, 64, 64), 2, 5

#: What the planner gives for this patch, for the plain network and the residual encoder of size M.
NETWORKS = {
    "PlainConvUNet": {"n_conv_per_stage": [2] * STAGES, "n_conv_per_stage_decoder": [2] * (STAGES - 1)},
    "ResidualEncoderUNet": {"n_blocks_per_stage": [1, 3, 4, 6, 6], "n_conv_per_stage_decoder": [1] * (STAGES - 1)},
}
OURS = "fastseg"
PEERS = {
    OURS: accelerated(nnUNetTrainer, channels_last=True),
    "fastseg, contiguous": accelerated(nnUNetTrainer, channels_last=False),
    "nnU-Net": nnUNetTrainer,
}


def plans(network: str) -> dict:
    architecture = {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{network}",
        "arch_kwargs": {
            "n_stages": STAGES,
            "features_per_stage": [32, 64, 128, 256, 320],
            "conv_op": "torch.nn.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * STAGES,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * (STAGES - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
            **NETWORKS[network],
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    configuration = {
        "data_identifier": "nothing",
        "batch_size": BATCH,
        "patch_size": list(PATCH),
        "batch_dice": False,
        "architecture": architecture,
    }
    return {
        "dataset_name": "Dataset001_Noise",
        "plans_name": "nnUNetPlans",
        "configurations": {"3d_fullres": configuration},
        "continue_training": False,
    }


DATASET = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1, "b": 2}, "file_ending": ".nii.gz"}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The trainer writes its log and looks for the format of the data; it gets batches from us."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.setenv("nnUNet_compile", "f")  # on GPUs; on CPUs nnU-Net does not compile
    data = tmp_path / "preprocessed" / "Dataset001_Noise" / "nothing"
    data.mkdir(parents=True)
    (data / "case.npz").touch()


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_training_step(benchmark, beside_ours, folders, network, peer):
    step = step_of(network, peer)
    shape = "x".join(map(str, (BATCH, 1, *PATCH)))
    benchmark.group = f"nnU-Net's trainer, {network}"
    benchmark.extra_info.update(case="training step of nnU-Net's trainer", shape=shape, peer=peer, family=network)
    rounds = rounds_for(step, 7)
    if peer == OURS:
        benchmark.pedantic(step, rounds=rounds)
    else:
        beside_ours(step, lambda: step_of(network, OURS), rounds)


def step_of(network: str, peer: str) -> Callable[[], None]:
    torch.manual_seed(0)
    trainer = PEERS[peer](plans=plans(network), configuration="3d_fullres", fold=0, dataset_json=DATASET, device=DEVICE)
    trainer.initialize()
    trainer.network.train()
    sizes = [tuple(side // 2**level for side in PATCH) for level in range(STAGES - 1)]
    batch = {
        "data": torch.randn(BATCH, 1, *PATCH),
        "target": [torch.randint(3, (BATCH, 1, *size)).to(torch.int16) for size in sizes],
    }

    return synchronized(lambda: trainer.train_step(batch))
