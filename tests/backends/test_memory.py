"""The cache of large CPU outputs."""

from __future__ import annotations

import copy
import os
import pickle
import platform
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import torch

import fastseg
import fastseg._C as _C
from fastseg.backends.memory import POOLED_BYTES, empty_like, new_empty, new_output
from fastseg.backends.views import memory_format
from fastseg.ops import instance_norm_act
from tests.support import LAYOUTS, in_layout

MEBI = 1 << 20
#: Whether the system moves memory to other addresses (mremap with MREMAP_DONTUNMAP).
MOVES = sys.platform == "linux" and tuple(map(int, platform.release().split(".")[:2])) >= (5, 7)


@pytest.fixture(autouse=True)
def own_cache():
    limit = _C.cache_limit()
    fastseg.release_cpu_cache()
    yield
    fastseg.set_cpu_cache_limit(limit)


def large(mebibytes: int = 4) -> torch.Tensor:
    return torch.zeros(1, 4, mebibytes * MEBI // 16)


def test_the_memory_of_a_dead_output_is_used_again():
    y = empty_like(large())
    at = y.data_ptr()
    assert at % (2 * MEBI) == 0
    del y
    assert _C.cached_bytes() == 4 * MEBI
    assert empty_like(large()).data_ptr() == at


def test_a_block_serves_smaller_outputs_and_then_a_large_one_again():
    y = empty_like(large(12))
    at = y.data_ptr()
    del y
    parts = [empty_like(large()) for _ in range(3)]
    assert [part.data_ptr() for part in parts] == [at, at + 4 * MEBI, at + 8 * MEBI]
    assert _C.cached_bytes() == 0
    parts.clear()
    assert empty_like(large(12)).data_ptr() == at


@pytest.mark.skipif(not MOVES, reason="needs Linux 5.7 or later")
def test_blocks_that_lie_apart_serve_a_larger_output():
    outputs = sorted((empty_like(large()).fill_(i) for i in range(6)), key=lambda y: y.data_ptr())
    between = outputs[1::2]
    expected = [y.clone() for y in between]
    del outputs
    assert _C.cached_bytes() == 12 * MEBI
    y = empty_like(large(12)).fill_(7)
    assert _C.cached_bytes() == 0
    assert all(map(torch.equal, between, expected)) and bool((y == 7).all())


@pytest.mark.skipif(not MOVES, reason="needs Linux 5.7 or later")
def test_memory_does_not_grow_while_some_of_it_is_free():
    choose = random.Random(0)
    outputs: dict[int, torch.Tensor] = {}
    live = most = 0
    for step in range(600):
        if outputs and choose.random() < 0.5:
            number = choose.choice(list(outputs))
            y = outputs.pop(number)
            assert bool((y == number).all())
            live -= y.nbytes
            del y
        else:
            outputs[step] = empty_like(torch.empty(1, 4, choose.randint(1, 6) * MEBI // 8)).fill_(step)
            live += outputs[step].nbytes
        most = max(most, live)
        assert live + _C.cached_bytes() == most
    at = sorted((y.data_ptr(), y.nbytes) for y in outputs.values())
    assert all(start + size <= following for (start, size), (following, _) in pairwise(at))


def test_limits():
    with pytest.raises(ValueError, match="nbytes is -1, expected a number of bytes >= 0"):
        fastseg.set_cpu_cache_limit(-1)
    outputs = [empty_like(large()) for _ in range(3)]
    outputs.clear()
    assert _C.cached_bytes() == 12 * MEBI
    fastseg.set_cpu_cache_limit(5 * MEBI)
    assert _C.cached_bytes() == 4 * MEBI
    fastseg.release_cpu_cache()
    assert _C.cached_bytes() == 0
    fastseg.set_cpu_cache_limit(0)
    empty_like(large())
    assert _C.cached_bytes() == 0


def test_environment():
    code = "import fastseg, fastseg._C as c; print(c.cache_limit())"
    environment = {**os.environ, "FASTSEG_CPU_CACHE_BYTES": "12345"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "12345"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_are_those_of_torch(layout):
    x = in_layout(torch.zeros(2, 5, 230, 240), layout)
    assert x.numel() * 4 >= POOLED_BYTES
    y = empty_like(x)
    assert y.stride() == torch.empty_like(x).stride() and y.shape == x.shape and y.dtype == x.dtype


@pytest.mark.parametrize("layout", ("rows", "channels_last"))
@pytest.mark.parametrize("shape", ((1, 5, 230, 240), (2, 1, 600, 500), (2, 600, 1, 500), (1, 3, 70, 80, 90)), ids=str)
def test_strides_of_a_layout_are_those_of_torch(shape, layout):
    format = memory_format(layout, len(shape) - 2)
    expected = torch.empty(shape, memory_format=format).stride()
    x = torch.zeros(shape)
    assert x.numel() * 4 >= POOLED_BYTES
    assert new_output(x, shape[1], shape[2:], layout).stride() == expected
    assert empty_like(x, format).stride() == expected
    assert new_empty(shape, torch.float32).stride() == x.stride()


def test_outputs_are_ordinary_tensors():
    x = torch.randn(1, 4, 600, 500, requires_grad=True)
    y = instance_norm_act(x)
    assert torch.equal(copy.deepcopy(y.detach()), y) and torch.equal(pickle.loads(pickle.dumps(y.detach())), y)
    array = y.detach().numpy()
    expected = array.copy()
    y += 1  # in place, in training
    torch.relu_(y).sum().backward()
    assert x.grad is not None
    z = instance_norm_act(x.detach())
    kept = z.numpy()
    del z  # the array keeps the memory
    instance_norm_act(x.detach() * -1)
    assert (kept == expected).all()


def test_threads():
    def fill(i: int) -> bool:
        return all(bool((empty_like(large(1 + i % 3)).fill_(i + k) == i + k).all()) for k in range(20))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(fill, range(8)))


def test_an_output_may_outlive_the_interpreter():
    code = (
        "import torch, fastseg, builtins\n"
        "builtins.keep = fastseg.ops.instance_norm_act(torch.randn(1, 4, 1000, 1000))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_more_than_there_can_be_is_refused():
    """Not granted and then taken back by the end of the process."""
    for count in (1 << 44, (1 << 63) - 1, -(1 << 40)):
        with pytest.raises(MemoryError):
            _C.Block(count)
