"""The up-convolution in plain PyTorch: the vendor's transposed convolution, with strides as large as the kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

_CONV_TRANSPOSE: dict[int, Callable[..., Tensor]] = {2: F.conv_transpose2d, 3: F.conv_transpose3d}


def up_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Each pixel of x becomes a patch as large as the kernel."""
    return _CONV_TRANSPOSE[x.ndim - 2](x, weight, bias, stride=tuple(weight.shape[2:]))
