"""One small call of every op, and one of more than 2^31 elements: what the tests on a GPU go over.

A new op adds its line to CASES; tests/backends/test_gpu_cases.py says so where it is missing, and runs each on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from fastseg import ops
from fastseg.backends import select
from tests.support import assert_within_budget, in_layout

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A call of an op with random tensors.

    Attributes:
        call: of tensors only; one tensor or a tuple of them.
        shapes: of these tensors.
        images: how many of them, from the first, come in every layout.
        grads: how many of them, from the first, are differentiated.
        positive: numbers in [0, 1) in place of normal ones.
        reads: whether it looks at numbers on the host (NaN is refused), which no CUDA graph can hold.
        own_truth: why its numbers are compared with wider arithmetic in the family's own test alone, if they are.
        large: shapes of an item of its call of more than 2^31 elements, of which there are ``items``; or why there is
            none here.
        batched: which tensors have one entry for each item, along their first axis.
    """

    call: Callable[..., Any]
    shapes: tuple[Shape, ...]
    images: int = 1
    grads: int = 0
    positive: bool = False
    reads: bool = False
    own_truth: str = ""
    large: tuple[Shape, ...] | str = "the family's own test"
    items: int = 8
    batched: tuple[int, ...] = (0,)

    def inputs(self, dtype: torch.dtype, device: str, layout: str = "contiguous", seed: int = 0) -> list[Tensor]:
        """Drawn on the CPU in float64: the same numbers in every dtype and on every card."""
        tensors = [self._draw(shape, dtype, device, seed + i) for i, shape in enumerate(self.shapes)]
        with torch.device(device):  # for what in_layout itself allocates
            return [in_layout(t, layout) if i < self.images else t for i, t in enumerate(tensors)]

    def item(self, dtype: torch.dtype, device: str) -> list[Tensor]:
        assert not isinstance(self.large, str)
        return [self._draw(shape, dtype, device, i) for i, shape in enumerate(self.large)]

    def many(self, item: Sequence[Tensor]) -> list[Tensor]:
        """Items of zeros, and this one as the last: an offset that wraps around lands in something else."""
        tensors = list(item)
        for i in self.batched:
            tensors[i] = item[i].new_zeros((self.items * item[i].shape[0], *item[i].shape[1:]))
            tensors[i][-item[i].shape[0] :] = item[i]
        return tensors

    def _draw(self, shape: Shape, dtype: torch.dtype, device: str, seed: int) -> Tensor:
        small = torch.Size(shape).numel() < 1 << 20
        where = "cpu" if small else device
        generator = torch.Generator(where).manual_seed(seed)
        draw = torch.rand if self.positive else torch.randn
        # Filters scaled, so that results have the size of the image.
        scale = 1.0 if self.positive or len(shape) < 2 or seed == 0 else torch.Size(shape[1:]).numel() ** -0.5
        numbers = draw(shape, generator=generator, dtype=torch.float64 if small else torch.float32, device=where)
        return (scale * numbers).to(device, dtype)


def outputs(case: Case, tensors: Sequence[Tensor]) -> list[Tensor]:
    result = case.call(*tensors)
    return [t for t in (result if isinstance(result, tuple) else (result,)) if isinstance(t, Tensor)]


def with_gradients(case: Case, tensors: Sequence[Tensor]) -> list[Tensor]:
    """What the call gives, and the gradients of the tensors that have one; by a cosine, which is no constant."""
    leaves = [t.detach().requires_grad_(i < case.grads) for i, t in enumerate(tensors)]
    results = outputs(case, leaves)
    if not case.grads:
        return results
    grad = torch.arange(results[0].numel(), device=results[0].device, dtype=torch.float32).cos_()
    grads = torch.autograd.grad(results[0], leaves[: case.grads], grad.view(results[0].shape).to(results[0].dtype))
    return [*(t.detach() for t in results), *grads]


def assert_as_exact(case: Case, actual: Sequence[Tensor], exact: Sequence[Tensor], peer: Sequence[Tensor]) -> None:
    """Of :func:`with_gradients`; the gradient of a parameter is a sum over pixels of numbers of size one half."""
    assert len(actual) == len(exact) == len(peer)
    parameters = len(actual) - case.grads + case.images
    for i, (a, t, p) in enumerate(zip(actual, exact, peer, strict=True)):
        assert_within_budget(a, t, p, f"result {i}", terms=8.0 if i < parameters else actual[0][:, 0].numel() / 2)


class Recorder(TorchDispatchMode):
    """The calls of fastseg's registered ops, forward and backward, with their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func.namespace == "fastseg":
            detached = tree_map_only(Tensor, Tensor.detach, (args, kwargs or {}))
            self.calls.append((func, *detached))
        return func(*args, **(kwargs or {}))


def registered_calls(case: Case, tensors: Sequence[Tensor]) -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    with Recorder() as recorder:
        with_gradients(case, tensors)
    return recorder.calls


def runs() -> list[tuple[str, str]]:
    """Every op with each of its GPU backends; where it has none, with torch's own ops."""
    return [
        (op, backend)
        for op, candidates in select.CANDIDATES.items()
        for backend in [c.backend for c in candidates if c.backend in ("triton", "cuda")] or ["reference"]
    ]


def _aspp(x: Tensor, *weights: Tensor) -> Tensor:
    function = ops.aspp_conv2d if x.ndim == 4 else ops.aspp_conv3d
    return function(x, weights, dilations=(1, 2))


def _separable_aspp(x: Tensor, *weights: Tensor) -> Tensor:
    function = ops.separable_aspp_conv2d if x.ndim == 4 else ops.separable_aspp_conv3d
    return function(x, weights[:2], weights[2:], dilations=(1, 2))


def _batch_norm(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    return ops.batch_norm_act(x, weight, bias, residual=residual, training=True)


def _cross_scale(*costs: Tensor) -> Tensor:
    return ops.cross_scale_aggregate(costs)


def _guided(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda src, guide: function(guide, src, radius=4, eps=1e-2)


def _loss(function: Callable[..., Tensor], **options: Any) -> Callable[..., Tensor]:
    """Of the class with the largest score, and of regions whose score is above zero: the same truth in every dtype.
    Times the voxels, so that gradients have the size of one."""

    def call(logits: Tensor, scores: Tensor) -> Tensor:
        target = scores > 0 if options.get("output") == "sigmoid" else scores.argmax(1)
        return logits[0, 0].numel() * function(logits, target, **options)

    return call


PLANE, VOLUME = (2, 12, 21, 18), (2, 12, 9, 11, 10)
DENSE: tuple[Shape, ...] = ((3, 12), (12, 3))
#: Eight of them are 2^31 elements and more, in 16 bits 4.5 GB; no power of two, so that no offset wraps to its like.
ITEM = (1, 8, 5000, 7000)
STACK = (70, 2000, 2000)
TO_RESIDUAL = "solved to a residual, which is not the rounding of a dtype"
PICKS = "picks one of several numbers, and another one after another rounding"


def _attention(call: Callable[..., Any], *shapes: Shape, large: tuple[Shape, ...]) -> Case:
    return Case(call, (PLANE, *shapes), grads=1 + len(shapes), large=(ITEM, *large))


def _convolution(call: Callable[..., Any], x: Shape, *shapes: Shape) -> Case:
    return Case(call, (x, *shapes), grads=1 + len(shapes), large="depthwise_conv3d has the same kernels")


CASES: dict[str, Case] = {
    "instance_norm_act": Case(
        lambda x, r, w, b: ops.instance_norm_act(x, w, b, residual=r, activation="relu"),
        (PLANE, PLANE, (12,), (12,)),
        images=2,
        grads=4,
    ),
    "batch_norm_act": Case(
        lambda x, r, w, b: _batch_norm(x, w, b, r), (PLANE, PLANE, (12,), (12,)), images=2, grads=4, large="torch's own"
    ),
    "depthwise_conv2d": _convolution(
        lambda x, w, b: ops.depthwise_conv2d(x, w, b, padding=2, dilation=2), PLANE, (12, 1, 3, 3), (12,)
    ),
    "depthwise_conv3d": _convolution(
        lambda x, w, b: ops.depthwise_conv3d(x, w, b, stride=2, padding=1), VOLUME, (12, 1, 3, 3, 3), (12,)
    ),
    "depthwise_conv_transpose2d": _convolution(
        lambda x, w: ops.depthwise_conv_transpose2d(x, w, stride=2, padding=1), PLANE, (12, 1, 3, 3)
    ),
    "depthwise_conv_transpose3d": _convolution(
        lambda x, w: ops.depthwise_conv_transpose3d(x, w, stride=2, padding=1), VOLUME, (12, 1, 3, 3, 3)
    ),
    "depthwise_instance_norm_act": _convolution(
        lambda x, w, n, b: ops.depthwise_instance_norm_act(
            x, w, norm_weight=n, norm_bias=b, padding=1, activation="leaky_relu"
        ),
        PLANE,
        (12, 1, 3, 3),
        (12,),
        (12,),
    ),
    "depthwise_separable_conv2d": _convolution(
        lambda x, w, p: ops.depthwise_separable_conv2d(x, w, p, padding=1), PLANE, (12, 1, 3, 3), (7, 12, 1, 1)
    ),
    "depthwise_separable_conv3d": _convolution(
        lambda x, w, p: ops.depthwise_separable_conv3d(x, w, p, padding=1), VOLUME, (12, 1, 3, 3, 3), (7, 12, 1, 1, 1)
    ),
    "pointwise_conv": Case(
        lambda x, r, w, b: ops.pointwise_conv(x, w, b, residual=r),
        ((2, 12, 20, 18), (2, 7, 10, 9), (7, 12, 1, 1), (7,)),
        images=2,
        grads=4,
        large="torch's own",
    ),
    "dense_conv": Case(
        lambda x, w, b: ops.dense_conv(x, w, b, stride=2, padding=1),
        (PLANE, (7, 12, 3, 3), (7,)),
        grads=3,
        large="torch's own",
    ),
    "dense_conv_transpose": Case(
        lambda x, w, b: ops.dense_conv_transpose(x, w, b, stride=2, padding=1),
        (VOLUME, (12, 7, 3, 3, 3), (7,)),
        grads=3,
        large="torch's own",
    ),
    "up_conv": Case(
        lambda x, w, b: ops.up_conv(x, w, b), (VOLUME, (12, 7, 2, 2, 2), (7,)), grads=3, large="torch's own"
    ),
    "aspp_conv2d": Case(_aspp, (PLANE, (5, 12, 3, 3), (6, 12, 3, 3)), grads=3, large="torch's own"),
    "aspp_conv3d": Case(_aspp, (VOLUME, (5, 12, 3, 3, 3), (6, 12, 3, 3, 3)), grads=3, large="torch's own"),
    "separable_aspp_conv2d": Case(
        _separable_aspp,
        (PLANE, (12, 1, 3, 3), (12, 1, 3, 3), (5, 12, 1, 1), (6, 12, 1, 1)),
        grads=5,
        large=(ITEM, (8, 1, 3, 3), (8, 1, 3, 3), (4, 8, 1, 1), (4, 8, 1, 1)),
    ),
    "separable_aspp_conv3d": Case(
        _separable_aspp,
        (VOLUME, (12, 1, 3, 3, 3), (12, 1, 3, 3, 3), (5, 12, 1, 1, 1), (6, 12, 1, 1, 1)),
        grads=5,
        large="separable_aspp_conv2d has the same kernels",
    ),
    "attention_gate": Case(
        ops.attention_gate,
        (PLANE, (2, 10, 11, 9), (6, 12, 1, 1), (6, 10, 1, 1), (6,), (1, 6, 1, 1), (1,)),
        images=2,
        grads=7,
        large=(ITEM, (1, 4, 2500, 3500), (4, 8, 1, 1), (4, 4, 1, 1), (4,), (1, 4, 1, 1), (1,)),
        batched=(0, 1),
    ),
    "soft_mask_attention": Case(ops.soft_mask_attention, (PLANE, PLANE), images=2, grads=2),
    "soft_mask_attention_conv": Case(
        ops.soft_mask_attention_conv,
        (PLANE, (2, 5, 21, 18), (12, 5, 1, 1), (12,)),
        images=2,
        grads=4,
        large="torch's own",
    ),
    "cbam": _attention(ops.cbam, *DENSE, (1, 2, 7, 7), large=((2, 8), (8, 2), (1, 2, 7, 7))),
    "channel_attention": _attention(ops.channel_attention, *DENSE, large=((2, 8), (8, 2))),
    "spatial_attention": _attention(ops.spatial_attention, (1, 2, 7, 7), large=((1, 2, 7, 7),)),
    "squeeze_excitation": _attention(ops.squeeze_excitation, *DENSE, large=((2, 8), (8, 2))),
    "scse": _attention(ops.scse, *DENSE, (1, 12, 1, 1), large=((2, 8), (8, 2), (1, 8, 1, 1))),
    "dice_cross_entropy": Case(_loss(ops.dice_cross_entropy), (PLANE, PLANE), grads=1),
    "tversky": Case(
        _loss(ops.tversky, output="sigmoid", ce_weight=0.5, fp_weight=0.3), (PLANE, PLANE), images=2, grads=1
    ),
    "focal_tversky": Case(
        _loss(ops.focal_tversky, batch=True, include_background=False, ce_weight=0.5, class_weights="balanced"),
        (VOLUME, VOLUME),
        grads=1,
    ),
    "generalized_dice": Case(_loss(ops.generalized_dice, ignore_index=3), (PLANE, PLANE), grads=1),
    "wls_filter": Case(
        lambda src, guide: ops.wls_filter(src, guide, tol=1e-6),
        ((3, 21, 34), (21, 34)),
        positive=True,
        reads=True,
        own_truth=TO_RESIDUAL,
        large="its hierarchy in float64 is larger than a card",
    ),
    "fast_global_smoother": Case(
        lambda src, guide: ops.fast_global_smoother(src, guide, lambda_=20.0, sigma=0.2),
        ((3, 21, 34), (21, 34)),
        images=2,
        grads=1,
        positive=True,
        reads=True,
        large=(STACK, (2000, 2000)),
    ),
    "guided_filter": Case(
        _guided(ops.guided_filter), ((3, 21, 34), (3, 21, 34)), images=2, grads=1, positive=True, reads=True
    ),
    "guided_filter_argmin": Case(
        _guided(ops.guided_filter_argmin),
        ((5, 21, 34), (3, 21, 34)),
        images=2,
        positive=True,
        reads=True,
        own_truth=PICKS,
        large="guided_filter has the same kernels",
    ),
    "cross_scale_aggregate": Case(
        _cross_scale,
        ((5, 21, 34), (5, 21, 34), (5, 21, 34)),
        images=3,
        grads=3,
        positive=True,
        reads=True,
        large=((1, *STACK), (1, *STACK)),
        batched=(0, 1),
    ),
    "weighted_median": Case(
        lambda src, guide: ops.weighted_median(src, guide, radius=3),
        ((2, 21, 34), (3, 21, 34)),
        images=2,
        positive=True,
        reads=True,
        own_truth=PICKS,
        large=(STACK, (2000, 2000)),
    ),
    "census_transform": Case(
        lambda image: ops.census_transform(image, window=(3, 3)),
        ((3, 21, 34),),
        positive=True,
        reads=True,
        own_truth=PICKS,
        large=((10, 1, 5000, 6000),),
    ),
    "matching_cost": Case(
        lambda left, right: ops.matching_cost(left, right, max_disparity=9, census_weight=0.2),
        ((3, 21, 34), (3, 21, 34)),
        images=2,
        positive=True,
        reads=True,
        own_truth="float32 volumes whatever the images are",
        large=((5, 1, 2500, 2500), (5, 1, 2500, 2500)),  # and nine disparities
        batched=(0, 1),
    ),
    "winner_takes_all": Case(ops.winner_takes_all, ((7, 21, 34),), positive=True, reads=True, own_truth=PICKS),
}
