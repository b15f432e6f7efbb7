"""What the losses are called with: checks, and tensors as kernels and the definition take them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from fastseg.backends.loss_call import truth_for
from fastseg.backends.views import ELEMENT, layout_of
from fastseg.ops import checks

Output = Literal["softmax", "sigmoid"]
#: One number a class, ``"balanced"`` or None.
ClassWeights = Tensor | Sequence[float] | Literal["balanced"] | None


def check_options(op: str, *, output: str, class_weights: ClassWeights, **options: Any) -> None:
    """Errors of what does not depend on logits and target; options that can be anything are passed over."""
    checks.check_choice(op, "output", output, ("softmax", "sigmoid"))
    if not isinstance(options.get("ignore_index", 0), int):
        raise TypeError(f"{op}: ignore_index is {options['ignore_index']!r}, expected an int")
    for name in options.keys() & {"dice_weight", "ce_weight", "fp_weight", "fn_weight"}:
        checks.check_not_negative(op, name, options[name])
    for name in options.keys() & {"smooth", "gamma"}:
        checks.check_positive(op, name, options[name])
    if class_weights is None:
        return
    if output == "sigmoid":
        raise ValueError(f"{op}: class_weights is {class_weights!r}, expected None for output 'sigmoid'")
    if isinstance(class_weights, str):
        checks.check_choice(op, "class_weights", class_weights, ("balanced",))
    elif not isinstance(class_weights, Tensor):  # looking into a tensor might wait for its device
        for weight in class_weights:
            checks.check_not_negative(op, "class_weights", weight)


def check_tensors(op: str, logits: Tensor, target: Tensor, output: str) -> None:
    shape = tuple(logits.shape)
    if logits.ndim < 3:
        raise ValueError(f"{op}: logits has shape {shape}, expected rank 3 or more: (N, K, *spatial)")
    if logits.dtype not in ELEMENT:
        raise TypeError(f"{op}: logits is {logits.dtype}, expected float32, float64, bfloat16 or float16")
    if logits.numel() == 0:
        raise ValueError(f"{op}: logits has shape {shape}, expected at least one image, class and voxel")
    one = (shape[0], 1, *shape[2:])
    maps = {"softmax": ((shape[0], *shape[2:]), one), "sigmoid": (shape,)}[output]
    if tuple(target.shape) not in maps:
        expected = " or ".join(map(str, maps))
        raise ValueError(
            f"{op}: target has shape {tuple(target.shape)}, expected {expected} for logits of shape {shape} ({output})"
        )
    if target.is_complex() or (output == "softmax" and target.dtype == torch.bool):
        expected = "numbers: a class for each voxel" if output == "softmax" else "bool or numbers from 0 to 1"
        raise TypeError(f"{op}: target is {target.dtype}, expected {expected}")
    if target.requires_grad:
        raise ValueError(f"{op}: target requires a gradient, expected a truth: pass target.detach()")
    checks.check_device(op, "target", target, logits, "logits")


def prepared(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """As kernels read them; what has to be copied is copied once, and kept for backward."""
    if target.ndim < logits.ndim:
        target = target.unsqueeze(1)
    return logits if layout_of(logits) else logits.contiguous(), truth_for(target)


def class_weights_for(op: str, class_weights: ClassWeights, logits: Tensor) -> Tensor | None:
    """(K,) in float64 on logits' device; None for None and ``"balanced"``."""
    if class_weights is None or isinstance(class_weights, str):
        return None
    weights = torch.as_tensor(class_weights, dtype=torch.float64, device=logits.device)
    if weights.shape != (logits.shape[1],):
        raise ValueError(
            f"{op}: class_weights has shape {tuple(weights.shape)}, expected ({logits.shape[1]},), one number a class"
        )
    return weights.detach().contiguous()


def check_values(op: str, logits: Tensor, target: Tensor, sigmoid: bool, ignore_index: int) -> None:
    """What the CPU kernel finds as it reads."""
    # In its own dtype a number would wrap: -100 is 156 for bytes.
    target = target.to(torch.promote_types(target.dtype, torch.int64))
    fits = (target >= 0) & (target <= (1 if sigmoid else logits.shape[1] - 1))
    if not sigmoid:
        fits = (fits & (target == target.long())) | (target == ignore_index)
    if not fits.all():
        refuse_values(op, logits, sigmoid, int((~fits).sum()), target[~fits][-1].item())


def refuse_values(op: str, logits: Tensor, sigmoid: bool, count: int, value: float) -> None:
    shown = int(value) if math.isfinite(value) and value == int(value) else value
    expected = "numbers from 0 to 1" if sigmoid else f"classes from 0 to {logits.shape[1] - 1}, or ignore_index"
    raise ValueError(f"{op}: target has the value {shown}, {count} such in all, expected {expected}")
