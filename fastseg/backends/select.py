"""Which kernel runs for a call, and why the others do not.

Every op has its candidates in the order of preference. A candidate that cannot run a call says why; the first that can
run is taken. ``FASTSEG_BACKEND`` and :func:`backend` force one, and then a refusal is an error.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad

from fastseg.backends import availability
from fastseg.backends.views import layout_of

BACKENDS = ("cpu", "triton", "cuda", "reference")


class BackendError(RuntimeError):
    """The forced backend cannot run the call."""


@dataclass(frozen=True)
class Candidate:
    """One implementation of an op: the module that launches it and what it needs."""

    backend: str
    module: str
    refusal: Callable[[Tensor], str | None]
    #: Of a call's other arguments, where these decide too: x's size, then what the op hands to :func:`choose`.
    limits: Callable[..., str | None] | None = None

    def refuses(self, x: Tensor, call: tuple[Any, ...]) -> str | None:
        why = self.refusal(x)
        return self.limits(x.shape, *call) if why is None and call and self.limits is not None else why


def _cpu_refusal(x: Tensor) -> str | None:
    if x.device.type != "cpu":
        return f"x is on {x.device}, this kernel runs on CPU tensors"
    return availability.COMPILED_REFUSAL


def _triton_refusal(x: Tensor) -> str | None:
    if x.device.type != "cuda" and not (x.device.type == "cpu" and availability.TRITON_INTERPRETS):
        return f"x is on {x.device}, Triton runs on CUDA tensors (on CPU tensors with TRITON_INTERPRET=1)"
    return availability.TRITON_REFUSAL


#: A program of the losses' kernels holds all classes of some voxels.
_TRITON_LOSS_CLASSES = 1024


def _triton_loss_refusal(x: Tensor) -> str | None:
    if x.shape[1] > _TRITON_LOSS_CLASSES:
        return f"logits have {x.shape[1]} classes, this kernel takes {_TRITON_LOSS_CLASSES} at most"
    return _triton_refusal(x)


def _cuda_refusal(x: Tensor) -> str | None:
    if x.device.type != "cuda":
        return f"x is on {x.device}, this kernel runs on CUDA tensors"
    return availability.cuda_refusal()


def _cuda_rows_refusal(x: Tensor) -> str | None:
    if x.device.type == "cuda" and layout_of(x) != "rows":
        return "x is channels-last, the on-chip kernel reads rows (contiguous tensors)"
    return _cuda_refusal(x)


#: guided_filter_largest_radius of csrc/include/fastseg/guided_filter.h.
_CUDA_GUIDED_FILTER_RADIUS = 96


def _cuda_guided_filter_limits(shape: torch.Size, radius: int, border: str, subsample: int = 1) -> str | None:
    if subsample > 1:
        return f"subsample is {subsample}, this kernel filters all pixels (subsample 1)"
    if (min(radius, shape[-1] - 1) if border == "truncate" else radius) > _CUDA_GUIDED_FILTER_RADIUS:
        return (
            f"radius is {radius}, this kernel takes windows of radius {_CUDA_GUIDED_FILTER_RADIUS} at most along rows"
        )
    return None


def _never(x: Tensor) -> str | None:
    return None


# The vendor's convolutions have run on cards, ours have not: they run where they are asked for.
_DEPTHWISE = (
    Candidate("cpu", "fastseg.backends.cpu", _cpu_refusal),
    Candidate("reference", "fastseg.reference", _never),
    Candidate("cuda", "fastseg.backends.cuda", _cuda_refusal),
    Candidate("triton", "fastseg.backends.triton.depthwise", _triton_refusal),
)

_ASPP = (
    Candidate("cpu", "fastseg.backends.cpu_context", _cpu_refusal),
    Candidate("reference", "fastseg.reference", _never),
)
_SEPARABLE_ASPP = (
    Candidate("cpu", "fastseg.backends.cpu_context", _cpu_refusal),
    Candidate("reference", "fastseg.reference", _never),
    Candidate("triton", "fastseg.backends.triton.context", _triton_refusal),
)

_GUIDED_FILTER = (
    Candidate("cpu", "fastseg.backends.cpu_guided_filter", _cpu_refusal),
    # Not run on a card yet, but the reference multiplies by matrices, in a time that grows with an image's sides.
    Candidate("triton", "fastseg.backends.triton.guided_filter", _triton_refusal),
    Candidate("cuda", "fastseg.backends.cuda_guided_filter", _cuda_refusal, _cuda_guided_filter_limits),
    Candidate("reference", "fastseg.reference", _never),
)

_MATCHING_COST = (
    Candidate("cpu", "fastseg.backends.cpu_matching_cost", _cpu_refusal),
    # Not run on a card yet, but the reference goes over the images a hundred times for each disparity.
    Candidate("triton", "fastseg.backends.triton.matching_cost", _triton_refusal),
    Candidate("reference", "fastseg.reference", _never),
)

# torch's own ops have run on cards, our kernels have not.
_CBAM = (
    Candidate("cpu", "fastseg.backends.cpu_cbam", _cpu_refusal),
    Candidate("reference", "fastseg.reference", _never),
    Candidate("triton", "fastseg.backends.triton.cbam", _triton_refusal),
)

_DENSE_CONV = (
    Candidate("cpu", "fastseg.backends.cpu_dense_conv", _cpu_refusal),
    Candidate("reference", "fastseg.reference", _never),
)

_LOSS = (
    Candidate("cpu", "fastseg.backends.cpu_loss", _cpu_refusal),
    # torch's own ops have run on cards, our kernels have not.
    Candidate("reference", "fastseg.reference", _never),
    Candidate("triton", "fastseg.backends.triton.loss", _triton_loss_refusal),
)

# Triton stands before CUDA C++ until both have been timed on a card: benchmarks/results/ holds what was measured.
CANDIDATES: dict[str, tuple[Candidate, ...]] = {
    "instance_norm_act": (
        Candidate("cpu", "fastseg.backends.cpu", _cpu_refusal),
        Candidate("triton", "fastseg.backends.triton.norm", _triton_refusal),
        Candidate("cuda", "fastseg.backends.cuda", _cuda_rows_refusal),
        Candidate("reference", "fastseg.reference", _never),
    ),
    # cuDNN normalises over the batch on GPUs: no Triton kernel.
    "batch_norm_act": (
        Candidate("cpu", "fastseg.backends.cpu_batch_norm", _cpu_refusal),
        Candidate("reference", "fastseg.reference", _never),
    ),
    "depthwise_conv2d": _DEPTHWISE,
    "depthwise_conv3d": _DEPTHWISE,
    "depthwise_conv_transpose2d": _DEPTHWISE,
    "depthwise_conv_transpose3d": _DEPTHWISE,
    "depthwise_instance_norm_act": _DEPTHWISE,
    "depthwise_separable_conv2d": _DEPTHWISE,
    "depthwise_separable_conv3d": _DEPTHWISE,
    # Dense convolutions are the vendor's on GPUs: there is nothing to gain.
    "aspp_conv2d": _ASPP,
    "aspp_conv3d": _ASPP,
    "separable_aspp_conv2d": _SEPARABLE_ASPP,
    "separable_aspp_conv3d": _SEPARABLE_ASPP,
    "cbam": _CBAM,
    "channel_attention": _CBAM,
    "spatial_attention": _CBAM,
    "squeeze_excitation": _CBAM,
    "scse": _CBAM,
    "wls_filter": (
        Candidate("cpu", "fastseg.backends.cpu_wls", _cpu_refusal),
        # Not run on a card yet, but the reference, preconditioned by the diagonal alone, takes thousands of steps.
        Candidate("triton", "fastseg.backends.triton.wls", _triton_refusal),
        Candidate("reference", "fastseg.reference", _never),
    ),
    "pointwise_conv": (
        Candidate("cpu", "fastseg.backends.cpu", _cpu_refusal),
        Candidate("reference", "fastseg.reference", _never),
    ),
    "dense_conv": _DENSE_CONV,
    "dense_conv_transpose": _DENSE_CONV,
    "up_conv": (
        Candidate("cpu", "fastseg.backends.cpu_up_conv", _cpu_refusal),
        Candidate("reference", "fastseg.reference", _never),
    ),
    "attention_gate": (
        Candidate("cpu", "fastseg.backends.cpu_attention_gate", _cpu_refusal),
        Candidate("triton", "fastseg.backends.triton.attention_gate", _triton_refusal),
        Candidate("reference", "fastseg.reference", _never),
    ),
    "soft_mask_attention": (
        Candidate("cpu", "fastseg.backends.cpu_soft_mask_attention", _cpu_refusal),
        Candidate("triton", "fastseg.backends.triton.soft_mask_attention", _triton_refusal),
        Candidate("reference", "fastseg.reference", _never),
    ),
    "soft_mask_attention_conv": (
        Candidate("cpu", "fastseg.backends.cpu_soft_mask_attention", _cpu_refusal),
        Candidate("reference", "fastseg.reference", _never),
    ),
    "dice_cross_entropy": _LOSS,
    "tversky": _LOSS,
    "focal_tversky": _LOSS,
    "generalized_dice": _LOSS,
    "fast_global_smoother": (
        Candidate("cpu", "fastseg.backends.cpu_fast_global_smoother", _cpu_refusal),
        Candidate("triton", "fastseg.backends.triton.fast_global_smoother", _triton_refusal),
        Candidate("reference", "fastseg.reference", _never),
    ),
    "guided_filter": _GUIDED_FILTER,
    "guided_filter_argmin": _GUIDED_FILTER,
    "cross_scale_aggregate": (
        Candidate("cpu", "fastseg.backends.cpu_cross_scale", _cpu_refusal),
        Candidate("triton", "fastseg.backends.triton.cross_scale", _triton_refusal),
        Candidate("reference", "fastseg.reference", _never),
    ),
    "weighted_median": (
        Candidate("cpu", "fastseg.backends.cpu_weighted_median", _cpu_refusal),
        Candidate("triton", "fastseg.backends.triton.weighted_median", _triton_refusal),
        Candidate("reference", "fastseg.reference", _never),
    ),
    "census_transform": _MATCHING_COST,
    "matching_cost": _MATCHING_COST,
    "winner_takes_all": (
        Candidate("cpu", "fastseg.backends.cpu_winner_takes_all", _cpu_refusal),
        Candidate("triton", "fastseg.backends.triton.winner_takes_all", _triton_refusal),
        Candidate("reference", "fastseg.reference", _never),
    ),
}

# Process-wide and not per thread: autograd runs backward on threads of its own.
_forced: str | None = None


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Force one backend inside a ``with`` block: ``"cpu"``, ``"triton"``, ``"cuda"`` or ``"reference"``.

    ``"reference"`` runs plain torch ops, which can be exported, differentiated twice and run on any device. A backend
    that cannot run a call raises :class:`BackendError` with the reason. The setting holds for the whole process, and
    for a backward pass only while the block is open; ``FASTSEG_BACKEND`` in the environment sets it from the start.

    Raises:
        ValueError: ``name`` is no backend.
    """
    global _forced
    previous = _forced
    _forced = _checked(name, "name")
    try:
        yield
    finally:
        _forced = previous


def _checked(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"backend: {source} is {name!r}, expected one of {', '.join(map(repr, BACKENDS))}")
    return name


if os.environ.get("FASTSEG_BACKEND"):
    _forced = _checked(os.environ["FASTSEG_BACKEND"], "FASTSEG_BACKEND")


def forced() -> str | None:
    """The backend that :func:`backend` or FASTSEG_BACKEND forces, or None."""
    return _forced


def choose(op: str, x: Tensor, *call: Any) -> Candidate:
    """The candidate that runs ``op`` on ``x``; BackendError when one is forced that cannot.

    ``call``: the arguments beside x that a candidate's limits ask for.
    """
    for candidate in CANDIDATES[op]:
        if _forced is not None and candidate.backend != _forced:
            continue
        refusal = candidate.refuses(x, call)
        if refusal is None:
            return candidate
        if _forced is not None:
            raise BackendError(f"{op}: backend {_forced!r} is forced and cannot run: {refusal}")
    raise BackendError(f"{op}: backend {_forced!r} is forced, and this op has no such kernel")


def runs_reference(op: str, x: Tensor, *call: Any) -> bool:
    """Whether plain torch ops are to run, which need no registered op and no autograd of ours."""
    if _forced == "reference":
        return True
    if transformed():
        only_reference(op, "forward-mode derivatives and the transforms of torch.func run plain torch ops")
        return True
    return _forced is None and choose(op, x, *call).backend == "reference"


def transformed() -> bool:
    """Whether torch follows the ops with tangents or transforms, of which kernels and our autograd know nothing."""
    return forward_ad._current_level >= 0 or _in_a_transform()


def _in_a_transform() -> bool:
    return peek_interpreter_stack() is not None


# For torch.compile, which has the transforms of a function there as it traces it, and compiles again under others.
# torch.compiler.assume_constant_result sets this, and imports the compiler, which takes seconds.
_in_a_transform._dynamo_marked_constant = True  # type: ignore[attr-defined]


def only_reference(op: str, why: str) -> None:
    """For a call that plain torch ops alone can run: BackendError when another backend is forced."""
    if _forced not in (None, "reference"):
        raise BackendError(f"{op}: backend {_forced!r} is forced and cannot run: {why}")


_modules: dict[str, ModuleType] = {}


def kernel(op: str, x: Tensor, *call: Any) -> ModuleType:
    """The module whose ``<op>_forward`` and ``<op>_backward`` launch the chosen kernel."""
    candidate = choose(op, x, *call)
    if candidate.backend == "reference":  # a backward pass: forward has asked runs_reference
        now = "another backend is the default" if _forced is None else f"backend {_forced!r} is forced"
        raise BackendError(
            f"{op}: {now} for the backward pass of a kernel: choose one backend for forward and backward"
        )
    name = candidate.module
    module = _modules.get(name)
    if module is None:  # Triton is imported when it is first needed
        module = _modules[name] = importlib.import_module(name)
    return module


def explain(op: str, x: Tensor) -> str:
    """Which kernel runs for ``op`` on ``x``, and for each other one why it does not; printed and returned.

    Args:
        op: the name of a function of :mod:`fastseg.ops`.
        x: its first tensor argument.

    Raises:
        ValueError: ``op`` is no op.
    """
    if op not in CANDIDATES:
        raise ValueError(f"explain: op is {op!r}, expected one of {', '.join(map(repr, CANDIDATES))}")
    layout = layout_of(x) or "strided (copied to rows first)"
    lines = [f"{op} on {tuple(x.shape)} {str(x.dtype).removeprefix('torch.')} {x.device} {layout}"]
    taken = False
    for candidate in CANDIDATES[op]:
        refusal = candidate.refusal(x)
        if refusal is None and _forced not in (None, candidate.backend):
            refusal = f"backend {_forced!r} is forced"
        if refusal is None and taken:
            refusal = "could run, an earlier one is preferred"
        state = "runs" if refusal is None else f"no: {refusal}"
        taken = taken or refusal is None
        lines.append(f"  {candidate.backend:<10} {state}")
    text = "\n".join(lines)
    print(text)
    return text
