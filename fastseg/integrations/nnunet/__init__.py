"""Trainers and predictors of nnU-Net v2 on fused layers and losses (docs/integrations.md).

nnU-Net finds the trainers by name in the folder that ``python -m fastseg.integrations.nnunet`` prints.
"""

try:
    import nnunetv2  # noqa: F401
except ImportError as error:
    raise ImportError('fastseg.integrations.nnunet needs nnU-Net: pip install "fastseg-kernels[nnunet]"') from error

from fastseg.integrations.nnunet.predictor import accelerate_predictor, accelerated_predictors
from fastseg.integrations.nnunet.trainer import accelerated, trainers_folder

__all__ = ["accelerate_predictor", "accelerated", "accelerated_predictors", "trainers_folder"]
