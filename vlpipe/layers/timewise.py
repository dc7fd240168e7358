"""Models that answer for every frame: how many answers a sequence gets, and weights that count only those."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlpipe.errors import ArgumentError
from vlpipe.layers.check import Checker
from vlpipe.layers.walk import as_functional, leaves


def output_lengths(model: Any, lengths: Any) -> Any:
    """How many frames the first output of a model has for inputs of these lengths, by arithmetic alone.

    Args:
        model: a built Sequential or Functional model with an output per frame, ordinary or mask-aware.
        lengths: integers `[B]`.

    Returns:
        Integers `[B]`, 0 where a sequence is too short.

    Raises:
        ArgumentError: the output has no frames, or the model cannot be looked into.

    Example:
        >>> import keras
        >>> from vlpipe.layers import output_lengths
        >>> model = keras.Sequential([keras.Input((None, 4)), keras.layers.Conv1D(8, 3, strides=2)])
        >>> output_lengths(model, [9, 2]).tolist()
        [4, 0]
    """
    output = leaves(Checker().run(as_functional(model, "output_lengths")))[0]
    if output.frames is None:
        raise ArgumentError(
            f'output_lengths: the output of "{model.name}" has shape {tuple(output.tensor.shape)} and no frames that can be followed; '
            "expected one answer per frame, [B, T, d]. See check_model(model) for the layer that ends them."
        )
    return output.frames.count(np.asarray(lengths))


def sample_weight(model: Any, lengths: Any, *, frames: int | None = None) -> Any:
    """Weights for targets per frame: 1 for the real frames of the model's output, 0 for padding.

    A mask-aware model needs none in `fit`, because its outputs carry their masks; this is for `evaluate` by hand, for a plain
    model, and for weights of one's own to start from.

    Args:
        model: as for `output_lengths`.
        lengths: of the inputs, integers `[B]`.
        frames: of the targets; the longest of the batch by default.

    Returns:
        float32 `[B, frames]`.

    Raises:
        ArgumentError: as for `output_lengths`.
    """
    real = output_lengths(model, lengths)
    width = int(np.max(real, initial=0)) if frames is None else frames
    return (np.arange(width) < real[:, None]).astype("float32")
