"""nnU-Net's predictor on fused layers: models of any trainer, no training needed."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

import fastseg

_INITIALIZERS = ("initialize_from_trained_model_folder", "manual_initialization")


def accelerate_predictor(predictor: nnUNetPredictor, *, channels_last: bool | None = None) -> nnUNetPredictor:
    """Swap the layers of the network of a predictor that has one, in place.

    Args:
        predictor: after ``initialize_from_trained_model_folder`` or ``manual_initialization``. The weights of each fold
            go into the same network.
        channels_last: whether the network runs channels-last; None: on CPUs.

    Returns:
        ``predictor``.

    Raises:
        ValueError: the predictor has no network yet.
    """
    if predictor.network is None:
        raise ValueError(
            "accelerate_predictor: predictor.network is None, expected a network: call "
            "initialize_from_trained_model_folder first"
        )
    if channels_last is None:
        channels_last = predictor.device.type == "cpu"
    fastseg.accelerate(predictor.network, channels_last=channels_last)
    return predictor


@contextmanager
def accelerated_predictors(*, channels_last: bool | None = None) -> Iterator[None]:
    """Within it, every predictor that opens a model is accelerated, also inside of tools that make their own.

    It prints how many layers were swapped, among what nnU-Net prints.

    Args:
        channels_last: as in :func:`accelerate_predictor`.
    """
    stock = {name: getattr(nnUNetPredictor, name) for name in _INITIALIZERS}

    def initializer(name: str) -> Any:
        @functools.wraps(stock[name])
        def initialize(self: nnUNetPredictor, *args: Any, **kwargs: Any) -> None:
            stock[name](self, *args, **kwargs)
            accelerate_predictor(self, channels_last=channels_last)
            print(str(fastseg.report(self.network)).partition("\n")[0])  # as nnU-Net says what it does

        return initialize

    for name in _INITIALIZERS:
        setattr(nnUNetPredictor, name, initializer(name))
    try:
        yield
    finally:
        for name, method in stock.items():
            setattr(nnUNetPredictor, name, method)
