"""``-tr nnUNetTrainerFastseg``, and every other trainer with ``Fastseg`` behind ``nnUNetTrainer`` in its name.

nnU-Net asks this module for an attribute of the trainer's name.
"""

from fastseg.integrations.nnunet.trainer import trainer_named

__getattr__ = trainer_named
