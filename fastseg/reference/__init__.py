"""Every op in plain PyTorch, under the op's name."""

from fastseg.reference.norm import instance_norm_act

__all__ = ["instance_norm_act"]
