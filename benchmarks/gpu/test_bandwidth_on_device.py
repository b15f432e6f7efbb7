"""What moving bytes bounds, at sizes beyond the caches of a card and in the dtypes that networks train in: forward and
backward each for itself, as benchmarks/gpu/aims.py counts their passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch._functorch.config
from torch import Tensor

from benchmarks.conftest import BesideCopy
from benchmarks.gpu import record
from benchmarks.loss_peers import LOSS_PEERS
from benchmarks.peers import NORM_PEERS, compiled, same, with_autotune
from benchmarks.test_attention_gate import eager as eager_gate
from benchmarks.test_cbam import parameters_of, public_cbam
from benchmarks.test_norm import DEVICE
from benchmarks.test_soft_mask_attention import eager as eager_mask
from fastseg.backends import select
from fastseg.ops import attention_gate, cbam, soft_mask_attention

if record.RUN is None:
    pytest.skip("python -m benchmarks.gpu runs these", allow_module_level=True)

SMOKE = record.RUN.smoke
DTYPES = (torch.float32, torch.bfloat16)
#: Rows of the norm that are streamed, and rows that a cluster of blocks holds.
NORMS = ((1, 4, 8, 8, 8),) if SMOKE else ((1, 32, 128, 128, 128), (2, 32, 64, 64, 64))
VOLUME, IMAGE = ((1, 4, 8, 8, 8), (2, 16, 16, 16)) if SMOKE else ((1, 32, 128, 128, 128), (8, 64, 256, 256))
LOGITS = (1, 4, 8, 8, 8) if SMOKE else (2, 4, 128, 128, 128)


def kind(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def drawn(*shape: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, device=DEVICE, dtype=dtype)


def both_ways(
    beside_copy: BesideCopy,
    family: str,
    case: str,
    peer: str,
    function: Callable[..., Tensor],
    inputs: list[Tensor],
    grad: Tensor | None = None,
) -> None:
    """Forward, and backward of a forward pass that is kept; the floor is the copy of the first input, which the result
    is as large as where no other ``grad`` is given."""
    if case.startswith("forward"):
        with torch.no_grad():
            beside_copy(family, case, peer, inputs[0], lambda: function(*inputs))
        return
    leaves = [t.requires_grad_() for t in inputs]
    grad = torch.randn_like(inputs[0]) if grad is None else grad
    kept: dict[str | None, Tensor] = {}

    def backward() -> object:
        backend = select.forced()
        if backend not in kept:  # another one has other tensors saved, or torch's own graph
            kept.clear()
            kept[backend] = function(*leaves)
        return torch.autograd.grad(kept[backend], leaves, grad, retain_graph=True)

    beside_copy(family, case, peer, inputs[0], backward)


@pytest.fixture(autouse=True)
def backward_more_than_once() -> Iterator[None]:
    """What torch.compile makes may else write into what forward has saved, and refuses."""
    with torch._functorch.config.patch(donated_buffer=False):
        yield


ways = pytest.mark.parametrize("way", ("forward", "backward"))
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=kind)


@pytest.mark.parametrize("peer", NORM_PEERS)
@dtypes
@ways
@pytest.mark.parametrize("shape", NORMS, ids=str)
def test_norm(beside_copy: BesideCopy, shape: tuple[int, ...], way: str, dtype: torch.dtype, peer: str) -> None:
    make, layout = NORM_PEERS[peer]
    parameters = [torch.rand(shape[1], device=DEVICE).to(dtype) for _ in range(2)]
    both_ways(
        beside_copy, "norm", f"{way}, {kind(dtype)}", peer, make(), [layout(drawn(*shape, dtype=dtype)), *parameters]
    )


def soft_mask(dtype: torch.dtype) -> list[Tensor]:
    return [drawn(*VOLUME, dtype=dtype) for _ in range(2)]


def gate(dtype: torch.dtype) -> list[Tensor]:
    """A gating signal on the grid of x, with as many channels."""
    channels, ones = VOLUME[1], (1, 1, 1)
    half = channels // 2
    shapes = ((half, channels, *ones), (half, channels, *ones), (half,), (1, half, *ones), (1,))
    return [*soft_mask(dtype), *(drawn(*shape, dtype=dtype, scale=0.2) for shape in shapes)]


def channel_and_spatial(dtype: torch.dtype) -> list[Tensor]:
    return [drawn(*IMAGE, dtype=dtype), *(t.to(dtype) for t in parameters_of("CBAM", IMAGE))]


#: family -> (fastseg's, torch's, its tensors)
ATTENTION: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], Callable[[torch.dtype], list[Tensor]]]] = {
    "soft_mask_attention": (soft_mask_attention, eager_mask, soft_mask),
    "attention_gate": (attention_gate, eager_gate, gate),
    "cbam": (cbam, public_cbam, channel_and_spatial),
}


def peers_of(family: str) -> dict[str, Callable[[], Callable[..., Tensor]]]:
    fused, eager, _ = ATTENTION[family]
    searched = {peer: make for peer, (make, _) in with_autotune(eager, same).items()}
    return {"fastseg": lambda: fused, "eager": lambda: eager, "torch.compile": lambda: compiled(eager), **searched}


@pytest.mark.parametrize(("family", "peer"), [(family, peer) for family in ATTENTION for peer in peers_of(family)])
@dtypes
@ways
def test_attention(beside_copy: BesideCopy, family: str, way: str, dtype: torch.dtype, peer: str) -> None:
    _, _, make = ATTENTION[family]
    both_ways(beside_copy, family, f"{way}, {kind(dtype)}", peer, peers_of(family)[peer](), make(dtype))


@pytest.mark.parametrize("peer", LOSS_PEERS)
@dtypes
@ways
def test_loss(beside_copy: BesideCopy, way: str, dtype: torch.dtype, peer: str) -> None:
    """Labels in bytes, as a loader may hand them over: a sixteenth of the float32 logits. The peers have them in int64
    before, which their cross-entropy takes alone."""
    make, layout = LOSS_PEERS[peer]
    labels = torch.randint(LOGITS[1], (LOGITS[0], 1, *LOGITS[2:]), device=DEVICE)
    labels = labels.to(torch.uint8) if peer.startswith("fastseg") else labels
    function = make()
    both_ways(
        beside_copy,
        "loss",
        f"{way}, {kind(dtype)}",
        peer,
        lambda logits: function(logits, labels),
        [layout(drawn(*LOGITS, dtype=dtype))],
        torch.ones((), device=DEVICE),
    )
