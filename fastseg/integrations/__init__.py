"""Fastseg inside other people's trainers: nnU-Net, Lightning, MONAI. Each module imports its library, and is not
imported by ``import fastseg``.

Other frameworks need none: ``fastseg.accelerate(model)`` before the optimizer, or after.
"""
