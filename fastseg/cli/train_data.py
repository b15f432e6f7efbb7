"""What ``fastseg train`` trains on: patients found, prepared and split, and the network that fits them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from lightning_fabric import Fabric

from fastseg.cli.errors import CommandError
from fastseg.cli.progress import progress
from fastseg.models import SegmentationNetwork, create
from fastseg.training.batches import Samples
from fastseg.training.cases import Case, Source, store, stored
from fastseg.training.datasets import Limited, SegmentationData, Target
from fastseg.training.readers import find_sources
from fastseg.training.recipe import Recipe
from fastseg.training.slices import Slices, check_channels, size_for
from fastseg.training.split import Split, split
from fastseg.training.synthetic import synthetic_sources
from fastseg.training.transforms import Augmentation
from fastseg.training.volumes import Patches, Tiles

_PATCH = 128
_COPIES = 8
#: BraTS scores three regions, of which the labels follow; elsewhere there is a lesion or none.
_FOREGROUND = {"brats": 3}


@dataclass(frozen=True)
class Data:
    """What there is to train on.

    Attributes:
        layout: of the folder, or ``"synthetic"``.
        split: names of the patients.
        target: what the network is to give.
        size: of the images that it sees.
        train, validation: images.
    """

    layout: str
    split: Split
    target: Target
    size: tuple[int, ...]
    train: Samples
    validation: Samples


def load(options: argparse.Namespace, recipe: Recipe, fabric: Fabric) -> tuple[Recipe, Data]:
    """Find, prepare and split the patients; the recipe that comes back has a network with their channels.

    Raises:
        CommandError, FileError: patients that cannot be trained on.
        TypeError, ValueError: what the network says of its arguments.
    """
    probe = _probe(recipe)
    recipe.create_loss(probe)  # refuses what it does not know before patients are prepared
    size = _given_size(options, probe)
    foreground = probe.out_channels - (probe.output == "softmax") if "out_channels" in recipe.arguments else None
    if options.synthetic is not None:
        layout: str = "synthetic"
        sources = synthetic_sources(options.synthetic, copies=options.copies or _COPIES, seed=recipe.seed)
    else:
        scaled = (size[0], size[1]) if probe.spatial_dims == 2 and len(size) == 2 else None
        layout, sources = find_sources(options.data, image_size=scaled, classes=foreground or 1)
        if layout == "images" and probe.spatial_dims == 3:
            raise CommandError(f"{options.data} holds pictures, expected volumes for {probe.name}, a 3D network")
    sources = sources[: options.limit_cases]
    cases = _prepared(options, sources, fabric)
    foreground = foreground or _FOREGROUND.get(layout, 1)
    channels = {
        "in_channels": cases[0].shape[1],
        "out_channels": foreground + (probe.output == "softmax"),
    }
    recipe = replace(recipe, arguments={**channels, **recipe.arguments})
    network = _probe(recipe)
    if network.in_channels != cases[0].shape[1]:
        raise CommandError(
            f"--set in_channels={network.in_channels}: expected {cases[0].shape[1]}, the channels of {cases[0].name}"
        )
    target = Target.of(network, brats=layout == "brats")
    groups = [source.group or source.name for source in sources]
    if len(set(groups)) == 1:  # copies of one scan: other lesions in it are all that can be held out
        groups = [source.name for source in sources]
    parts = split(groups, seed=recipe.seed, folds=options.folds or 0, fold=options.fold)
    train = [case for case, group in zip(cases, groups, strict=True) if group in parts.train]
    held_out = [case for case, group in zip(cases, groups, strict=True) if group in parts.validation]
    size = size or size_for(cases, network.size_divisor, network.spatial_dims)
    if network.spatial_dims == 3 and options.patch_size is None:
        most = max(network.size_divisor, _PATCH // network.size_divisor * network.size_divisor)
        size = tuple(min(most, extent) for extent in size)
    data = _data_sets(options, recipe, target, size, train, held_out)
    return recipe, Data(layout, parts, target, size, *data)


def _probe(recipe: Recipe) -> SegmentationNetwork:
    """The network without memory for its weights: what it takes and gives."""
    with torch.device("meta"):
        return create(recipe.network, **recipe.arguments)


def _given_size(options: argparse.Namespace, network: SegmentationNetwork) -> tuple[int, ...]:
    """Of the image or the patch, one number for each axis; empty where none is given."""
    dims = network.spatial_dims
    option, other = ("image_size", "patch_size") if dims == 2 else ("patch_size", "image_size")
    name = f"--{option.replace('_', '-')}"
    if getattr(options, other) is not None:
        raise CommandError(f"--{other.replace('_', '-')} is not for {network.name}, a {dims}D network: give {name}")
    given: int | tuple[int, ...] = getattr(options, option) or ()
    size = (given,) * dims if isinstance(given, int) else given
    if size and len(size) != dims:
        raise CommandError(f"{name} has {len(size)} sizes, expected one or {dims}")
    if any(extent % network.size_divisor for extent in size):
        sizes = "x".join(map(str, size))
        raise CommandError(f"{name} {sizes}: expected multiples of {network.size_divisor} for {network.name}")
    return size


def _prepared(options: argparse.Namespace, sources: Sequence[Source], fabric: Fabric) -> list[Case]:
    folder = options.cache or options.output / "prepared"
    rank, world = fabric.global_rank, fabric.world_size
    bar = progress("preparing cases", len(sources[rank::world])) if rank == 0 else nullcontext(None)
    with bar as advance:
        store(folder, sources, part=(rank, world), on_case=advance)
    fabric.barrier()
    cases = stored(folder, sources)
    check_channels(cases)
    return cases


def _data_sets(
    options: argparse.Namespace,
    recipe: Recipe,
    target: Target,
    size: tuple[int, ...],
    train: Sequence[Case],
    held_out: Sequence[Case],
) -> tuple[Samples, Samples]:
    augment = Augmentation(size) if options.augment else None
    if len(size) == 2:
        flat = size[0], size[1]
        images: SegmentationData = Slices(train, target, flat, augment, recipe.seed)
        validation: SegmentationData = Slices(held_out, target, flat)
    else:
        box = size[0], size[1], size[2]
        images = Patches(train, target, box, augment, recipe.seed, options.patches)
        validation = Tiles(held_out, target, box)
    return _limited(images, options.limit_train), _limited(validation, options.limit_validation)


def _limited(data: SegmentationData, count: int | None) -> Samples:
    return data if count is None else Limited(data, count)
