"""Random sequences for a model, and batches of them as the model takes them, with any padding: for `assert_padding_invariant`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from vlpipe.errors import ArgumentError

OPEN_WIDTH = 3  # of an axis of unknown size
PADDINGS = ("zeros", "noise", "NaN")  # what may stand in the padding; "NaN" only where the model is told the lengths

Row = dict[str, Any]  # the arrays of one example, by the names of the inputs: [n, ...] of a sequence


@dataclass(frozen=True)
class Input:
    """One input of a model.

    Attributes:
        key: its name.
        shape: without the batch, and for a sequence without the frames.
        dtype: of its values.
        is_sequence: whether axis 1 are frames of any number.
        companion: key of its lengths or its mask, or "".
    """

    key: str
    shape: tuple[int, ...]
    dtype: str
    is_sequence: bool
    companion: str = ""

    @property
    def is_float(self) -> bool:
        return bool(keras.backend.is_float_dtype(self.dtype))

    def draw(self, rng: Any, frames: Sequence[int], vocabulary: int, scale: float = 1) -> Any:
        """Return random values of this shape; `frames` has the number of frames of a sequence."""
        shape = (*frames, *self.shape)
        if self.is_float:
            return (scale * rng.normal(size=shape)).astype("float32")
        return rng.integers(0, 2 if self.dtype == "bool" else vocabulary, shape).astype(self.dtype)


@dataclass(frozen=True)
class Inputs:
    """All inputs of a model, and the structure in which it takes them.

    Attributes:
        parts: without lengths and masks, which go with their sequences.
        form: `"dict"`, `"list"` or `"tensor"`.
        vocabulary: integers are drawn below it.
    """

    parts: tuple[Input, ...]
    form: str
    vocabulary: int

    @property
    def sequences(self) -> list[Input]:
        return [part for part in self.parts if part.is_sequence]

    @property
    def paddings(self) -> tuple[str, ...]:
        """Return what may stand in the padding."""
        return PADDINGS if self.told_lengths else PADDINGS[:2]

    @property
    def told_lengths(self) -> bool:
        return any(part.companion for part in self.parts)

    def row(self, rng: Any, length: int | Sequence[int], scale: float = 1) -> Row:
        """Return a random example; `length` has one number of frames for each sequence, or one for all."""
        frames = iter([length] * len(self.sequences) if isinstance(length, (int, np.integer)) else length)
        return {part.key: part.draw(rng, [next(frames)] if part.is_sequence else [], self.vocabulary, scale) for part in self.parts}

    def batch(self, rows: Sequence[Row], rng: Any, padding: str = "zeros", extra: int = 0) -> Any:
        """Return the examples as one batch that the model takes, with `extra` frames of padding behind the longest."""
        batch: dict[str, Any] = {}
        for part in self.parts:
            arrays = [row[part.key] for row in rows]
            if not part.is_sequence:
                batch[part.key] = np.stack(arrays)
                continue
            lengths = np.array([len(array) for array in arrays], "int32")
            frames = int(max(lengths)) + extra
            batch[part.key] = np.stack([self.padded(part, array, frames, rng, padding) for array in arrays])
            if part.companion:
                is_mask = part.companion.endswith("mask")
                batch[part.companion] = np.arange(frames) < lengths[:, None] if is_mask else lengths
        return self.in_form(batch)

    def open_axes(self) -> Any:
        """Return how many axes of each array of a batch have any size, in the structure of a batch."""
        axes: dict[str, int] = {}
        for part in self.parts:
            axes[part.key] = 2 if part.is_sequence else 1
            if part.companion:
                axes[part.companion] = 2 if part.companion.endswith("mask") else 1
        return self.in_form(axes)

    def longest(self, rows: Sequence[Row]) -> int:
        return max(len(row[part.key]) for row in rows for part in self.sequences)

    def in_form(self, batch: dict[str, Any]) -> Any:
        return batch if self.form == "dict" else list(batch.values()) if self.form == "list" else next(iter(batch.values()))

    def padded(self, part: Input, array: Any, frames: int, rng: Any, padding: str) -> Any:
        if padding == "noise":
            whole = part.draw(rng, [frames], self.vocabulary, 10)
        else:  # an integer has no NaN: it gets one that no table holds
            value = 0 if padding == "zeros" or part.dtype == "bool" else float("nan") if part.is_float else 2**30
            whole = np.full((frames, *part.shape), value, array.dtype)
        whole[: len(array)] = array
        return whole


def inputs_of(model: Any, feature_dim: int | None, vocabulary: int | None) -> Inputs:
    """Return what a model takes.

    Raises:
        ArgumentError: the model is not built and `feature_dim` is not given, or none of its inputs is a sequence.
    """
    structure = getattr(model, "inputs", None) if isinstance(model, keras.Sequential) else getattr(model, "input", None)
    if structure is None or len(keras.tree.flatten(structure)) == 0:
        if feature_dim is None:
            raise ArgumentError(
                f"assert_padding_invariant: {type(model).__name__} does not say what it takes, and feature_dim=None; expected the number "
                "of features of a frame. Pass feature_dim, or a Functional or Sequential model that starts with keras.Input."
            )
        return Inputs((Input("features", (feature_dim,), "float32", True),), "tensor", 2)
    if isinstance(structure, (list, tuple)) and len(structure) == 1:
        structure = structure[0]
    form = "dict" if isinstance(structure, dict) else "list" if isinstance(structure, (list, tuple)) else "tensor"
    named = structure if form == "dict" else {x.name: x for x in keras.tree.flatten(structure)}
    companions = {key: companion for key in named if (companion := companion_of(key, named))}
    parts = []
    for key, x in named.items():
        if key not in companions.values():
            is_sequence = len(x.shape) > 1 and (x.shape[1] is None or key in companions)
            shape = tuple(size or OPEN_WIDTH for size in x.shape[2 if is_sequence else 1 :])
            dtype = keras.backend.standardize_dtype(x.dtype)
            parts.append(Input(key, shape, dtype, is_sequence, companions.get(key, "")))
    if not any(part.is_sequence for part in parts):
        raise ArgumentError(
            f"assert_padding_invariant: no input of the model has an open number of frames: {[tuple(x.shape) for x in named.values()]}; "
            "expected (None, None, ...). Build the model with keras.Input((None, d))."
        )
    return Inputs(tuple(parts), form, vocabulary or smallest_table(model))


def companion_of(key: str, keys: Iterable[str]) -> str:
    """Return the key of the lengths or the mask that belong to the input `key`, or ""."""
    wanted = ("lengths", "mask") if key == "features" else (f"{key}_lengths", f"{key}_mask")
    return next((name for name in wanted if name in keys), "")


def smallest_table(model: Any) -> int:
    """Return the number of tokens that every embedding of a model holds; 2 without an embedding."""
    return min((layer.input_dim for layer in model._flatten_layers() if isinstance(layer, keras.layers.Embedding)), default=2)
