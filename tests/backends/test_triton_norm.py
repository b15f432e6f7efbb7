"""Triton kernels of the norm family against float64 PyTorch.

The kernels run on the GPU where there is one. In any case they run once more in triton's interpreter, on CPU tensors;
that is decided when triton is imported, so the module runs itself again in a process of its own.
"""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import instance_norm, leaky_relu, relu

pytest.importorskip("triton")

from fastseg.backends.triton import norm
from fastseg.backends.triton.tensors import compute_dtype
from fastseg.backends.views import layout_of
from tests.backends.interpreter import INTERPRETED
from tests.support import assert_within_budget, pairwise, rerun

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
ACTIVATIONS = ["none", "relu", "leaky_relu"]
PATHS = ("resident", "streaming")
SLOPE = 0.1
EPS = 1e-5

Gradients = dict[str, Tensor]


@pytest.mark.skipif(INTERPRETED, reason="this is that run")
def test_everything_here_in_the_interpreter() -> None:
    rerun(__file__, TRITON_INTERPRET="1")


@pytest.fixture
def device() -> str:
    if INTERPRETED:
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    pytest.skip("needs a GPU; see the run in the interpreter")


@pytest.fixture(autouse=True)
def nan_poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    empty_like, new_empty = torch.empty_like, torch.Tensor.new_empty
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: empty_like(*a, **k).fill_(float("nan")))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: new_empty(*a, **k).fill_(float("nan")))


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Small rows take the resident kernels; tiles of a few elements send them through the streaming ones."""
    if request.param == "streaming":
        monkeypatch.setattr(norm, "RESIDENT_BYTES", 0)
        monkeypatch.setattr(norm, "FORWARD_TILE_BYTES", 256)
        monkeypatch.setattr(norm, "BACKWARD_TILE_BYTES", 128)
        monkeypatch.setattr(norm, "MAX_PARTS", {"rows": 3, "channels_last": 3})
    return str(request.param)


def channels_last(t: Tensor) -> Tensor:
    """The same values with the channel axis innermost, for any rank."""
    return t.movedim(1, -1).contiguous().movedim(-1, 1)


def random(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device, dtype)


def affine(channels: int, device: str) -> tuple[Tensor, Tensor]:
    """float32 values that 16-bit types hold exactly, so that PyTorch computes the same function in any of them."""
    weight = random((channels,), torch.bfloat16, device, 100).float()
    return weight.to(torch.float16).float(), random((channels,), torch.bfloat16, device, 101).half().float()


def in_pytorch(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    grad: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Gradients]:
    """y and the gradients as PyTorch computes them in dtype on the CPU."""
    given = {"x": x, "weight": weight, "bias": bias, "residual": residual}
    leaves = {
        name: t.detach().cpu().to(dtype).contiguous().requires_grad_() for name, t in given.items() if t is not None
    }
    z = instance_norm(leaves["x"], weight=leaves.get("weight"), bias=leaves.get("bias"), eps=EPS)
    if residual is not None:
        z = z + leaves["residual"]
    y = {"none": lambda z: z, "relu": relu, "leaky_relu": lambda z: leaky_relu(z, SLOPE)}[activation](z)
    gradients = torch.autograd.grad(y, list(leaves.values()), grad.cpu().to(dtype).contiguous())
    return y.detach(), dict(zip(leaves, gradients, strict=True))


def within_budget(
    name: str, actual: Tensor, exact: Tensor, peer: Tensor, dtype: torch.dtype, terms: float = 0.0
) -> None:
    """In the precision of x: gradients of float32 parameters of a 16-bit x are summed from 16-bit numbers."""
    assert_within_budget(actual.detach().cpu().to(dtype), exact, peer, name, terms=terms)


def check(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str = "leaky_relu",
    grad: Tensor | None = None,
) -> None:
    if grad is None:
        grad = random(tuple(x.shape), x.dtype, str(x.device), 102)
    exact_y, exact = in_pytorch(x, weight, bias, residual, activation, grad, torch.float64)
    pytorch_y, pytorch = in_pytorch(x, weight, bias, residual, activation, grad, x.dtype)

    y, mean, rstd = norm.instance_norm_act_forward(x, weight, bias, residual, activation, SLOPE, EPS)
    assert y.dtype == x.dtype and y.shape == x.shape
    if layout_of(x) is not None:
        assert y.stride() == torch.empty_like(x).stride()
    assert mean.shape == rstd.shape == x.shape[:2]
    assert mean.dtype == rstd.dtype == compute_dtype(x.dtype)
    within_budget("y", y, exact_y, pytorch_y, x.dtype)

    if residual is None:
        given = norm.instance_norm_act_apply(x, mean, rstd, weight, bias, activation, SLOPE)
        assert given.dtype == x.dtype and given.stride() == y.stride()
        within_budget("y of given statistics", given, exact_y, pytorch_y, x.dtype)

    branch = y if residual is not None and activation != "none" else None
    gradients = norm.instance_norm_act_backward(grad, x, weight, bias, branch, mean, rstd, activation, SLOPE)
    # Without a weight nobody asks for its gradient; without a branch of its own dresidual is grad.
    for name, gradient in zip(("x", "weight", "bias", "residual"), gradients, strict=True):
        if name not in exact or (name == "residual" and branch is None):
            continue
        if name in ("weight", "bias"):  # one rounding of each summand, added in quadrature
            summands = grad * instance_norm(x.float()) if name == "weight" else grad
            terms = summands.double().transpose(0, 1).flatten(1).square().sum(1).sqrt().max().item()
        else:
            terms = 0.0
        within_budget(f"gradient of {name}", gradient, exact[name], pytorch[name], x.dtype, terms)


@pytest.mark.parametrize(
    ("shape", "layout", "path"),
    pairwise(
        [
            (2, 3, 7),
            (1, 5, 2),
            (3, 1, 5),
            (2, 17, 3, 3),
            (2, 3, 9, 11),
            (1, 4, 10, 10),
            (2, 5, 4, 5, 7),
            (1, 2, 1, 1, 9),
        ],
        ("rows", "channels_last"),
        PATHS,
    ),
    indirect=["path"],
)
def test_shapes(shape: tuple[int, ...], layout: str, path: str, device: str) -> None:
    x, residual = random(shape, torch.float32, device, 0), random(shape, torch.float32, device, 1)
    if layout == "channels_last":
        x = channels_last(x)
    check(x, *affine(shape[1], device), residual)


@pytest.mark.parametrize(
    ("dtype", "activation", "with_residual", "with_affine", "path"),
    pairwise(DTYPES, ACTIVATIONS, (False, True), (False, True), PATHS),
    indirect=["path"],
)
def test_dtypes_and_terms(
    dtype: torch.dtype, activation: str, with_residual: bool, with_affine: bool, path: str, device: str
) -> None:
    shape = (2, 3, 9, 8)
    x = random(shape, dtype, device, 2)
    if with_residual != with_affine:
        x = channels_last(x)
    weight, bias = affine(3, device) if with_affine else (None, None)
    check(x, weight, bias, random(shape, dtype, device, 3) if with_residual else None, activation)


def test_views(path: str, device: str) -> None:
    """Tensors that are not dense, or dense in an order of their own."""
    wide = random((2, 9, 6, 7), torch.float32, device, 4)
    weight, bias = affine(4, device)
    for x in (
        wide[:, 3:7],
        channels_last(wide)[:, 3:7],
        channels_last(wide)[:, 2:6, 1:],
        wide[:, :4, :, ::2],
        wide[:, :4].transpose(2, 3),
        random((4, 2, 5, 6), torch.float32, device, 5).transpose(0, 1),
        random((1, 4, 5, 6), torch.float32, device, 6).expand(2, -1, -1, -1),
        random((2, 4, 12), torch.float32, device, 7).unsqueeze(2),
    ):
        residual = channels_last(random(tuple(x.shape), torch.float32, device, 8))
        check(x, weight, bias, residual)


@pytest.mark.parametrize("layout", ["rows", "channels_last"])
def test_gradients_without_strides(layout: str, path: str, device: str) -> None:
    shape = (2, 3, 6, 7)
    x = random(shape, torch.float32, device, 9)
    if layout == "channels_last":
        x = channels_last(x)
    weight, bias = affine(3, device)
    for grad in (torch.ones((), device=device), random((1, 1, 6, 7), torch.float32, device, 10)):
        check(x, weight, bias, grad=grad.expand(shape))


@pytest.mark.parametrize("layout", ["rows", "channels_last"])
def test_a_mean_far_from_zero_does_not_cancel(layout: str, path: str, device: str) -> None:
    x = random((2, 3, 20, 25), torch.float32, device, 11) + 1e4
    if layout == "channels_last":
        x = channels_last(x)
    exact = instance_norm(x.cpu().double(), eps=EPS)
    y, _, rstd = norm.instance_norm_act_forward(x, None, None, None, "none", SLOPE, EPS)
    assert (y.cpu().double() - exact).abs().max() < 1e-5
    exact_rstd = (x.cpu().double().var((2, 3), correction=0) + EPS).rsqrt()
    torch.testing.assert_close(rstd.cpu().double(), exact_rstd, rtol=1e-6, atol=0)


def test_rows_that_begin_far_from_their_mean(path: str, device: str) -> None:
    x = random((2, 3, 500), torch.float32, device, 12)
    x[0, 0, 0] = 1e6
    x[0, 1, :200] = 1e3
    check(x)


def test_constant_rows_give_the_bias(path: str, device: str) -> None:
    x = torch.tensor([0.0, 0.1, 1e4, -3.7], device=device).view(1, 4, 1).expand(1, 4, 333).contiguous()
    weight, bias = affine(4, device)
    y, _, _ = norm.instance_norm_act_forward(x, weight, bias, None, "none", SLOPE, 1e-5)
    torch.testing.assert_close(y, bias.view(1, 4, 1).expand_as(y), atol=1e-4, rtol=0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_passes_through(activation: str, path: str, device: str) -> None:
    x, residual = random((1, 3, 90), torch.float32, device, 13), random((1, 3, 90), torch.float32, device, 14)
    x[0, 1, 80] = float("nan")
    residual[0, 2, 5] = float("nan")
    y, _, _ = norm.instance_norm_act_forward(x, None, None, residual, activation, SLOPE, EPS)
    expected = torch.zeros(1, 3, 90, dtype=torch.bool, device=device)
    expected[0, 1] = True
    expected[0, 2, 5] = True
    assert torch.equal(y.isnan(), expected)


def test_same_bits_every_time(path: str, device: str) -> None:
    x, grad = random((2, 5, 9, 11), torch.float32, device, 15), random((2, 5, 9, 11), torch.float32, device, 16)
    weight, bias = affine(5, device)

    def run() -> list[Tensor]:
        y, mean, rstd = norm.instance_norm_act_forward(x, weight, bias, None, "relu", SLOPE, EPS)
        gradients = norm.instance_norm_act_backward(grad, x, weight, bias, None, mean, rstd, "relu", SLOPE)
        return [y, mean, rstd, *(t for t in gradients if t is not None)]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_dresidual_is_empty_without_a_branch_of_its_own(path: str, device: str) -> None:
    x = random((2, 3, 50), torch.float32, device, 17)
    _, mean, rstd = norm.instance_norm_act_forward(x, None, None, None, "relu", SLOPE, EPS)
    *_, dresidual = norm.instance_norm_act_backward(x, x, None, None, None, mean, rstd, "relu", SLOPE)
    assert dresidual.numel() == 0


def test_empty_batch(path: str, device: str) -> None:
    x = torch.zeros(0, 3, 8, 9, device=device)
    weight, bias = affine(3, device)
    y, mean, rstd = norm.instance_norm_act_forward(x, weight, bias, None, "relu", SLOPE, EPS)
    dx, dweight, dbias, _ = norm.instance_norm_act_backward(y, x, weight, bias, None, mean, rstd, "relu", SLOPE)
    assert y.shape == dx.shape == x.shape and mean.shape == (0, 3)
    assert dweight is not None and torch.equal(dweight, torch.zeros_like(weight))
    assert dbias is not None and torch.equal(dbias, torch.zeros_like(bias))


@pytest.mark.skipif(INTERPRETED, reason="too large for the interpreter")
@pytest.mark.parametrize("layout", ["rows", "channels_last"])
def test_more_than_two_to_the_31_elements(layout: str, device: str) -> None:
    depth, channels = 600, 4
    x = torch.randn(1, channels, depth, 1024, 1024, dtype=torch.bfloat16, device=device)
    assert x.numel() > 2**31
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last_3d)
    y, mean, rstd = norm.instance_norm_act_forward(x, None, None, None, "none", SLOPE, EPS)
    dx, *_ = norm.instance_norm_act_backward(y, x, None, None, None, mean, rstd, "none", SLOPE)
    assert not y.isnan().any() and not dx.isnan().any()
    last = x[0, -1, -1].double()
    exact = (last - mean[0, -1].double()) * rstd[0, -1].double()
    torch.testing.assert_close(y[0, -1, -1].double(), exact, rtol=2**-7, atol=2**-7)
    torch.testing.assert_close(mean[0, -1].item(), x[0, -1].mean(dtype=torch.float64).item(), atol=1e-6, rtol=0)
