"""`assert_padding_invariant`: a test helper that fails if padding changes the output of a model."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from vlpipe.errors import ArgumentError


class ExtractMask(keras.layers.Layer):
    """Return the mask of the input as a tensor, or None without a mask."""

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
    """Fail if a random sequence gives another output when it is padded or batched with longer ones than it gives alone.

    Each sequence runs alone, then with each amount of padding (of zeros, and of noise), then in one batch with all others.

    Args:
        model: a Keras model that takes `[B, T, d]`, or `{"features": x, "lengths": n}`, or `{"features": x, "mask": m}`. Its first
            output is compared; of an output with frames `[B, T', ...]`, only as many frames as the sequence has alone.
        feature_dim: `d`.
        lengths: lengths of the sequences in frames; for a U-Net multiples of its total stride, for a plain model at least
            its receptive field.
        padding: numbers of frames to append.
        tolerance: largest allowed difference, relative to the largest absolute value of the output alone (float32).
        seed: seed of the random sequences and noise.

    Raises:
        AssertionError: an output changed; the message names the case and the difference.
        ArgumentError: `lengths` is empty or contains a negative number.

    Example:
        >>> import keras
        >>> from vlpipe.layers import assert_padding_invariant, mask_aware
        >>> model = keras.Sequential([keras.Input((None, 4)), keras.layers.Conv1D(8, 3), keras.layers.GlobalMaxPooling1D()])
        >>> assert_padding_invariant(mask_aware(model), 4)
    """
    if not len(lengths) or min(lengths) < 0:
        raise ArgumentError(
            f"assert_padding_invariant: lengths={tuple(lengths)}; expected at least one length, none negative. "
            "Pass the lengths of the sequences to test, in frames."
        )
    rng = np.random.default_rng(seed)
    sequences = [rng.normal(size=(n, feature_dim)).astype("float32") for n in lengths]
    alone = [real_outputs(model, x[None], [len(x)])[0] for x in sequences]
    for case, rows, batch in cases(sequences, padding, rng):
        for row, output in zip(rows, real_outputs(model, batch, [len(sequences[row]) for row in rows]), strict=True):
            compare(f"A sequence of {len(sequences[row])} frames {case}", output, alone[row], tolerance)


def cases(sequences: list[Any], padding: Sequence[int], rng: Any) -> Iterator[tuple[str, list[int], Any]]:
    """Yield each case: its description, the indices of its sequences, and the batch."""
    for row, x in enumerate(sequences):
        for amount in padding:
            noise = 10 * rng.normal(size=(1, amount, x.shape[1])).astype("float32")
            yield f"padded by {amount} frames of zeros", [row], np.concatenate([x[None], 0 * noise], axis=1)
            yield f"padded by {amount} frames of noise", [row], np.concatenate([x[None], noise], axis=1)
    longest = max(len(x) for x in sequences)
    batch = np.stack([np.pad(x, [(0, longest - len(x)), (0, 0)]) for x in sequences])
    yield f"in one batch with one of {longest}", list(range(len(sequences))), batch


def real_outputs(model: Any, x: Any, lengths: list[int]) -> list[Any]:
    """Return the first output for each row; of an output with a mask, only its real frames."""
    structure = getattr(model, "input", None)  # a Sequential that was never called has none
    names = sorted(structure) if isinstance(structure, dict) else []
    if names == ["features", "lengths"]:
        y = model({"features": x, "lengths": np.array(lengths, "int32")})
    elif names == ["features", "mask"]:
        y = model({"features": x, "mask": np.arange(x.shape[1]) < np.array(lengths)[:, None]})
    else:
        y = model(x)
    y = keras.tree.flatten(y)[0]
    mask = ExtractMask()(y)
    values = keras.ops.convert_to_numpy(y)
    if mask is None:
        return list(values)
    return [row[real] for row, real in zip(values, keras.ops.convert_to_numpy(mask), strict=True)]


def compare(case: str, output: Any, alone: Any, tolerance: float) -> None:
    """Raise AssertionError if `output` differs from `alone` by more than `tolerance`."""
    if output.ndim == alone.ndim > 1 and len(output) > len(alone):
        output = output[: len(alone)]  # a model without masks: the frames that the sequence has alone are the first ones
    if output.shape != alone.shape:
        raise AssertionError(
            f"{case}: the output has shape {output.shape}, but {alone.shape} for the sequence alone. "
            "Wrap the model in vlpipe.layers.mask_aware."
        )
    if alone.size == 0:
        return
    difference = float(np.max(np.abs(output - alone)) / max(float(np.max(np.abs(alone))), 1e-30))
    if not difference <= tolerance:  # written so that a NaN fails
        raise AssertionError(
            f"{case}: the output differs by {difference:.3g} of its largest value from that of the sequence alone; "
            f"tolerance={tolerance:g}. Use vlpipe.layers.check_model(model) to find the layer, or wrap the model in "
            "vlpipe.layers.mask_aware."
        )
