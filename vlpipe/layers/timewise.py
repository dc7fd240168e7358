"""Models with one output per frame: the output lengths, and weights that count real frames only."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from vlpipe.errors import ArgumentError
from vlpipe.layers.check import Checker
from vlpipe.layers.frame_count import FrameCount
from vlpipe.layers.lengths import check_counts
from vlpipe.layers.walk import FrameAxis, TracedTensor, as_functional, is_sequence, leaves, replay


def frame_counts(model: Any) -> list[tuple[int, FrameCount] | None]:
    """Return, for each output of a model, how its frames follow from those of an input, without running the model.

    Args:
        model: as for `output_lengths`.

    Returns:
        For each output, in the order of `keras.tree.flatten`: the position of the input in `model.inputs`, and the function from
        its lengths to those of the output; None where the output has no frames that can be followed.

    Raises:
        ArgumentError: the model is subclassed or not built.
    """
    functional = as_functional(model, "frame_counts", nested=True)
    found: list[tuple[int, FrameCount] | None] = [None] * len(functional.outputs)
    for position, source in enumerate(functional.inputs):
        if is_sequence(source, functional.inputs):  # one input at a time, so that the frames of an output are known to come from it
            inputs = [TracedTensor(x, FrameAxis(masked=False) if x is source else None) for x in functional.inputs]
            for number, output in enumerate(leaves(replay(functional, inputs, Checker()))):
                if output.frames is not None and output.frames.counted and found[number] is None:
                    found[number] = position, output.frames.count
    return found


def output_lengths(model: Any, lengths: Any) -> Any:
    """Return the number of frames in a model's first output for each input length, without running the model.

    Args:
        model: a built Sequential or Functional model with one output per frame, ordinary or mask-aware.
        lengths: input lengths in frames, integers `[B]`; tensors too, so that a loss inside a graph can ask.

    Returns:
        Output lengths in frames, integers `[B]`, as a tensor if `lengths` is one; 0 where a sequence is too short.

    Raises:
        ArgumentError: the output has no frames, or the model cannot be inspected; or a length is below 0 or not a whole number.

    Example:
        >>> import keras
        >>> from vlpipe.layers import output_lengths
        >>> model = keras.Sequential([keras.Input((None, 4)), keras.layers.Conv1D(8, 3, strides=2)])
        >>> output_lengths(model, [9, 2]).tolist()
        [4, 0]
    """
    check_counts("output_lengths", lengths)
    checker = Checker()
    output = leaves(checker.run(as_functional(model, "output_lengths", nested=True)))[0]
    if output.frames is None or not output.frames.counted:
        if output.frames is None and checker.ends:
            advice = f"{checker.ends[-1]} takes frames and leaves none: pass the model before it, keras.Model(model.input, its input)."
        else:
            advice = "Use check_model(model) to find the layer whose frames cannot be counted."
        raise ArgumentError(
            f'output_lengths: the output of "{model.name}" has shape {tuple(output.tensor.shape)} and no frame axis that can be followed; '
            f"expected one output per frame, [B, T, d]. {advice}"
        )
    return output.frames.count(lengths if keras.ops.is_tensor(lengths) else np.asarray(lengths))


def sample_weight(model: Any, lengths: Any, *, frames: int | None = None) -> Any:
    """Return weights for per-frame targets: 1 for the real frames of the model's output, 0 for padding.

    A mask-aware model needs none in `fit`, because its outputs carry their masks. Use these weights with a plain model, in
    a custom evaluation loop, or as the base of other weights.

    Args:
        model: as for `output_lengths`.
        lengths: input lengths in frames, integers `[B]`.
        frames: frames of the targets; by default those of the longest output in the batch.

    Returns:
        Weights, float32 `[B, frames]`.

    Raises:
        ArgumentError: as for `output_lengths`.

    Example:
        >>> import keras
        >>> from vlpipe.layers import sample_weight
        >>> model = keras.Sequential([keras.Input((None, 4)), keras.layers.Conv1D(8, 3, strides=2)])
        >>> sample_weight(model, [7, 5]).tolist()
        [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]
    """
    real = output_lengths(model, lengths)
    width = int(np.max(real, initial=0)) if frames is None else frames
    return (np.arange(width) < real[:, None]).astype("float32")
