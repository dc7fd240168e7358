"""`assert_padding_invariant`: for a user's own tests, does padding change what a model says?"""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from vlpipe.errors import ArgumentError


class MaskOf(keras.layers.Layer):
    """The mask that comes with a tensor, as a tensor; None where there is none."""

    def call(self, inputs: Any, mask: Any = None) -> Any:
        return mask

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        return None


def assert_padding_invariant(
    model: Any,
    feature_dim: int,
    *,
    lengths: Sequence[int] = (1, 2, 3, 7, 16, 33),
    padding: Sequence[int] = (1, 2, 3, 5, 8, 31),
    tolerance: float = 1e-5,
    seed: int = 0,
) -> None:
    """Fail where a random sequence gets another answer padded, or beside longer ones, than alone.

    Each sequence is run alone; then with each amount of padding, of zeros and of noise; then all together in one batch.

    Args:
        model: a Keras model that takes `[B, T, d]`, or `{"features": x, "lengths": n}`, or `{"features": x, "mask": m}`; its first
            output is compared. Of an output with frames `[B, T', ...]`, only the frames that the sequence has alone.
        feature_dim: `d`.
        lengths: of the sequences; multiples of the total stride for a U-Net, at least the receptive field for a plain model.
        padding: frames to add.
        tolerance: largest difference allowed, relative to the largest number of the answer alone (float32).
        seed: of the random numbers.

    Raises:
        AssertionError: an answer changed; the message has the case and by how much.
        ArgumentError: there is no length, or one is below zero.

    Example:
        >>> import keras
        >>> from vlpipe.layers import assert_padding_invariant, mask_aware
        >>> model = keras.Sequential([keras.Input((None, 4)), keras.layers.Conv1D(8, 3), keras.layers.GlobalMaxPooling1D()])
        >>> assert_padding_invariant(mask_aware(model), 4)
    """
    if not len(lengths) or min(lengths) < 0:
        raise ArgumentError(f"assert_padding_invariant: lengths={tuple(lengths)}; expected one or more lengths, none below zero.")
    rng = np.random.default_rng(seed)
    sequences = [rng.normal(size=(n, feature_dim)).astype("float32") for n in lengths]
    alone = [answer(model, x[None], [len(x)])[0] for x in sequences]
    for case, rows, batch in cases(sequences, padding, rng):
        for row, got in zip(rows, answer(model, batch, [len(sequences[row]) for row in rows]), strict=True):
            compare(f"A sequence of {len(sequences[row])} frames {case}", got, alone[row], tolerance)


def cases(sequences: list[Any], padding: Sequence[int], rng: Any) -> Iterator[tuple[str, list[int], Any]]:
    """Each case: its name, the rows that are in it, and the batch."""
    for row, x in enumerate(sequences):
        for amount in padding:
            noise = 10 * rng.normal(size=(1, amount, x.shape[1])).astype("float32")
            yield f"padded by {amount} frames of zeros", [row], np.concatenate([x[None], 0 * noise], axis=1)
            yield f"padded by {amount} frames of noise", [row], np.concatenate([x[None], noise], axis=1)
    longest = max(len(x) for x in sequences)
    batch = np.stack([np.pad(x, [(0, longest - len(x)), (0, 0)]) for x in sequences])
    yield f"in one batch with one of {longest}", list(range(len(sequences))), batch


def answer(model: Any, x: Any, lengths: list[int]) -> list[Any]:
    """The first output for each row: of an output with frames, only those that its mask says are real."""
    structure = getattr(model, "input", None)  # a Sequential that was never called has none
    names = sorted(structure) if isinstance(structure, dict) else []
    if names == ["features", "lengths"]:
        y = model({"features": x, "lengths": np.array(lengths, "int32")})
    elif names == ["features", "mask"]:
        y = model({"features": x, "mask": np.arange(x.shape[1]) < np.array(lengths)[:, None]})
    else:
        y = model(x)
    y = keras.tree.flatten(y)[0]
    mask = MaskOf()(y)
    values = keras.ops.convert_to_numpy(y)
    if mask is None:
        return list(values)
    return [row[real] for row, real in zip(values, keras.ops.convert_to_numpy(mask), strict=True)]


def compare(case: str, got: Any, alone: Any, tolerance: float) -> None:
    if got.ndim == alone.ndim > 1 and len(got) > len(alone):
        got = got[: len(alone)]  # a model without masks: the frames that the sequence has alone come first
    if got.shape != alone.shape:
        raise AssertionError(
            f"{case}: the answer has shape {got.shape}; alone it has {alone.shape}. Wrap the model in vlpipe.layers.mask_aware."
        )
    if alone.size == 0:
        return
    difference = float(np.max(np.abs(got - alone)) / max(float(np.max(np.abs(alone))), 1e-30))
    if not difference <= tolerance:  # so written that a NaN fails
        raise AssertionError(
            f"{case}: the answer differs by {difference:.3g} of its size from that of the sequence alone; tolerance={tolerance:g}. "
            "See vlpipe.layers.check_model(model) for the layer, or wrap the model in vlpipe.layers.mask_aware."
        )
