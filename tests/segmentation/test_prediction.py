"""Whole volumes: 2D networks slice by slice, 3D ones in windows, padding that is cut again, views averaged."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("monai")

from fastseg.models import create
from fastseg.segmentation import predict_volume
from tests.segmentation.stand_ins import Place, Voxelwise

ODD = torch.randn(3, 13, 10, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("roi", [None, 4, 8, 16])
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("augment", [None, "flips_rotations"])
def test_voxels_keep_their_place(dims: int, roi: int | None, batch_size: int, augment: str | None) -> None:
    """Through padding, windows, batches and turns; sizes that are no multiple of the divisor."""
    network = Voxelwise(spatial_dims=dims)
    found = predict_volume(network, ODD, roi=roi, batch_size=batch_size, augment=augment, overlap=0.5)
    assert found.dtype == torch.float32 and found.shape == ODD.shape
    torch.testing.assert_close(found, torch.sigmoid(ODD), rtol=1e-5, atol=1e-6)
    assert max(shape[0] for shape in network.shapes) <= batch_size


def test_slices_are_axial_and_whole() -> None:
    network = create("dense_unet_2d", in_channels=3, widths=(4, 8)).eval()
    image = ODD[:, :12, :10]
    with torch.no_grad():
        slices = [network.probabilities(network(image[None, ..., z]))[0] for z in range(image.shape[3])]
    found = predict_volume(network, image, batch_size=3)
    torch.testing.assert_close(found, torch.stack(slices, -1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.sum(0), torch.ones(image.shape[1:]))


def test_a_volume_no_larger_than_the_window_is_one_window() -> None:
    network = create("da_unet_3d", in_channels=3, widths=(4, 8)).eval()
    image = ODD[:, :12, :10, :6]
    with torch.no_grad():
        expected = network.probabilities(network(image[None]))[0]
    torch.testing.assert_close(predict_volume(network, image), expected, rtol=1e-4, atol=1e-5)


def test_the_mean_over_the_views() -> None:
    network = Place()
    image = torch.randn(3, 12, 8, 8)
    with torch.no_grad():
        views = [
            network.probabilities(network(image.flip(axes)[None]))[0].flip(axes)
            for axes in [(), (1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)]
        ]
    found = predict_volume(network, image, augment="flips")
    torch.testing.assert_close(found, torch.stack(views).mean(0))
    assert (found - views[0]).abs().max() > 0.1


def test_the_default_window_of_a_large_volume() -> None:
    network = Voxelwise(channels=(1, 1))
    predict_volume(network, torch.randn(1, 132, 9, 4), overlap=0)
    assert set(network.shapes) == {(1, 1, 128, 12, 8)}


def test_progress_ends_with_all() -> None:
    for dims, options in ((2, {"roi": 8, "batch_size": 2}), (3, {"roi": 8, "augment": "flips"}), (2, {})):
        shares: list[float] = []
        predict_volume(Voxelwise(spatial_dims=dims), ODD, on_progress=shares.append, **options)
        assert shares == sorted(shares) and shares[-1] == pytest.approx(1) and len(set(shares)) == len(shares)


def test_another_arithmetic() -> None:
    network = Voxelwise()
    found = predict_volume(network, ODD, dtype=torch.bfloat16)
    assert set(network.dtypes) == {torch.bfloat16} and found.dtype == torch.float32
    assert network.scale.dtype == torch.float32
    torch.testing.assert_close(found, torch.sigmoid(ODD), rtol=0.02, atol=0.02)
    predict_volume(network, ODD)
    assert network.dtypes[-1] == torch.float32


def test_the_result_is_a_tensor_like_any_other() -> None:
    for dims in (2, 3):
        found = predict_volume(Voxelwise(spatial_dims=dims), ODD, roi=8)
        assert not found.is_inference() and not found.requires_grad


def refused(image: Tensor = ODD, **options: object) -> str:
    network = options.pop("network", Voxelwise())
    with pytest.raises(ValueError) as error:
        predict_volume(network, image, **options)  # type: ignore[arg-type]
    return str(error.value)


def test_refusals() -> None:
    assert "image has shape (2, 13, 10, 7), expected (3, X, Y, Z)" in refused(ODD[:2])
    assert "image has shape (3, 13, 10)" in refused(ODD[..., 0])
    assert "image is torch.float64, expected torch.float32" in refused(ODD.double())
    assert "roi is 6, expected 3 multiples of 4" in refused(roi=6)
    assert "roi is (8, 8), expected 3 multiples of 4" in refused(roi=(8, 8))
    assert "overlap is 1, expected a share" in refused(overlap=1)
    assert "batch_size is 0, expected a number >= 1" in refused(batch_size=0)
    assert "augment is 'twist'" in refused(augment="twist")
    assert "network is in training mode" in refused(network=Voxelwise().train())
    cascade = create("dm_da_unet", localiser={"widths": (4, 8)}, segmenter={"widths": (4, 8)}).eval()
    assert "expected one stage: segment_cascade" in refused(network=cascade)
