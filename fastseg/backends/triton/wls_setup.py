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
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from fastseg.backends.triton import wls_setup_kernels as kernels
from fastseg.backends.triton.tensors import launch

SETUP_PIXELS_A_THREAD = 8  # fewer would need more threads, and leave too few registers to each
LINE_BLOCK = 2048  # pixels of a line that a program holds at a time
TILE = 1024  # pixels of several short lines
PROGRAMS = 128  # below this many, lines do not share a program: multiprocessors would be idle
SQUARE = 32  # of tiles that are transposed
DENSE_PIXELS = 512


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


@dataclass
class System:
    """What wls_solve needs of a guide, and the workspaces that solves have left, by stream."""

    hierarchy: Hierarchy
    idle: dict[int, list[Any]] = field(default_factory=dict)


def line_tile(count: int, pixels: int, pixels_a_thread: int) -> tuple[int, int, int]:
    """(lines, pixels) of the tile with which a program walks some of ``count`` lines, and its warps."""
    length = min(triton.next_power_of_2(pixels), LINE_BLOCK)
    together = max(1, min(TILE // length, 1 << (max(count // PROGRAMS, 1).bit_length() - 1)))
    return together, length, min(max(together * length // (32 * pixels_a_thread), 1), 16)


def squares(lines: int, pixels: int) -> int:
    """Programs with a square tile of even lines and pixels each."""
    return triton.cdiv((lines + 1) // 2, SQUARE) * triton.cdiv(pixels, SQUARE)


def wls_setup(guide: Tensor, lambda_: float, alpha: float, eps: float) -> System:
    """The multigrid hierarchy of one guide (H, W), float32 or float64."""
    guide = guide.contiguous()
    height, width = lines, pixels = guide.shape
    total = torch.ones_like(guide, dtype=torch.float32)
    next, across = (guide.new_empty(guide.shape, dtype=torch.float32) for _ in range(2))
    links = Links(across, None, None)
    of_first = next
    levels: list[Level] = []
    with torch.cuda.device_of(guide):
        launch(
            kernels.weights, triton.cdiv(lines * pixels, 512), 4,
            guide, next, across, lines * pixels, pixels, lambda_, alpha, eps, BLOCK=512,
        )  # fmt: skip
        while True:
            factor, inverse = torch.empty_like(total), torch.empty_like(total)
            levels.append(Level(lines, pixels, links, factor, inverse))
            if lines * pixels <= DENSE_PIXELS:
                return System(Hierarchy(height, width, of_first, levels, _dense_inverse(total, next, links)))
            block, length, warps = line_tile(lines, pixels, SETUP_PIXELS_A_THREAD)
            launch(
                kernels.factor_lines, triton.cdiv(lines, block), warps,
                total, next, *links, factor, inverse, lines, pixels, BLOCK_L=block, BLOCK_P=length,
            )  # fmt: skip
            if lines == 1:
                return System(Hierarchy(height, width, of_first, levels, None))
            total, next, links = _coarser(total, next, levels[-1])
            lines, pixels = pixels, (lines + 1) // 2


def _coarser(total: Tensor, next: Tensor, level: Level) -> tuple[Tensor, Tensor, Links]:
    """Row sums, links along lines and links across lines of the next level."""
    lines, pixels = level.lines, level.pixels
    left, right, loss = (torch.empty_like(total) for _ in range(3))
    block, length, warps = line_tile(lines // 2, pixels, SETUP_PIXELS_A_THREAD)
    launch(
        kernels.interpolation, triton.cdiv(lines // 2, block), warps,
        total, *level.links, level.factor, level.inverse, left, right, loss, lines, pixels,
        ONE_BLOCK=length >= pixels, BLOCK_L=block, BLOCK_P=length,
    )  # fmt: skip
    made = [total.new_empty((pixels, (lines + 1) // 2)) for _ in range(5)]
    launch(
        kernels.coarse_matrix, squares(lines, pixels), 8,
        total, next, *level.links, left, right, loss, *made, lines, pixels, BLOCK_L=SQUARE, BLOCK_P=SQUARE,
    )  # fmt: skip
    return made[0], made[1], Links(*made[2:])


def _dense_inverse(total: Tensor, next: Tensor, links: Links) -> Tensor:
    """The inverse of a level's matrix, found in float64: there, its diagonal may be added up."""
    number = torch.arange(total.numel(), device=total.device).view(total.shape)
    pairs = [(number[:, :-1], number[:, 1:], next[:, :-1]), (number[:-1], number[1:], links.across[:-1])]
    if links.slant is not None and links.counter is not None:
        pairs.append((number[:-1, :-1], number[1:, 1:], links.slant[:-1, :-1]))
        pairs.append((number[:-1, 1:], number[1:, :-1], links.counter[:-1, :-1]))
    matrix = total.new_zeros((total.numel(), total.numel()), dtype=torch.float64)
    for first, second, link in pairs:
        matrix[first, second] = matrix[second, first] = -link.double()
    matrix += torch.diag(total.flatten().double() - matrix.sum(1))
    return torch.cholesky_inverse(torch.linalg.cholesky_ex(matrix)[0]).float()
