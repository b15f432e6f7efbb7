"""The folder that nnU-Net searches: trainer files only."""
