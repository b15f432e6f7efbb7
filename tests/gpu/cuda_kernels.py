"""Every variant of every CUDA C++ kernel, once, small: what scripts/gpu_sanitizer.sh runs compute-sanitizer over.

``python -m tests.gpu.cuda_kernels`` on a card. The same calls run on the CPU in tests/backends/test_gpu_cases.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

import fastseg
from fastseg import ops
from fastseg.ops.guided_filter import BORDERS

#: Rows of the norm in registers, in shared memory, in a cluster's shared memory, streamed; and odd sizes, whose rows
#: are read element by element.
NORM_SIZES = ((8, 8, 8), (16, 16, 16), (64, 64, 64), (96, 96, 96), (7, 9, 11), (33, 31, 29), (101, 99, 97))
#: Strips of the guided filter: one, several, cut on both sides; sides shorter than a window.
GUIDED_SIZES = ((37, 53), (200, 301), (5, 700))

Call = Callable[[], Sequence[Tensor]]


def differentiated(function: Callable[..., Tensor], *tensors: Tensor) -> list[Tensor]:
    leaves = [t.requires_grad_() for t in tensors]
    y = function(*leaves)
    return [y, *torch.autograd.grad(y, leaves, torch.randn_like(y))]


def norm(device: str, sizes: Sequence[tuple[int, ...]]) -> Iterator[Call]:
    for size in sizes:
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            for residual in (False, True):
                x = torch.randn(1, 2, *size, device=device, dtype=dtype)
                weight, bias = (torch.randn(2, device=device) for _ in range(2))
                other = torch.randn_like(x) if residual else None
                yield lambda x=x, w=weight, b=bias, r=other: differentiated(
                    lambda x, w, b: ops.instance_norm_act(x, w, b, residual=r), x, w, b
                )


def depthwise(device: str) -> Iterator[Call]:
    """Every compiled kernel, the general ones (float64, stride 3), rows and channels-last, transposed, statistics."""
    formats = {2: (torch.contiguous_format, torch.channels_last), 3: (torch.contiguous_format, torch.channels_last_3d)}
    for rank, size in ((2, (41, 37)), (3, (18, 19, 35))):
        conv, transposed = (
            getattr(ops, f"depthwise_conv{rank}d"),
            getattr(ops, f"depthwise_conv_transpose{rank}d"),
        )
        for layout in formats[rank]:
            for dtype in (torch.float32, torch.bfloat16, torch.float64):
                x = torch.randn(2, 16, *size, device=device, dtype=dtype).contiguous(memory_format=layout)
                for kernel in (1, 3, 5, 7):
                    weight = torch.randn(16, 1, *[kernel] * rank, device=device, dtype=dtype)
                    for stride, dilation in ((1, 1), (2, 1), (3, 1), (1, 2)):
                        options = {"stride": stride, "dilation": dilation, "padding": kernel // 2 * dilation}
                        yield lambda x=x, w=weight, o=options, conv=conv: differentiated(
                            lambda x, w: conv(x, w, **o), x, w
                        )
                weight = torch.randn(16, 1, *[3] * rank, device=device, dtype=dtype)
                yield lambda x=x, w=weight, t=transposed: differentiated(
                    lambda x, w: t(x, w, stride=2, padding=1), x, w
                )
                yield lambda x=x, w=weight: [ops.depthwise_instance_norm_act(x.detach(), w.detach())]


def guided_filter(device: str) -> Iterator[Call]:
    for size in GUIDED_SIZES:
        for guides in (1, 3):
            guide = torch.rand(guides, *size, device=device)
            for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
                src = torch.rand(3, *size, device=device).to(dtype)
                for radius in (1, 9, 60):
                    for border in BORDERS:
                        yield lambda g=guide, s=src, r=radius, b=border: [
                            ops.guided_filter(g, s, radius=r, eps=1e-2, border=b)
                        ]


def calls(device: str, sizes: Sequence[tuple[int, ...]] = NORM_SIZES) -> Iterator[Call]:
    yield from norm(device, sizes)
    yield from depthwise(device)
    yield from guided_filter(device)


def main() -> None:
    torch.manual_seed(0)
    with fastseg.backend("cuda"):
        for number, call in enumerate(calls("cuda")):
            results = call()
            torch.cuda.synchronize()
            assert all(t.isfinite().all() for t in results), f"call {number}: not finite"


if __name__ == "__main__":
    main()
