"""The cascade: what is segmented where, what the first stage sees, what happens when it sees nothing."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from fastseg import models
from fastseg.models.dm_da_unet import DMDAUNet
from fastseg.models.weights import load_network, save_weights
from tests.models.cases import build, keys_of

pytest.importorskip("scipy")

SMALL = {"crop_size": 8, "localiser": {"widths": (4, 6, 8)}, "segmenter": {"widths": (4, 6), "dropout": 0.0}}
LESION = (slice(6, 12), slice(3, 7), slice(1, 4))


def seeing(network: DMDAUNet, monkeypatch: pytest.MonkeyPatch, *boxes: tuple[slice, ...]) -> DMDAUNet:
    """The network with a first stage that is sure of these boxes."""

    def whole_tumour(volume: Tensor) -> Tensor:
        probability = torch.zeros(volume.shape[1:])
        for box in boxes:
            probability[box] = 0.9
        return probability

    monkeypatch.setattr(network, "whole_tumour", whole_tumour)
    return network


def test_the_cut_out_is_segmented_and_the_rest_is_low(monkeypatch):
    network = seeing(build("dm_da_unet", **SMALL).eval(), monkeypatch, LESION, (slice(18, 19),) * 3)
    volumes = torch.randn(2, 4, 20, 19, 23)
    logits = network(volumes).detach()
    inside = (slice(5, 13), slice(1, 9), slice(0, 8))
    for volume, result in zip(volumes, logits, strict=True):
        expected = network.segmenter(volume[(slice(None), *inside)][None])[0]
        torch.testing.assert_close(result[(slice(None), *inside)], expected)
        result[(slice(None), *inside)] = -20
        assert (result == -20).all()


def test_a_volume_smaller_than_the_cut_out_is_padded(monkeypatch):
    network = seeing(build("dm_da_unet", **SMALL).eval(), monkeypatch, (slice(0, 3),) * 3)
    volume = torch.randn(1, 4, 5, 8, 3)
    padded = torch.zeros(1, 4, 8, 8, 8)
    padded[:, :, 1:6, :, 2:5] = volume
    torch.testing.assert_close(network(volume), network.segmenter(padded)[:, :, 1:6, :, 2:5])


def test_the_middle_of_the_brain_is_segmented_where_nothing_is_found(monkeypatch):
    network = seeing(build("dm_da_unet", **SMALL).eval(), monkeypatch)
    volume = torch.zeros(1, 4, 24, 20, 20)
    volume[0, 1, 12:24, 2:12, 10:20] = torch.randn(12, 10, 10)
    with pytest.warns(UserWarning, match=r"found no tumour in volume 0: .*voxel \(18, 7, 15\)"):
        logits = network(volume)
    assert (logits[0, 0] != -20).nonzero().min(0).values.tolist() == [14, 3, 11]


@pytest.mark.parametrize("output", ("softmax", "sigmoid"))
def test_the_first_stage_sees_every_axial_slice(output):
    network = build("dm_da_unet", **{**SMALL, "localiser": {"widths": (4, 6, 8), "output": output}}, slice_batch=3)
    network.double().eval()
    volume = torch.randn(4, 10, 13, 7, dtype=torch.float64)
    probability = network.whole_tumour(volume)
    assert probability.shape == volume.shape[1:] and not probability.requires_grad
    for z in range(7):
        image = torch.zeros(1, 4, 12, 16, dtype=torch.float64)
        image[0, :, 1:11, 1:14] = volume[..., z]
        parts = network.localiser.probabilities(network.localiser(image))[0, 0, 1:11, 1:14]
        expected = 1 - parts if output == "softmax" else parts
        torch.testing.assert_close(probability[..., z], expected.float(), rtol=1e-5, atol=1e-6)


def test_plain_torch_gives_the_same():
    volume = torch.randn(1, 4, 12, 10, 9, dtype=torch.float64)
    results = []
    for plain in (False, True):
        network = build("dm_da_unet", plain=plain, **SMALL).double().eval()
        probability = network.whole_tumour(volume[0])
        network.threshold = float(probability.min() + probability.max()) / 2  # so that something is found
        results.append(network(volume))
    torch.testing.assert_close(*results)
    assert keys_of(network) == keys_of(build("dm_da_unet", **SMALL))


@pytest.mark.parametrize("channels_last", (None, False, True))
def test_layouts(channels_last, monkeypatch):
    networks = [build("dm_da_unet", channels_last=layout, **SMALL).eval() for layout in (None, channels_last)]
    volume = torch.randn(1, 4, 12, 10, 9)
    torch.testing.assert_close(*(n.whole_tumour(volume[0]) for n in networks), rtol=1e-4, atol=1e-5)
    first, second = (seeing(n, monkeypatch, LESION)(volume) for n in networks)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_second_stage_alone(monkeypatch):
    network = seeing(build("dm_da_unet", **SMALL), monkeypatch, LESION)
    network(torch.randn(1, 4, 12, 10, 9)).sum().backward()
    assert all(p.grad is not None for p in network.segmenter.parameters())
    assert all(p.grad is None for p in network.localiser.parameters())


def test_autocast(monkeypatch):
    network = seeing(build("dm_da_unet", **SMALL).eval(), monkeypatch, LESION)
    volume = torch.randn(1, 4, 12, 10, 9)
    expected = network(volume).detach()
    with torch.autocast("cpu", torch.bfloat16):
        probability = DMDAUNet.whole_tumour(network, volume[0])
        logits = network(volume)
    assert probability.dtype == torch.float32 and logits.dtype == torch.bfloat16
    assert float((logits.detach() - expected).norm() / expected.norm()) < 2.0**-5


def test_the_outside_has_a_logit_for_each_channel(monkeypatch):
    network = build("dm_da_unet", **SMALL, out_channels=4, outside=(-20, -20, -20, 20)).eval()
    logits = seeing(network, monkeypatch, LESION)(torch.randn(1, 4, 20, 10, 9))
    assert logits[0, :, -1, 0, 0].tolist() == [-20, -20, -20, 20]


def test_weight_files_know_both_stages(tmp_path):
    network = build("dm_da_unet", **SMALL)
    save_weights(network, tmp_path / "cascade.pt")
    again, _ = load_network(tmp_path / "cascade.pt")
    assert isinstance(again, DMDAUNet) and again.crop_size == 8
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), network.parameters(), strict=True))


def test_bad_input():
    network = build("dm_da_unet", **SMALL)
    with pytest.raises(ValueError, match=r"dm_da_unet: x has 3 channels \(shape \(1, 3, 8, 8, 8\)\), expected 4"):
        network(torch.zeros(1, 3, 8, 8, 8))
    with pytest.raises(ValueError, match=r"dm_da_unet: x has shape \(4, 8, 8, 8\), expected rank 5"):
        network(torch.zeros(4, 8, 8, 8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        ({"threshold": 1.0}, r"threshold is 1.0, expected a probability in \(0, 1\)"),
        ({"crop_size": 9}, "crop_size is 9, expected a multiple of 2"),
        ({"slice_batch": 0}, "slice_batch is 0, expected a number >= 1"),
        ({"outside": (1.0, 2.0)}, r"outside is \(1.0, 2.0\), expected one number or 3"),
    ),
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.create("dm_da_unet", **{**SMALL, **arguments})


def test_the_warning_is_silent_where_a_tumour_is_found(monkeypatch):
    network = seeing(build("dm_da_unet", **SMALL).eval(), monkeypatch, LESION)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network(torch.randn(1, 4, 12, 10, 9))
