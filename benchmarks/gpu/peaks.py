"""What the device reaches in the two things that bound a kernel: moving bytes, and multiplying."""

from __future__ import annotations

import torch

from benchmarks.gpu.timing import median


def peaks(device: str, *, smoke: bool = False) -> dict[str, float]:
    """GB/s of a copy, bytes read and written; TFLOP/s of matrix products of random numbers, a multiply-add counts two.

    float32 without TF32 is what the fused multiply-add units reach; TF32 and bfloat16 run on tensor cores where there
    are some. cuBLAS is the measure: what the vendor's library reaches is what a kernel can be held to.
    """
    elements = 1 << (16 if smoke else 30)
    source = torch.empty(elements, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    found = {"copy GB/s": 2e-6 * elements / median(lambda: target.copy_(source), device, smoke=smoke)}
    size = 64 if smoke else 8192
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        for name, dtype, tf32 in (
            ("float32 TFLOP/s", torch.float32, False),
            ("TF32 TFLOP/s", torch.float32, True),
            ("bfloat16 TFLOP/s", torch.bfloat16, False),
        ):
            torch.backends.cuda.matmul.allow_tf32 = tf32
            a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
            found[name] = 2e-9 * size**3 / median(lambda a=a, b=b: a @ b, device, smoke=smoke)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    return found
