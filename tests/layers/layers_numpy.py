"""Reference implementation of the layers in NumPy, for one sequence `[n, d]` without a batch: slow, simple loops."""

from __future__ import annotations

import numpy as np


def edges(frames: int, span: int, stride: int, padding: str) -> tuple[int, int]:
    """Return the number of output frames, and how many frames before the first input frame the first window starts."""
    if padding == "valid":
        return max((frames - span) // stride + 1, 0), 0
    out = -(-frames // stride)
    if padding == "causal":
        return out, span - 1
    return out, max((out - 1) * stride + span - frames, 0) // 2


def windows(x, size, stride, dilation, padding):
    """Yield for each output frame the list of `(tap, frame)` that its window reads inside the sequence."""
    out, before = edges(len(x), (size - 1) * dilation + 1, stride, padding)
    for step in range(out):
        positions = [(tap, step * stride + tap * dilation - before) for tap in range(size)]
        yield [(tap, x[position]) for tap, position in positions if 0 <= position < len(x)]


def conv(x, kernel, bias, stride=1, dilation=1, padding="valid"):
    frames = [sum((row @ kernel[tap] for tap, row in window), bias) for window in windows(x, len(kernel), stride, dilation, padding)]
    return np.reshape(frames, (-1, kernel.shape[-1]))


def depthwise(x, kernel, bias, stride=1, dilation=1, padding="valid"):
    """`kernel` `[size, d, multiplier]`."""
    width = kernel.shape[1] * kernel.shape[2]
    frames = [
        sum(((row[:, None] * kernel[tap]).reshape(-1) for tap, row in window), bias)
        for window in windows(x, len(kernel), stride, dilation, padding)
    ]
    return np.reshape(frames, (-1, width))


def pool(x, size, stride, padding, reduce):
    frames = [reduce([row for _, row in window], axis=0) for window in windows(x, size, stride, 1, padding)]
    return np.reshape(frames, (-1, x.shape[1]))


def transpose(x, kernel, bias, stride, padding):
    """`kernel` `[size, filters, d]`: each frame adds a copy of the kernel, `stride` frames after the previous copy."""
    size = len(kernel)
    full = np.zeros((max((len(x) - 1) * stride + max(size, stride), 0), kernel.shape[1]))
    for position, row in enumerate(x):
        full[position * stride : position * stride + size] += kernel @ row
    if padding == "same":
        first = max(size - stride, 0) // 2
        full = full[first : first + len(x) * stride]
    return full + bias
