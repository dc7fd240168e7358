"""Decode the frames of a third-party record that cannot be copied, one record at a time, without TensorFlow."""

from __future__ import annotations

import numpy as np

from vlpipe.audio import decode
from vlpipe.audio.channels import Channels, keep_channels
from vlpipe.audio.containers import read_header
from vlpipe.errors import AudioError
from vlpipe.protobuf.vectorized import integers
from vlpipe.protobuf.wire import Feature, walk
from vlpipe.sources.foreign.integer_lists import in_records
from vlpipe.storage.schema import Sequence
from vlpipe.storage.stored_frames import Stored


def frames_in(data: bytes, key: str, field: Sequence, stored: Stored) -> np.ndarray:
    """Return the frames `[T, *shape]` of a record, in the dtype of the field.

    Args:
        data: a serialized record that matches the layout.
        key: the key of the frames.
        field: the field of the schema.
        stored: the encoding of the values.

    Raises:
        ValueError: an integer is outside the range of the dtype.
        AudioError: the audio file cannot be decoded.
    """
    parsed = stored.parsed
    if parsed == "integer_frames":
        return in_records([data], key).values.reshape(-1, *field.dimensions)
    feature = walk(data).features.get(key, Feature())
    if parsed == "audio":
        return samples_of(b"".join(data[begin:end] for begin, end in feature.ranges), f'"{key}"', stored.channels)
    values = _floats(data, feature) if parsed == "floats" else _integers(data, feature, key, field.dtype)
    return values.reshape(-1, *field.dimensions)


def _floats(data: bytes, feature: Feature) -> np.ndarray:
    values: np.ndarray = np.frombuffer(b"".join(data[begin:end] for begin, end in feature.ranges), "<f4")
    return values


def _integers(data: bytes, feature: Feature, key: str, dtype: str) -> np.ndarray:
    values, limits = integers(data, feature), np.iinfo(dtype)
    outside = values[(values < limits.min) | (values > limits.max)]
    if len(outside):
        raise ValueError(f'"{key}" holds {outside[0]}, which is outside the range of {dtype}; pass a layout with another dtype')
    return values.astype(dtype)


def samples_in(data: bytes, name: str, rate: int | None, channels: int | None = None) -> int:
    """Return the number of samples per channel of an audio file.

    Args:
        data: the file.
        name: the name of the file in errors.
        rate: the expected sample rate in Hz.
        channels: the expected number of channels; None: any.

    Raises:
        AudioError: `data` is not an audio file, is damaged, or has another sample rate or number of channels.
    """
    header = read_header(data, name)
    if header.rate != rate:
        raise AudioError(
            f"{name}: the sample rate is {header.rate} Hz, but the first records have {rate} Hz; all records must have one rate."
        )
    if channels is not None and header.channels != channels:
        raise AudioError(
            f"{name}: the audio file has {header.channels} channels, but the first record has {channels}; with "
            'channels="all", all records must have one number of channels. Pass channels="mix" or "first".'
        )
    return len(decode(data, name=name)[0]) if header.samples is None else header.samples


def samples_of(data: bytes, name: str, channels: Channels) -> np.ndarray:
    """Return the samples of an audio file: float32 `[T, 1]`, or with channels="all" `[T, C]`.

    Args:
        data: the file.
        name: the name of the file in errors.
        channels: those that are kept, see `audio.load`.

    Raises:
        AudioError: the file cannot be decoded.
    """
    samples, _ = decode(data, name=name)
    kept = keep_channels(samples, channels)
    return kept if kept.ndim == 2 else kept[:, None]
