"""The frames of a record that do not stand in it as they are delivered: parsed, one record at a time, without TensorFlow."""

from __future__ import annotations

import numpy as np

from vlpipe.audio import decode
from vlpipe.audio.containers import read_header
from vlpipe.errors import AudioError
from vlpipe.protobuf.vectorized import integers
from vlpipe.protobuf.wire import Feature, walk
from vlpipe.storage.schema import Sequence


def frames_in(data: bytes, key: str, field: Sequence, parsed: str) -> np.ndarray:
    """The frames `[T, *shape]` of a record, in the dtype of the field.

    Args:
        data: of a record that is as the layout says.
        parsed: how the values are encoded, as `index.Stored` has it.

    Raises:
        ValueError: an integer is none that the dtype can hold.
        AudioError: what is encoded cannot be decoded.
    """
    feature = walk(data).features[key]
    if parsed == "audio":
        return samples_of(b"".join(data[begin:end] for begin, end in feature.ranges), f'"{key}"')
    values = _floats(data, feature) if parsed == "floats" else _integers(data, feature, key, field.dtype)
    return values.reshape(-1, *field.dimensions)


def _floats(data: bytes, feature: Feature) -> np.ndarray:
    values: np.ndarray = np.frombuffer(b"".join(data[begin:end] for begin, end in feature.ranges), "<f4")
    return values


def _integers(data: bytes, feature: Feature, key: str, dtype: str) -> np.ndarray:
    values, limits = integers(data, feature), np.iinfo(dtype)
    outside = values[(values < limits.min) | (values > limits.max)]
    if len(outside):
        raise ValueError(f'"{key}" holds {outside[0]}, which {dtype} cannot: pass a layout with another dtype')
    return values.astype(dtype)


def samples_in(data: bytes, name: str, rate: int | None) -> int:
    """The samples of each channel of an audio file.

    Args:
        name: what to call it in an error.
        rate: what it has to have.

    Raises:
        AudioError: it is no audio file, is damaged, or has another rate.
    """
    header = read_header(data, name)
    if header.rate != rate:
        raise AudioError(f"{name}: has {header.rate} samples a second, the first records have {rate}; all need one rate.")
    return len(decode(data, name=name)[0]) if header.samples is None else header.samples


def samples_of(data: bytes, name: str) -> np.ndarray:
    """float32 `[T, 1]`: the samples of an audio file, its channels mixed down to one.

    Raises:
        AudioError: it cannot be decoded.
    """
    samples, _ = decode(data, name=name)
    return samples if samples.shape[1] == 1 else samples.mean(axis=1, keepdims=True, dtype=np.float32)
