"""accelerate(model, channels_last=True)."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from fastseg.accelerate import accelerate, report, restore

FORMAT = {4: torch.channels_last, 5: torch.channels_last_3d}


def network(dims: int) -> nn.Sequential:
    conv, norm, up = {
        2: (nn.Conv2d, nn.InstanceNorm2d, nn.ConvTranspose2d),
        3: (nn.Conv3d, nn.InstanceNorm3d, nn.ConvTranspose3d),
    }[dims]
    return nn.Sequential(conv(3, 4, 3, padding=1), norm(4, affine=True), nn.ReLU(), up(4, 2, 2, 2), nn.Flatten(0, 0))


@pytest.mark.parametrize("dims", [2, 3])
def test_parameters_inputs_and_outputs(dims: int) -> None:
    stock = network(dims)
    model = copy.deepcopy(stock)
    parameters = dict(model.named_parameters())
    accelerate(model, channels_last=True)
    assert dict(model.named_parameters()).keys() == parameters.keys()
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    assert model[0].weight.is_contiguous(memory_format=FORMAT[dims + 2])
    assert model[3].weight.is_contiguous(), "transposed convolutions keep their layout"

    seen: list[Tensor] = []
    model[4].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = torch.randn(2, 3, *(16,) * dims)
    torch.testing.assert_close(model(x), stock(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(input=x), stock(x), rtol=1e-4, atol=1e-5)
    assert seen[0].is_contiguous(memory_format=FORMAT[dims + 2])

    stock.load_state_dict(model.state_dict(), strict=True)
    model.load_state_dict(stock.state_dict(), strict=True)
    assert model[0].weight.is_contiguous(memory_format=FORMAT[dims + 2])
    assert stock[0].weight.is_contiguous()


def test_kept_by_a_later_call_and_undone_by_restore() -> None:
    model = accelerate(network(3), channels_last=True)
    accelerate(accelerate(model), channels_last=True)
    assert len(model._forward_pre_hooks) == 1
    assert report(model).swapped[0].note == "channels-last parameters and inputs"
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    weight = model[0].weight
    restore(model)
    assert not model._forward_pre_hooks and not model._forward_pre_hooks_with_kwargs
    assert model[0].weight is weight and weight.is_contiguous()
    assert report(model).swapped == []


def test_other_hooks_stay() -> None:
    model = network(3)
    handle = model.register_forward_pre_hook(lambda module, args: None)
    restore(accelerate(model, channels_last=True))
    assert list(model._forward_pre_hooks) == [handle.id]


def test_on_a_part_of_a_model() -> None:
    model = nn.Sequential(network(3), nn.Conv3d(2, 2, 3))
    accelerate(model[0], channels_last=True)
    restore(model)
    assert not model[0]._forward_pre_hooks and model[0][0].weight.is_contiguous()


def test_not_images() -> None:
    class Mixed(nn.Module):
        def forward(self, mask: Tensor, vector: Tensor, scale: float, names: list[str]) -> bool:
            return mask.is_contiguous() and vector.is_contiguous() and scale == 2.0 and names == ["a"]

    model = accelerate(Mixed(), channels_last=True)
    assert model(torch.ones(1, 2, 3, 4, dtype=torch.long), torch.ones(2, 3), 2.0, names=["a"])


def test_lazy_parameters_are_skipped() -> None:
    model = accelerate(nn.Sequential(nn.LazyConv3d(4, 3)), channels_last=True)
    assert model(torch.randn(1, 2, 5, 5, 5)).shape == (1, 4, 3, 3, 3)


def test_compiled() -> None:
    model = network(2)
    x = torch.randn(2, 3, 8, 8)
    expected = model(x)
    compiled = accelerate(torch.compile(model, fullgraph=True, backend="aot_eager"), channels_last=True)
    torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)


def test_convolutions_of_one_channel_return_channels_last(small_convolutions_run_ours: None) -> None:
    """As torch's do; and contiguous again once restored."""
    model = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 4, 3, padding=1), nn.Conv3d(4, 1, 3, padding=1))
    x = torch.randn(2, 1, 5, 6, 7)
    before = [p.stride() for p in model.parameters()]
    expected = model(x)
    accelerate(model, channels_last=True)
    assert all(p.stride(1) == 1 for p in model.parameters() if p.ndim == 5)
    y = model[0](x)
    assert "DenseConv" in y.grad_fn.name() and y.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(model(x), expected)
    model(x).square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.ndim == 5]
    assert all(g.is_contiguous(memory_format=torch.channels_last_3d) for g in gradients)
    assert [p.stride() for p in restore(model).parameters()] == before
    assert model[0](x).is_contiguous()


def test_distributed_networks_are_refused(tmp_path):
    """Their buckets have the layout that weights had."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        network = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Conv2d(3, 4, 3)))
        with pytest.raises(ValueError, match="channels_last is True and model is a DistributedDataParallel"):
            accelerate(network, channels_last=True)
        assert type(network.module[0]) is nn.Conv2d
        accelerate(network)
        assert type(network.module[0]) is not nn.Conv2d
    finally:
        torch.distributed.destroy_process_group()
