"""How many frames a tensor of a model has, as a function of the frames of the input."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from vlpipe.errors import ArgumentError

PROBES = 4096  # input lengths at which the branches of a model are compared, from the first that leaves each a frame
LONG = 2**20  # frames of a sequence that is longer than any slice
MAX_LENGTH = 2**40  # of a sequence, in frames
TABLED = np.append(np.arange(1, 2 * PROBES), LONG)  # input lengths whose counts are kept


class FrameCount:
    """A function from input lengths (integer arrays, or tensors) to the lengths of a tensor of the model.

    The function of each layer is a step from those of its inputs, and each keeps its values for `TABLED`, with which branches are compared.
    Computed from the input again at each layer, they took a time that grew with the square of the depth (two minutes of SE-ResNeXt-101)
    and doubled with each merge of unequal branches.

    Args:
        step: function from the values of `sources` to those of this one; without sources, it is the length of the input.
        sources: the functions that it follows from.
    """

    def __init__(self, step: Callable[..., Any] | None = None, sources: tuple[FrameCount, ...] = ()) -> None:
        self.step, self.sources = step, sources
        self.depth: int = 1 + max((source.depth for source in sources), default=-1)
        self._table: Any = None
        self._tables: dict[bytes, Any] = sources[0]._tables if sources else {}  # each once: those of most layers are equal

    def __call__(self, lengths: Any) -> Any:
        values: dict[FrameCount, Any] = {}
        for count in self._in_order(lambda count: False):
            values[count] = count.step(*(values[source] for source in count.sources)) if count.step else lengths
        return values[self]

    @property
    def table(self) -> Any:
        """The values for `TABLED`."""
        for count in self._in_order(lambda count: count._table is not None):
            values = count.step(*(source._table for source in count.sources)) if count.step else TABLED
            table = keras.ops.convert_to_numpy(values)  # a layer of the user may count with keras.ops
            count._table = self._tables.setdefault(hashlib.blake2b(table.tobytes()).digest(), table)
        return self._table

    @property
    def of_long(self) -> int:
        """The value for `LONG`: no more than the frames of a slice of fixed length, if there is one."""
        return int(self.table[-1])

    def after(self, output_frames: Callable[[Any], Any] | None) -> FrameCount:
        """Return the function of the tensor after a layer, given its frames for those of its input; None for as many."""
        if output_frames is not None:
            return FrameCount(lambda frames: at_least_zero(counted(output_frames, frames)), (self,))
        return self if self.sources else FrameCount(at_least_zero, (self,))

    def _in_order(self, is_known: Callable[[FrameCount], bool]) -> list[FrameCount]:
        """Return the functions that this one follows from, and itself, each after its sources; without those that are known."""
        found: set[FrameCount] = set()
        waiting = [self]
        while waiting:
            count = waiting.pop()
            if count not in found and not is_known(count):
                found.add(count)
                waiting += count.sources
        return sorted(found, key=lambda count: count.depth)


def counted(output_frames: Callable[[Any], Any], frames: Any) -> Any:
    """Return what a layer answers for these lengths.

    Raises:
        ArgumentError: its method takes a single number only, such as one with `max` or `if`.
    """
    try:
        return output_frames(frames)
    except (TypeError, ValueError) as error:
        layer = getattr(output_frames, "__self__", None)
        raise ArgumentError(
            f'{type(layer).__name__} "{getattr(layer, "name", "")}": output_frames failed for an array of lengths: {error}. Expected a '
            "method for numbers, arrays and tensors. Write it with operators and keras.ops, as in keras.ops.maximum(frames - 2, 0)."
        ) from error


def at_least_zero(count: Any) -> Any:
    return keras.ops.maximum(count, 0) if is_tensor(count) else np.maximum(count, 0)


def fewer(first: Any, second: Any) -> Any:
    return keras.ops.minimum(first, second) if is_tensor(first) else np.minimum(first, second)


def spread(first: Any, second: Any) -> Any:
    """Return the frames of the sum of two branches: Keras adds one frame to each of the other branch; else those that both have."""
    where = keras.ops.where if is_tensor(first) else np.where
    return where(first == 1, second, where(second == 1, first, fewer(first, second)))


def one_meets_several(counts: Iterable[FrameCount]) -> bool:
    """Return whether a branch has one frame of some sequence, and another branch several."""
    values = np.stack(compared(counts))
    return bool(np.any((values == 1).any(axis=0) & (values > 1).any(axis=0)))


def is_tensor(count: Any) -> bool:
    return not isinstance(count, np.ndarray) and bool(keras.ops.is_tensor(count))  # TensorFlow takes 20 us to find that an array is none


def compared(counts: Iterable[FrameCount]) -> list[Any]:
    """Return the values of branches at the input lengths at which these are compared: short ones, and those that leave each a frame."""
    counts = list(counts)
    shortest = shortest_length(counts)
    if 0 < shortest <= PROBES:
        return [count.table[: shortest + PROBES - 1] for count in counts]
    lengths = np.concatenate([np.arange(1, min(shortest, PROBES)), np.arange(PROBES) + shortest])
    return [count(lengths) for count in counts]


def shortest_length(counts: Iterable[FrameCount], frames: int = 1) -> int:
    """Return the smallest number of input frames that leaves so many of every count, none of which falls with it; 0 if no number does."""
    counts = set(counts)
    enough = np.all([count.table[:-1] >= frames for count in counts], axis=0) if counts else np.array([True])
    if enough.any():
        return int(enough.argmax()) + 1
    return bisected(lambda length: all(count(np.array([length]))[0] >= frames for count in counts))


def bisected(is_enough: Callable[[int], bool]) -> int:
    """Return the smallest length that is enough, as all longer ones are; 0 if none up to `MAX_LENGTH` is."""
    low, high = 0, 1  # `low` is not enough
    while not is_enough(high):
        if high > MAX_LENGTH:
            return 0
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high
