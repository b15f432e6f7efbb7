"""Fused CPU, Triton and CUDA kernels for medical-image segmentation and stereo reconstruction."""

from fastseg import nn, ops
from fastseg.accelerate import accelerate, report, restore
from fastseg.backends.memory import release_cpu_cache, release_gpu_cache, set_cpu_cache_limit
from fastseg.backends.select import BackendError, backend, explain

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "accelerate",
    "backend",
    "explain",
    "nn",
    "ops",
    "release_cpu_cache",
    "release_gpu_cache",
    "report",
    "restore",
    "set_cpu_cache_limit",
]
