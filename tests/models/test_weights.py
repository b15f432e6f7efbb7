"""Files of weights: round trips, refusals that name the file, nothing run and nothing half-written."""

from __future__ import annotations

import io
import os
import pickle
import re
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

from fastseg import models
from fastseg.models.resnet34 import ResNet34
from fastseg.models.resnet_weights import load_resnet
from fastseg.models.weights import WeightsError, load_network, load_weights, read_weights, save_weights
from tests.models.cases import CASES, build, image

ENDINGS = (".safetensors", ".pt", ".pth", ".ckpt")
SMALL: dict[str, Any] = {"widths": [4, 8], "ratio": 2}


def small(seed: int = 0, **arguments: Any) -> models.SegmentationNetwork:
    torch.manual_seed(seed)
    return models.create("unet_cbam", **{**SMALL, **arguments})


def refused(path: Path, reason: str) -> Any:
    return pytest.raises(WeightsError, match=rf"^{re.escape(str(path))}: {reason}")


def same_state(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(ka == kb and torch.equal(va, vb) for (ka, va), (kb, vb) in pairs)


@pytest.mark.parametrize("ending", ENDINGS)
def test_round_trip(tmp_path, ending):
    if ending == ".safetensors":
        pytest.importorskip("safetensors")
    network, path = small(), tmp_path / f"weights{ending}"
    save_weights(network, path, classes=["background", "tumour"], dice=0.9)
    assert [file.name for file in tmp_path.iterdir()] == [path.name], "nothing else is left behind"
    other = small(1)
    assert not same_state(other, network)
    assert load_weights(other, path) == {"classes": ["background", "tumour"], "dice": 0.9}
    assert same_state(other, network)
    again, facts = load_network(path)
    assert facts == {"classes": ["background", "tumour"], "dice": 0.9}
    assert (again.name, again.training) == ("unet_cbam", False)
    assert same_state(again, network)
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(again(x), network.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("channels_last", (False, True))
def test_every_network_and_layout(tmp_path, name, channels_last):
    network = build(name, channels_last=channels_last, **CASES[name].arguments)
    save_weights(network, tmp_path / "weights.pt")
    again, facts = load_network(tmp_path / "weights.pt")
    assert facts == {}
    assert same_state(again, network)
    x = image(name)
    torch.testing.assert_close(again(x), network.eval()(x), rtol=1e-4, atol=1e-4)


def test_arguments_replace_those_of_the_file(tmp_path):
    save_weights(small(), tmp_path / "weights.pt")
    assert load_network(tmp_path / "weights.pt", channels_last=True)[0].config == SMALL
    with refused(tmp_path / "weights.pt", r"the weights do not fit the network: head.weight has shape \(2, 4, 1, 1\)"):
        load_network(tmp_path / "weights.pt", out_channels=3)
    with refused(tmp_path / "weights.pt", r"its network cannot be made: create: unet_cbam has no argument 'depth'"):
        load_network(tmp_path / "weights.pt", depth=3)


class _Code:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("ending", (".pt", ".ckpt", ".safetensors"))
@pytest.mark.parametrize("bare", (False, True))
def test_code_is_refused_and_not_run(tmp_path, ending, bare):
    path, trace = tmp_path / f"evil{ending}", tmp_path / "trace"
    content = {"state_dict": small().state_dict(), "hook": _Code(trace)}
    if bare:
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    for read in (load_network, read_weights, lambda path: load_weights(small(), path)):
        with refused(path, "no "):
            read(path)
    assert not trace.exists()
    pickle.loads(path.read_bytes()) if bare else torch.load(io.BytesIO(path.read_bytes()), weights_only=False)
    assert trace.exists(), "the file of this test does run code where it is let"


def test_wrong_files(tmp_path):
    path = tmp_path / "weights.pt"
    with refused(path, "there is no such file"):
        load_network(path)
    with refused(tmp_path, "this is a folder"):
        load_network(tmp_path)
    path.touch()
    with refused(path, "the file is empty"):
        load_network(path)
    path.write_text("not weights at all")
    with refused(path, "no file of weights that torch.load takes"):
        load_network(path)
    cut = tmp_path / "cut.pt"
    save_weights(small(), cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    with refused(cut, "no file of weights"):
        load_network(cut)
    for content in ([1, 2], {"a": 1}, {}, {"state_dict": {"a": "b"}}):
        torch.save(content, path)
        with refused(path, "holds no state_dict"):
            load_network(path)
    torch.save(small().state_dict(), path)
    with refused(path, "does not say which network it is of: create it and use load_weights"):
        load_network(path)
    torch.save({"state_dict": small().state_dict(), "fastseg": "{"}, path)
    with refused(path, "what it says of its network cannot be read"):
        load_network(path)
    torch.save({"state_dict": small().state_dict(), "fastseg": '{"network": "vnet", "config": {}, "facts": {}}'}, path)
    with refused(path, "its network cannot be made: create: name is 'vnet'"):
        load_network(path)


def test_cut_safetensors(tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "weights.safetensors"
    save_weights(small(), path)
    path.write_bytes(path.read_bytes()[:1000])
    with refused(path, "no safetensors file"):
        load_network(path)


@pytest.mark.parametrize("wrapper", (None, "state_dict", "network_weights", "model"))
def test_checkpoints_of_other_programs(tmp_path, wrapper):
    network, path = small(), tmp_path / "weights.pt"
    torch.save(network.state_dict() if wrapper is None else {wrapper: network.state_dict(), "epoch": 3}, path)
    other = small(1)
    assert load_weights(other, path) == {}
    assert same_state(other, network)


def test_what_does_not_fit_leaves_the_network_as_it_was(tmp_path):
    path, network, before = tmp_path / "weights.pt", small(), small()
    state = small(1).state_dict()
    cases = {
        r"head.bias is missing \(1 keys in all\)": {key: t for key, t in state.items() if key != "head.bias"},
        r"more is unexpected \(1 keys in all\)": {**state, "more": torch.zeros(1)},
        r"head.bias has shape \(3,\), expected \(2,\)": {**state, "head.bias": torch.zeros(3)},
    }
    for reason, content in cases.items():
        torch.save(content, path)
        with refused(path, f"the weights do not fit the network: {reason}"):
            load_weights(network, path)
        assert same_state(network, before)
    save_weights(models.create("unet", widths=(4, 8)), path)
    with refused(path, "holds weights of unet, expected those of unet_cbam"):
        load_weights(network, path)


@pytest.mark.parametrize("ending", ENDINGS)
def test_others_may_read_the_file_where_the_umask_lets_them(tmp_path, ending):
    if ending == ".safetensors":
        pytest.importorskip("safetensors")
    before = os.umask(0o022)
    try:
        save_weights(small(), tmp_path / f"w{ending}")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / f"w{ending}").stat().st_mode) == 0o644


def test_nothing_half_written(tmp_path, monkeypatch):
    path = tmp_path / "weights.pt"
    save_weights(small(), path)
    before = path.read_bytes()

    def fails(content: Any, file: Any) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fails)
    with refused(path, r"cannot be written \(No space left on device\)"):
        save_weights(small(1), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["weights.pt"]
    with refused(tmp_path / "weights.h5", "expected a name that ends in .safetensors or .pt"):
        save_weights(small(), tmp_path / "weights.h5")
    with refused(tmp_path / "no" / "weights.pt", "cannot be written"):
        save_weights(small(), tmp_path / "no" / "weights.pt")


def test_encoder_weights(tmp_path):
    """A whole ResNet-34, also one of before batches were counted; the path is not kept with the network."""
    path, arguments = tmp_path / "resnet34.pth", CASES["resunet_ce_aspp"].arguments
    torch.manual_seed(0)
    state = ResNet34(3, arguments["widths"]).state_dict()
    old = {key: t for key, t in state.items() if not key.endswith("num_batches_tracked")}
    torch.save({**old, "fc.weight": torch.zeros(10, 20), "fc.bias": torch.zeros(10)}, path)
    network = models.create("resunet_ce_aspp", encoder_weights=path, **arguments)
    assert all(torch.equal(network.state_dict()[f"encoder.{key}"], t) for key, t in state.items())
    assert network.config == arguments
    save_weights(network, tmp_path / "weights.pt")
    path.unlink()
    assert same_state(load_network(tmp_path / "weights.pt")[0], network)
    torch.save(small().state_dict(), path)
    with refused(path, "holds no ResNet, expected keys such as conv1.weight"):
        models.create("resunet_ce_aspp", encoder_weights=path, **arguments)
    torch.save(state, path)
    with refused(
        path, r"the weights do not fit the network: conv1.weight has shape \(8, 3, 7, 7\), expected \(8, 4, 7, 7\)"
    ):
        models.create("resunet_ce_aspp", encoder_weights=path, in_channels=4, **arguments)


def test_resnet34_has_torchvisions_keys():
    """The names, shapes and number of parameters of torchvision.models.resnet34 without fc."""
    state = ResNet34().state_dict()
    assert sum(t.numel() for t in ResNet34().parameters()) == 21_284_672
    assert state["layer1.0.conv1.weight"].shape == (64, 64, 3, 3)
    assert state["layer2.0.downsample.0.weight"].shape == (128, 64, 1, 1)
    assert state["layer4.2.bn2.running_var"].shape == (512,)
    assert "layer1.0.downsample.0.weight" not in state
    assert len(state) == 216


def test_biases_that_a_file_lacks_are_zero(tmp_path):
    network = ResNet34(3, (4, 4, 4, 4, 4))
    torch.save(network.state_dict(), tmp_path / "resnet.pt")
    network.conv1.bias = torch.nn.Parameter(torch.ones(4))
    load_resnet(network, tmp_path / "resnet.pt")
    assert torch.equal(network.conv1.bias, torch.zeros(4))
