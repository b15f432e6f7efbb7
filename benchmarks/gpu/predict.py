"""What the compilers say of the kernels that a part of the benchmarks launches, for an H100 that need not be there.

``python -m benchmarks.gpu.predict norm depthwise gates cbam loss`` compiles for sm_90: the Triton kernels with the
constants of the real calls (on meta tensors; nothing runs), the CUDA C++ ones with nvcc where it is found. A row has
programs and their warps, registers, bytes of the stack frame (spills), shared memory, programs on a multiprocessor and
their waves, global accesses by width, and instructions and multiply-adds of each innermost loop.
docs/gpu-predictions.md reads them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from fastseg.backends.loss_call import Formula
from fastseg.backends.triton import attention_gate, cbam, depthwise, loss, norm, soft_mask_attention
from fastseg.backends.views import Layout, memory_format

MULTIPROCESSORS, REGISTERS, WARPS, SHARED = 132, 65536, 64, 227 * 1024  # of an H100; all but the first of one of them
ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
CUDA = {"norm": ("norm_forward", "norm_backward"), "depthwise": ("depthwise_rows_forward", "depthwise_rows_backward")}
LAYOUTS: tuple[Layout, ...] = ("rows", "channels_last")


def image(layout: Layout, *shape: int) -> Tensor:
    return torch.empty(shape, device="meta").contiguous(memory_format=memory_format(layout, len(shape) - 2))


def vector(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


# Each runs the calls of a part and says after each what it was.
def norm_calls(layout: Layout) -> Iterator[str]:
    for shape in ((1, 32, 128, 128, 128), (2, 32, 64, 64, 64), (8, 64, 256, 256)):
        x, w = image(layout, *shape), vector(shape[1])
        _, mean, rstd = norm.instance_norm_act_forward(x, w, w, None, "leaky_relu", 0.01, 1e-5)
        norm.instance_norm_act_backward(x, x, w, w, None, mean, rstd, "leaky_relu", 0.01)
        yield f"{shape}"


def depthwise_calls(layout: Layout) -> Iterator[str]:
    for shape in ((1, 32, 64, 64, 64), (8, 64, 256, 256)):
        rank = len(shape) - 2
        for k in (3, 5, 7):
            x, w = image(layout, *shape), vector(shape[1], 1, *[k] * rank)
            at = ([1] * rank, [k // 2] * rank, [1] * rank)
            depthwise.depthwise_conv_forward(x, w, None, *at, shape[2:], None)
            depthwise.depthwise_conv_backward(x, x, w, *at, (True, True, False))
            yield f"{shape} k{k}"


def gates_calls(layout: Layout) -> Iterator[str]:
    for shape in ((1, 32, 128, 128, 128), (1, 64, 64, 64, 64), (8, 64, 256, 256)):
        x = image(layout, *shape)
        for mask in (x, image("rows", shape[0], 1, *shape[2:])):
            soft_mask_attention.soft_mask_attention_forward(x, mask)
            soft_mask_attention.soft_mask_attention_backward(x, x, mask, True, True)
            yield f"{shape} mask of {mask.shape[1]}"
    for (c, g, f), size, grid in (
        ((32, 32, 16), (64, 64, 64), (64, 64, 64)),
        ((32, 64, 16), (64, 64, 64), (32, 32, 32)),
        ((64, 128, 32), (256, 256), (128, 128)),
    ):
        ones = [1] * len(size)
        x, gating, bias, psi_bias = image(layout, 1, c, *size), image(layout, 1, g, *grid), vector(f), vector(1)
        call = (x, gating, vector(f, c, *ones), vector(f, g, *ones), bias, vector(1, f, *ones), psi_bias)
        attention_gate.attention_gate_forward(*call)
        attention_gate.attention_gate_backward(x, *call)
        yield f"{size} from {grid}, {c} and {g} to {f}"


def cbam_calls(layout: Layout) -> Iterator[str]:
    for shape in ((4, 64, 256, 256), (8, 512, 16, 16), (1, 32, 64, 64, 64)):
        x, hidden = image(layout, *shape), max(shape[1] // 16, 1)
        weights = [vector(hidden, shape[1]), None, vector(shape[1], hidden), None]
        weights += [vector(1, 2, *[7] * (len(shape) - 2)), None, None, None]
        _, saved = cbam.cbam_forward(x, weights, "pooled", True, False, False, 1e-5)
        cbam.cbam_backward(x, x, weights, saved, "pooled", True, False, False, 1e-5)
        yield f"{shape}"


def loss_calls(layout: Layout) -> Iterator[str]:
    formula = Formula(False, 1.0, 1.0, 0.5, 0.5, 5e-6, 1.0, False, True, False)  # Dice and cross-entropy
    for shape in ((2, 4, 128, 128, 128), (8, 2, 256, 256), (2, 150, 64, 64)):
        for dtype in (torch.float32, torch.bfloat16):
            logits = image(layout, *shape).to(dtype)
            labels = vector(shape[0], 1, *shape[2:]).to(torch.uint8)
            value, slopes, _ = loss.segmentation_loss_forward(logits, labels, None, False, -100, formula)
            loss.segmentation_loss_backward(value, logits, labels, slopes, False, -100)
            yield f"{shape} {dtype}".replace("torch.", "")


PARTS = {
    "norm": (norm_calls, (norm,)),
    "depthwise": (depthwise_calls, (depthwise,)),
    "gates": (gates_calls, (soft_mask_attention, attention_gate)),
    "cbam": (cbam_calls, (cbam,)),
    "loss": (loss_calls, (loss,)),
}


def source_for(kernel: Any, args: tuple[Any, ...], options: dict[str, Any], target: GPUTarget) -> tuple[ASTSource, Any]:
    """What triton would compile for this launch on this GPU, and with which options."""
    backend = make_backend(target)
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    options = {**options, "debug": False}
    bound, specialization, _ = bind(*args, **options)
    parsed, signature, constants, attributes = kernel._pack_args(backend, options, bound, specialization, {})
    return ASTSource(kernel, signature, constants, attributes), parsed


def functions(cubin: Path) -> Iterator[tuple[str, dict[str, int], str]]:
    """Name, resources and SASS of each kernel of a file."""
    dump = [shutil.which("cuobjdump") or str(TOOLS / "cuobjdump")]
    usage, sass = (
        subprocess.run([*dump, flag, str(cubin)], capture_output=True, text=True, check=True).stdout
        for flag in ("-res-usage", "-sass")
    )
    codes = dict(re.findall(r"Function : (\S+)\n(.*?)(?=\n\t\tFunction|\Z)", sass, re.S))
    for name, line in re.findall(r"Function (\S+):\n\s*(.*)", usage):
        yield name, {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", line)}, codes[name]


def described(resources: dict[str, int], code: str) -> str:
    """Registers, stack, accesses and innermost loops."""
    lines = [(int(at, 16), rest) for at, rest in re.findall(r"/\*([0-9a-f]{4,5})\*/\s+(.*?);", code)]
    accesses = Counter(match for _, rest in lines for match in re.findall(r"\b(?:LDG|STG|LDL|STL)\.E\S*", rest))
    jumps = [(int(to, 16), at) for at, rest in lines for to in re.findall(r"BRA 0x([0-9a-f]+)", rest)]
    spans = {span for span in jumps if span[0] < span[1]}
    loops = []
    for low, high in sorted(spans):
        body = [rest for at, rest in lines if low <= at <= high]
        if not any(low <= a and b <= high for a, b in spans - {(low, high)}) and len(body) > 16:
            loops.append(f"{len(body)} ({sum('FFMA' in rest for rest in body)} FFMA)")
    wide = ", ".join(f"{name} {count}" for name, count in sorted(accesses.items()))
    return f"{resources['REG']} | {resources['STACK']} | {wide} | {', '.join(loops[:6])}"


def triton_rows(part: str) -> Iterator[str]:
    calls, modules = PARTS[part]
    launches: list[tuple[Any, int, int, tuple[Any, ...], dict[str, Any]]] = []
    for module in modules:
        module.launch = lambda kernel, programs, warps, *args, **constants: launches.append(  # type: ignore[attr-defined]
            (kernel, programs, warps, args, constants)
        )
    target = GPUTarget("cuda", 90, 32)
    for layout in LAYOUTS:
        for name in calls(layout):
            for kernel, programs, warps, args, constants in launches:
                source, options = source_for(kernel, args, {**constants, "num_warps": warps}, target)
                compiled = triton.compile(source, target=target, options=options.__dict__)
                with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                    Path(file.name).write_bytes(compiled.asm["cubin"])
                    ((_, resources, code),) = functions(Path(file.name))
                shared = compiled.metadata.shared
                registers = (resources["REG"] + 7) // 8 * 8 * 32 * warps
                fit = min(REGISTERS // registers, WARPS // warps, SHARED // (shared + 1024), 32)
                yield (
                    f"| {name} {layout} | {kernel.fn.__name__} | {programs} x {warps} | {shared} | {fit} | "
                    f"{programs / MULTIPROCESSORS / fit:.1f} | {described(resources, code)} |"
                )
            launches.clear()


def cuda_rows(source: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / f"{source}.cubin"
        command = ["nvcc", "-cubin", "-arch=sm_90", "-std=c++17", "-O3", "-DNDEBUG", "-DFASTSEG_WITH_CUDA"]
        command += ["-I", str(ROOT / "csrc/include"), str(ROOT / f"csrc/cuda/{source}.cu"), "-o", str(cubin)]
        subprocess.run(command, check=True)
        for mangled, resources, code in functions(cubin):
            name = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout
            short = re.sub(r"\(anonymous namespace\)::|fastseg::cuda::|void |\(.*", "", name.strip())
            yield f"| {source} | {short} | | {resources['SHARED']} | | | {described(resources, code)} |"


def main(parts: list[str]) -> None:
    print(f"Triton {triton.__version__}\n")
    print("| call | kernel | programs x warps | shared | fit | waves | registers | stack | accesses | loops |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for part in parts or PARTS:
        for row in triton_rows(part):
            print(row, flush=True)
        for source in CUDA.get(part, ()) if shutil.which("nvcc") else ():
            print(*cuda_rows(source), sep="\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
