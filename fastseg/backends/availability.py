"""What this installation can run: the compiled module, Triton, a GPU. A refusal is a reason, or None.

Found out once, at import, into plain constants: torch.compile traces the choice of a kernel and reads these.
"""

from __future__ import annotations

import importlib.util
import os
from types import ModuleType

import torch


def _load_compiled() -> tuple[ModuleType | None, str | None]:
    try:
        import fastseg._C as _C
    except ImportError as error:
        return None, f"fastseg._C was not built or does not load ({error})"
    return _C, None


COMPILED, COMPILED_REFUSAL = _load_compiled()

#: The architectures that fastseg._C has CUDA kernels for, or None.
CUDA_ARCHITECTURES: str | None = getattr(COMPILED, "cuda_architectures", None)

TRITON_REFUSAL = (
    None
    if importlib.util.find_spec("triton") is not None
    else "triton is not installed (it comes with torch for Linux and CUDA)"
)

#: Triton's interpreter takes CPU tensors too.
TRITON_INTERPRETS = os.environ.get("TRITON_INTERPRET") == "1"


def cuda_refusal() -> str | None:
    """Why the CUDA C++ kernels cannot be used, or None."""
    if COMPILED_REFUSAL is not None:
        return COMPILED_REFUSAL
    if CUDA_ARCHITECTURES is None:
        return "fastseg._C was built without CUDA (no nvcc was found, or FASTSEG_CUDA=OFF)"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    return None
