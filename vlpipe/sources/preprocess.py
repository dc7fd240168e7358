"""From a recording to what `make_dataset` delivers of it, for prediction: the features of the ingestion, and normalisation.

NumPy alone: the formula of the normalisation is that of `transforms.normalize`, which computes it in the graph.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vlpipe.arguments import integer
from vlpipe.audio import from_settings, load, resample
from vlpipe.audio.channels import Channels
from vlpipe.audio.features import Feature
from vlpipe.errors import ArgumentError, DatasetError, counted, shortened
from vlpipe.sources.statistics_cache import known_statistics
from vlpipe.storage.index import Index
from vlpipe.storage.schema import Sequence, default_key
from vlpipe.storage.statistics import Moments

CONSTANT = 1e-7  # as in `transforms.normalize`: a deviation of at most this share of the mean is none


@dataclass(frozen=True, eq=False)
class Preprocess:
    """A function from a recording to frames `[T, d]`, float32, as `make_dataset` delivers those of the source.

    Attributes:
        index: of the source, whose metadata have the settings of its features.
    """

    index: Index

    def __repr__(self) -> str:
        settings = self.index.metadata.get("features")
        kind = shortened(settings.get("kind", "features"), 40) if isinstance(settings, dict) else "features"
        return f"Preprocess: from a recording, samples or features to the {kind} of a source of {counted(len(self.index), 'record')}"

    def __call__(
        self,
        recording: Any,
        *,
        sample_rate: int | None = None,
        transform: Feature | None = None,
        normalize: Literal["utterance", "global"] | None = None,
    ) -> np.ndarray:
        """Compute the frames of one recording.

        Args:
            recording: the path of an audio file; samples `[N]`, floats in [-1, 1]; or features `[T, d]`, which are only normalised.
            sample_rate: of the samples, in Hz; None: that of the features.
            transform: of a source of waveforms: the audio feature that `make_dataset(transform=)` computes.
            normalize: as for `make_dataset`: None, "utterance", or "global", with the statistics of this source.

        Raises:
            ArgumentError: the recording or another argument has no meaning here.
            DatasetError: the source was not made of recordings; or its statistics are unknown.
            AudioError: the file cannot be decoded.
        """
        name = default_key(self.index.schema)
        if name is None:
            raise DatasetError(
                f"preprocess: the source has several sequences, {list(self.index.schema.sequences)}; it is unclear which to make."
            )
        field = self.index.schema.sequences[name]
        if transform is not None:
            _check_transform(transform, field, normalize)
            samples = _samples(recording, sample_rate, transform.sample_rate, self._channels)
            return _normalized(transform(_as_stored(samples, field)), None, normalize)
        frames = self._features(recording, sample_rate)
        if frames.shape[1:] != field.dimensions:
            raise ArgumentError(
                f'preprocess: came as frames {list(frames.shape[1:])}, "{name}" of the source has {list(field.dimensions)}.'
            )
        return _normalized(frames.astype(field.dtype), self._moments(name, normalize), normalize)

    def _features(self, recording: Any, sample_rate: int | None) -> np.ndarray:
        """The frames of a recording, before they are normalised."""
        _check_recording(recording)
        if not _is_path(recording) and np.ndim(recording) > 1:
            return np.asarray(recording)
        settings = self.index.metadata.get("features")
        if not isinstance(settings, dict) or "kind" not in settings:
            raise DatasetError(
                "preprocess: the metadata of the source have no settings of its features, which `vlpipe ingest` stores. Pass features, or "
                "for a source of waveforms transform=vlpipe.audio.LogMel(...), as for make_dataset."
            )
        features = from_settings(settings)
        return features(_samples(recording, sample_rate, features.sample_rate, self._channels))

    @property
    def _channels(self) -> Channels:
        """Those that `vlpipe ingest` kept of a recording."""
        return "first" if self.index.metadata.get("channels") == "first" else "mix"

    def _moments(self, name: str, normalize: str | None) -> Moments | None:
        if normalize not in (None, "utterance", "global"):
            raise ArgumentError(f"preprocess: normalize came as {normalize!r}, expected None, 'utterance' or 'global'.")
        moments = known_statistics(self.index).get(name)
        if normalize == "global" and moments is None:
            raise DatasetError(
                f'preprocess: normalize="global": the statistics of "{name}" of the source are not known; `vlpipe stats SOURCE --compute` '
                "computes them, for a selection with its --where."
            )
        return moments


def _is_path(recording: Any) -> bool:
    return isinstance(recording, (str, os.PathLike))


def _check_recording(recording: Any) -> None:
    if not _is_path(recording) and (np.ndim(recording) < 1 or np.asarray(recording).dtype.kind not in "iuf"):
        raise ArgumentError(f"preprocess: came as {type(recording).__name__}, expected a path, samples [N] or features [T, d].")


def _samples(recording: Any, sample_rate: int | None, wanted: int, channels: Channels) -> np.ndarray:
    """float32 `[N]`: the samples of a path, or those that were passed, at the wanted rate."""
    _check_recording(recording)
    if _is_path(recording):
        return load(recording, sample_rate=wanted, channels=channels)[0]
    array = np.asarray(recording)
    if array.dtype.kind != "f":
        raise ArgumentError(f"preprocess: came as samples of {array.dtype}, expected floats in [-1, 1], as vlpipe.audio.load returns them.")
    array = array.astype(np.float32)
    rate = integer("sample_rate", wanted if sample_rate is None else sample_rate, 1)
    return array if rate == wanted else resample(array, rate, wanted)


def _check_transform(transform: Any, field: Sequence, normalize: str | None) -> None:
    if not isinstance(transform, Feature) or field.dimensions not in ((), (1,)):
        raise ArgumentError(
            f"preprocess: transform came as {transform!r}, expected an audio feature such as vlpipe.audio.LogMel(), for a source of "
            f"waveforms; it has frames {list(field.dimensions)}."
        )
    if normalize not in (None, "utterance"):
        raise ArgumentError(f"preprocess: normalize came as {normalize!r}, expected None or 'utterance', as for make_dataset(transform=).")


def _as_stored(samples: np.ndarray, field: Sequence) -> np.ndarray:
    """Samples rounded as `vlpipe ingest --raw` stores them: in a quiet band, the rounding is what there is."""
    if field.dtype != "int16":
        return samples
    return (np.clip(np.rint(samples * np.float32(32768)), -32768, 32767) / 32768).astype(np.float32)


def _normalized(frames: np.ndarray, moments: Moments | None, normalize: str | None) -> np.ndarray:
    if normalize is None:
        return frames.astype(np.float32)
    values = frames.astype(np.float64)
    if normalize == "global" and moments is not None:
        mean, variance = moments.mean.reshape(frames.shape[1:]), moments.variance.reshape(frames.shape[1:])
    else:
        finite = np.isfinite(values)
        count = np.maximum(finite.sum(axis=0), 1)
        mean = np.where(finite, values, 0.0).sum(axis=0) / count
        variance = np.where(finite, np.square(values - mean), 0.0).sum(axis=0) / count
    deviation = np.sqrt(variance)
    return ((values - mean) / np.where(deviation > CONSTANT * np.abs(mean), deviation, 1.0)).astype(np.float32)
