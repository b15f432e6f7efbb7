"""Stateless functions on tensors, each one a registered torch op with its gradient."""

from fastseg.ops.norm import instance_norm_act

__all__ = ["instance_norm_act"]
