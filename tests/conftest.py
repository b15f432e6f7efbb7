"""Tests share the machine: two threads each, so that pytest-xdist's workers do not fight for cores."""

import torch

torch.set_num_threads(2)
