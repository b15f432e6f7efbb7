"""The cascade on volumes: what is found and cut out, pasted back, and said where stage 1 finds nothing."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

pytest.importorskip("monai")

from fastseg.models import create
from fastseg.models.dm_da_unet import DMDAUNet
from fastseg.segmentation import cascade_of, segment_cascade
from tests.segmentation.stand_ins import Voxelwise

SHAPE = (24, 20, 18)


def tiny(**options: object) -> DMDAUNet:
    network = create("dm_da_unet", localiser={"widths": (4, 8)}, segmenter={"widths": (4, 8)}, **options)
    assert isinstance(network, DMDAUNet)
    return network.eval()


def transparent(**options: object) -> DMDAUNet:
    """Stage 1 sees a tumour where FLAIR is above 1; stage 2's logits are the first three sequences."""

    def classes(x: Tensor) -> Tensor:
        tumour = 40 * (x[:, 3:] > 1) - 20
        return torch.cat([-tumour, tumour, tumour - 99, tumour - 99], 1)

    network = tiny(**options)
    network.localiser = Voxelwise(classes, spatial_dims=2, channels=(4, 4), output="softmax")  # type: ignore[assignment]
    network.segmenter = Voxelwise(lambda x: x[:, :3].clone(), channels=(4, 3))  # type: ignore[assignment]
    return network


def volume(*tumours: tuple[slice, ...]) -> Tensor:
    """A brain with FLAIR 0.5 everywhere and 2 in the tumours."""
    image = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    image[3] = 0.5
    for box in tumours:
        image[(3, *box)] = 2
    return image


MIDDLE = (slice(9, 14), slice(8, 12), slice(6, 10))


def test_the_cut_out_is_segmented_and_pasted_back() -> None:
    image, network = volume(MIDDLE, (slice(0, 2),) * 3), transparent(crop_size=8)
    found = segment_cascade(network, image)
    assert found.location.box == MIDDLE and found.notes == ()
    assert found.crop.slices == (slice(7, 15), slice(6, 14), slice(4, 12))
    inside = (slice(None), *found.crop.slices)
    torch.testing.assert_close(found.probabilities[inside], torch.sigmoid(image[:3][inside]))
    outside = torch.ones(SHAPE, dtype=torch.bool)
    outside[found.crop.slices] = False
    assert (found.probabilities[:, outside] < 1e-8).all()
    torch.testing.assert_close(found.whole_tumour, (image[3] > 1).float())
    assert network.segmenter.shapes == [(1, 4, 8, 8, 8)]
    assert list(found.seconds) == ["stage 1", "cut-out", "stage 2"]


@pytest.mark.parametrize("tta", [None, "flips", "flips_rotations"])
def test_turns_move_nothing(tta: str | None) -> None:
    found = segment_cascade(transparent(crop_size=8), volume(MIDDLE), augment=tta)
    torch.testing.assert_close(
        found.probabilities, segment_cascade(transparent(crop_size=8), volume(MIDDLE)).probabilities
    )


def test_a_first_stage_of_regions() -> None:
    network = transparent(crop_size=8)
    network.localiser = Voxelwise(  # type: ignore[assignment]
        lambda x: 40 * (x[:, 3:] > 1).expand(-1, 3, -1, -1) - 20.0, spatial_dims=2, channels=(4, 3)
    )
    image = volume(MIDDLE)
    found = segment_cascade(network, image)
    torch.testing.assert_close(found.whole_tumour, (image[3] > 1).float())
    assert found.location.box == MIDDLE


def test_what_stage_2_refuses_is_refused_before_stage_1() -> None:
    network = transparent()
    for options, message in (({"overlap": 1.0}, "overlap is 1.0"), ({"crop": (8, 8)}, r"size \(8, 8\)")):
        with pytest.raises(ValueError, match=message):
            segment_cascade(network, volume(MIDDLE), **options)  # type: ignore[arg-type]
    assert network.localiser.shapes == []


def test_a_tumour_at_the_border_shifts_the_cut_out() -> None:
    found = segment_cascade(transparent(), volume((slice(22, 24), slice(0, 2), slice(17, 18))), crop=(8, 12, 4))
    assert found.crop.slices == (slice(16, 24), slice(0, 12), slice(14, 18))


def test_a_volume_smaller_than_the_cut_out_is_padded() -> None:
    image, network = volume(MIDDLE), transparent()
    found = segment_cascade(network, image, crop=(32, 32, 16))
    assert found.crop.slices == (slice(0, 24), slice(0, 20), slice(0, 16))
    assert network.segmenter.shapes == [(1, 4, 32, 32, 16)]
    torch.testing.assert_close(found.probabilities[..., :16], torch.sigmoid(image[:3, ..., :16]))
    assert (found.probabilities[..., 16:] < 1e-8).all()


def test_the_networks_own_cut_out_is_one_window() -> None:
    network = transparent(crop_size=130)
    segment_cascade(network, volume(MIDDLE))
    assert network.segmenter.shapes == [(1, 4, 132, 132, 132)]  # as forward pads it for the divisor


def test_where_stage_1_finds_nothing_it_is_the_middle_of_the_brain_and_said() -> None:
    image = volume()
    image[:, :10] = 0
    found = segment_cascade(transparent(crop_size=8), image)
    assert found.location.box is None and found.location.centre == (17, 10, 9)
    assert found.crop.slices == (slice(13, 21), slice(6, 14), slice(5, 13))
    assert len(found.notes) == 1 and "stage 1 found no tumour" in found.notes[0]
    brain = torch.zeros(SHAPE, dtype=torch.bool)
    brain[2:6, 2:6, 2:6] = True
    assert segment_cascade(transparent(crop_size=8), image, brain=brain).location.centre == (4, 4, 4)


def test_the_threshold_of_stage_1() -> None:
    def classes(x: Tensor) -> Tensor:
        tumour = (x[:, 3:] > 1).float()
        return torch.cat([-tumour, 20 * (tumour - 1)], 1)  # P(whole tumour) is 0.73 in the tumour

    network = transparent(threshold=0.9)
    network.localiser = Voxelwise(classes, spatial_dims=2, channels=(4, 2), output="softmax")  # type: ignore[assignment]
    assert segment_cascade(network, volume(MIDDLE), crop=8).location.box is None
    assert segment_cascade(network, volume(MIDDLE), crop=8, threshold=0.7).location.box == MIDDLE
    with pytest.raises(ValueError, match="threshold is 1, expected a probability"):
        segment_cascade(network, volume(MIDDLE), threshold=1)


def test_another_arithmetic_in_both_stages() -> None:
    network = transparent(crop_size=8)
    segment_cascade(network, volume(MIDDLE), dtype=torch.bfloat16)
    assert set(network.localiser.dtypes) == set(network.segmenter.dtypes) == {torch.bfloat16}


@pytest.mark.parametrize("output", [{}, {"out_channels": 4, "outside": (-20, -20, -20, 20)}])
def test_the_same_as_the_network_itself(output: dict) -> None:
    network = tiny(crop_size=8, **output)
    image = torch.randn(4, *SHAPE)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing was found, with random weights
        expected = network.probabilities(network(image[None]))[0]
    found = segment_cascade(network, image, batch_size=5).probabilities
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "crop_size"),
    [((13, 11, 9), 8), ((14, 5, 3), 8), ((13, 11, 9), 4), ((13, 11, 9), 12)],
)
def test_the_same_where_the_divisors_do_not_divide(shape: tuple[int, int, int], crop_size: int) -> None:
    stages = {"localiser": {"widths": (4, 6, 8)}, "segmenter": {"widths": (4, 6, 8)}}
    network = create("dm_da_unet", crop_size=crop_size, **stages).eval()
    assert isinstance(network, DMDAUNet)
    image = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole_tumour = network.whole_tumour(image)
        # A few voxels are above it, with whatever weights.
        network.threshold = float(whole_tumour.flatten().sort().values[-5:-3].mean())
        expected = network.probabilities(network(image[None]))[0]
    found = segment_cascade(network, image, batch_size=2)
    assert found.location.box is not None
    torch.testing.assert_close(found.whole_tumour, whole_tumour, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.probabilities, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "stage", [{}, {"out_channels": 4}, {"out_channels": 4, "output": "softmax", "growth": (4,), "dropout": 0.1}]
)
def test_stages_that_were_trained_on_their_own(stage: dict) -> None:
    localiser = create("dense_unet_2d", in_channels=4, widths=(4, 8))
    segmenter = create("da_unet_3d", widths=(4, 8), **stage)
    network = cascade_of(localiser, segmenter)
    x = torch.randn(1, 4, 8, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(network.localiser(x[..., 0]), localiser.eval()(x[..., 0]))
        torch.testing.assert_close(network.segmenter(x), segmenter.eval()(x))
    outside = network.probabilities(torch.tensor(network.outside)[None])[0]
    background = {"sigmoid": 3, "softmax": 0}[segmenter.output]
    expected = [float(channel == background) for channel in range(segmenter.out_channels)]
    torch.testing.assert_close(outside, torch.tensor(expected), atol=1e-6, rtol=0)
    again = create("dm_da_unet", **network.config)
    again.load_state_dict(network.state_dict())
    with pytest.raises(ValueError, match="segmenter takes 4 channels, expected those of localiser, 3"):
        cascade_of(create("dense_unet_2d", in_channels=3, widths=(4, 8)), segmenter)


def test_progress() -> None:
    reports: list[tuple[str, float]] = []
    segment_cascade(transparent(crop_size=8), volume(MIDDLE), batch_size=6, on_progress=lambda *r: reports.append(r))
    assert reports == [("stage 1", 1 / 3), ("stage 1", 2 / 3), ("stage 1", 1.0), ("stage 2", 1.0)]
