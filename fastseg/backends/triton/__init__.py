"""Triton kernels, one module per family of ops. Importing a family imports triton; importing this package does not."""
