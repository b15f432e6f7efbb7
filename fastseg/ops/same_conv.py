"""Dense convolutions of layers that may also call torch's: where ours is the faster one, and its call."""

from __future__ import annotations

import torch
from torch import Tensor

from fastseg.backends import select
from fastseg.ops.beside_torch import as_torch_lays_out, offered
from fastseg.ops.context import aspp_conv2d, aspp_conv3d
from fastseg.ops.geometry import Axes

#: Inputs and outputs from which our kernel is the faster one. Measured on four cores with AVX-512 in both layouts: from
#: 24 channels on torch takes 1.0 to 1.6 times as long channels-last and 1 to 4 times contiguous, below 0.5 to 1.2.
ENOUGH_CHANNELS = 24
#: Pixels of all samples below which packing the weights takes us as long as the products, or longer: one by one torch
#: took 0.6 to 0.95 times as long there, and resunet_ce_aspp was slower for them.
ENOUGH_PIXELS = 2048
#: Outputs of this size torch has from the system each time, and waits for its pages: then 0.8 to 9 times as long.
FRESH_BYTES = 32 << 20


def same_conv(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: Axes) -> Tensor:
    """A convolution of stride 1 with "same" padding of zeros, by our op."""
    op = aspp_conv2d if x.ndim == 4 else aspp_conv3d
    return op(as_torch_lays_out(x, weight), [weight], dilations=[dilation], biases=[bias])


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether a layer that may also call torch's convolution is to call ours: there is a kernel, and it is faster.

    Of few channels or pixels oneDNN is faster, unless kernels are 1x1, where its output lies in memory that it had
    before.
    """
    if not offered(f"aspp_conv{x.ndim - 2}d", x, weight):
        return False
    if select.forced() is not None:
        return True
    if weight.shape[2:].numel() == 1 or runs_im2col(x):
        return True
    outputs, inputs = weight.shape[:2]
    pixels = len(x) * x.shape[2:].numel()
    large = outputs * pixels * x.itemsize >= FRESH_BYTES
    return large or (min(outputs, inputs) >= ENOUGH_CHANNELS and pixels >= ENOUGH_PIXELS)


def runs_im2col(x: Tensor) -> bool:
    """Whether torch takes a batch of one small float32 volume to im2col, for 2 to 10 times as long as oneDNN.

    As ATen's use_mkldnn in Convolution.cpp has it: the product of the first four sizes is not above 20480.
    """
    small = x.ndim == 5 and len(x) == 1 and x.shape[1] * x.shape[2] * x.shape[3] <= 20480
    return small and x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
