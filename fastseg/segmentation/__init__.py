"""Segmentation of whole volumes: from a case as read to labels on its grid.

Each module is imported with the first use of its names, because they need libraries of the extra.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastseg.segmentation.cascade import CascadeResult, cascade_of, segment_cascade
    from fastseg.segmentation.postprocess import Postprocessing
    from fastseg.segmentation.prediction import predict_volume
    from fastseg.segmentation.segmenter import Segmentation, Segmenter

__all__ = [
    "CascadeResult",
    "Postprocessing",
    "Segmentation",
    "Segmenter",
    "cascade_of",
    "predict_volume",
    "segment_cascade",
]

_MODULES = {
    "cascade": ("CascadeResult", "cascade_of", "segment_cascade"),
    "postprocess": ("Postprocessing",),
    "prediction": ("predict_volume",),
    "segmenter": ("Segmentation", "Segmenter"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
