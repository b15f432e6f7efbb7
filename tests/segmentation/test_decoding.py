"""What channels mean: regions and classes to labels, thresholds, and what no map of labels can hold."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy")

from fastseg.models.network import Output
from fastseg.segmentation.decoding import Decoder
from fastseg.segmentation.postprocess import Postprocessing
from tests.segmentation.stand_ins import Voxelwise


def decoder(channels: int, output: Output, threshold: float | None = None) -> Decoder:
    return Decoder(Voxelwise(channels=(1, channels), output=output), threshold)


def probabilities(*voxels: tuple[float, ...]) -> np.ndarray:
    return np.array(voxels, np.float32).T[:, :, None, None]


def test_regions() -> None:
    given = probabilities((0.1, 0.1, 0.1), (0.9, 0.1, 0.1), (0.9, 0.9, 0.1), (0.9, 0.9, 0.9), (0.5, 0.5, 0.5))
    assert decoder(3, "sigmoid").labels(given, None).ravel().tolist() == [0, 2, 1, 4, 0]
    assert decoder(3, "sigmoid", 0.4).labels(given, None).ravel().tolist() == [0, 2, 1, 4, 4]
    with_background = np.concatenate([given, 1 - given[:1]])
    np.testing.assert_array_equal(
        decoder(4, "sigmoid").labels(with_background, None), decoder(3, "sigmoid").labels(given, None)
    )
    assert decoder(3, "sigmoid").channels == ("WT", "TC", "ET")
    assert decoder(4, "sigmoid").channels == ("WT", "TC", "ET", "background")


def test_classes_of_brats() -> None:
    given = probabilities((0.4, 0.2, 0.2, 0.2), (0.1, 0.7, 0.1, 0.1), (0.1, 0.1, 0.7, 0.1), (0.1, 0.1, 0.1, 0.7))
    assert decoder(4, "softmax").labels(given, None).ravel().tolist() == [0, 1, 2, 4]
    assert decoder(4, "softmax").channels == ("background", "necrotic core", "oedema", "enhancing rim")


@pytest.mark.parametrize(("channels", "output"), [(1, "sigmoid"), (2, "softmax")])
def test_masks(channels: int, output: Output) -> None:
    given = np.linspace(0, 1, 11, dtype=np.float32)[None, :, None, None]
    both = np.concatenate([1 - given, given]) if channels == 2 else given
    assert decoder(channels, output).labels(both, None).sum() == 5
    assert decoder(channels, output, 0.75).labels(both, None).sum() == 3
    assert decoder(channels, output).channels[-1] == "mask"


def test_other_classes_are_indices() -> None:
    given = np.eye(6, dtype=np.float32)[:, :, None, None]
    assert decoder(6, "softmax").labels(given, None).ravel().tolist() == [0, 1, 2, 3, 4, 5]
    assert decoder(6, "softmax").channels[-1] == "class 5"


@pytest.mark.parametrize(("channels", "output"), [(3, "sigmoid"), (4, "softmax"), (5, "softmax"), (1, "sigmoid")])
def test_small_components_go(channels: int, output: Output) -> None:
    given = np.zeros((channels, 12, 12, 12), np.float32)
    given[0] = 0.4
    given[-1, :6, :6, :6] = given[-1, 11, 11, 11] = 0.9
    if output == "sigmoid":
        given[:-1, :6, :6, :6] = given[:-1, 11, 11, 11] = 0.9
    kept = decoder(channels, output).labels(given, Postprocessing())
    assert kept[:6, :6, :6].all() and (kept > 0).sum() == 216
    assert (decoder(channels, output).labels(given, None) > 0).sum() == 217
    assert not decoder(channels, output).labels(given, Postprocessing(), voxel_mm3=0.1).any()


@pytest.mark.parametrize(
    ("channels", "output", "threshold", "words"),
    [
        (2, "sigmoid", None, "2 regions, expected one or those of BraTS, WT, TC, ET"),
        (1, "softmax", None, "a softmax over 1 channel, expected two classes at least"),
        (4, "softmax", 0.5, "threshold is 0.5, expected none"),
        (3, "sigmoid", 1.0, "threshold is 1.0, expected a probability"),
    ],
)
def test_refusals(channels: int, output: Output, threshold: float | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decoder(channels, output, threshold)
