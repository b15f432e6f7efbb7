"""Weighted-least-squares filtering on a GPU: conjugate gradients around a multigrid cycle of line solves.

The mathematics is that of the CPU: csrc/cpu/wls_cycle.h and wls_gradients.h. A line's recurrence is a scan here, one
program a line, or a few short ones.

Bytes a pixel and step, in float32 unless said otherwise:

    level 0             50 for four solves over half of the pixels each, 14 to the next level and back
    further levels      74 and 22, with six links instead of two, over as many pixels together
    conjugate gradients overlap 8, direction 12, its image 20, solution (float64) and residual 32

About 230 in all. A level takes six launches and a step four more, some 70 at a megapixel, so that a step is captured in
a CUDA graph once and replayed. Solution and true residual are in float64, as are all sums; alpha and beta never leave
the device. The host waits once in CHECK_STEPS steps, to read how far the residual has come.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import triton
from torch import Tensor

from fastseg.backends.triton import wls_solve_kernels as kernels
from fastseg.backends.triton.tensors import captured, launch
from fastseg.backends.triton.wls_setup import SQUARE, Hierarchy, Level, System, keep, line_tile, squares, wls_setup

CHECK_STEPS = 2
PIXELS_A_THREAD = 4  # of a line
#: By how much the residual's sum of squares may fall before it is computed anew. Later, what rounding has added to it
#: would be a part of it that disturbs the directions.
RELIABLE = 1e-3
BLOCK = 512
MAX_SLOTS = 1024  # of a sum over the image

#: Devices and sizes whose kernels have run: before that, a graph cannot hold them, for they are loaded at first use.
_loaded: set[tuple[torch.device, int, int]] = set()


class Workspace:
    """The vectors of a solve, and one step captured as a graph that works on them."""

    def __init__(self, hierarchy: Hierarchy) -> None:
        self.hierarchy = hierarchy
        self.count = hierarchy.height * hierarchy.width
        self.chunk = triton.cdiv(triton.cdiv(self.count, BLOCK), MAX_SLOTS) * BLOCK
        self.programs = triton.cdiv(self.count, self.chunk)
        new_empty = hierarchy.next.new_empty
        # Right-hand side and solution of every level; on level 0, the residual and what the cycle makes of it.
        self.vectors = [
            (new_empty((level.lines, level.pixels)), new_empty((level.lines, level.pixels)))
            for level in hierarchy.levels
        ]
        self.residual, self.preconditioned = self.vectors[0]
        self.direction, self.image = torch.empty_like(self.residual), torch.empty_like(self.residual)
        self.solution = new_empty(self.residual.shape, dtype=torch.float64)
        self.slots = new_empty((4, self.programs), dtype=torch.float64)
        # Direction with its image; sum of squares of the residual; direction with residual; cycle with last image.
        self.lengths, self.squares, self.products, self.overlaps = self.slots
        self.graph: torch.cuda.CUDAGraph | None = None

    def solve(self, source: Tensor, tol: float, max_iterations: int) -> tuple[int, float]:
        """Steps and relative residual; leaves the solution for source (H, W) in ``self.solution``."""
        for zeroed in (self.solution, self.direction, self.slots):
            zeroed.zero_()
        size = self.true_residual(source)
        reached = before = size
        steps = stalled = 0
        while reached > tol * tol * size and steps < max_iterations:
            steps += self.descend(max(tol * tol * size, RELIABLE * reached), max_iterations - steps)
            reached = self.true_residual(source)
            # Rounding has parted the residual from the solution; from the true one it goes on, as long as that helps.
            stalled = 0 if reached < 0.25 * before else stalled + 1
            if stalled > 2:
                break
            before = min(before, reached)
        return steps, (reached / size) ** 0.5 if size > 0 else 0.0

    def true_residual(self, source: Tensor) -> float:
        """The residual of the solution, computed anew; its sum of squares."""
        self.renew_residual(source)
        return float(self.squares.sum().item())

    def renew_residual(self, source: Tensor) -> None:
        of_image = self.hierarchy.next, self.hierarchy.levels[0].links.across
        launch(
            kernels.true_residual, self.programs, 4,
            *of_image, source, self.solution, self.residual, self.squares,
            self.count, self.hierarchy.width, self.chunk, BLOCK=BLOCK,
        )  # fmt: skip

    def descend(self, wanted: float, max_steps: int) -> int:
        """Steps until the residual that is carried along has at most ``wanted`` as its sum of squares."""
        steps = 0
        while steps < max_steps:
            for _ in range(min(CHECK_STEPS, max_steps - steps)):
                self.run_step()
                steps += 1
            length, carried = self.slots[:2].sum(1).tolist()
            if not (length > 0 and carried > 0.81 * wanted):  # a margin for what rounding has lost
                break
        return steps

    def run_step(self) -> None:
        key = (self.residual.device, self.hierarchy.height, self.hierarchy.width)
        if self.residual.device.type == "cuda" and key in _loaded:
            if self.graph is None:
                self.graph = captured(self.step)
            self.graph.replay()
        else:
            self.step()
            _loaded.add(key)

    def step(self) -> None:
        self.cycle(0)
        of_image = self.hierarchy.next, self.hierarchy.levels[0].links.across
        slots = {"SLOTS": self.programs, "BLOCK_S": triton.next_power_of_2(self.programs)}
        span = self.count, self.chunk
        launch(kernels.overlap, self.programs, 4, self.preconditioned, self.image, self.overlaps, *span, BLOCK=BLOCK)
        launch(
            kernels.turn, self.programs, 4,
            self.preconditioned, self.direction, self.overlaps, self.lengths, *span, BLOCK=BLOCK, **slots,
        )  # fmt: skip
        launch(
            kernels.image_of_direction, self.programs, 4,
            *of_image, self.direction, self.residual, self.image,
            self.lengths, self.products, self.count, self.hierarchy.width, self.chunk, BLOCK=BLOCK,
        )  # fmt: skip
        launch(
            kernels.advance, self.programs, 4,
            self.direction, self.image, self.solution, self.residual, self.lengths, self.products, self.squares,
            *span, BLOCK=BLOCK, **slots,
        )  # fmt: skip

    def cycle(self, depth: int) -> None:
        """Solution of level ``depth`` from its right-hand side: even lines, odd lines, the next level, and back."""
        level, (source, x) = self.hierarchy.levels[depth], self.vectors[depth]
        if depth + 1 == len(self.hierarchy.levels):
            if self.hierarchy.last is None:
                solve_lines(level, source, x, 0, beside=False)
            else:
                multiply_dense(self.hierarchy.last, source, x)
            return
        solve_lines(level, source, x, 0, beside=False)
        solve_lines(level, source, x, 1)
        next_source, next_x = self.vectors[depth + 1]
        tile = {"BLOCK_L": SQUARE, "BLOCK_P": SQUARE}
        sizes = level.lines, level.pixels
        launch(kernels.restrict_residual, squares(*sizes), 4, *level.links, x, next_source, *sizes, **tile)
        self.cycle(depth + 1)
        launch(kernels.add_correction, squares(*sizes), 4, next_x, x, *sizes, **tile)
        solve_lines(level, source, x, 1)
        solve_lines(level, source, x, 0)


def solve_lines(level: Level, source: Tensor, x: Tensor, first: int, beside: bool = True) -> None:
    count = (level.lines + 1 - first) // 2
    block, length, warps = line_tile(count, level.pixels, PIXELS_A_THREAD)
    launch(
        kernels.solve_lines, triton.cdiv(count, block), warps,
        *level.links, level.factor, level.inverse, source, x, level.lines, level.pixels,
        FIRST=first, BESIDE=beside, ONE_BLOCK=length >= level.pixels, BLOCK_L=block, BLOCK_P=length,
    )  # fmt: skip


def multiply_dense(matrix: Tensor, source: Tensor, x: Tensor) -> None:
    count, rows = source.numel(), 4
    block = triton.next_power_of_2(count)
    launch(kernels.multiply_dense, triton.cdiv(count, rows), 4, matrix, source, x, count, BLOCK_R=rows, BLOCK=block)


@contextmanager
def workspace_of(system: System) -> Iterator[Workspace]:
    """One that no other solve uses: threads may share a system. It stays with its stream, whose order keeps what the
    last solve has still to read from what the next one writes."""
    device = system.hierarchy.next.device
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    idle = system.idle.setdefault(stream, [])  # setdefault, pop and append: each is one step for other threads
    try:
        workspace = idle.pop()
    except IndexError:
        workspace = Workspace(system.hierarchy)
    yield workspace
    idle.append(workspace)


def wls_solve(system: System, src: Tensor, tol: float, max_iterations: int) -> tuple[Tensor, list[int], list[float]]:
    """Solutions for src (C, H, W), float32 or float64, with the steps and the relative residual of each."""
    src = src.contiguous()
    solution = torch.empty_like(src)
    steps, residuals = [], []
    with torch.cuda.device_of(src), workspace_of(system) as workspace:
        for source, target in zip(src, solution, strict=True):
            count, residual = workspace.solve(source, tol, max_iterations)
            target.copy_(workspace.solution)
            steps.append(count)
            residuals.append(residual)
    if system.draft is not None:
        keep(system)
    return solution, steps, residuals


__all__ = ["wls_setup", "wls_solve"]
