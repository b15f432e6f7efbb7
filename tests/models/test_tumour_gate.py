"""The classifier that lets segmentation be skipped."""

from __future__ import annotations

import sys

import pytest
import torch

from fastseg.models.weights import WeightsError, save_weights

monai = pytest.importorskip("monai")

from fastseg.models.tumour_gate import TumourGate, load_gate, skips  # noqa: E402


def test_parameters_of_the_paper():
    """As Keras counts: with running statistics, and biases in all convolutions."""
    with torch.device("meta"):
        gate, unbiased = TumourGate(), TumourGate(conv_bias=False)
    trainable = sum(parameter.numel() for parameter in gate.parameters())
    statistics = sum(t.numel() for name, t in gate.named_buffers() if not name.endswith("num_batches_tracked"))
    assert trainable + statistics == 25_685_634
    assert statistics == 53_120
    assert sum(parameter.numel() for parameter in unbiased.features.parameters()) == 23_508_032
    assert trainable - sum(parameter.numel() for parameter in unbiased.parameters()) == 26_560


@pytest.fixture(scope="module")
def gate() -> TumourGate:
    torch.manual_seed(0)
    return TumourGate((128, 256))


def test_forward_backward_and_files(gate, tmp_path):
    gate.eval()
    x = torch.randn(2, 3, 128, 256)
    logits = gate(x)
    assert logits.shape == (2, 2)
    torch.testing.assert_close(gate.probabilities(logits).sum(1), torch.ones(2))
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in gate.parameters())
    save_weights(gate, tmp_path / "gate.pt", accuracy=0.5)
    again, facts = load_gate(tmp_path / "gate.pt")
    assert facts == {"accuracy": 0.5}
    torch.testing.assert_close(again(x), logits, rtol=0, atol=0)


def test_features_of_a_published_resnet(gate, tmp_path):
    torch.manual_seed(1)
    published = TumourGate((128, 128), conv_bias=False).features.state_dict()
    torch.save({**published, "fc.weight": torch.zeros(1)}, tmp_path / "resnet50.pth")
    loaded = TumourGate((128, 128), feature_weights=tmp_path / "resnet50.pth").features.state_dict()
    assert all(torch.equal(loaded[key], t) for key, t in published.items())
    assert all(not t.any() for key, t in loaded.items() if key not in published)


def test_skips():
    probabilities = torch.tensor([[0.995, 0.005], [0.99, 0.01], [0.2, 0.8]])
    assert skips(probabilities).tolist() == [True, False, False]
    assert skips(probabilities, 0.1).tolist() == [True, True, True]
    with pytest.raises(ValueError, match=r"^skips: probabilities has shape \(3, 1\), expected \(N, 2\)$"):
        skips(probabilities[:, :1])
    with pytest.raises(ValueError, match=r"^skips: threshold is 1.5, expected 0 to 1$"):
        skips(probabilities, 1.5)


def test_refusals(gate, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"^TumourGate: x has shape \(1, 3, 256, 256\), expected \(N, 3, 128, 256\)$"):
        gate(torch.zeros(1, 3, 256, 256))
    with pytest.raises(ValueError, match=r"^TumourGate: image_size is \(100, 128\), expected multiples of 128$"):
        TumourGate((100, 128))
    torch.save(gate.state_dict(), tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=r"other.pt: holds weights of no known network, expected tumour_gate$"):
        load_gate(tmp_path / "other.pt")
    for name in [name for name in sys.modules if name.startswith("monai")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "monai", None)
    with pytest.raises(ImportError, match=r"TumourGate needs: pip install \"fastseg-kernels\[segmentation\]\""):
        TumourGate()
