"""Weights from a file into a stock network, strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastseg.cli.errors import CommandError

# Under these keys nnU-Net, Lightning and many training scripts keep the state_dict inside a checkpoint.
_WRAPPERS = ("network_weights", "state_dict", "model")


def load(network: nn.Module, path: Path) -> None:
    """Load a state_dict, or a checkpoint that holds one, into ``network``.

    Raises:
        CommandError: the file is missing or no state_dict, or it does not fit; names the first key that does not.
    """
    if not path.is_file():
        raise CommandError(f"{path}: there is no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is no checkpoint fails in any of a dozen ways inside the unpickler
        raise CommandError(f"{path}: no file of weights that torch.load takes ({_first_line(error)})") from error
    state = _state_dict(content)
    if state is None:
        raise CommandError(f"{path}: holds no state_dict (names and tensors)")
    problem = _misfit(network.state_dict(), state)
    if problem is not None:
        raise CommandError(f"{path}: the weights do not fit the network: {problem}")
    network.load_state_dict(state)


def _state_dict(content: Any) -> dict[str, Tensor] | None:
    if isinstance(content, dict):
        for key in _WRAPPERS:
            if isinstance(content.get(key), dict):
                content = content[key]
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return content
    return None


def _misfit(expected: dict[str, Tensor], given: dict[str, Tensor]) -> str | None:
    missing = [key for key in expected if key not in given]
    if missing:
        return f"{missing[0]} is missing ({len(missing)} keys in all)"
    unexpected = [key for key in given if key not in expected]
    if unexpected:
        return f"{unexpected[0]} is unexpected ({len(unexpected)} keys in all)"
    for key, value in given.items():
        if value.shape != expected[key].shape:
            return f"{key} has shape {tuple(value.shape)}, expected {tuple(expected[key].shape)}"
    return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
