"""``fastseg info``: what is installed, what the machine has, and which kernel runs where."""

from __future__ import annotations

import argparse
import json
import os
import platform
from importlib import metadata
from typing import Any

import torch

import fastseg
from fastseg.backends import availability, select

_LIBRARIES = (
    "numpy", "torch", "triton", "nibabel", "monai", "dynamic-network-architectures", "nnunetv2", "pillow", "trimesh",
)  # fmt: skip


def run(options: argparse.Namespace) -> int:
    facts = collect()
    print(json.dumps(facts, indent=2) if options.json else describe(facts))
    return 0


def versions() -> dict[str, str | None]:
    """Distribution -> version, None where it is not installed; nothing is imported for it."""
    found: dict[str, str | None] = {"fastseg": fastseg.__version__, "python": platform.python_version()}
    for distribution in _LIBRARIES:
        try:
            found[distribution] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            found[distribution] = None
    found["torch"] = torch.__version__  # with the build's suffix, +cpu or +cu130
    return found


def cpu_name() -> str:
    """The processor as the system names it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:  # not Linux
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def machine(device: torch.device) -> str:
    """What work on a device runs on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {torch.get_num_threads()} threads"


def collect() -> dict[str, Any]:
    """Everything that ``fastseg info`` prints, ready for JSON."""
    compiled = availability.COMPILED
    return {
        "versions": versions(),
        "cpu": {
            "name": cpu_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "torch_kernels": torch.backends.cpu.get_cpu_capability(),
            "fastseg_kernels": compiled.cpu_capability() if compiled is not None else None,
            "compiler": compiled.compiler if compiled is not None else None,
        },
        "gpus": [_gpu(index) for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else [],
        "backends": {
            "cpu": availability.COMPILED_REFUSAL,
            "triton": availability.TRITON_REFUSAL or _no_gpu_for_triton(),
            "cuda": availability.cuda_refusal(),
            "reference": None,
        },
        "forced_backend": os.environ.get("FASTSEG_BACKEND") or None,
        "kernels": {op: _kernels(op) for op in select.CANDIDATES},
    }


def describe(facts: dict[str, Any]) -> str:
    """The facts as text for a terminal."""
    cpu = facts["cpu"]
    lines = ["versions"]
    lines += [f"  {name:<30} {version or 'not installed'}" for name, version in facts["versions"].items()]
    lines += [
        "processor",
        f"  {cpu['name']}, {cpu['cores']} logical cores, {cpu['threads']} threads",
        f"  {'torch kernels':<30} {cpu['torch_kernels']}",
        f"  {'fastseg kernels':<30} {cpu['fastseg_kernels'] or 'none'}"
        + (f" (compiled with {cpu['compiler']})" if cpu["compiler"] else ""),
        "graphics",
    ]
    for gpu in facts["gpus"]:
        lines.append(f"  {gpu['name']}, {gpu['memory_gib']} GiB, compute capability {gpu['capability']}")
    if not facts["gpus"]:
        lines.append(f"  torch sees no GPU (built {_torch_build()})")
    lines.append("backends")
    for name, refusal in facts["backends"].items():
        lines.append(f"  {name:<30} {'available' if refusal is None else f'no: {refusal}'}")
    if facts["forced_backend"]:
        lines.append(f"  FASTSEG_BACKEND forces {facts['forced_backend']}")
    lines.append("kernels")
    for op, devices in facts["kernels"].items():
        chosen = ", ".join(f"{backend} for {device} tensors" for device, backend in devices.items())
        lines.append(f"  {op:<30} {chosen}")
    return "\n".join(lines)


def _torch_build() -> str:
    return f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"


def _gpu(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "capability": f"{properties.major}.{properties.minor}",
    }


def _no_gpu_for_triton() -> str | None:
    if torch.cuda.is_available() or availability.TRITON_INTERPRETS:
        return None
    return "torch sees no CUDA device"


def _kernels(op: str) -> dict[str, str]:
    """Device -> the backend that runs ``op`` there on a contiguous tensor, or why none does."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return {device: _choice(op, torch.zeros((1, 2, 4, 4), device=device)) for device in devices}


def _choice(op: str, x: torch.Tensor) -> str:
    try:
        return select.choose(op, x).backend
    except select.BackendError as error:  # FASTSEG_BACKEND asks for what cannot run
        return f"none ({error})"
