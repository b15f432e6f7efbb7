# The compiled module, as csrc/bindings.cpp defines it.
from fastseg.backends.cpu_fast_global_smoother import Images
from fastseg.backends.views import Vector, View

compiler: str
cuda_architectures: str | None

class Block:
    def __init__(self, nbytes: int) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

def cpu_capability() -> str: ...
def measure_peak(threads: int, /) -> float: ...
def set_cache_limit(nbytes: int) -> None: ...
def cache_limit() -> int: ...
def cached_bytes() -> int: ...
def release_cache() -> None: ...
def instance_norm_act_forward(
    batch: int,
    channels: int,
    spatial: int,
    x: View,
    weight: Vector | None,
    bias: Vector | None,
    residual: View | None,
    y: View,
    mean: int,
    rstd: int,
    activation: int,
    negative_slope: float,
    eps: float,
    threads: int,
    /,
) -> None: ...
def instance_norm_act_backward(
    batch: int,
    channels: int,
    spatial: int,
    grad: View,
    x: View,
    weight: Vector | None,
    bias: Vector | None,
    y: View | None,
    mean: int,
    rstd: int,
    dx: View,
    dresidual: View | None,
    dweight: int,
    dbias: int,
    activation: int,
    negative_slope: float,
    threads: int,
    /,
) -> None: ...
def instance_norm_act_apply(
    batch: int,
    channels: int,
    spatial: int,
    x: View,
    weight: Vector | None,
    bias: Vector | None,
    y: View,
    mean: int,
    rstd: int,
    activation: int,
    negative_slope: float,
    threads: int,
    /,
) -> None: ...
def depthwise_conv_forward(
    shape: tuple[int, ...],
    x: View,
    weight: int,
    bias: Vector | None,
    y: View,
    mean: int,
    rstd: int,
    eps: float,
    threads: int,
    /,
) -> None: ...
def depthwise_conv_backward(
    shape: tuple[int, ...],
    grad: View,
    x: View | None,
    weight: int,
    bias: Vector | None,
    dx: View | None,
    dweight: int,
    dbias: int,
    threads: int,
    /,
) -> None: ...
def pointwise_conv(
    batch: int,
    inputs: int,
    outputs: int,
    pixels: int,
    x: View,
    weight: int,
    output_stride: int,
    input_stride: int,
    bias: Vector | None,
    y: View,
    threads: int,
    /,
) -> None: ...
def pointwise_conv_gradient(
    batch: int,
    inputs: int,
    outputs: int,
    pixels: int,
    grad: View,
    x: View,
    dweight: int,
    dbias: int,
    threads: int,
    /,
) -> None: ...
def separable_conv_pays(shape: tuple[int, ...], x: View, outputs: int, y: View, /) -> bool: ...
def separable_conv_forward(
    shape: tuple[int, ...],
    x: View,
    weight: int,
    bias: Vector | None,
    outputs: int,
    pointwise_weight: int,
    pointwise_bias: Vector | None,
    y: View,
    threads: int,
    /,
) -> None: ...
def wls_plan(height: int, width: int, /) -> tuple[int, int, int]: ...
def wls_setup(
    height: int,
    width: int,
    guide: int,
    element: int,
    lambda_: float,
    alpha: float,
    eps: float,
    system: int,
    scratch: int,
    threads: int,
    /,
) -> None: ...

wls_together: int

def wls_solve(
    sources: int,
    height: int,
    width: int,
    system: int,
    source: int,
    solution: int,
    element: int,
    work: int,
    tolerance: float,
    max_iterations: int,
    iterations: int,
    residual: int,
    threads: int,
    /,
) -> None: ...
def fast_global_smoother(
    batch: int,
    channels: int,
    height: int,
    width: int,
    src: Images,
    guide: Images,
    guide_channels: int,
    dst: Images,
    lambda_: float,
    sigma: float,
    attenuation: float,
    iterations: int,
    adjoint: bool,
    threads: int,
    /,
) -> None: ...
def census_transform(
    batch: int,
    channels: int,
    height: int,
    width: int,
    image: Images,
    window_rows: int,
    window_columns: int,
    words: int,
    threads: int,
    /,
) -> None: ...
def matching_cost(
    batch: int,
    channels: int,
    height: int,
    width: int,
    left: Images,
    right: Images,
    min_disparity: int,
    disparities: int,
    right_view: bool,
    ad_census: bool,
    ad_weight: float,
    gradient_weight: float,
    census_weight: float,
    ad_threshold: float,
    gradient_threshold: float,
    window_rows: int,
    window_columns: int,
    outside: float,
    ad_scale: float,
    census_scale: float,
    cost: int,
    element: int,
    threads: int,
    /,
) -> None: ...
def cuda_instance_norm_act_workspace(batch: int, channels: int, spatial: int, element: int, /) -> int: ...
def cuda_instance_norm_act_forward(
    batch: int,
    channels: int,
    spatial: int,
    x: View,
    weight: Vector | None,
    bias: Vector | None,
    residual: View | None,
    y: View,
    mean: int,
    rstd: int,
    activation: int,
    negative_slope: float,
    eps: float,
    workspace: int,
    stream: int,
    /,
) -> None: ...
def cuda_instance_norm_act_backward(
    batch: int,
    channels: int,
    spatial: int,
    grad: View,
    x: View,
    weight: Vector | None,
    bias: Vector | None,
    y: View | None,
    mean: int,
    rstd: int,
    dx: View,
    dresidual: View | None,
    dweight: int,
    dbias: int,
    activation: int,
    negative_slope: float,
    workspace: int,
    stream: int,
    /,
) -> None: ...
def cuda_instance_norm_act_apply(
    batch: int,
    channels: int,
    spatial: int,
    x: View,
    weight: Vector | None,
    bias: Vector | None,
    y: View,
    mean: int,
    rstd: int,
    activation: int,
    negative_slope: float,
    stream: int,
    /,
) -> None: ...
def cuda_depthwise_conv_workspace(
    shape: tuple[int, ...], element: int, channels_last: bool, backward: bool, reduces: bool, /
) -> int: ...
def cuda_depthwise_conv_forward(
    shape: tuple[int, ...],
    x: View,
    weight: int,
    bias: Vector | None,
    y: View,
    mean: int,
    rstd: int,
    eps: float,
    workspace: int,
    stream: int,
    /,
) -> None: ...
def cuda_depthwise_conv_backward(
    shape: tuple[int, ...],
    grad: View,
    x: View | None,
    weight: int,
    bias: Vector | None,
    dx: View | None,
    dweight: int,
    dbias: int,
    workspace: int,
    stream: int,
    /,
) -> None: ...
