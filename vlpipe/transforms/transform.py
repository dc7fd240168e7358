"""The user's function of one sequence, or an audio feature, applied in the graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vlpipe.arguments import MAX_FRAMES
from vlpipe.audio.features import Feature
from vlpipe.errors import ArgumentError
from vlpipe.transforms.audio_features import WaveformFeatures

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class Transform:
    """A function of one sequence in TensorFlow's operations, and how it changes the number of frames.

    Args:
        fn: takes x `[T, ...]` and returns `[T', ...]` of the same dtype. It is also called with T = 0 if such sequences are delivered.
            Random numbers that it draws do not depend on vlpipe's seed, and differ in every run. Or an audio feature, such as
            `vlpipe.audio.LogMel()`, of a waveform x `[N]` or `[N, 1]`, which knows how it changes the length.
        frames: computes T' from T, for an array of lengths (int64 `[n]` -> `[n]`), such as `lambda t: t // 2`; None: T' = T. Buckets and
            `Plan` rely on it, and every sequence is compared with it.
        aligned: what happens to the sequences that have one value for each frame of x (`make_dataset(aligned=)`): takes theirs `[T, ...]`
            in the dtype in which they are delivered, and returns `[T', ...]` of the same dtype, such as `lambda y: y[1::2]`; None: they
            are left alone. Needed where T' differs from T and such sequences are delivered.

    Raises:
        ArgumentError: an argument is not a function, or `frames` is passed with an audio feature.

    Example:
        >>> vlpipe.write("data/train", [{"features": np.ones((9, 2), np.float32)}])
        >>> halved = vlpipe.Transform(lambda x: x[1::2], frames=lambda t: t // 2)
        >>> [x.shape for x, in vlpipe.make_dataset("data/train", transform=halved).as_numpy_iterator()]
        [(1, 4, 2)]
    """

    fn: Callable[[Any], Any]
    frames: Callable[[Any], Any] | None = None
    _: KW_ONLY
    aligned: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.fn, type):
            name = f"vlpipe.audio.{self.fn.__name__}" if issubclass(self.fn, Feature) else self.fn.__name__
            raise ArgumentError(f"transform: came as the class {name}, expected an object. Call it: transform={name}(...).")
        if isinstance(self.fn, (list, tuple)) and len(self.fn):
            raise ArgumentError(
                f"transform: came as a list of {len(self.fn)}, expected one function or audio feature. Call one after another in a "
                "function of your own; augmentations belong in augment=[...]."
            )
        if hasattr(self.fn, "stage"):
            raise ArgumentError(f"transform: came as {self.fn!r:.100}, which is an augmentation. Pass augment=[...].")
        if not callable(self.fn):
            raise ArgumentError(f"transform: came as {self.fn!r}, expected a function of one sequence x [T, d].")
        if self.frames is not None and not callable(self.frames):
            raise ArgumentError(f"transform: frames came as {self.frames!r}, expected a function of an array of lengths, or None.")
        if self.frames is not None and self.features is not None:
            raise ArgumentError(
                f"transform: frames came with {type(self.fn).__name__}, which knows the lengths of its features itself. Leave frames out."
            )
        if self.aligned is not None and not callable(self.aligned):
            raise ArgumentError(
                f"transform: aligned came as {self.aligned!r}, expected a function of one aligned sequence [T, ...], or None."
            )

    def __repr__(self) -> str:  # without the addresses that Python shows of functions
        others = {"frames": self.frames, "aligned": self.aligned}
        options = "".join(f", {name}={_name(function)}" for name, function in others.items() if function is not None)
        return f"Transform({self.fn if self.features else _name(self.fn)}{options})"

    @property
    def features(self) -> Feature | None:
        """The audio feature that it computes; None for a function of the user."""
        return self.fn if isinstance(self.fn, Feature) else None

    def lengths(self, frames: np.ndarray) -> np.ndarray:
        """int64 `[n]`: the lengths after the transform.

        Raises:
            ArgumentError: `frames` fails, or does not return an integer >= 0 for each length.
        """
        if self.frames is None or not len(frames):
            return frames
        lengths, inverse = np.unique(frames, return_inverse=True)
        try:
            result = np.asarray(self.frames(lengths.copy()))
        except Exception as error:  # the user's function may raise anything
            raise ArgumentError(
                f"transform: frames fails for an array of lengths such as {lengths[:3].tolist()} ({error!r}). "
                "Use operations of NumPy arrays, such as lambda t: t // 2."
            ) from error
        if result.shape != lengths.shape or result.dtype.kind not in "iu" or result.min() < 0 or result.max() > MAX_FRAMES:
            raise ArgumentError(
                f"transform: frames returns {result.dtype} {list(result.shape)} {result.ravel()[:3].tolist()} for {len(lengths)} lengths "
                f"such as {lengths[:3].tolist()}, expected an integer from 0 to {MAX_FRAMES} for each. Use //, and np.maximum(..., 0)."
            )
        return result.astype(np.int64)[inverse.reshape(-1)]

    def traced(self, dimensions: tuple[int, ...], dtype: str) -> TracedTransform:
        """The function, traced for sequences `[T, *dimensions]` of a dtype. Loads TensorFlow.

        Raises:
            ArgumentError: it fails, or does not return one tensor `[T', ...]` of that dtype.
        """
        return traced("transform", self.fn, dimensions, dtype, "the dataset's dtype")


def _name(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__name__))


def traced(what: str, fn: Callable[[Any], Any], dimensions: tuple[int, ...], dtype: str, whose: str) -> TracedTransform:
    """A function of one sequence, traced for sequences `[T, *dimensions]` of a dtype. Loads TensorFlow.

    Args:
        what: names the function in errors.
        whose: says where the dtype comes from, in errors.

    Raises:
        ArgumentError: as `Transform.traced`.
    """
    import tensorflow as tf

    spec = tf.TensorSpec([None, *dimensions], dtype)
    try:
        function = tf.function(fn).get_concrete_function(spec)
    except Exception as error:  # the user's function may raise anything
        raise ArgumentError(
            f"{what}: fails for x {_shape(spec.shape)} of {dtype} ({type(error).__name__}: {error}). It is traced for sequences of "
            "any length: use TensorFlow's operations, and tf.shape(x)[0] for T."
        ) from error
    result = function.structured_outputs
    if not isinstance(result, tf.Tensor):
        raise ArgumentError(f"{what}: returns {type(result).__name__}, expected one tensor [T', ...].")
    if result.dtype != spec.dtype:
        raise ArgumentError(
            f"{what}: returns {result.dtype.name}, expected {dtype}, as {whose}. Return tf.cast(..., x.dtype); for features, make_dataset "
            "also takes dtype=..."
        )
    if not result.shape.rank or None in result.shape[1:]:
        raise ArgumentError(
            f"{what}: returns {_shape(result.shape)}, expected [T', ...] with every axis but the first known. Use tf.ensure_shape."
        )
    return TracedTransform(what, function, tuple(result.shape[1:]))


def _shape(shape: Any) -> str:
    return "a tensor of unknown rank" if shape.rank is None else f"[{', '.join('?' if n is None else str(n) for n in shape)}]"


@dataclass(frozen=True, eq=False)
class TracedTransform:
    """A transform in the graph.

    Attributes:
        what: names it in errors.
        function: x `[T, ...]` -> `[T', *dimensions]`.
        dimensions: shape of a frame that it returns.
    """

    what: str
    function: Callable[[tf.Tensor], tf.Tensor]
    dimensions: tuple[int, ...]


class LengthMap(NamedTuple):
    """The length after the transform of each length that occurs.

    Attributes:
        before: int64 `[L]`, frames before the transform, ascending.
        after: int64 `[L]`, and after.
    """

    before: np.ndarray
    after: np.ndarray

    def of(self, frames: np.ndarray) -> np.ndarray:
        """int64 `[n]`: the length after the transform of each of these."""
        return self.after[np.searchsorted(self.before, frames)]


def transformed(
    traced: TracedTransform | WaveformFeatures, sequences: tf.RaggedTensor, lengths: LengthMap, ids: tf.Tensor
) -> tf.RaggedTensor:
    """Transform each sequence separately; waveforms, whose features need no comparison of lengths, all together.

    Args:
        sequences: `[B, None, ...]`.
        lengths: the expected lengths, which the plan relies on.
        ids: int64 `[B]`, to name a record in an error.

    Raises:
        tf.errors.InvalidArgumentError: while iterating, a sequence has another length than was declared.
    """
    import tensorflow as tf

    from vlpipe.storage.example import require

    if isinstance(traced, WaveformFeatures):
        return traced(sequences, ids)
    after = tf.constant(lengths.after)
    expected = tf.gather(after, tf.searchsorted(tf.constant(lengths.before), sequences.row_lengths()))
    splits, flat = sequences.row_splits, sequences.values

    def one(row: tf.Tensor) -> tf.Tensor:
        y = traced.function(flat[splits[row] : splits[row + 1]])
        frames = tf.shape(y, tf.int64)[0]

        def message() -> tf.Tensor:
            came, should, number = (tf.strings.as_string(number) for number in (frames, expected[row], ids[row]))
            parts = [f"{traced.what}: record with id ", number, ": returned ", came, " frames, expected ", should]
            return tf.strings.join([*parts, ". Declare how it changes lengths: vlpipe.Transform(fn, frames=lambda t: ...)."])

        with tf.control_dependencies([require(frames == expected[row], message)]):
            return tf.identity(y)

    if ids.shape.as_list() == [1]:
        values = one(tf.constant(0))
    else:
        spec = tf.RaggedTensorSpec([None, *traced.dimensions], flat.dtype, ragged_rank=0)
        values = tf.map_fn(one, tf.range(sequences.nrows()), fn_output_signature=spec).values
    return tf.RaggedTensor.from_row_lengths(values, expected, validate=False)
