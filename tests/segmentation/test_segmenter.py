"""From a case to labels on its own grid: orientation, spacing, gate, limits of memory, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

nib = pytest.importorskip("nibabel")
pytest.importorskip("monai")

from fastseg.io import BratsCase, LggCase, Volume, from_ras  # noqa: E402
from fastseg.models import create  # noqa: E402
from fastseg.models.tumour_gate import TumourGate  # noqa: E402
from fastseg.segmentation import Postprocessing, Segmenter  # noqa: E402
from fastseg.segmentation.limits import accumulators_on, batch_within, window_bytes  # noqa: E402
from tests.segmentation.stand_ins import Place, Voxelwise  # noqa: E402

SHAPE = (12, 10, 7)
# Axes in another order and direction, not quite along those of the scanner.
AFFINES = {
    "RAS": np.diag([1.0, 1.0, 1.0, 1.0]),
    "LPS": np.diag([-1.0, -1.0, 1.0, 1.0]),
    "oblique": nib.affines.from_matvec([[0, -0.99, 0.1], [-0.99, 0, 0.05], [0.1, 0.1, -0.98]], [10, -20, 30]),
}


def image(channels: int = 3) -> np.ndarray:
    """In RAS order; a brain with zeros around it."""
    data = np.random.default_rng(0).normal(50, 10, (channels, *SHAPE)).astype(np.float32)
    data[:, :2] = 0
    return data


def volume(orientation: str, channels: int = 3, zoom: float = 1.0) -> Volume:
    affine = AFFINES[orientation] @ np.diag([zoom, zoom, zoom, 1])
    return Volume.from_array(from_ras(image(channels), affine), affine)


@pytest.mark.parametrize("orientation", AFFINES)
@pytest.mark.parametrize("tta", [None, "flips"])
def test_the_same_labels_in_space_whatever_the_orientation(orientation: str, tta: str | None) -> None:
    segmenter = Segmenter(Place(), postprocessing=None, augment=tta)
    expected = segmenter.segment(image())
    given = volume(orientation)
    found = segmenter.segment(given)
    np.testing.assert_array_equal(found.labels, from_ras(expected.labels, given.affine))
    np.testing.assert_array_equal(found.probabilities, from_ras(expected.probabilities, given.affine))
    assert found.labels.dtype == np.uint8 and found.probabilities.dtype == np.float32
    assert set(np.unique(found.labels)) == {0, 1, 2, 4} and found.notes == ()
    assert list(found.seconds) == ["preparation", "network", "post-processing"]


def test_a_case_of_brats_is_its_volume() -> None:
    given = volume("oblique")
    case = BratsCase("case", given, None, {"T1": Path("t1.nii")})
    segmenter = Segmenter(Place())
    np.testing.assert_array_equal(segmenter.segment(case).labels, segmenter.segment(given).labels)


def test_the_network_sees_z_scores_of_the_brain() -> None:
    seen: list[Tensor] = []
    Segmenter(Voxelwise(lambda x: seen.append(x) or x, size_divisor=1)).segment(volume("LPS"))
    brain = seen[0][0, :, 2:]
    torch.testing.assert_close(brain.mean((1, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(brain.flatten(1).std(1), torch.ones(3), atol=1e-4, rtol=0)
    assert (seen[0][0, :, :2] == 0).all()


def test_spacing() -> None:
    network = Voxelwise(size_divisor=1)
    kept = Segmenter(network, postprocessing=None).segment(volume("oblique", zoom=2))
    assert network.shapes == [(1, 3, *SHAPE)] and len(kept.notes) == 1
    assert "voxels of 1.99 x 1.99 x 1.97 mm are not resampled" in kept.notes[0]
    network = Voxelwise(size_divisor=1)
    found = Segmenter(network, postprocessing=None, spacing=1).segment(volume("oblique", zoom=2))
    assert network.shapes == [(1, 3, 24, 20, 14)] and found.notes == ()
    assert found.labels.shape == kept.labels.shape and found.probabilities.shape == kept.probabilities.shape
    assert (found.labels == kept.labels).mean() > 0.5


def test_small_components_are_measured_in_millilitres() -> None:
    tumour = np.ones((3, 12, 12, 12), np.float32)
    tumour[:, 4:8, 4:8, 4:8] = 40  # 64 voxels
    network = Voxelwise(lambda x: 9 * (x - 1))
    for zoom, kept in ((1.0, 0), (1.2, 64)):
        given = Volume.from_array(tumour, np.diag([zoom, zoom, zoom, 1]))
        assert (Segmenter(network).segment(given).labels > 0).sum() == kept
        assert (Segmenter(network, postprocessing=None).segment(given).labels == 4).sum() == 64
    assert (
        Segmenter(network, postprocessing=Postprocessing(min_whole_ml=0.064)).segment(tumour).labels == 4
    ).sum() == 64


def slices(count: int = 5) -> LggCase:
    images = np.random.default_rng(1).integers(1, 255, (count, 12, 10, 3)).astype(np.uint8)
    return LggCase("patient", images, None, tuple(Path(f"patient_{index}.tif") for index in range(count)))


class Gate(TumourGate):
    """No tumour in dark slices, and a note of what it sees."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.image_size, self.in_channels = (128, 128), 3
        self.bias = nn.Parameter(torch.zeros(()))
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape))
        brightness = x.mean((1, 2, 3))
        return torch.stack([-20 * brightness, 20 * brightness], 1)


def test_slices_that_the_gate_skips() -> None:
    case = slices()
    case.images[[1, 3]] //= 4
    network = Voxelwise(lambda x: x[:, :1] * 0 + 5, spatial_dims=2, channels=(3, 1))
    gate = Gate()
    found = Segmenter(network, gate=gate, postprocessing=None).segment(case)
    assert found.labels.shape == (12, 10, 5)
    assert found.labels.any((0, 1)).tolist() == [True, False, True, False, True]
    assert gate.shapes == [(5, 3, 128, 128)] and sum(shape[0] for shape in network.shapes) == 3
    assert found.notes == ("the gate saw no tumour in 2 of 5 slices, which were skipped",)
    assert (found.probabilities[..., [1, 3]] == 0).all() and "gate" in found.seconds
    classes = Voxelwise(lambda x: x[:, :2], spatial_dims=2, channels=(3, 2), output="softmax")
    sums = Segmenter(classes, gate=gate).segment(case).probabilities.sum(0)
    np.testing.assert_allclose(sums, 1, rtol=1e-5)
    with torch.no_grad():
        gate.bias.zero_()
    case.images[:] = 7
    everything = Segmenter(network, gate=gate, gate_threshold=0.4).segment(case)
    assert not everything.labels.any() and "5 of 5" in everything.notes[0]


def test_the_cascade() -> None:
    network = create("dm_da_unet", crop_size=8, localiser={"widths": (4, 8)}, segmenter={"widths": (4, 8)}).eval()
    reports: list[tuple[str, float]] = []
    found = Segmenter(network, locate_threshold=0.999999, batch_size=2).segment(
        volume("oblique", 4), on_progress=lambda *report: reports.append(report)
    )
    assert "stage 1 found no tumour" in found.notes[0] and "tumour" not in found.boxes
    assert found.boxes["cut-out"] == (slice(3, 11), slice(1, 9), slice(0, 7))
    assert [stage for stage, _ in reports].count("stage 1") == 4  # seven slices, two at a time
    shares = [share for _, share in reports]
    assert shares == sorted(shares) and shares[-1] == 1
    assert list(found.seconds) == ["preparation", "stage 1", "cut-out", "stage 2", "post-processing"]
    everywhere = Segmenter(network, locate_threshold=0).segment(volume("oblique", 4))
    assert everywhere.notes == () and everywhere.boxes["tumour"] == tuple(slice(0, size) for size in SHAPE)


def test_limits_of_memory() -> None:
    network = create("unet", widths=(4, 8)).eval()
    window = torch.zeros(1, 3, 16, 16)
    one = window_bytes(network, window)
    assert one >= 4 * 16 * 16 * (3 + 4 + 4)  # the image and the first block's two convolutions at least
    assert window_bytes(network, torch.zeros(2, 3, 16, 16)) == 2 * one
    assert [batch_within(network, window, limit=limit, most=8) for limit in (1, one, 3 * one, 99 * one)] == [1, 1, 3, 8]
    assert not any(module._forward_hooks for module in network.modules() if not any(module.children()))
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert accumulators_on(gpu, 7, (10, 10, 10), limit=64_000) == accumulators_on(gpu, 7, (99,) * 3, limit=None) == gpu
    assert accumulators_on(gpu, 7, (10, 10, 10), limit=63_999) == accumulators_on(cpu, 7, (9,) * 3, limit=None) == cpu


def test_a_limit_of_memory_changes_nothing_but_the_batches() -> None:
    network = create("unet", widths=(4, 8)).eval()
    free = Segmenter(network).segment(image())
    seen: list[int] = []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    bound = Segmenter(network, memory_limit=1).segment(image())
    assert set(seen) == {1} and len(seen) == SHAPE[2] + 1
    np.testing.assert_allclose(bound.probabilities, free.probabilities, rtol=1e-4, atol=1e-5)


def test_refusals() -> None:
    network = Voxelwise()
    for options, words in (
        ({"roi": 6}, "roi is 6, expected 3 multiples of 4"),
        ({"memory_limit": 0}, "memory_limit is 0"),
        ({"gate": Gate()}, "gate is given, expected none"),
        ({"threshold": 2}, "threshold is 2"),
        ({"gate_threshold": 2}, "gate_threshold is 2"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"overlap": 1}, "overlap is 1"),
        ({"crop": 8}, "crop is 8, expected none: voxelwise is no cascade"),
        ({"locate_threshold": 0.5}, "locate_threshold is 0.5, expected none"),
    ):
        with pytest.raises(ValueError, match=words):
            Segmenter(network, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="case has 4 channels, expected 3, those of voxelwise"):
        Segmenter(network).segment(volume("RAS", 4))
    with pytest.raises(ValueError, match="slices of patient do not say theirs"):
        Segmenter(network, spacing=1).segment(slices())
    broken = image()
    broken[0, 3, 3, 3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        Segmenter(network).segment(broken)
    with pytest.raises(ValueError, match=r"case has shape \(12, 10, 7\), expected \(C, X, Y, Z\)"):
        Segmenter(network).segment(image()[0])
    with pytest.raises(ValueError, match="spacing is -1"):
        Segmenter(network, spacing=-1).segment(image())
