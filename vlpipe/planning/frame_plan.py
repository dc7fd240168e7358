"""What happens to frames between reading and padding, as far as it is known before the first record is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from vlpipe.errors import ArgumentError
from vlpipe.planning.options import Options
from vlpipe.planning.selection import Selection
from vlpipe.storage.index import Index
from vlpipe.transforms.crop import Crop
from vlpipe.transforms.normalize import MeanVariance, of_path, of_source
from vlpipe.transforms.transform import LengthMap, TracedTransform


class PieceFrames(NamedTuple):
    """The frames of the key feature that are read of some records.

    Attributes:
        firsts: int64 `[n]`, the first frame of each; None: frame 0 of all.
        counts: int64 `[n]`, how many.
    """

    firsts: Any
    counts: Any


@dataclass(frozen=True)
class FrameRange:
    """Which frames of the key feature are read: truncated to the longest length of `length_range`, then cropped.

    The methods take NumPy arrays or tensors alike, with the `minimum` function that fits.
    """

    truncation: int | None
    crop: Crop | None

    @classmethod
    def of(cls, options: Options) -> FrameRange:
        """The range that the arguments select."""
        return cls(options.truncation, options.crop)

    @property
    def is_all(self) -> bool:
        """Whether all frames of all records are read."""
        return self.truncation is None and self.crop is None

    def counts(self, frames: Any, minimum: Callable[[Any, Any], Any]) -> Any:
        """int64 `[n]`: frames that are read, of records that have `frames` (int64 `[n]`)."""
        frames = self._truncated(frames, minimum)
        return frames if self.crop is None else minimum(frames, self.crop.frames)

    def pieces(self, frames: Any, minimum: Callable[[Any, Any], Any], draws: Callable[[], Any]) -> PieceFrames:
        """The frames that are read of whole records that have `frames` (int64 `[n]`); `draws` as for `moved`."""
        return self.moved(PieceFrames(None, self.counts(frames, minimum)), lambda: frames, minimum, draws)

    def moved(
        self, planned: PieceFrames, frames: Callable[[], Any], minimum: Callable[[Any, Any], Any], draws: Callable[[], Any]
    ) -> PieceFrames:
        """The frames that are read of pieces in one epoch: the planned ones, or as many at a random place.

        Args:
            frames: returns int64 `[n]`, the frames of their records. Called only where they are needed, as is `draws`.
            draws: returns int64 `[n]`, random numbers below 2**32, one for each record and copy.
        """
        if self.crop is None or not self.crop.random:
            return planned
        return planned._replace(firsts=self.crop.firsts(self._truncated(frames(), minimum) - planned.counts, draws()))

    def _truncated(self, frames: Any, minimum: Callable[[Any, Any], Any]) -> Any:
        return frames if self.truncation is None else minimum(frames, self.truncation)


@dataclass(frozen=True, eq=False)
class FramePlan:
    """The arguments crop, transform, normalize and augment, applied to one index.

    Attributes:
        frame_range: which frames of the key feature are read.
        dimensions: shape of a delivered frame of the key feature.
        lengths: the length after the transform of each length that occurs; None without a transform.
        traced: the transform; None without one.
        moments: mean and variance by feature, for normalize="global" or a path.
    """

    frame_range: FrameRange
    dimensions: tuple[int, ...]
    lengths: LengthMap | None
    traced: TracedTransform | None
    moments: dict[str, MeanVariance]


def frame_plan_for(index: Index, selection: Selection, options: Options, frames: np.ndarray) -> tuple[np.ndarray, FramePlan]:
    """The delivered lengths (int64 `[n]`) of records of which `frames` frames are read, and the plan for them.

    Raises:
        ArgumentError: the transform fails, or one of the arguments does not fit the frames.
        DatasetError: the dataset, or the path, lacks the statistics that `normalize` needs.
    """
    sequences = index.schema.sequences
    dimensions = sequences[selection.key].dimensions
    lengths = traced = None
    if options.transform is not None:
        traced = options.transform.traced(dimensions, options.dtype)
        dimensions = traced.dimensions
        before, inverse = np.unique(frames, return_inverse=True)
        lengths = LengthMap(before, options.transform.lengths(before))
        frames = lengths.after[inverse.reshape(-1)]
    moments = {}
    if options.normalize is not None and options.normalize != "utterance":
        _check_same_frames(sequences[selection.key].dimensions, dimensions, options.normalize)
        if options.normalize == "global":
            moments = {name: of_source(index, name) for name in selection.features}
        else:
            moments = of_path(options.normalize, {name: sequences[name].dimensions for name in selection.features})
    if options.augment is not None:
        options.augment.check(selection.key, dimensions)
    return frames, FramePlan(FrameRange.of(options), dimensions, lengths, traced, moments)


def _check_same_frames(stored: tuple[int, ...], delivered: tuple[int, ...], normalize: str) -> None:
    if stored != delivered:
        raise ArgumentError(
            f'normalize="{normalize}": the statistics describe stored frames {list(stored)}, but the transform returns frames '
            f'{list(delivered)}. Use normalize="utterance", or normalise in the transform.'
        )
