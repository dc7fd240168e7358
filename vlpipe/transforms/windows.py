"""Windows: pieces of equal length instead of whole records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from vlpipe.arguments import MAX_FRAMES, integer
from vlpipe.errors import ArgumentError

if TYPE_CHECKING:
    from vlpipe.layers.context import Context

Tail = Literal["shift", "keep", "pad", "drop"]


class WindowPlaces(NamedTuple):
    """The windows of some records, record by record.

    Attributes:
        records: int32 `[n]`, the position of each window's record.
        firsts: int32 `[n]`, its first frame.
        frames: int32 `[n]`, how many it has.
        left_out: how many windows are left out (tail="drop").
    """

    records: np.ndarray
    firsts: np.ndarray
    frames: np.ndarray
    left_out: int


@dataclass(frozen=True)
class Windows:
    """Windows of `frames` frames of each sequence, which are batched instead of whole sequences.

    A sequence of T >= frames frames has windows at 0, hop, 2 * hop, ... as long as they fit. `tail` says what happens if they do not end
    with it. A shorter sequence is one window, or with tail="drop" none.

    Args:
        frames: of a window, >= 1, counted in the key feature as it is stored.
        hop: frames from one window to the next, >= 1; None: `frames`, so that windows neither overlap nor leave gaps.
        tail: "shift": one more window of `frames` frames, at T - frames. "keep": a shorter one, at the next multiple of hop (none, if that
            is beyond the end). "pad": the same, and every window is padded to `frames` frames; `lengths` has the true ones. "drop":
            nothing; it is counted in `plan.refused["tail"]`.
        jitter: move the windows of a sequence together, by a number of frames that is drawn from (seed, epoch, record), from 0 to what is
            left after the last one that fits. Their number and the window at the end stay.

    Raises:
        ArgumentError: a value is not allowed.

    Example:
        >>> vlpipe.write("data/train", [{"features": np.ones((700, 2), np.float32)}])
        >>> dataset = vlpipe.make_dataset("data/train", windows=vlpipe.Windows(300, hop=150), ids=True, shuffle=False)
        >>> [x["start"].tolist() for x, in dataset.as_numpy_iterator()]
        [[0, 150, 300, 400]]
    """

    frames: int
    hop: int | None = None
    tail: Tail = "shift"
    jitter: bool = False
    context: Context | None = field(default=None, init=False, repr=False)  # of the model, for `exact` windows

    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", integer("windows: frames", self.frames, 1, MAX_FRAMES))
        hop = self.frames if self.hop is None else integer("windows: hop", self.hop, 1, MAX_FRAMES)
        object.__setattr__(self, "hop", hop)
        if not isinstance(self.tail, str) or self.tail not in get_args(Tail):
            raise ArgumentError(f"windows: tail came as {self.tail!r}, expected one of {', '.join(map(repr, get_args(Tail)))}.")
        if not isinstance(self.jitter, (bool, np.bool_)):
            raise ArgumentError(f"windows: jitter came as {self.jitter!r}, expected True or False.")
        object.__setattr__(self, "jitter", bool(self.jitter))

    @classmethod
    def exact(cls, model: Any, frames: int) -> Windows:
        """Windows whose outputs `vlpipe.stitch` puts together to the output of the whole recording, to rounding errors (1e-5).

        They overlap by as many frames as an output frame of the model depends on, and begin at multiples of its total stride.

        Args:
            model: a built Sequential or Functional Keras model of convolutions, pooling, upsampling and layers that treat each frame
                alone, ordinary or mask-aware, with an output `[B, T', ...]`.
            frames: of a window, its context included; with strides, rounded down to a multiple of the total stride.

        Raises:
            ArgumentError: a window of so many frames has no frame with all of its context; or a layer has no finite context, such as an
                LSTM, attention, or a pooling over all frames before the output. The message names it.

        Example:
            >>> import keras
            >>> model = keras.Sequential([keras.Input((None, 4)), keras.layers.Conv1D(8, 5, padding="same")])
            >>> vlpipe.Windows.exact(model, 100)
            Windows(frames=100, hop=96, tail='keep', jitter=False)
        """
        from vlpipe.layers.context import context_of

        frames = integer("Windows.exact: frames", frames, 1, MAX_FRAMES)
        context = context_of(model, "Windows.exact")
        whole = frames // context.alignment * context.alignment
        hop = (whole - context.before - context.after) // context.alignment * context.alignment
        if hop < 1:
            around = context.before + context.after
            least = (-(-around // context.alignment) + 1) * context.alignment
            raise ArgumentError(
                f"Windows.exact: frames came as {frames}, but an output frame of this model depends on {context.before} frames before and "
                f"{context.after} after it, with a total stride of {context.alignment}. Pass at least {least}, better much more."
            )
        windows = cls(whole, hop, "keep")
        object.__setattr__(windows, "context", context)
        return windows

    @property
    def step(self) -> int:
        """`hop`, or `frames` if that is None."""
        return self.frames if self.hop is None else self.hop

    @property
    def least(self) -> int:
        """Frames to which every window is padded at least."""
        return self.frames if self.tail == "pad" else 0

    def places(self, lengths: np.ndarray) -> WindowPlaces:
        """The windows of records of these lengths (integers `[n]`): 0.1 s for a million."""
        self._check_aligned(lengths)
        # Half the time in int32, where all numbers fit.
        lengths = lengths.astype(np.int32 if int(lengths.max(initial=0)) + self.step < 2**31 else np.int64, copy=False)
        before, left = np.divmod(lengths - self.frames, self.step)
        is_short = before < 0  # no window fits
        counts = np.maximum(before + 1, 0, out=before)
        has_tail = is_short | (left > 0)
        left_out = int(np.count_nonzero(has_tail)) if self.tail == "drop" else 0
        if self.tail == "drop":
            has_tail[:] = False
        elif self.tail != "shift":
            has_tail &= is_short | (counts * self.step < lengths)
        counts += has_tail
        ends = np.cumsum(counts, dtype=np.int64)
        records = np.repeat(np.arange(len(lengths), dtype=np.int32), counts)
        firsts = _multiples(self.step, counts, ends)
        frames = np.full(len(firsts), self.frames, np.int32)
        tails, length = ends[has_tail] - 1, lengths[has_tail]
        if self.tail == "shift":
            firsts[tails] = np.maximum(length - self.frames, 0)
            frames[tails] = np.minimum(length, self.frames)
        else:
            frames[tails] = length - firsts[tails]
        return WindowPlaces(records, firsts, frames, left_out)

    def _check_aligned(self, lengths: np.ndarray) -> None:
        if self.context is None or not self.context.aligned_to_end:
            return
        alignment = self.context.alignment
        wrong = lengths[(lengths > self.frames) & (lengths % alignment != 0)]
        if len(wrong):
            raise ArgumentError(
                f'windows: {len(wrong)} records have lengths such as {int(wrong[0])}, no multiple of {alignment}; padding="same" makes '
                f'the strides of "{self.context.aligned_to_end}" begin elsewhere there. Write multiples of {alignment} frames, or build '
                'the layer with padding="valid" or "causal".'
            )

    def free(self, firsts: Any, lengths: Any, minimum: Callable[[Any, Any], Any]) -> Any:
        """int64 `[n]`: by how many frames jitter may move each window, for NumPy arrays and tensors alike.

        The window at the end of a record stays where it is, and under "shift" none of the others reaches it.

        Args:
            firsts: int64 `[n]`, the first frame of each.
            lengths: int64 `[n]`, of their records.
        """
        left = (lengths - self.frames) % self.step
        if self.tail == "shift":
            left -= minimum(left, 1)
        beyond = -minimum(lengths - self.frames - firsts, 0)
        at_end = minimum(firsts % self.step + beyond, 1)  # 1 or 0
        return left * (1 - at_end)


def _multiples(step: int, counts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """int32 `[sum of counts]`: 0, step, 2 * step, ... for each of the counts. Larger multiples than int32 has wrap."""
    multiples = np.full(int(ends[-1]) if len(ends) else 0, step, np.int64 if step > 2**30 else np.int32)
    some = counts > 0
    begins, sizes = (ends - counts)[some], counts[some]
    if len(begins):
        multiples[0] = 0
        multiples[begins[1:]] = -step * (sizes[:-1] - 1)
    np.cumsum(multiples, out=multiples, dtype=multiples.dtype)
    return multiples.astype(np.int32, copy=False)
