"""Every variant of every CUDA C++ kernel, once, small: what compute-sanitizer runs over.

On a card by tests/gpu/test_cuda_kernels_gpu.py; some of the calls run on the CPU in tests/backends/test_gpu_cases.py.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from fastseg import ops
from fastseg.ops.guided_filter import BORDERS

#: Rows of the norm in registers, in shared memory, in a cluster's shared memory, streamed; and odd sizes, whose rows
#: are read element by element.
NORM_SIZES = ((8, 8, 8), (16, 16, 16), (64, 64, 64), (96, 96, 96), (7, 9, 11), (33, 31, 29), (101, 99, 97))
#: Strips of the guided filter: one, several, cut on both sides; sides shorter than a window.
GUIDED_SIZES = ((37, 53), (200, 301), (5, 700))

HALVES_AND_WIDER = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

#: On a device: y and the gradients.
Call = Callable[[str], Sequence[Tensor]]
#: What says the sizes of a call, and the call.
Calls = Iterator[tuple[str, Call]]


def differentiated(function: Callable[..., Tensor], *tensors: Tensor) -> list[Tensor]:
    leaves = [t.requires_grad_() for t in tensors]
    y = function(*leaves)
    return [y, *torch.autograd.grad(y, leaves, torch.randn_like(y))]


def norm(sizes: Sequence[tuple[int, ...]] = NORM_SIZES) -> Calls:
    for size, dtype, residual in itertools.product(sizes, HALVES_AND_WIDER, (False, True)):

        def call(device: str, size=size, dtype=dtype, residual=residual) -> Sequence[Tensor]:
            x = torch.randn(1, 2, *size, device=device, dtype=dtype)
            weight, bias = (torch.randn(2, device=device) for _ in range(2))
            other = torch.randn_like(x) if residual else None
            return differentiated(lambda x, w, b: ops.instance_norm_act(x, w, b, residual=other), x, weight, bias)

        yield f"{named(size)} {named(dtype)}{' residual' if residual else ''}", call


def depthwise() -> Calls:
    """Every compiled kernel, the general ones (float64, stride 3), rows and channels-last, transposed, statistics."""
    formats = {2: (torch.contiguous_format, torch.channels_last), 3: (torch.contiguous_format, torch.channels_last_3d)}
    dtypes = (torch.float32, torch.bfloat16, torch.float64)
    for rank, last, dtype in itertools.product((2, 3), (False, True), dtypes):
        conv, transposed = (
            getattr(ops, f"depthwise_conv{rank}d"),
            getattr(ops, f"depthwise_conv_transpose{rank}d"),
        )

        def drawn(device: str, kernel: int, rank=rank, last=last, dtype=dtype) -> list[Tensor]:
            size = {2: (41, 37), 3: (18, 19, 35)}[rank]
            x = torch.randn(2, 16, *size, device=device, dtype=dtype).contiguous(memory_format=formats[rank][last])
            return [x, torch.randn(16, 1, *[kernel] * rank, device=device, dtype=dtype)]

        def convolve(device: str, kernel: int, drawn=drawn, conv=conv, **options: int) -> Sequence[Tensor]:
            return differentiated(lambda x, w: conv(x, w, **options), *drawn(device, kernel))

        def transpose(device: str, drawn=drawn, transposed=transposed) -> Sequence[Tensor]:
            return differentiated(lambda x, w: transposed(x, w, stride=2, padding=1), *drawn(device, 3))

        def normalise(device: str, drawn=drawn) -> Sequence[Tensor]:
            return [ops.depthwise_instance_norm_act(*drawn(device, 3))]

        name = f"{rank}D{' channels-last' if last else ''} {named(dtype)}"
        for kernel, (stride, dilation) in itertools.product((1, 3, 5, 7), ((1, 1), (2, 1), (3, 1), (1, 2))):
            options = {"stride": stride, "dilation": dilation, "padding": kernel // 2 * dilation}
            call = functools.partial(convolve, kernel=kernel, **options)
            yield f"{name} k{kernel} stride {stride} dilation {dilation}", call
        yield f"{name} transposed", transpose
        yield f"{name} with norm", normalise


def guided_filter() -> Calls:
    for size, guides, dtype in itertools.product(GUIDED_SIZES, (1, 3), HALVES_AND_WIDER):
        for radius, border in itertools.product((1, 9, 60), BORDERS):

            def call(device: str, size=size, guides=guides, dtype=dtype, **options) -> Sequence[Tensor]:
                guide = torch.rand(guides, *size, device=device)
                src = torch.rand(3, *size, device=device).to(dtype)
                return [ops.guided_filter(guide, src, eps=1e-2, **options)]

            name = f"{named(size)} {named(dtype)} {guides} colours radius {radius} {border}"
            yield name, functools.partial(call, radius=radius, border=border)


def named(what: Sequence[int] | torch.dtype) -> str:
    return str(what).removeprefix("torch.") if isinstance(what, torch.dtype) else "x".join(map(str, what))


FAMILIES: dict[str, Callable[[], Calls]] = {"norm": norm, "depthwise": depthwise, "guided_filter": guided_filter}


def calls() -> list[tuple[str, str, Call]]:
    """Family, name and call of each."""
    return [(family, name, call) for family, each in FAMILIES.items() for name, call in each()]
