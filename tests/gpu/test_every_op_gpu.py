"""Every op with every GPU backend: numbers in every layout, and what a launch owes to torch and to CUDA.

The families' own tests say more of their numbers. ``TRITON_INTERPRET=1 pytest -m gpu`` runs the first half of this file
on a CPU, with Triton's kernels in its interpreter.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import fastseg
from fastseg.backends import select
from tests.backends.interpreter import DEVICE, INTERPRETED, runs_kernels
from tests.gpu.cases import CASES, Case, assert_as_exact, outputs, registered_calls, runs, with_gradients
from tests.support import LAYOUTS

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("full_precision"), runs_kernels]
on_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
RUNS = [(op, backend) for op, backend in runs() if not INTERPRETED or backend != "cuda"]
GIB = 2**30
LARGE_NEEDS = 70 * GIB


@pytest.fixture(params=RUNS, ids=lambda run: f"{run[0]}-{run[1]}")
def run(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """The op, and the backend that is forced; the setting is for the whole process, so backward has it too."""
    with fastseg.backend(request.param[1]):
        yield request.param


@pytest.fixture
def case(run: tuple[str, str]) -> Case:
    case = CASES[run[0]]
    refuse(run[0], case.inputs(torch.float32, DEVICE)[0])
    return case


@pytest.fixture(autouse=True)
def deterministic_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of cuDNN, which run beside our kernels: bits are compared."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def refuse(op: str, x: Tensor) -> None:
    """Skips where the forced backend refuses, with its own words: not in this build, or a layout it does not read."""
    try:
        select.choose(op, x)
    except fastseg.BackendError as error:
        pytest.skip(str(error))


def same_bits(found: list[Tensor], expected: list[Tensor]) -> bool:
    """NaN is what nobody wrote, and equals nothing."""
    return len(found) == len(expected) and all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


# ---- numbers


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_against_float64(run: tuple[str, str], case: Case, dtype: torch.dtype, layout: str, poisoned: None) -> None:
    """Results and gradients, beside those of torch's own ops in the same dtype."""
    inputs = case.inputs(dtype, DEVICE, layout)
    refuse(run[0], inputs[0])
    actual = with_gradients(case, inputs)
    dense = [t.contiguous() for t in inputs]
    if case.own_truth:
        assert same_bits(actual, with_gradients(case, dense))
        return
    with fastseg.backend("reference"):
        exact = with_gradients(case, [t.double() for t in dense])
        peer = with_gradients(case, dense)
    assert_as_exact(case, actual, exact, peer)


def test_same_bits_every_time(case: Case) -> None:
    inputs = case.inputs(torch.float32, DEVICE)
    assert same_bits(with_gradients(case, inputs), with_gradients(case, inputs))


# ---- torch's contracts


def test_opcheck(case: Case) -> None:
    """Of every registered op that the call runs, forward and backward."""
    if select.forced() == "reference":
        pytest.skip("on GPUs it is torch's own ops")
    for layout in LAYOUTS:
        try:
            calls = registered_calls(case, case.inputs(torch.float32, DEVICE, layout))
        except fastseg.BackendError:
            continue  # a layout that the backend refuses, as test_against_float64 says
        assert calls
        for op, args, kwargs in calls:
            torch.library.opcheck(op, args, kwargs)


def test_compile_without_a_graph_break(case: Case) -> None:
    torch._dynamo.reset()
    inputs = case.inputs(torch.float32, DEVICE)
    backend = "eager" if INTERPRETED else "inductor"
    function = torch.compile(lambda *t: outputs(case, t), fullgraph=True, backend=backend)
    for a, b in zip(function(*inputs), outputs(case, inputs), strict=True):
        torch.testing.assert_close(a, b)


# ---- streams, graphs, memory


def late(inputs: list[Tensor], work: Callable[[list[Tensor]], list[Tensor]]) -> tuple[list[Tensor], bool]:
    """What ``work`` gives on a side stream whose inputs are zero at first, and whether it came back before them."""
    empty = [torch.zeros_like(t) for t in inputs]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        work(empty)  # what the allocator holds for this stream, it need not ask for while the GPU sleeps
        stream.synchronize()
        torch.cuda._sleep(100_000_000)  # about 0.05 s
        for to, source in zip(empty, inputs, strict=True):
            to.copy_(source)
        found = work(empty)
        ahead = not stream.query()
    stream.synchronize()
    return found, ahead


@on_card
def test_side_stream_with_late_inputs(case: Case) -> None:
    """A kernel on another stream would read zeros, and one that waits would hold the host up."""
    inputs = case.inputs(torch.float32, DEVICE)
    expected = with_gradients(case, inputs)
    found, ahead = late(inputs, lambda tensors: with_gradients(case, tensors))
    assert same_bits(found, expected)
    assert ahead or case.reads, "the call waited for the GPU"


@on_card
def test_two_streams_at_once(case: Case) -> None:
    """Neither stream may write into what the other one works with, as a shared workspace would."""
    sets = [case.inputs(torch.float32, DEVICE, seed=seed) for seed in (1, 100)]
    expected = [with_gradients(case, inputs) for inputs in sets]
    streams = [torch.cuda.Stream() for _ in sets]
    found: list[list[list[Tensor]]] = [[], []]
    torch.cuda.synchronize()
    for _, (i, stream) in itertools.product(range(10), enumerate(streams)):
        with torch.cuda.stream(stream):
            found[i].append(with_gradients(case, sets[i]))
    torch.cuda.synchronize()
    for results, wanted in zip(found, expected, strict=True):
        assert all(same_bits(result, wanted) for result in results)


def replayed(work: Callable[[], list[Tensor]], tensors: list[Tensor]) -> None:
    """Captures ``work``, and replays it with other numbers in the same tensors."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = work()
    for _ in range(2):
        with torch.no_grad():
            for t in tensors:
                t.copy_(t.flip(-1).clone())
        expected = [t.clone() for t in work()]
        graph.replay()
        torch.cuda.synchronize()
        assert same_bits(captured, expected)


@on_card
def test_captured_graph_with_other_numbers(run: tuple[str, str], case: Case) -> None:
    """The whole call; of one that looks at numbers on the host, the registered ops that it launches."""
    if run[0] == "wls_filter":
        pytest.skip("it holds a graph of its own: test_wls_gpu.py")
    inputs = case.inputs(torch.float32, DEVICE)
    if not case.reads:
        replayed(lambda: with_gradients(case, inputs), inputs)
        return
    for op, args, kwargs in registered_calls(case, inputs):
        given = [t for arg in args for t in (arg if isinstance(arg, (list, tuple)) else (arg,)) if torch.is_tensor(t)]

        def work(op=op, args=args, kwargs=kwargs) -> list[Tensor]:
            result = op(*args, **kwargs)
            return list(result) if isinstance(result, (list, tuple)) else [result]

        replayed(work, given)


@pytest.fixture
def full_memory() -> Iterator[Callable[[], list[Tensor]]]:
    """Fills what torch's allocator holds, and lets it have no more; whoever drops the list frees it again."""

    def fill() -> list[Tensor]:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(DEVICE).total_memory
        torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved() / total)
        held: list[Tensor] = []
        for size in (1 << 24, 1 << 20, 1 << 16, 1 << 12, 512):
            try:
                while True:
                    held.append(torch.empty(size, dtype=torch.uint8, device=DEVICE))
            except torch.OutOfMemoryError:
                continue
        return held

    yield fill
    torch.cuda.set_per_process_memory_fraction(1.0)


@on_card
def test_out_of_memory_leaves_the_op_usable(case: Case, full_memory: Callable[[], list[Tensor]]) -> None:
    inputs = case.inputs(torch.float32, DEVICE)
    expected = with_gradients(case, inputs)
    held = full_memory()
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        with_gradients(case, inputs)
    del held
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert same_bits(with_gradients(case, inputs), expected)


@on_card
def test_more_than_two_to_the_31_elements(run: tuple[str, str], case: Case) -> None:
    """The last item of many, which lies beyond 2^31, is that of a call of its own."""
    if isinstance(case.large, str):
        pytest.skip(case.large)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    if free < LARGE_NEEDS:
        pytest.skip(f"needs {LARGE_NEEDS / GIB:.0f} GiB of free GPU memory, {free / GIB:.0f} GiB are there")
    item = case.item(torch.bfloat16, DEVICE)
    many = case.many(item)
    with torch.no_grad():
        results = outputs(case, many)
        assert max(t.numel() for t in (*many, *results)) > 2**31
        for found, expected in zip(results, outputs(case, item), strict=True):
            torch.testing.assert_close(found[-expected.shape[0] :], expected, rtol=2**-7, atol=2**-7)
