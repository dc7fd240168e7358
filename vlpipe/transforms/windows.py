"""Windows: pieces of equal length instead of whole records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from vlpipe.arguments import MAX_FRAMES, integer
from vlpipe.errors import ArgumentError

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

    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", integer("windows: frames", self.frames, 1, MAX_FRAMES))
        hop = self.frames if self.hop is None else integer("windows: hop", self.hop, 1, MAX_FRAMES)
        object.__setattr__(self, "hop", hop)
        if not isinstance(self.tail, str) or self.tail not in get_args(Tail):
            raise ArgumentError(f"windows: tail came as {self.tail!r}, expected one of {', '.join(map(repr, get_args(Tail)))}.")
        if not isinstance(self.jitter, (bool, np.bool_)):
            raise ArgumentError(f"windows: jitter came as {self.jitter!r}, expected True or False.")
        object.__setattr__(self, "jitter", bool(self.jitter))

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
        fitting = np.maximum((lengths - self.frames) // self.step + 1, 0)
        left = np.where(fitting > 0, (lengths - self.frames) % self.step, 1)  # a shorter record is one that nothing fits into
        has_tail = (left > 0) & (self.tail != "drop")
        if self.tail in ("keep", "pad"):
            has_tail &= (fitting * self.step < lengths) | (fitting == 0)
        counts = fitting + has_tail
        ends = np.cumsum(counts)
        records = np.repeat(np.arange(len(lengths), dtype=np.int32), counts)
        firsts = _multiples(self.step, counts, ends)
        frames = np.full(len(firsts), self.frames, np.int32)
        tails, length = ends[has_tail] - 1, lengths[has_tail]
        if self.tail == "shift":
            firsts[tails] = np.maximum(length - self.frames, 0)
        frames[tails] = np.minimum(length - firsts[tails], self.frames)
        return WindowPlaces(records, firsts, frames, int(np.count_nonzero(left)) if self.tail == "drop" else 0)

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
