"""MONAI's factory of norms, and networks from bundles' configurations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("monai")

from monai.bundle import ConfigParser
from monai.networks.nets import BasicUNet

import fastseg
from fastseg.integrations.monai import add_norm
from fastseg.nn import InstanceNormAct1d, InstanceNormAct2d, InstanceNormAct3d


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_norm(dims: int) -> None:
    assert add_norm() == add_norm() == "INSTANCE_FASTSEG"
    layer = (InstanceNormAct1d, InstanceNormAct2d, InstanceNormAct3d)[dims - 1]
    torch.manual_seed(0)
    options: dict[str, Any] = {"spatial_dims": dims, "features": (4, 4, 8, 8, 8, 4)}
    stock = BasicUNet(norm=("instance", {"affine": True}), **options)
    ours = BasicUNet(norm=("instance_fastseg", {"affine": True}), **options)
    ours.load_state_dict(stock.state_dict())
    assert any(isinstance(module, layer) for module in ours.modules())
    x = torch.randn(1, 1, *(32,) * dims)
    torch.testing.assert_close(ours(x), stock(x), rtol=1e-3, atol=1e-4)


def test_bundle() -> None:
    parser = ConfigParser(
        {
            "imports": ["$import fastseg"],
            "network_def": {"_target_": "BasicUNet", "spatial_dims": 2, "features": [4, 4, 8, 8, 8, 4]},
            "network": "$fastseg.accelerate(@network_def, channels_last=True)",
            "loss_def": {"_target_": "DiceCELoss", "softmax": True, "to_onehot_y": True},
            "loss": "$fastseg.accelerate(@loss_def)",
        }
    )
    network: nn.Module = parser.get_parsed_content("network")
    assert isinstance(network, BasicUNet)
    assert len(fastseg.report(network).swapped) > 0
    assert len(fastseg.report(parser.get_parsed_content("loss")).swapped) > 0
