"""A function of the user's own, applied to each sequence in the graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vlpipe.errors import ArgumentError

if TYPE_CHECKING:
    import tensorflow as tf

MAX_FRAMES = 2**31 - 2


@dataclass(frozen=True)
class Transform:
    """A function of one sequence, in TensorFlow's operations, and how many frames it makes of how many.

    Args:
        fn: takes x `[T, ...]` and returns `[T', ...]` of the same dtype. It runs for T = 0 too, where such sequences are delivered. Random
            numbers in it are none of vlpipe's: other ones in every run.
        frames: T' from T, of a whole array of lengths at once (int64 `[n]` -> `[n]`), such as `lambda t: t // 2`; None: T' = T. Whatever
            depends on lengths (buckets, `Plan`) counts on it, and each sequence is compared with it.

    Raises:
        ArgumentError: one of them is no function.

    Example:
        >>> halved = vlpipe.Transform(lambda x: x[1::2], frames=lambda t: t // 2)
        >>> vlpipe.make_dataset("data/train", transform=halved)
    """

    fn: Callable[[Any], Any]
    frames: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise ArgumentError(f"transform: came as {self.fn!r}, expected a function of one sequence x [T, d].")
        if self.frames is not None and not callable(self.frames):
            raise ArgumentError(f"transform: frames came as {self.frames!r}, expected a function of an array of lengths, or None.")

    def lengths(self, frames: np.ndarray) -> np.ndarray:
        """int64 `[n]`: the lengths that come of these.

        Raises:
            ArgumentError: `frames` fails, or gives something else than a whole number >= 0 for each.
        """
        if self.frames is None or not len(frames):
            return frames
        lengths, places = np.unique(frames, return_inverse=True)
        try:
            found = np.asarray(self.frames(lengths.copy()))
        except Exception as error:  # a user's function raises what it will
            raise ArgumentError(
                f"transform: frames fails for an array of lengths such as {lengths[:3].tolist()} ({error!r}). "
                "Use what NumPy arrays can do, such as lambda t: t // 2."
            ) from error
        if found.shape != lengths.shape or found.dtype.kind not in "iu" or found.min() < 0 or found.max() > MAX_FRAMES:
            raise ArgumentError(
                f"transform: frames gives {found.dtype} {list(found.shape)} {found.ravel()[:3].tolist()} for {len(lengths)} lengths such "
                f"as {lengths[:3].tolist()}, expected an integer from 0 to {MAX_FRAMES} for each. Use //, and np.maximum(..., 0)."
            )
        return found.astype(np.int64)[places.reshape(-1)]

    def traced(self, dimensions: tuple[int, ...], dtype: str) -> TracedTransform:
        """The function, traced for sequences `[T, *dimensions]` of a dtype. Loads TensorFlow.

        Raises:
            ArgumentError: it fails, or returns something else than one tensor `[T', ...]` of that dtype.
        """
        import tensorflow as tf

        spec = tf.TensorSpec([None, *dimensions], dtype)
        try:
            function = tf.function(self.fn).get_concrete_function(spec)
        except Exception as error:  # a user's function raises what it will
            raise ArgumentError(
                f"transform: fails for x {_shape(spec.shape)} of {dtype} ({type(error).__name__}: {error}). It is traced for sequences of "
                "any length: use TensorFlow's operations, and tf.shape(x)[0] for T."
            ) from error
        result = function.structured_outputs
        if not isinstance(result, tf.Tensor):
            raise ArgumentError(f"transform: returns {type(result).__name__}, expected one tensor [T', ...].")
        if result.dtype != spec.dtype:
            raise ArgumentError(
                f"transform: returns {result.dtype.name}, expected {dtype}, as the dataset's dtype. Return tf.cast(..., x.dtype), or pass "
                "dtype=... to make_dataset."
            )
        if not result.shape.rank or None in result.shape[1:]:
            raise ArgumentError(
                f"transform: returns {_shape(result.shape)}, expected [T', ...] with every axis but the first known. Use tf.ensure_shape."
            )
        return TracedTransform(function, tuple(result.shape[1:]))


def _shape(shape: Any) -> str:
    return "a tensor of unknown rank" if shape.rank is None else f"[{', '.join('?' if n is None else str(n) for n in shape)}]"


@dataclass(frozen=True, eq=False)
class TracedTransform:
    """A transform in the graph.

    Attributes:
        function: x `[T, ...]` -> `[T', *dimensions]`.
        dimensions: shape of a frame that it makes.
    """

    function: Callable[[tf.Tensor], tf.Tensor]
    dimensions: tuple[int, ...]


class LengthMap(NamedTuple):
    """What becomes of each length that occurs.

    Attributes:
        before: int64 `[L]`, frames before the transform, ascending.
        after: int64 `[L]`, and after.
    """

    before: np.ndarray
    after: np.ndarray


def transformed(traced: TracedTransform, sequences: tf.RaggedTensor, lengths: LengthMap, ids: tf.Tensor) -> tf.RaggedTensor:
    """Each sequence transformed by itself.

    Args:
        sequences: `[B, None, ...]`.
        lengths: what the plan counts on.
        ids: int64 `[B]`, to name a record in an error.

    Raises:
        tf.errors.InvalidArgumentError: while iterating, a sequence comes out with another length than was declared.
    """
    import tensorflow as tf

    from vlpipe.storage.example import require

    after = tf.constant(lengths.after)
    expected = tf.gather(after, tf.searchsorted(tf.constant(lengths.before), sequences.row_lengths()))
    splits, flat = sequences.row_splits, sequences.values

    def one(row: tf.Tensor) -> tf.Tensor:
        y = traced.function(flat[splits[row] : splits[row + 1]])
        found = tf.shape(y, tf.int64)[0]

        def message() -> tf.Tensor:
            came, should, number = (tf.strings.as_string(number) for number in (found, expected[row], ids[row]))
            what = ["transform: record with id ", number, ": gave ", came, " frames, expected ", should]
            return tf.strings.join([*what, ". Declare what it does: vlpipe.Transform(fn, frames=lambda t: ...)."])

        with tf.control_dependencies([require(found == expected[row], message)]):
            return tf.identity(y)

    if ids.shape.as_list() == [1]:
        values = one(tf.constant(0))
    else:
        spec = tf.RaggedTensorSpec([None, *traced.dimensions], flat.dtype, ragged_rank=0)
        values = tf.map_fn(one, tf.range(sequences.nrows()), fn_output_signature=spec).values
    return tf.RaggedTensor.from_row_lengths(values, expected, validate=False)
