"""`assert_padding_invariant`: a test helper that fails if padding changes the output of a model, or anything that comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vlpipe.errors import ArgumentError
from vlpipe.layers.check import Checker
from vlpipe.layers.frame_count import shortest_length
from vlpipe.layers.trial import run_trial
from vlpipe.layers.trial_inputs import inputs_of
from vlpipe.layers.walk import FrameAxis, TracedTensor, as_functional, is_sequence, replay

PARTS = ("weights", "compiled", "gradients", "saved")
LENGTHS = (1, 2, 3, 7, 16, 33)


def default_lengths(model: Any) -> tuple[int, ...]:
    """Return lengths that leave each layer sequences of different lengths.

    Behind strides that multiply to 64, sequences of up to 33 frames all have one frame: a layer there would never see padding, and what it
    does with padding would stay unseen. So one length leaves every layer 2 frames at least, and another 4, with some left over.
    """
    checker = Checker()
    try:
        checker.run(as_functional(model, "assert_padding_invariant", nested=True))
    except ArgumentError:  # no graph to follow
        return LENGTHS
    counts = [axis.count for axis in checker.axes if axis.counted]
    two, four = (max((shortest_length([count], frames) for count in counts), default=0) for frames in (2, 4))
    return LENGTHS if four <= LENGTHS[-1] else (*LENGTHS, two, four + (four - two) // 4)


def answered(model: Any, lengths: Sequence[int | Sequence[int]]) -> list[bool]:
    """Return for which sequences a plain model has an answer: those of which each of its layers has a frame.

    Of no frames, a maximum is an error or minus infinity and a mean NaN: nothing that another answer could be compared with.
    """
    try:
        functional = as_functional(model, "assert_padding_invariant", nested=True)
        shortest = []
        for source in (x for x in functional.inputs if is_sequence(x, functional.inputs)):  # one input at a time: each has a length
            checker = Checker()
            replay(functional, [TracedTensor(x, FrameAxis(masked=False) if x is source else None) for x in functional.inputs], checker)
            shortest.append(shortest_length(axis.count for axis in checker.axes))
    except ArgumentError:  # no graph to follow
        return [True] * len(lengths)
    return [bool(np.all(np.atleast_1d(length) >= shortest)) for length in lengths]


def check_answered(rows: list[bool], lengths: Sequence[int | Sequence[int]], which: str) -> None:
    if not any(rows):
        raise ArgumentError(
            f"assert_padding_invariant: lengths={tuple(lengths)}; some layer of the {which} has no frame of any of these sequences, so "
            "there is no answer to compare. Pass longer ones: from check_model(model).shortest on, each layer has a frame."
        )


def assert_padding_invariant(
    model: Any,
    feature_dim: int | None = None,
    *,
    lengths: Sequence[int | Sequence[int]] | None = None,
    padding: Sequence[int] = (1, 2, 3, 5, 8, 31),
    tolerance: float = 1e-5,
    seed: int = 0,
    plain: Any = None,
    vocabulary: int | None = None,
    skip: Sequence[str] = (),
) -> None:
    """Fail if a random sequence gives another output when it is padded or batched with others than it gives alone.

    Each sequence runs alone; then with each amount of padding, of zeros, of noise and (if the model takes lengths or a mask) of NaN; then
    in one batch with all others; then beside rows of large noise, NaN, infinity, and of no frames: outside of a graph, in a graph for any
    B and T, and compiled by XLA. The gradients of a batch, for weights and inputs, have to be finite and the sum of those of its
    sequences. A model that was saved and loaded has to give the same answers. All outputs are compared; of an output with frames
    `[B, T', ...]` only as many as the sequence has alone, but its padding has to be finite, because losses multiply it by zero.

    Meanwhile the model has other weights: the biases of a new model are zero, and hide what padding does.

    Args:
        model: a Keras model that takes `[B, T, d]`, several inputs, or a dict with lengths or masks: `"features"` with `"lengths"` or
            `"mask"`, NAME with `"NAME_lengths"` or `"NAME_mask"`.
        feature_dim: `d`, which only a model that was never built needs; None reads it from the model.
        lengths: lengths of the sequences in frames; for a U-Net multiples of its total stride. A sequence of which some layer has no
            frame has no answer in a plain model, and is left out there; a mask-aware model has one, the same in any batch. If a model
            takes several sequences, an entry may be a tuple with one length for each. None: 1, 2, 3, 7, 16, 33, and where a layer has
            fewer than 4 frames of these, one that leaves each layer 2 and one that leaves it more than 4.
        padding: numbers of frames to append.
        tolerance: largest allowed difference, relative to the largest absolute value of the output alone (float32); ten times as much
            is allowed where XLA compiles, and a hundred times in gradients.
        seed: seed of the random sequences, noise and weights.
        plain: the model that was given to `mask_aware`: its output for each sequence alone has to be the same, too, if it has one.
        vocabulary: integer inputs are drawn below it; None: below the size of the smallest embedding.
        skip: parts to leave out: `"weights"` (the model keeps its own), `"compiled"`, `"gradients"`, `"saved"`.

    Raises:
        AssertionError: an output changed, or the model failed; the message names the case and the difference.
        ArgumentError: `lengths` is empty, contains a negative number, or has no sequence for which a plain model has an answer; `skip`
            names no part; no input of the model is a sequence.

    Example:
        >>> import keras
        >>> from vlpipe.layers import assert_padding_invariant, mask_aware
        >>> model = keras.Sequential([keras.Input((None, 4)), keras.layers.Conv1D(8, 3), keras.layers.GlobalMaxPooling1D()])
        >>> assert_padding_invariant(mask_aware(model), plain=model)
    """
    lengths = default_lengths(model) if lengths is None else lengths
    counts = [int(count) for length in lengths for count in np.atleast_1d(length)]
    if not counts or min(counts) < 0:
        raise ArgumentError(
            f"assert_padding_invariant: lengths={tuple(lengths)}; expected at least one length, none negative. "
            "Pass the lengths of the sequences to test, in frames."
        )
    if unknown := sorted(set(skip) - set(PARTS)):
        raise ArgumentError(f"assert_padding_invariant: skip={unknown}; expected some of {list(PARTS)}.")
    inputs = inputs_of(model, feature_dim, vocabulary)
    if not inputs.told_lengths:
        rows = answered(model, lengths)
        check_answered(rows, lengths, "model")
        lengths = [length for length, is_answered in zip(lengths, rows, strict=True) if is_answered]
    comparable = None if plain is None else answered(plain, lengths)
    if comparable is not None:
        check_answered(comparable, lengths, "plain model")
    rng = np.random.default_rng(seed)
    run_trial(model, inputs, lengths, padding, tolerance, rng, plain=plain, comparable=comparable, skip=skip)
