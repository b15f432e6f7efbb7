"""The steps of ``fastseg segment``: read a case, segment it, write the files; or many cases one after the other."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastseg.cli import segment_results as results
from fastseg.cli.errors import CommandError
from fastseg.cli.outputs import check_file, check_results_folder
from fastseg.cli.progress import Report, share_progress
from fastseg.cli.segment_inputs import Source, sources
from fastseg.cli.segment_network import network_of
from fastseg.clock import StageClock
from fastseg.io import BratsCase, FileError, LggCase, Volume, save_image, save_nifti, written_together, written_whole
from fastseg.models.tumour_gate import load_gate
from fastseg.segmentation import Postprocessing, Segmentation, Segmenter
from fastseg.segmentation.labels import LABELS, REGIONS

_NIFTI = (".nii", ".nii.gz")


@dataclass(frozen=True)
class Done:
    """One case that was segmented.

    Attributes:
        seconds: of every stage, reading and writing included.
        facts: for JSON.
    """

    source: Source
    found: Segmentation
    seconds: dict[str, float]
    facts: dict[str, Any]


def run(options: argparse.Namespace) -> int:
    """Do what the options ask for, and print what is done and what came out.

    Raises:
        CommandError, FileError, OSError: input that cannot be worked with, or a folder that cannot be written to.
    """
    found, many = sources(options.input)
    _check_outputs(options, found, many)
    network = network_of(options)
    segmenter = _segmenter(options, network)
    print(results.heading(options, network, found, many), flush=True)
    if options.random_weights is not None:
        _warn("the weights are random: the labels mean nothing")
    if not many:
        with share_progress("segmenting") as report:
            done = _segment(options, segmenter, found[0], options.output, report, with_json=True)
        _say(done)
        return 0
    return _segment_all(options, segmenter, found)


def _segment_all(options: argparse.Namespace, segmenter: Segmenter, found: list[Source]) -> int:
    """A case that cannot be segmented does not stop the others; the exit code tells."""
    failed: dict[str, str] = {}
    cases = []
    existed = options.output.exists()
    options.output.mkdir(parents=True, exist_ok=True)
    for number, source in enumerate(found, 1):
        try:
            with share_progress(f"{number} of {len(found)}") as report:
                done = _segment(options, segmenter, source, _target(options, source), report, with_json=False)
        except (CommandError, FileError) as error:
            print(f"fastseg segment: {error}", file=sys.stderr, flush=True)
            failed[str(source.path)] = str(error)
            continue
        _say(done)
        cases.append(done.facts)
    if not cases and not existed:
        options.output.rmdir()
    if options.json is not None:
        with written_whole(options.json) as temporary:
            results.write_json(temporary, options, cases, failed)
    if failed:
        raise CommandError(f"{len(failed)} of {len(found)} cases could not be segmented: {', '.join(failed)}")
    return 0


def _segment(
    options: argparse.Namespace, segmenter: Segmenter, source: Source, target: Path, report: Report, *, with_json: bool
) -> Done:
    clock = StageClock(torch.device("cpu"), 1, None)
    with clock.stage("reading"):
        case = source.read()
    read = case.sequences.values() if isinstance(case, BratsCase) else ()
    for path in (target, options.probabilities):
        if path is not None and path.resolve() in [file.resolve() for file in read]:
            raise CommandError(f"{path}: this is one of the files of {source.path}")
    try:
        found = segmenter.segment(case, on_progress=report)
    except ValueError as error:  # what the segmenter says of the case
        raise CommandError(f"{source.path}: {error}") from error
    clock.seconds.update(found.seconds)
    like = _grid(case)
    with ExitStack() as finished:  # every file is written before the first one takes its name
        with clock.stage("writing"):
            if target.name.endswith(_NIFTI):
                save_nifti(finished.enter_context(written_whole(target)), found.labels, like=like)
            else:
                assert isinstance(case, LggCase), "the outputs were checked"
                _save_masks(finished.enter_context(written_together(target)), case, found)
            if options.probabilities is not None:
                save_nifti(finished.enter_context(written_whole(options.probabilities)), found.probabilities, like=like)
            if options.overlay is not None:
                _draw(finished.enter_context(written_whole(options.overlay)), source.path, found, like)
        facts = results.facts_of(source.path, target, found, clock.seconds, like)
        if with_json and options.json is not None:
            results.write_json(finished.enter_context(written_whole(options.json)), options, [facts], {})
    return Done(source, found, clock.seconds, facts)


def _target(options: argparse.Namespace, source: Source) -> Path:
    """Where the labels of one case of many go."""
    name = source.path.name if source.kind == "slices" else f"{source.path.name}.nii.gz"
    return Path(options.output / name)


def _grid(case: Volume | BratsCase | LggCase) -> Volume:
    """What the results lie on. Slices do not say where they are: rows, columns and slices of 1 mm."""
    if isinstance(case, LggCase):
        return Volume.from_array(np.moveaxis(case.images, (0, 3), (3, 0)).astype(np.float32), np.eye(4))
    return case.volume if isinstance(case, BratsCase) else case


def _save_masks(folder: Path, case: LggCase, found: Segmentation) -> None:
    """A mask beside each slice's name, as the data set names its own."""
    for path, mask in zip(case.files, np.moveaxis(found.labels, -1, 0), strict=True):
        save_image(folder / f"{path.stem}_mask.tif", mask > 0)


def _draw(path: Path, source: Path, found: Segmentation, like: Volume) -> None:
    """Over the last sequence: in BraTS's order FLAIR, which shows the whole tumour."""
    from fastseg.segmentation.overlay import save_overlay  # needs matplotlib

    regions = REGIONS if "ET" in found.channels or LABELS.get(4) in found.channels else None
    save_overlay(path, like.data[-1], found.labels, like.affine, regions=regions, title=source.name)


def _segmenter(options: argparse.Namespace, network: Any) -> Segmenter:
    postprocessing = Postprocessing() if options.postprocess else None
    if options.min_volume is not None:
        postprocessing = Postprocessing(min_whole_ml=options.min_volume)
    gate: dict[str, Any] = {}
    if options.gate is not None:
        gate["gate"] = load_gate(options.gate)[0].to(options.device)
        if options.gate_threshold is not None:
            gate["gate_threshold"] = options.gate_threshold
    try:
        return Segmenter(
            network,
            roi=options.roi,
            overlap=options.overlap,
            batch_size=options.batch_size,
            augment=options.tta,
            threshold=options.threshold,
            postprocessing=postprocessing,
            crop=options.crop,
            locate_threshold=options.locate_threshold,
            spacing=options.spacing,
            dtype=torch.bfloat16 if options.dtype == "bfloat16" else None,
            memory_limit=options.memory_limit,
            **gate,
        )
    except ValueError as error:
        raise CommandError(str(error)) from error


def _check_outputs(options: argparse.Namespace, found: list[Source], many: bool) -> None:
    files: dict[str, Path] = {}
    if many:
        for option in ("probabilities", "overlay"):
            if getattr(options, option) is not None:
                raise CommandError(f"--{option}: expected one case, but {options.input} holds {len(found)}")
        if options.output.name.endswith(_NIFTI):
            raise CommandError(f"-o {options.output}: expected a folder, {options.input} holds {len(found)} cases")
        check_results_folder(options.output)
    elif found[0].kind == "slices" and not options.output.name.endswith(_NIFTI):
        check_results_folder(options.output)
    else:
        check_file(options.output, "-o", *_NIFTI)
        files["-o"] = options.output
    if options.overlay is not None and found[0].kind == "slices":
        raise CommandError(
            f"--overlay: expected a volume, but slices such as those of {options.input} do not say where they lie"
        )
    checks: dict[str, tuple[Path | None, tuple[str, ...]]] = {
        "--probabilities": (options.probabilities, _NIFTI),
        "--overlay": (options.overlay, (".png",)),
        "--json": (options.json, (".json",)),
    }
    for option, (path, endings) in checks.items():
        if path is not None:
            check_file(path, option, *endings)
            files[option] = path
    # Masks beside the slices would take the names of those that come with the data set.
    for source in found:
        target = _target(options, source) if many else options.output
        if source.kind != "volume" and target.resolve() == source.path.resolve():
            raise CommandError(f"-o {options.output}: the results of {source.path} would be among its own files")
    taken = {options.input.resolve(): "INPUT"}
    for option, path in files.items():
        other = taken.setdefault(path.resolve(), option)
        if other != option:
            raise CommandError(f"{option} {path}: this is {other}, too")


def _say(done: Done) -> None:
    for note in done.found.notes:
        _warn(f"{done.source.path}: {note}")
    print(results.summary(done.facts), flush=True)


def _warn(message: str) -> None:
    print(f"fastseg segment: warning: {message}", file=sys.stderr, flush=True)
