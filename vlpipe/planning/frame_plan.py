"""What is done to frames between being read and being padded, as far as it is known before the first is read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlpipe.errors import ArgumentError
from vlpipe.planning.options import Options
from vlpipe.planning.selection import Selection
from vlpipe.storage.index import Index
from vlpipe.transforms.normalize import MeanVariance, of_path, of_source
from vlpipe.transforms.transform import LengthMap, TracedTransform


@dataclass(frozen=True, eq=False)
class FramePlan:
    """The arguments crop, transform, normalize and augment, applied to one index.

    Attributes:
        dimensions: shape of a frame of the key feature as delivered.
        lengths: what becomes of the lengths of the key feature that occur; None without a transform.
        traced: the transform.
        moments: mean and variance by feature, with normalize="global" or a path.
    """

    dimensions: tuple[int, ...]
    lengths: LengthMap | None
    traced: TracedTransform | None
    moments: dict[str, MeanVariance]


def frame_plan_for(index: Index, selection: Selection, options: Options, frames: np.ndarray) -> tuple[np.ndarray, FramePlan]:
    """The lengths as delivered (int64 `[n]`) of records of which `frames` are read, and what is done to them.

    Raises:
        ArgumentError: the transform cannot serve, or one of them does not fit the frames.
        DatasetError: statistics are asked for that the dataset, or what is at the path, does not have.
    """
    sequences = index.schema.sequences
    dimensions = sequences[selection.key].dimensions
    lengths = traced = None
    if options.transform is not None:
        traced = options.transform.traced(dimensions, options.dtype)
        dimensions = traced.dimensions
        before, places = np.unique(frames, return_inverse=True)
        lengths = LengthMap(before, options.transform.lengths(before))
        frames = lengths.after[places.reshape(-1)]
    moments = {}
    if options.normalize is not None and options.normalize != "utterance":
        _check_described(sequences[selection.key].dimensions, dimensions, options.normalize)
        if options.normalize == "global":
            moments = {name: of_source(index, name) for name in selection.features}
        else:
            moments = of_path(options.normalize, {name: sequences[name].dimensions for name in selection.features})
    if options.augment is not None:
        options.augment.check(selection.key, dimensions)
    return frames, FramePlan(dimensions, lengths, traced, moments)


def _check_described(stored: tuple[int, ...], delivered: tuple[int, ...], normalize: str) -> None:
    if stored != delivered:
        raise ArgumentError(
            f'normalize="{normalize}": the statistics are of the stored frames {list(stored)}, of which the transform makes '
            f"{list(delivered)}. "
            'Use normalize="utterance", or normalise in the transform.'
        )
