"""The layers again, in NumPy, for one sequence `[n, d]` that nothing shares a batch with: loops that are slow and plain."""

from __future__ import annotations

import numpy as np


def edges(frames: int, span: int, stride: int, padding: str) -> tuple[int, int]:
    """How many frames come out, and how many frames before the first the first window starts."""
    if padding == "valid":
        return max((frames - span) // stride + 1, 0), 0
    out = -(-frames // stride)
    if padding == "causal":
        return out, span - 1
    return out, max((out - 1) * stride + span - frames, 0) // 2


def windows(x, size, stride, dilation, padding):
    """For each output frame, the list of `(tap, frame)` that its window reads inside the sequence."""
    out, before = edges(len(x), (size - 1) * dilation + 1, stride, padding)
    for step in range(out):
        positions = [(tap, step * stride + tap * dilation - before) for tap in range(size)]
        yield [(tap, x[at]) for tap, at in positions if 0 <= at < len(x)]


def conv(x, kernel, bias, stride=1, dilation=1, padding="valid"):
    frames = [sum((row @ kernel[tap] for tap, row in seen), bias) for seen in windows(x, len(kernel), stride, dilation, padding)]
    return np.reshape(frames, (-1, kernel.shape[-1]))


def depthwise(x, kernel, bias, stride=1, dilation=1, padding="valid"):
    """`kernel` `[size, d, multiplier]`."""
    width = kernel.shape[1] * kernel.shape[2]
    frames = [
        sum(((row[:, None] * kernel[tap]).reshape(-1) for tap, row in seen), bias)
        for seen in windows(x, len(kernel), stride, dilation, padding)
    ]
    return np.reshape(frames, (-1, width))


def pool(x, size, stride, padding, reduce):
    frames = [reduce([row for _, row in seen], axis=0) for seen in windows(x, size, stride, 1, padding)]
    return np.reshape(frames, (-1, x.shape[1]))


def transpose(x, kernel, bias, stride, padding):
    """`kernel` `[size, filters, d]`: every frame adds a copy of the kernel, `stride` frames after the one before."""
    size = len(kernel)
    full = np.zeros((max((len(x) - 1) * stride + max(size, stride), 0), kernel.shape[1]))
    for at, row in enumerate(x):
        full[at * stride : at * stride + size] += kernel @ row
    if padding == "same":
        first = max(size - stride, 0) // 2
        full = full[first : first + len(x) * stride]
    return full + bias
