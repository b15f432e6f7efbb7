"""Networks by name: names, refusals, the arguments that are kept, layouts, plain layers."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fastseg
from fastseg import models
from fastseg.accelerate.memory_format import is_channels_last
from fastseg.models.registry import network_class
from tests.models.cases import CASES, build, image, outcome


def test_names_are_those_of_the_papers():
    assert models.list_models() == [
        "resunet_ce_aspp", "dense_unet_2d", "da_unet_3d", "dm_da_unet", "unet", "unet_cbam", "msfen", "resunet",
    ]  # fmt: skip


def test_unknown_names_and_arguments_are_refused():
    with pytest.raises(
        ValueError, match=r"^create: name is 'vnet', expected one of 'resunet_ce_aspp', 'dense_unet_2d'"
    ):
        models.create("vnet")
    with pytest.raises(
        TypeError, match=r"^create: unet has no argument 'width', expected one of in_channels, .*widths"
    ):
        models.create("unet", width=3)
    with pytest.raises(ValueError, match=r"^unet: widths is \(4,\), expected at least two numbers >= 1$"):
        models.create("unet", widths=(4,))
    with pytest.raises(ValueError, match=r"^resunet: widths is \(4, 0\), expected at least two numbers >= 1$"):
        models.create("resunet", widths=(4, 0))
    with pytest.raises(ValueError, match=r"norm is 'layer', expected 'batch', 'instance' or None$"):
        models.create("unet", widths=(4, 8), norm="layer")
    with pytest.raises(ValueError, match=r"^unet: up_kernel_size is 4, expected 2 or 3$"):
        models.create("unet", widths=(4, 8), up_kernel_size=4)
    with pytest.raises(ValueError, match=r"ratio is 5, expected 1 to 4"):
        models.create("unet_cbam", widths=(4, 8), ratio=5)


@pytest.mark.parametrize("name", CASES)
def test_config_makes_the_network_again(name):
    for arguments in CASES[name].all_arguments():
        network = build(name, **arguments)
        assert (network.name, network.config) == (name, arguments)
        again = models.create(name, **json.loads(json.dumps(network.config)))
        again.load_state_dict(network.state_dict(), strict=True)
        x = image(name)
        torch.testing.assert_close(again.eval()(x), network.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_layout_is_the_fastest_unless_one_is_asked_for(name):
    arguments = CASES[name].arguments
    assert is_channels_last(models.create(name, **arguments)) is network_class(name).channels_last
    for choice in (False, True):
        assert is_channels_last(models.create(name, channels_last=choice, **arguments)) is choice


class _Called(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.fused: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "fastseg":
            self.fused.add(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", CASES)
def test_plain_networks_run_no_op_of_ours(name):
    """Neither forward nor backward, and also after the block in which they were made."""
    for arguments in CASES[name].all_arguments():
        plain = build(name, plain=True, **arguments)
        forwards = {type(module).forward.__module__ for module in plain.modules()}
        assert not {module for module in forwards if module.startswith("fastseg.nn")}
        with _Called() as called:
            outcome(plain, image(name))
        assert called.fused == set()


def test_the_watch_sees_ops_of_ours():
    with _Called() as called:
        build("unet_cbam", **CASES["unet_cbam"].arguments)(image("unet_cbam"))
    assert any("cbam" in op for op in called.fused)


def test_the_environment_makes_plain_networks_too(monkeypatch):
    with fastseg.backend("reference"):
        inside = models.create("unet", widths=(4, 8))
    monkeypatch.setattr("fastseg.backends.select._forced", "reference")
    assert type(models.create("unet", widths=(4, 8)).head) is type(inside.head)


def test_import_needs_no_extra():
    """And no network's module before it is made."""
    code = (
        "import sys\n"
        "for name in ('monai', 'nibabel', 'safetensors', 'scipy', 'skimage', 'lightning'): sys.modules[name] = None\n"
        "import fastseg.models as m\n"
        "assert 'fastseg.models.unet' not in sys.modules\n"
        "for name in ('unet', 'unet_cbam', 'resunet', 'resunet_ce_aspp'): m.create(name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
