"""The frames of a feature list: each one lies behind a header of a few bytes, at a constant stride."""

from __future__ import annotations

import numpy as np

from vlpipe.layouts.base import Frames
from vlpipe.protobuf import vectorized
from vlpipe.sources.foreign.chunk import Chunk
from vlpipe.sources.foreign.integer_lists import decode_lists
from vlpipe.storage.example import varint


def frame_header(entry: Frames) -> bytes:
    """Return the bytes before each frame of a feature list: tag and length of the Feature, of its list, and of the value."""
    inner = b"\x0a" + varint(entry.frame_bytes)
    kind = (b"\x0a" if entry.form == "byte_frames" else b"\x12") + varint(len(inner) + entry.frame_bytes) + inner
    return b"\x0a" + varint(len(kind) + entry.frame_bytes) + kind


def gap(entry: Frames) -> int:
    """Return the number of bytes before each frame that do not belong to it; 0 for frames that are parsed."""
    return len(frame_header(entry)) if entry.form in ("byte_frames", "float_frames") else 0


def frames_in_list(chunk: Chunk, entry: Frames) -> tuple[np.ndarray, np.ndarray]:
    """Return the position of the first frame of a feature list in each record, and its number of frames, int64 `[records]`.

    Raises:
        MisfitError: a record does not have the feature list, or its frames have another kind or size.
    """
    span = chunk.spans[entry.key]
    if not entry.optional:
        chunk.refuse(span.begins < 0, lambda row: f'contains no feature list "{entry.key}"')
    if entry.form == "integer_frames":
        return span.begins, _integer_steps(chunk, entry)
    header = frame_header(entry)
    stride = len(header) + entry.frame_bytes
    frames, rest = np.divmod(span.ends - span.begins, stride)
    bad = rest != 0
    frames = np.where(bad, 0, frames)
    at = vectorized.ranges(np.zeros_like(frames), frames) * stride + np.repeat(span.begins, frames)
    bad[np.repeat(np.arange(len(frames)), frames)[~_have(chunk.data, at, header)]] = True
    kind = "bytes value" if entry.form == "byte_frames" else "FloatList"
    chunk.refuse(
        bad,
        lambda row: (
            f'the feature list "{entry.key}", at byte {span.begins[row]}, has {span.ends[row] - span.begins[row]} bytes, which are not '
            f"frames of one {kind} of {entry.frame_bytes} bytes each (d = {entry.values}, {entry.dtype})"
        ),
    )
    return span.begins + len(header), frames


def _integer_steps(chunk: Chunk, entry: Frames) -> np.ndarray:
    """Return the number of steps of a feature list of integers in each record, int64 `[records]`."""
    span = chunk.spans[entry.key]
    lists = decode_lists(chunk.data, span, entry.values)
    wrong = np.isin(np.arange(len(span.begins)), list(lists.problems))
    chunk.refuse(
        wrong, lambda row: f'"{entry.key}", at byte {span.begins[row]}, is no list of {entry.values} integers a step: {lists.problems[row]}'
    )
    return lists.steps


def _have(data: np.ndarray, at: np.ndarray, header: bytes) -> np.ndarray:
    """Return whether the data have the header at each position, bool."""
    same = np.ones(len(at), bool)
    if len(data) < 8:
        return same & (len(at) == 0)
    for begin in {*range(0, len(header) - 8, 8), max(0, len(header) - 8)}:
        part = header[begin : begin + 8]
        mask = np.uint64(0xFFFFFFFFFFFFFFFF >> 8 * (8 - len(part)))
        same &= (vectorized.words(data, at + begin) & mask) == np.uint64(int.from_bytes(part, "little"))
    return same
