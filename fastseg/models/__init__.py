"""The networks of the papers, built from :mod:`fastseg.nn`: :func:`create` by name, one file each.

Every network is a :class:`SegmentationNetwork`, which says what inference and training need to know of it.
"""

from fastseg.models.network import SegmentationNetwork
from fastseg.models.registry import create, list_models

__all__ = ["SegmentationNetwork", "create", "list_models"]
