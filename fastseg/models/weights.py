"""Weights of networks in files: safetensors, or torch.save with nothing but tensors and numbers.

Nothing that a file says is run: a pickle that would call code is refused.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastseg.io.files import FileError, check_ending, first_bytes, first_line, saving
from fastseg.models.network import SegmentationNetwork
from fastseg.models.registry import create

if TYPE_CHECKING:
    from fastseg.models.tumour_gate import TumourGate

# Under these keys nnU-Net, Lightning and many training scripts keep the state_dict inside a checkpoint.
_WRAPPERS = ("network_weights", "state_dict", "model")
_ENDINGS = (".safetensors", ".pt", ".pth", ".ckpt")


class WeightsError(FileError):
    """A file whose weights cannot be read, written or used; the message names the file and the reason."""


def save_weights(network: SegmentationNetwork | TumourGate, path: str | os.PathLike[str], **facts: Any) -> None:
    """Write the state_dict of ``network``, its name and its arguments; the file appears whole or not at all.

    Args:
        path: ends in ``.safetensors`` or ``.pt``, ``.pth``, ``.ckpt``.
        facts: about the weights, such as the classes' names: what JSON can hold.

    Raises:
        WeightsError: another ending, or a folder that cannot be written to.
    """
    path = Path(path)
    check_ending(path, WeightsError, *_ENDINGS)
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    about = {"network": network.name, "config": network.config, "facts": facts}
    with saving(path, WeightsError) as temporary:
        if path.suffix == ".safetensors":
            metadata = {"format": "pt", "fastseg": json.dumps(about)}
            # Not save_file: it makes files that nobody but their owner may read, whatever the umask.
            temporary.write_bytes(_safetensors().torch.save(state, metadata))
        else:
            torch.save({"state_dict": state, "fastseg": json.dumps(about)}, temporary)


def load_weights(network: nn.Module, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Load a state_dict, or a checkpoint that holds one, into ``network``, strictly; returns the file's facts.

    Raises:
        WeightsError: the file is missing, holds no state_dict or would run code, or does not fit: names the first key
            that does not. ``network`` is then as it was.
    """
    state, about = read_weights(path)
    named = about.get("network")
    if isinstance(network, SegmentationNetwork) and named not in (None, network.name):
        raise WeightsError(f"{path}: holds weights of {named}, expected those of {network.name}")
    fit(network, state, path)
    facts: dict[str, Any] = about.get("facts", {})
    return facts


def fit(network: nn.Module, state: dict[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Load ``state``, read from ``path``, into ``network``.

    Raises:
        WeightsError: it does not fit: names the first key that does not. ``network`` is then as it was.
    """
    problem = _misfit(network.state_dict(), state)
    if problem is not None:
        raise WeightsError(f"{path}: the weights do not fit the network: {problem}")
    network.load_state_dict(state)


def load_network(path: str | os.PathLike[str], **kwargs: Any) -> tuple[SegmentationNetwork, dict[str, Any]]:
    """The network that :func:`save_weights` wrote, in eval mode, and the facts of the file.

    Args:
        kwargs: replace the file's arguments of :func:`~fastseg.models.create`, or add to them.

    Raises:
        WeightsError: as :func:`load_weights`, or the file does not say which network it is of.
    """
    about = read_weights(path)[1]
    if "network" not in about:
        raise WeightsError(f"{path}: does not say which network it is of: create it and use load_weights")
    try:
        network = create(about["network"], **{**about["config"], **kwargs})
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{path}: its network cannot be made: {error}") from error
    facts = load_weights(network, path)
    return network.eval(), facts


def read_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state_dict in a file, or in the checkpoint that it holds, and what :func:`save_weights` said of it.

    Returns:
        Tensors on the CPU by name, and ``network``, ``config`` and ``facts``, or nothing.

    Raises:
        WeightsError: the file is missing, holds no state_dict or would run code.
    """
    path = Path(path)
    first_bytes(path, WeightsError)
    if path.suffix == ".safetensors":
        try:
            with _safetensors().safe_open(path, "pt") as file:
                about = (file.metadata() or {}).get("fastseg")
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except Exception as error:  # safetensors raises an exception of its own, without a common base
            raise WeightsError(f"{path}: no safetensors file ({first_line(error)})") from error
        return state, _about(path, about)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is no checkpoint fails in any of a dozen ways inside the unpickler
        raise WeightsError(f"{path}: no file of weights that torch.load takes ({first_line(error)})") from error
    found = _state_dict(content)
    if found is None:
        raise WeightsError(f"{path}: holds no state_dict (names and tensors)")
    return found, _about(path, content.get("fastseg"))


def _about(path: Path, text: Any) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        about = json.loads(text)
        if isinstance(about["network"], str) and isinstance(about["config"], dict) and isinstance(about["facts"], dict):
            return {key: about[key] for key in ("network", "config", "facts")}
    except (TypeError, ValueError, KeyError):
        pass
    raise WeightsError(f"{path}: what it says of its network cannot be read ({str(text)[:60]!r})")


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


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError('Files of safetensors need: pip install "fastseg-kernels[segmentation]"') from error
    return safetensors
