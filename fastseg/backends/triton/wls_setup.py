"""Sets the multigrid hierarchy of weighted-least-squares filtering up on a GPU: the matrix of every level, its factors.

Each level's even lines stay on the next one, transposed, and odd lines are eliminated, as on the CPU
(csrc/cpu/wls_setup.h). Lines are contiguous here, so level 0 has the image's rows as lines. The last level is the first
one of at most DENSE_PIXELS pixels: it keeps the inverse of its matrix, and one multiplication by it replaces the
launches of nine more levels. An image of one row is solved by its line alone.

Floor, bytes a pixel in float32: weights 16, factors 20, interpolation 18, the next matrix 28; further levels 90, over
as many pixels together. Two logarithms and a power a link.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from fastseg.backends.triton import wls_setup_kernels as kernels
from fastseg.backends.triton.tensors import captured, launch
from fastseg.backends.triton.wls_dense_kernels import dense_matrix

SETUP_PIXELS_A_THREAD = 8  # fewer would need more threads, and leave too few registers to each
LINE_BLOCK = 2048  # pixels of a line that a program holds at a time
TILE = 1024  # pixels of several short lines
PROGRAMS = 128  # below this many, lines do not share a program: multiprocessors would be idle
SQUARE = 32  # of tiles that are transposed
DENSE_PIXELS = 512
KEPT_PIXELS = 1 << 22  # of systems that wait for another guide of their size, 100 bytes each


class Links(NamedTuple):
    """Links to the lines beside a line: wls_kernels.py. Level 0 has neither slanted ones nor those that cross them."""

    across: Tensor
    slant: Tensor | None
    counter: Tensor | None


@dataclass
class Level:
    """One level of the hierarchy. All arrays are [lines, pixels]."""

    lines: int
    pixels: int
    links: Links
    factor: Tensor
    inverse: Tensor


@dataclass
class Hierarchy:
    """The levels of a guide (height, width)."""

    height: int
    width: int
    next: Tensor  # links along rows, of level 0
    levels: list[Level]
    last: Tensor | None  # inverse of the last level's matrix, in the place of its factors


class Draft(NamedTuple):
    """What a set-up writes beside the hierarchy."""

    sums: list[tuple[Tensor, Tensor]]  # row sums and links along lines, of each level
    odd: Tensor  # [3, pixels of level 0]: how odd lines follow others and what they lose, one level after the other


@dataclass
class System:
    """What wls_solve needs of a guide, and the workspaces that solves have left, by stream."""

    hierarchy: Hierarchy
    idle: dict[int, list[Any]] = field(default_factory=dict)
    #: Of a system for one solve, after which it is set up for another guide of its size.
    draft: Draft | None = None
    graph: torch.cuda.CUDAGraph | None = None  # of the levels' set-up


#: Systems of one solve that are over, the latest last, with their device, stream and size.
_kept: list[tuple[tuple[object, ...], System]] = []
_keeping = Lock()


def line_tile(count: int, pixels: int, pixels_a_thread: int) -> tuple[int, int, int]:
    """(lines, pixels) of the tile with which a program walks some of ``count`` lines, and its warps."""
    length = min(triton.next_power_of_2(pixels), LINE_BLOCK)
    together = max(1, min(TILE // length, 1 << (max(count // PROGRAMS, 1).bit_length() - 1)))
    return together, length, min(max(together * length // (32 * pixels_a_thread), 1), 16)


def squares(lines: int, pixels: int) -> int:
    """Programs with a square tile of even lines and pixels each."""
    return triton.cdiv((lines + 1) // 2, SQUARE) * triton.cdiv(pixels, SQUARE)


def wls_setup(guide: Tensor, lambda_: float, alpha: float, eps: float, once: bool = False) -> System:
    """The multigrid hierarchy of one guide (H, W), float32 or float64.

    ``once``: for one call of wls_solve, which keeps the system for the next guide of its size. Allocations, launches
    and the capture of a step cost the host as much as the steps cost the device.
    """
    guide = guide.contiguous()
    with torch.cuda.device_of(guide):
        system = _taken(guide) if once else None
        if system is None:
            hierarchy, draft = _allocated(guide)
            system = System(hierarchy, draft=draft if once else None)
            replays = False  # kernels are loaded first
        else:
            assert system.draft is not None
            hierarchy, draft = system.hierarchy, system.draft
            replays = guide.device.type == "cuda"
        _set_weights(hierarchy, guide, lambda_, alpha, eps)
        if replays:
            if system.graph is None:
                system.graph = captured(partial(_set_levels, hierarchy, draft))
            system.graph.replay()
        else:
            _set_levels(hierarchy, draft)
        _invert_last(hierarchy, draft)
    return system


def keep(system: System) -> None:
    """For :func:`wls_setup` with ``once``: the latest systems, as many as are small enough."""
    of_first = system.hierarchy.next
    if of_first.numel() > KEPT_PIXELS:
        return
    with _keeping:
        _kept.append((_place(of_first), system))
        room = KEPT_PIXELS
        for number in range(len(_kept) - 1, -1, -1):
            room -= _kept[number][1].hierarchy.next.numel()
            if room < 0:
                del _kept[: number + 1]
                return


def release() -> None:
    """Forget the systems that wait."""
    with _keeping:
        _kept.clear()


def _taken(guide: Tensor) -> System | None:
    place = _place(guide)
    with _keeping:
        for number in range(len(_kept) - 1, -1, -1):
            if _kept[number][0] == place:
                return _kept.pop(number)[1]
    return None


def _place(image: Tensor) -> tuple[object, ...]:
    """A stream's order keeps what the last solve has still to read from what the next one writes."""
    device = image.device
    return device, torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0, image.shape


def _allocated(guide: Tensor) -> tuple[Hierarchy, Draft]:
    height, width = lines, pixels = guide.shape
    levels: list[Level] = []
    sums = []
    last = None
    while True:
        next, factor, inverse, across = (guide.new_empty((lines, pixels), dtype=torch.float32) for _ in range(4))
        links = Links(across, *((torch.empty_like(across), torch.empty_like(across)) if levels else (None, None)))
        total = torch.empty_like(across) if levels else torch.ones_like(guide, dtype=torch.float32)
        levels.append(Level(lines, pixels, links, factor, inverse))
        sums.append((total, next))
        if lines * pixels <= DENSE_PIXELS:
            last = guide.new_empty((lines * pixels, lines * pixels), dtype=torch.float32)
            break
        if lines == 1:
            break
        lines, pixels = pixels, (lines + 1) // 2
    odd = guide.new_empty((3, 64 * triton.cdiv(guide.numel(), 64)), dtype=torch.float32)  # aligned for wide accesses
    return Hierarchy(height, width, sums[0][1], levels, last), Draft(sums, odd)


def _set_weights(hierarchy: Hierarchy, guide: Tensor, lambda_: float, alpha: float, eps: float) -> None:
    launch(
        kernels.weights, triton.cdiv(guide.numel(), 512), 4,
        guide, hierarchy.next, hierarchy.levels[0].links.across, guide.numel(), hierarchy.width,
        lambda_, alpha, eps, BLOCK=512,
    )  # fmt: skip


def _set_levels(hierarchy: Hierarchy, draft: Draft) -> None:
    """Factors of each level and the matrix of the next one. Allocates nothing."""
    for depth, level in enumerate(hierarchy.levels):
        if depth + 1 == len(hierarchy.levels) and hierarchy.last is not None:
            return
        total, next = draft.sums[depth]
        lines, pixels = level.lines, level.pixels
        block, length, warps = line_tile(lines, pixels, SETUP_PIXELS_A_THREAD)
        launch(
            kernels.factor_lines, triton.cdiv(lines, block), warps,
            total, next, *level.links, level.factor, level.inverse, lines, pixels, BLOCK_L=block, BLOCK_P=length,
        )  # fmt: skip
        if depth + 1 == len(hierarchy.levels):
            return
        odd = draft.odd[:, : lines * pixels]
        block, length, warps = line_tile(lines // 2, pixels, SETUP_PIXELS_A_THREAD)
        launch(
            kernels.interpolation, triton.cdiv(lines // 2, block), warps,
            total, *level.links, level.factor, level.inverse, *odd, lines, pixels,
            ONE_BLOCK=length >= pixels, BLOCK_L=block, BLOCK_P=length,
        )  # fmt: skip
        launch(
            kernels.coarse_matrix, squares(lines, pixels), 8,
            total, next, *level.links, *odd, *draft.sums[depth + 1], *hierarchy.levels[depth + 1].links,
            lines, pixels, BLOCK_L=SQUARE, BLOCK_P=SQUARE,
        )  # fmt: skip


def _invert_last(hierarchy: Hierarchy, draft: Draft) -> None:
    """The inverse of the last level's matrix, found in float64: there, its diagonal may be added up."""
    if hierarchy.last is None:
        return
    level, (total, next) = hierarchy.levels[-1], draft.sums[-1]
    count = total.numel()
    matrix = total.new_empty((count, count), dtype=torch.float64)
    rows, block = 4, triton.next_power_of_2(count)
    launch(
        dense_matrix, triton.cdiv(count, rows), 4,
        total, next, *level.links, matrix, level.lines, level.pixels, BLOCK_R=rows, BLOCK=block,
    )  # fmt: skip
    one = torch.eye(count, dtype=torch.float64, device=matrix.device)
    # Not cholesky_inverse, which waits for the device to say that it has found one.
    hierarchy.last.copy_(torch.cholesky_solve(one, torch.linalg.cholesky_ex(matrix)[0]))
