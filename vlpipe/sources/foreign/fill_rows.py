"""Fill in the rows of a chunk: the position and number of frames, numbers, texts and lists of each record."""

from __future__ import annotations

import numpy as np

from vlpipe.errors import AudioError
from vlpipe.layouts.base import Frames, Listed, Number, Words
from vlpipe.protobuf.tensor_proto import contents
from vlpipe.protobuf.vectorized import BYTES_LIST, FLOAT_LIST, INT64_LIST
from vlpipe.sources.foreign.chunk import Chunk
from vlpipe.sources.foreign.decode import samples_in
from vlpipe.sources.foreign.feature_lists import frames_in_list
from vlpipe.storage.field_access import column


def fill_rows(chunk: Chunk, lists: dict[str, list[np.ndarray]]) -> None:
    """Fill in the rows of the chunk.

    Args:
        chunk: the records.
        lists: the int64 values of each `Listed` key are appended to its list.

    Raises:
        MisfitError: records do not match the layout.
    """
    schema, rows = chunk.layout.schema, chunk.rows
    for entry in chunk.layout.sequences:
        begins, frames = frames_in_list(chunk, entry) if entry.in_list else _frames_in_feature(chunk, entry)
        rows[column(schema, "frames", entry.key)] = frames
        rows[column(schema, "start", entry.key)] = np.where((frames > 0) & (not entry.parsed), begins - chunk.begins, 0)
    for field in chunk.layout.fields:
        if isinstance(field, Number):
            rows[column(schema, "value", field.key)] = _numbers(chunk, field)
        elif isinstance(field, Words):
            texts = chunk.payloads[field.key]
            chunk.expect_kind(field.key, BYTES_LIST)
            rows[column(schema, "frames", field.key)] = texts.ends - texts.begins
            rows[column(schema, "start", field.key)] = np.where(texts.ends > texts.begins, texts.begins - chunk.begins, 0)
        elif isinstance(field, Listed):
            values, rows[column(schema, "frames", field.key)] = _list(chunk, field)
            lists[field.key].append(values)


def _frames_in_feature(chunk: Chunk, entry: Frames) -> tuple[np.ndarray, np.ndarray]:
    """Return the position of the first frame in each record, and the number of frames, of a sequence in one feature."""
    if not entry.optional:
        chunk.expect_present(entry.key)
    chunk.expect_kind(entry.key, {"floats": FLOAT_LIST, "integers": INT64_LIST}.get(entry.form, BYTES_LIST))
    if entry.form == "audio":
        return chunk.begins, _samples(chunk, entry)
    begins, ends = chunk.payloads[entry.key].begins, chunk.payloads[entry.key].ends
    if entry.form == "tensor":
        begins = _tensor_contents(chunk, entry)
    unit, per_frame = ("values", entry.values) if entry.form in ("floats", "integers") else ("bytes", entry.frame_bytes)
    if entry.form == "integers":
        sizes = chunk.count_integers(entry.key)
    else:
        sizes = (ends - begins) // (4 if entry.form == "floats" else 1)
        for row, count in chunk.single_floats.get(entry.key, {}).items():
            sizes[row] = count
    expected = f"not a multiple of {per_frame} (d = {' x '.join(map(str, entry.shape or (1,)))}, {entry.dtype})"
    chunk.refuse(sizes % per_frame != 0, lambda row: f'"{entry.key}", at byte {begins[row]}, has {sizes[row]} {unit}, {expected}')
    frames = sizes // per_frame
    if entry.count_key:
        _check_counts(chunk, entry, frames)
    return begins, frames


def _tensor_contents(chunk: Chunk, entry: Frames) -> np.ndarray:
    """Return the position of the content of the serialized tensor in each record, int64 `[records]`."""
    payloads = chunk.payloads[entry.key]
    tensors = contents(chunk.data, payloads.begins, payloads.ends, entry.dtype or "", entry.shape or ())
    expected = f"a serialized tensor of {entry.dtype} [T, {', '.join(map(str, entry.shape or ()))}]"
    chunk.refuse(
        tensors.irregular, lambda row: f'"{entry.key}", at byte {payloads.begins[row]}, is not {expected}, as in the first records'
    )
    return tensors.at


def _samples(chunk: Chunk, entry: Frames) -> np.ndarray:
    """Return the number of samples of the audio file in each record, from its header if possible, else by decoding: int64 `[records]`."""
    payloads, counts = chunk.payloads[entry.key], np.zeros(len(chunk.rows), np.int64)
    channels = entry.values if entry.channels == "all" else None
    for row, (begin, end) in enumerate(zip(payloads.begins.tolist(), payloads.ends.tolist(), strict=True)):
        try:
            counts[row] = samples_in(chunk.data[begin:end].tobytes(), f'"{entry.key}"', entry.rate, channels)
        except AudioError as error:
            chunk.fail(row, str(error).rstrip("."))
    return counts


def _check_counts(chunk: Chunk, entry: Frames, frames: np.ndarray) -> None:
    """Compare the numbers of frames with the key that specifies them.

    Raises:
        MisfitError: they differ.
    """
    key = entry.count_key or ""
    chunk.expect_present(key)
    values, counts = chunk.integers(key)
    firsts = np.cumsum(counts) - counts
    if entry.count == "row_lengths":
        wrong = values != entry.values
        bad = counts != frames
        bad[np.repeat(np.arange(len(counts)), counts)[wrong]] = True
        expected = f"one length for each of its frames, each {entry.values}"
    else:
        size = 1 if entry.count == "length" else 1 + len(entry.shape or ())
        bad = counts != size
        good = np.flatnonzero(~bad)
        bad[good] = values[firsts[good]] != frames[good]
        for axis, length in enumerate((entry.shape or ())[: size - 1], 1):
            bad[good] |= values[firsts[good] + axis] != length
        expected = "T" if size == 1 else f"[T, {', '.join(map(str, entry.shape or ()))}]"

    def text(row: int) -> str:
        actual = values[firsts[row] : firsts[row] + min(counts[row], 8)].tolist()
        return f'"{key}" is {actual}, but "{entry.key}" has {frames[row]} frames of {entry.values} values; expected {expected}'

    chunk.refuse(bad, text)


def _numbers(chunk: Chunk, field: Number) -> np.ndarray:
    """Return the values of a key with a fixed number of values, `[records, *shape]`."""
    if field.default is None:
        chunk.expect_present(field.key)
    chunk.expect_kind(field.key, FLOAT_LIST if field.dtype == "float32" else INT64_LIST)
    expected = int(np.prod(field.shape, dtype=np.int64))
    payloads = chunk.payloads[field.key]
    if field.dtype == "float32":
        values, counts = np.zeros(0), (payloads.ends - payloads.begins) // 4
    else:
        values, counts = chunk.integers(field.key)
    defaulted = (counts == 0) & (field.default is not None)
    chunk.refuse(
        (counts != expected) & ~defaulted,
        lambda row: (
            f'"{field.key}" has {counts[row]} values, expected {expected} in every record (or name the key in lists=, or its value in '
            "records without it in default=)"
        ),
    )
    result = np.empty((len(counts), expected), field.dtype)
    result[defaulted] = field.default if field.default is not None else 0
    if field.dtype == "float32":
        bytes_at = payloads.begins[~defaulted, None] + np.arange(4 * expected)
        values = chunk.data[bytes_at].view("<f4")
    result[~defaulted] = values.reshape(-1, expected)
    return result.reshape(-1, *field.shape)


def _list(chunk: Chunk, field: Listed) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a key with a variable number of integers, and the number of values of each record."""
    values, counts = chunk.integers(field.key)
    if field.classes is not None:
        outside = np.zeros(len(counts), bool)
        outside[np.repeat(np.arange(len(counts)), counts)[(values < 0) | (values >= field.classes)]] = True
        chunk.refuse(outside, lambda row: f'"{field.key}" has a class outside the range 0 to {(field.classes or 0) - 1}')
    return values, counts
