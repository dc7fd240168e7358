"""The roles of what slides a window over the frames: how the plain layers let padding in, and the operations of `keras.ops`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
from keras import layers as plain

from vlpipe.layers import planes, windows
from vlpipe.layers.base import AS_IT_COMES
from vlpipe.layers.role import Role, refuse, refuse_unknown, replaced
from vlpipe.layers.sliding import AveragePooling
from vlpipe.layers.walk import TracedTensor, leaves

POOLINGS = {
    ("MaxPool", 3): windows.MaxPooling1D,
    ("MaxPool", 4): planes.MaxPooling2D,
    ("AveragePool", 3): windows.AveragePooling1D,
    ("AveragePool", 4): planes.AveragePooling2D,
}


def leak_of_window(layer: Any) -> tuple[str, str]:
    """Return how a plain window layer reads padding, and its code; `valid` and `causal` windows of real output frames never do."""
    if isinstance(layer, (plain.Conv1DTranspose, plain.Conv2DTranspose, windows.ConvTransposeOperation)):
        return "spreads the padding into the last real frames", "reads_padding"
    if isinstance(layer, (plain.ZeroPadding1D, plain.ZeroPadding2D)):
        return "appends its zeros after the padding, not after the last real frame", "reads_padding"
    if getattr(layer, "padding", None) != "same":
        return "", ""
    if isinstance(layer, plain.STFTSpectrogram) or layer.strides[0] > 1:
        return 'aligns the windows of "same" to the padded length', "stride_alignment"
    size = getattr(layer, "kernel_size", None) or layer.pool_size
    return ("reads the padding beyond the last frame", "reads_padding") if size[0] > 1 else ("", "")


def refuse_uneven_average(layer: Any) -> Role | None:
    """Return the refusal of a `same` average that Keras computes otherwise on PyTorch, where its windows begin and end unevenly.

    Where the two sides need as many frames, it averages the real ones, as everywhere else. Where they do not, it repeats the end frames.
    """
    if keras.backend.backend() != "torch" or not isinstance(layer, AveragePooling | plain.AveragePooling1D | plain.AveragePooling2D):
        return None
    axes = zip(layer.pool_size, layer.strides, strict=True) if layer.padding == "same" else ()
    if not any((size - covered) % 2 for size, stride in axes for covered in range(1, min(size, stride) + 1)):
        return None
    return refuse(
        'repeats the first and the last frame on PyTorch, where the padding of "same" differs at both ends',
        "Use an odd pool_size with strides=1.",
        "reads_padding",
    )


def pooling(op: Any, arguments: Any, options: Any, rank: int) -> Role:
    """`max_pool` and `average_pool` are the layers of these names."""
    cls = POOLINGS.get((type(op).__name__, rank))
    if cls is None:
        return refuse_unknown()

    def make() -> Any:
        return cls(op.pool_size, op.strides, op.padding, op.data_format, name=op.name, **AS_IT_COMES)

    return refuse_uneven_average(make()) or sliding(make)


def convolution(op: Any, arguments: Any, options: Any, rank: int) -> Role:
    """A convolution, of the sequence and not of the kernels."""
    x, *kernels = [leaf if isinstance(leaf, TracedTensor) else TracedTensor(leaf) for leaf in leaves(arguments, options)]
    size = tuple(kernels[0].tensor.shape[:-2])
    if rank not in (3, 4) or len(size) != rank - 2 or not x.frames or any(kernel.frames for kernel in kernels):
        return refuse_unknown()
    name = re.sub("(?<!^)(?=[A-Z])", "_", type(op).__name__).lower()
    if name == "conv_transpose":
        return sliding(lambda: transposed(op, size), (x, *kernels))
    how = op.strides, op.padding, op.dilation_rate, op.data_format
    return sliding(lambda: windows.ConvOperation(name, size, *how, name=op.name), (x, *kernels))


def transposed(op: Any, size: tuple[int, ...]) -> Any:
    how = op.strides, op.padding, op.output_padding, op.dilation_rate, op.data_format
    return windows.ConvTransposeOperation(size, *how, name=op.name)


def sliding(make: Callable[[], Any], operands: Any = ()) -> Role:
    leak, problem = leak_of_window(make())
    return replace(replaced(make, leak, problem=problem), operands=operands)


WINDOW_OPS: dict[str, Callable[..., Role]] = {
    **dict.fromkeys(("MaxPool", "AveragePool"), pooling),
    **dict.fromkeys(("Conv", "ConvTranspose", "DepthwiseConv", "SeparableConv"), convolution),
}
