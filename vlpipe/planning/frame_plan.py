"""What happens to frames between reading and padding, as far as it is known before the first record is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from vlpipe.errors import ArgumentError
from vlpipe.planning.buckets import histogram
from vlpipe.planning.conversions import can_lose
from vlpipe.planning.options import Options
from vlpipe.planning.paddings import label_dtype
from vlpipe.planning.selection import Selection
from vlpipe.storage.index import Index
from vlpipe.storage.paths import Opened
from vlpipe.transforms.audio_features import WaveformFeatures, are_narrow
from vlpipe.transforms.augmentations import of_stage
from vlpipe.transforms.crop import Crop
from vlpipe.transforms.noise import AddNoise
from vlpipe.transforms.normalize import MeanVariance, of_opened, of_path, of_source
from vlpipe.transforms.transform import LengthMap, TracedTransform, Transform, traced
from vlpipe.transforms.waveforms import check_waveform
from vlpipe.transforms.windows import Windows


class PieceFrames(NamedTuple):
    """The frames of some records that are read: those of the key feature and of all sequences that are aligned with it.

    Attributes:
        firsts: int64 `[n]`, the first frame of each; None: frame 0 of all.
        counts: int64 `[n]`, how many.
    """

    firsts: Any
    counts: Any


@dataclass(frozen=True)
class FrameRange:
    """Which frames of the key feature are read: truncated to the longest length of `length_range`, then cropped or cut into windows.

    The methods take NumPy arrays or tensors alike, with the `minimum` function that fits.
    """

    truncation: int | None
    crop: Crop | None
    windows: Windows | None = None

    @classmethod
    def of(cls, options: Options) -> FrameRange:
        """The range that the arguments select."""
        return cls(options.truncation, options.crop, options.windows)

    @property
    def is_all(self) -> bool:
        """Whether all frames of all records are read."""
        return self.truncation is None and self.crop is None and self.windows is None

    @property
    def is_random(self) -> bool:
        """Whether pieces may begin after frame 0."""
        return self.windows is not None or (self.crop is not None and self.crop.random)

    def pieces(self, frames: Any, minimum: Callable[[Any, Any], Any], draws: Callable[[], Any]) -> PieceFrames:
        """Which frames are read of records that have `frames` (int64 `[n]`); the other arguments as for `moved`."""
        return self.moved(PieceFrames(None, self.counts(frames, minimum)), lambda: frames, minimum, draws)

    def counts(self, frames: Any, minimum: Callable[[Any, Any], Any]) -> Any:
        """int64 `[n]`: frames that are read, of records that have `frames` (int64 `[n]`)."""
        frames = self._truncated(frames, minimum)
        return frames if self.crop is None else minimum(frames, self.crop.frames)

    def moved(
        self, planned: PieceFrames, frames: Callable[[], Any], minimum: Callable[[Any, Any], Any], draws: Callable[[], Any]
    ) -> PieceFrames:
        """The frames that are read of pieces in one epoch: the planned ones, or as many at a random place.

        Args:
            frames: returns int64 `[n]`, the frames of their records. Called only where they are needed, as is `draws`.
            draws: returns int64 `[n]`, random numbers below 2**32, one for each record and copy.
        """
        if self.windows is not None and self.windows.jitter:
            free = self.windows.free(planned.firsts, self._truncated(frames(), minimum), minimum)
            return planned._replace(firsts=planned.firsts + draws() * (free + 1) // 2**32)
        if self.crop is None or not self.crop.random:
            return planned
        return planned._replace(firsts=self.crop.firsts(self._truncated(frames(), minimum) - planned.counts, draws()))

    def _truncated(self, frames: Any, minimum: Callable[[Any, Any], Any]) -> Any:
        return frames if self.truncation is None else minimum(frames, self.truncation)


@dataclass(frozen=True, eq=False)
class FramePlan:
    """The arguments crop, transform, normalize and augment, applied to the selected fields of one index.

    Attributes:
        options: the arguments.
        selection: the fields that are delivered.
        index: of the source.
        frame_range: which frames of the key feature are read.
        dimensions: shape of a delivered frame of the key feature.
        lengths: the length after the transform of each length that occurs; None without a transform.
        least: frames to which every sequence is padded at least, those of a window with tail="pad" after the transform; else 0.
        traced: the transform of the key feature and those of the sequences that are aligned with it, by name.
        moments: mean and variance by feature, for normalize="global" or a path.
    """

    options: Options
    selection: Selection
    index: Index = field(repr=False)
    frame_range: FrameRange
    dimensions: tuple[int, ...]
    lengths: LengthMap | None
    least: int
    traced: dict[str, TracedTransform | WaveformFeatures]
    moments: dict[str, MeanVariance]

    def waveform(self, name: str) -> WaveformFeatures | None:
        """The audio features of a sequence, if it is a waveform of which such are computed."""
        traced = self.traced.get(name)
        return traced if isinstance(traced, WaveformFeatures) else None

    def keeps_samples(self, name: str) -> bool:
        """Whether the samples of a waveform come to its audio features as they are stored: narrow integers that nothing changes before.

        The features scale them, which saves passes over all samples of a batch as floats.
        """
        waveform = self.waveform(name)
        if waveform is None or waveform.is_resampled or of_stage(self.options.augment, "samples"):
            return False
        return are_narrow(self.reading_dtype(name))

    def dimensions_of(self, name: str) -> tuple[int, ...]:
        """Shape of a delivered frame of a sequence."""
        return self.traced[name].dimensions if name in self.traced else self.index.schema.sequences[name].dimensions

    def reading_dtype(self, name: str) -> str:
        """The dtype in which a sequence is read: a label in its own; a feature in the stored one where normalisation converts it to
        float64, where audio features scale it, or where the delivered one can lose values, else in that one.
        """
        stored = self.index.schema.sequences[name]
        if name not in self.selection.features:
            return label_dtype(stored)
        is_waveform = self.waveform(name) is not None
        as_stored = self.index.stored(name).scale is None and (self.normalizes_stored(name) or is_waveform or self.can_lose(name))
        return stored.dtype if as_stored else self.selection.dtypes[name]

    def normalizes_stored(self, name: str) -> bool:
        """Whether a feature is normalised before anything else is computed from its frames."""
        return self.options.normalize is not None and name not in self.traced

    def can_lose(self, name: str) -> bool:
        """Whether the delivered dtype of a feature may not hold one of its stored values, and these are delivered."""
        if self.waveform(name) is not None:
            return False
        return self.index.stored(name).scale is None and can_lose(self.index.schema.sequences[name].dtype, self.selection.dtypes[name])

    @property
    def has_transforms(self) -> bool:
        """Whether frames are parsed, changed or tested between reading and padding."""
        parts = self.selection.frame_parts
        parsed = any(self.index.access(part.name, as_feature=part.is_feature).is_parsed for part in parts)
        return self.options.has_transforms or parsed or any(map(self.can_lose, self.selection.features))


def frame_plan_for(
    index: Index, selection: Selection, options: Options, frames: np.ndarray, copies: np.ndarray | None
) -> tuple[np.ndarray, FramePlan]:
    """The delivered lengths (int64 `[n]`) of records of which `frames` frames are read, and the plan for them.

    Args:
        copies: integers `[n]`, the speed of each, where augmentations change it.

    Raises:
        ArgumentError: the transform fails, or one of the arguments does not fit the frames.
        DatasetError: the dataset, or the path, lacks the statistics that `normalize` needs.
    """
    sequences = index.schema.sequences
    dimensions = sequences[selection.key].dimensions
    least = 0 if options.windows is None else options.windows.least
    lengths: LengthMap | None = None
    functions: dict[str, TracedTransform | WaveformFeatures] = {}
    waveform, speed = _waveform(index, selection, options), options.speed
    if waveform is not None:
        frames, least = waveform.heard(frames), int(waveform.heard(np.array([least]))[0])
    if speed is not None and copies is not None:
        frames = speed.lengths(frames, copies)
    if options.transform is not None:
        before = np.union1d(histogram(frames)[0], np.full(int(least > 0), least))
        functions, lengths = _functions(index, selection, options.transform, waveform, before)
        dimensions = functions[selection.key].dimensions
        frames = lengths.of(frames)
        least = int(lengths.of(np.array([least]))[0]) if least else 0
    moments = {}
    if options.normalize is not None and options.normalize != "utterance":
        for name in [name for name in selection.features if name in functions]:
            _check_same_frames(sequences[name].dimensions, functions[name], options.normalize)
        if options.normalize == "global":
            moments = {name: of_source(index, name) for name in selection.features}
        elif isinstance(options.normalize, Opened):
            moments = of_opened(options.normalize, {name: sequences[name].dimensions for name in selection.features})
        else:
            moments = of_path(options.normalize, {name: sequences[name].dimensions for name in selection.features})
    _check_augment(index, selection, options, functions.get(selection.key), dimensions)
    return frames, FramePlan(options, selection, index, FrameRange.of(options), dimensions, lengths, least, functions, moments)


def _waveform(index: Index, selection: Selection, options: Options) -> WaveformFeatures | None:
    """The audio features of the key feature; None where `transform` is something else."""
    features, key = None if options.transform is None else options.transform.features, selection.key
    if features is None:
        return None
    decoded = index.stored(key).parsed == "audio"
    return WaveformFeatures.of(features, key, index.schema.sequences[key], rates=index.sample_rates, decoded=decoded)


def _functions(
    index: Index, selection: Selection, transform: Transform, waveform: WaveformFeatures | None, before: np.ndarray
) -> tuple[dict[str, TracedTransform | WaveformFeatures], LengthMap]:
    """The transforms by name, and the lengths that they make of those `before`."""
    sequences, key = index.schema.sequences, selection.key
    functions: dict[str, TracedTransform | WaveformFeatures] = {}
    if waveform is None:
        functions[key] = transform.traced(sequences[key].dimensions, selection.dtypes[key])
        lengths = LengthMap(before, transform.lengths(before))
    else:
        functions[key], lengths = waveform, LengthMap(before, waveform.features.lengths(before))
    if transform.aligned is None and selection.aligned and not np.array_equal(lengths.before, lengths.after):
        raise ArgumentError(
            f"transform: changes the number of frames, but {list(selection.aligned)} have one value for each frame before it. Say what "
            "happens to them, vlpipe.Transform(fn, frames=..., aligned=...), or pass aligned=False."
        )
    if transform.aligned is not None:
        for name in selection.aligned:
            dtype = selection.dtypes.get(name) or label_dtype(sequences[name])
            what, whose = f'transform: aligned, of "{name}"', f'"{name}" is delivered'
            functions[name] = traced(what, transform.aligned, sequences[name].dimensions, dtype, whose)
    return functions, lengths


def _check_augment(
    index: Index, selection: Selection, options: Options, transform: TracedTransform | WaveformFeatures | None, dimensions: tuple[int, ...]
) -> None:
    """Check that each augmentation fits what it gets: the samples, or delivered frames of the key feature (`dimensions`)."""
    key = selection.key
    rates, whose = index.sample_rates, "the data has"
    if isinstance(transform, WaveformFeatures):
        rates, whose = (transform.features.sample_rate,), f"{type(transform.features).__name__} takes"
    for _, augment in of_stage(options.augment, "samples"):
        samples = index.schema.sequences[key]
        is_float = isinstance(transform, WaveformFeatures) or index.stored(key).scale is not None
        check_waveform(augment, key, replace(samples, dtype="float32") if is_float else samples, selection.aligned)
        if isinstance(augment, AddNoise):
            for rate in rates:
                augment.check_rate(rate, whose)
    for _, augment in of_stage(options.augment, "features"):
        augment.check(key, dimensions)
    for _, augment in of_stage(options.augment, "batch"):
        augment.check(selection.features, selection.labels, index)


def _check_same_frames(stored: tuple[int, ...], traced: TracedTransform | WaveformFeatures, normalize: str | Opened) -> None:
    named = normalize if isinstance(normalize, str) else "a source"
    if isinstance(traced, WaveformFeatures):
        raise ArgumentError(
            f'normalize="{named}": the statistics describe stored samples, but transform={type(traced.features).__name__}(...) computes '
            'features of them. Use normalize="utterance", or a keras.layers.Normalization that is adapted to batches without padding, of '
            'make_dataset(batching="same_length").'
        )
    if stored != traced.dimensions:
        raise ArgumentError(
            f'normalize="{named}": the statistics describe stored frames {list(stored)}, but the transform returns frames '
            f'{list(traced.dimensions)}. Use normalize="utterance", or normalise in the transform.'
        )
