"""What tests of every op share: layouts, float64 truth, the error budget, NaN-poisoned outputs, numbers of threads."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

LAYOUTS = ("contiguous", "channels_last", "channel_slice", "permuted")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

_Result = TypeVar("_Result")

#: Real inputs, where they are there.
DATA = Path(os.environ.get("FASTSEG_DATA") or Path(__file__).parents[2] / "shared" / "data")


def data_file(name: str) -> Path:
    """A file of the real inputs; skips the test where it is not there."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"real input {name} is not there: set FASTSEG_DATA to the folder that holds it")
    return path


def picture(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Patches with noise on them, in [0, 1], or in [0, 255] for bytes."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.rand((*shape[:-2], -(-shape[-2] // 9), -(-shape[-1] // 9)), generator=generator)
    image = patches.repeat_interleave(9, -2).repeat_interleave(9, -1)[..., : shape[-2], : shape[-1]]
    image = 0.9 * image + 0.1 * torch.rand(shape, generator=generator)
    return (255 * image).round().to(dtype) if dtype == torch.uint8 else image.to(dtype)


def torchvision_imports() -> bool:
    """Whether torchvision is there, which then imports, if need be without the operators that a build for another torch
    lacks: its Python code wants to see their names."""
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return False
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")
    return True


#: An image, or a stack of them, in other places.
IMAGE_LAYOUTS = {
    "transposed": lambda t: t.mT.contiguous().mT,
    "channels last": lambda t: t.movedim(-3, -1).contiguous().movedim(-1, -3),
    "every second pixel": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "cropped": lambda t: torch.nn.functional.pad(t, (2, 3, 1, 4), value=float("nan"))[..., 1:-4, 2:-3],
    "every second channel": lambda t: t.repeat_interleave(2, -3)[..., ::2, :, :],
    "expanded": lambda t: t[..., :1, :, :].expand(t.shape),
}


def pairwise(*axes: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Few rows of one value an axis, in which every value of an axis meets every value of each other axis.

    Where three axes and more are crossed in full, most of the time goes to combinations that differ from one another in
    nothing that a kernel sees.
    """
    values = [tuple(axis) for axis in axes]
    rows = list(itertools.product(*(range(len(axis)) for axis in values)))
    pairs = {row: set(itertools.combinations(enumerate(row), 2)) for row in rows}
    missing = set().union(*pairs.values())
    chosen = []
    while missing:
        row = max(rows, key=lambda row: len(pairs[row] & missing))
        chosen.append(row)
        missing -= pairs[row]
    return [tuple(axis[i] for axis, i in zip(values, row, strict=True)) for row in chosen]


def in_layout(t: Tensor, layout: str) -> Tensor:
    """The same numbers in another place: dense or sliced, channels first or last, or with mixed axes."""
    if layout == "contiguous":
        return t.contiguous()
    if layout == "channels_last":
        return t.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "channel_slice":  # every pixel followed by channels that belong to somebody else
        wide = torch.full((t.shape[0], *t.shape[2:], t.shape[1] + 3), float("nan"), dtype=t.dtype)
        wide[..., 1 : t.shape[1] + 1] = t.movedim(1, -1)
        return wide.movedim(-1, 1)[:, 1 : t.shape[1] + 1]
    if layout == "permuted":  # no layout of any kernel: the last two axes swapped
        return t.transpose(-1, -2).contiguous().transpose(-1, -2)
    raise ValueError(layout)


def run(function: Callable[..., Tensor], inputs: list[Tensor], layout: str = "contiguous") -> list[Tensor]:
    """y and all gradients of a convolution of x with weight and bias; ``inputs``: these and the gradient of y."""
    x, weight, bias, grad = inputs
    leaves = [t.detach().clone().requires_grad_() for t in (weight, bias)]
    leaves.insert(0, in_layout(x, layout).detach().requires_grad_())
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, in_layout(grad, layout))]


def assert_within_budget(actual: Tensor, exact: Tensor, peer: Tensor, what: str = "", *, terms: float = 0.0) -> None:
    """At most twice the peer's own error against float64, plus one rounding of the largest number.

    ``exact`` is the float64 result for the same (already rounded) inputs; ``peer`` is what PyTorch's own ops give in
    the dtype under test. ``terms`` is the size of the numbers that were added up, where they cancel to a smaller
    result: what is rounded once is then they.
    """
    assert actual.shape == exact.shape, what
    assert exact.dtype == torch.float64
    if exact.numel() == 0:
        return
    error = (actual.double() - exact).abs().max().item()
    peer_error = (peer.double() - exact).abs().max().item()
    roundings = 8 if actual.dtype == torch.float64 else 1  # float64 has no wider type to add up in
    rounding = roundings * torch.finfo(actual.dtype).eps * max(exact.abs().max().item(), terms)
    budget = 2 * peer_error + rounding
    assert error <= budget, f"{what}: error {error:.3e}, budget {budget:.3e} (peer {peer_error:.3e})"


def poison(monkeypatch: pytest.MonkeyPatch, module: object, name: str) -> None:
    """Make an allocator of a backend hand out NaN, or for bytes 77, so that what no kernel writes is seen."""
    allocate = getattr(module, name)

    def poisoned(*args: object, **kwargs: object) -> Tensor:
        out = allocate(*args, **kwargs)
        return out.fill_(float("nan") if out.is_floating_point() else 77)

    monkeypatch.setattr(module, name, poisoned)


def for_thread_counts(counts: Iterable[int], run: Callable[[], _Result]) -> list[_Result]:
    """What ``run`` gives with each number of threads; torch's number is what it was before."""
    before = torch.get_num_threads()
    results = []
    try:
        for count in counts:
            torch.set_num_threads(count)
            results.append(run())
    finally:
        torch.set_num_threads(before)
    return results


def assert_same_bits(results: Sequence[Tensor | Sequence[Tensor]]) -> None:
    """Each result, a tensor or several, is equal to the first one; NaN is equal to nothing."""
    first, *others = ([result] if isinstance(result, Tensor) else result for result in results)
    assert others, "one result alone has no other to be equal to"
    for other in others:
        for a, b in zip(first, other, strict=True):
            assert torch.equal(a, b)


def rerun(file: str, *options: str, **environment: str) -> None:
    """The tests of a file in a process of their own, whose environment is another: some choices are made at import."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file, *options]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, env={**os.environ, **environment}, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]


def rerun_with_capability(file: str, capability: str, selected: str) -> None:
    """:func:`rerun` of the tests that ``-k`` selects, with the CPU kernels of a lesser processor."""
    code = "import fastseg._C as c; print(c.cpu_capability())"
    environment = {**os.environ, "FASTSEG_CPU_CAPABILITY": capability}
    name = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    if name.stdout.strip() != capability:
        pytest.skip(f"this build or processor has no {capability}")
    rerun(file, "-k", selected, FASTSEG_CPU_CAPABILITY=capability)
