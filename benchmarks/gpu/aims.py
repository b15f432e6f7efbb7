"""What the kernels are held to on a data-centre card, and whether a run reached it: a section of the report.

Bytes are counted in passes over the tensor (u): the copy of the tensor, timed in the same way, makes two. What bounds
an aim is said of each. Why one is missed is written into ``reasons.json``, by the aim's name.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import Row, cases, duration
from benchmarks.turns import ours_in

REASONS = Path(__file__).with_name("reasons.json")
FMA = "float32 TFLOP/s"
KERNELS = ("[triton]", "[cuda]")
NATIVE = "torch's own kernel"


class Goal(ABC):
    """What is asked of the fastest of our rows in one case."""

    @abstractmethod
    def asked(self) -> str: ...

    @abstractmethod
    def reached(self, ours: Row, peers: dict[str, Row], machine: dict[str, Any]) -> tuple[bool, str] | None:
        """None where the run cannot say."""


@dataclass(frozen=True)
class Bandwidth(Goal):
    """A share of what the copy of the tensor reaches, of so many passes."""

    passes: float
    share: float

    def asked(self) -> str:
        return f"{self.share:.0%} of {self.passes:g}u"

    def reached(self, ours: Row, peers: dict[str, Row], machine: dict[str, Any]) -> tuple[bool, str] | None:
        if not ours.floor:
            return None
        share = self.passes / 2 * ours.floor / ours.median
        return share >= self.share, f"{share:.0%}, {duration(ours.median)} for {duration(self.passes / 2 * ours.floor)}"


@dataclass(frozen=True)
class Multiplying(Goal):
    """A share of the measured rate of float32 multiply-adds."""

    share: float

    def asked(self) -> str:
        return f"{self.share:.0%} of the multiply-adds"

    def reached(self, ours: Row, peers: dict[str, Row], machine: dict[str, Any]) -> tuple[bool, str] | None:
        if not ours.gflop:
            return None
        rate = ours.gflop / ours.median
        return rate >= self.share * machine[FMA], f"{rate / machine[FMA]:.0%}, {rate:.1f} of {machine[FMA]} TFLOP/s"


@dataclass(frozen=True)
class Faster(Goal):
    """Than a peer, so many times."""

    times: float
    peer: str

    def asked(self) -> str:
        return f"{self.times:g} times as fast as {self.peer}"

    def reached(self, ours: Row, peers: dict[str, Row], machine: dict[str, Any]) -> tuple[bool, str] | None:
        if self.peer not in peers:
            return None
        times = peers[self.peer].median / ours.median
        return (
            times >= self.times,
            f"{times:.1f} times, {duration(ours.median)} for {duration(peers[self.peer].median)}",
        )


@dataclass(frozen=True)
class Within(Goal):
    """Milliseconds."""

    milliseconds: float

    def asked(self) -> str:
        return f"within {self.milliseconds:.3g} ms"

    def reached(self, ours: Row, peers: dict[str, Row], machine: dict[str, Any]) -> tuple[bool, str] | None:
        return ours.median <= self.milliseconds, duration(ours.median)


@dataclass(frozen=True)
class Aim:
    """The name is that of its reason, if it is missed."""

    name: str
    family: str
    case: str
    shape: str
    goal: Goal


def _aims() -> Iterator[Aim]:
    volume, held = "1x32x128x128x128", "2x32x64x64x64"
    for kind in ("float32", "bfloat16"):
        # Rows of 8 and 4 MB are streamed, rows of 1 MB and 512 kB stay in a cluster's shared memory.
        yield Aim(f"norm forward {kind}, streamed", "norm", f"forward, {kind}", volume, Bandwidth(3, 0.85))
        yield Aim(f"norm forward {kind}, held", "norm", f"forward, {kind}", held, Bandwidth(2, 0.75))
        for name, shape in (("streamed", volume), ("held", held)):
            yield Aim(f"norm backward {kind}, {name}", "norm", f"backward, {kind}", shape, Bandwidth(5, 0.8))
        yield Aim(f"soft mask {kind}", "soft_mask_attention", f"forward, {kind}", volume, Bandwidth(3, 0.75))
        yield Aim(f"attention gate {kind}", "attention_gate", f"forward, {kind}", volume, Bandwidth(3, 0.75))
        yield Aim(f"CBAM {kind}", "cbam", f"forward, {kind}", "8x64x256x256", Bandwidth(4, 0.75))
        # Labels in bytes, beside four classes.
        labels = 1 / 16 if kind == "float32" else 1 / 8
        for way, passes in (("forward", 1), ("backward", 2)):
            goal = Bandwidth(passes + labels, 0.8)
            yield Aim(f"Dice + cross-entropy {way} {kind}", "loss", f"{way}, {kind}", "2x4x128x128x128", goal)
    large = "2x32x128x128x128"
    for kernel, kind in ((k, kind) for k in (3, 5, 7) for kind in ("", " bfloat16")):
        case = f"3D k{kernel}{kind}"
        for way, passes in (("forward", 2), ("forward + backward", 5)):
            asked: Goal = Bandwidth(passes, 0.6) if kernel == 3 else Multiplying(0.5)
            yield Aim(f"depthwise {case} {way}", "depthwise", f"{case} {way}", large, asked)
        yield Aim(
            f"depthwise {case} beside torch's", "depthwise", f"{case} forward + backward", large, Faster(5, NATIVE)
        )
    stereo = "stereo on the device"
    for guide in ("colour", "grey"):
        case = f"guided_filter of a full HD volume, {guide} guide"
        yield Aim(f"guided filter, {guide} guide", stereo, case, "128x1080x1920", Within(3))
    yield Aim("exact WLS", stereo, "wls_filter", "1024x1024", Within(5 * 1.048576))
    yield Aim("stereo", stereo, "pipeline, accurate, teddy", "375x450, 60 disparities", Within(15))


AIMS = tuple(_aims())


def reasons() -> dict[str, str]:
    found: dict[str, str] = json.loads(REASONS.read_text())
    if unknown := set(found) - {aim.name for aim in AIMS}:
        raise ValueError(f"{REASONS.name}: no aim has the name {', '.join(map(repr, sorted(unknown)))}")
    return found


def section(rows: Sequence[Row], machine: dict[str, Any], why: dict[str, str]) -> list[str]:
    """Lines of Markdown: every aim, reached or missed; a miss with its reason."""
    by_case = cases(list(rows))
    lines = [
        "",
        "## Aims",
        "",
        "Of the fastest of our kernels. u is one pass over the tensor; the copy of it, timed in the same way, makes",
        "two. The rate of multiply-adds is that of cuBLAS in float32 without TF32, which is near what the units do.",
        "",
        "| aim | case | asked | reached | by | | reason of a miss |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for aim in AIMS:
        peers = by_case.get((aim.family, aim.case, aim.shape, False), {})
        # What runs by itself may be torch's own ops: it counts where no kernel of ours was forced.
        ours = ours_in({name: row for name, row in peers.items() if name.endswith(KERNELS)} or peers)
        found = aim.goal.reached(ours, peers, machine) if ours else None
        by = ours.peer if ours else ""
        passed, text = found if found else (None, "")
        verdict = {True: "PASS", False: "MISS", None: "not measured"}[passed]
        reason = why.get(aim.name, "not explained") if passed is False else ""
        lines.append(
            f"| {aim.name} | {aim.case}, {aim.shape} | {aim.goal.asked()} | {text} | {by} | {verdict} | {reason} |"
        )
    return lines
