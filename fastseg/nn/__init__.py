"""Layers over :mod:`fastseg.ops`, with the arguments and state_dict keys of torch's own."""

from fastseg.nn.norm import GroupNormAct, InstanceNormAct1d, InstanceNormAct2d, InstanceNormAct3d

__all__ = ["GroupNormAct", "InstanceNormAct1d", "InstanceNormAct2d", "InstanceNormAct3d"]
