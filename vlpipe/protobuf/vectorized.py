"""Read the protocol buffers of many records at once, as arrays: each step is one NumPy call for all records.

This module reads the messages that the usual writers produce: each message once, its fields in order, numbers packed. Any other record is
marked `irregular` and left to `wire.walk`, one record at a time. No read leaves the record that it belongs to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from vlpipe.protobuf import wire
from vlpipe.protobuf.wire import Feature

BYTES_LIST, FLOAT_LIST, INT64_LIST = 0x0A, 0x12, 0x1A  # the tags of the three kinds of a Feature
_PIECE_BYTES = 1 << 16  # packed integers of one record that are decoded together
_MAX_ENTRIES = 256  # of a map; a record with more is irregular


class Cursors:
    """One position in each of n records; all positions advance together.

    Attributes:
        data: uint8, the file.
        at: int64 `[n]`, the positions.
        end: int64 `[n]`, the limits of the positions.
        irregular: bool `[n]`, records with unexpected content; their positions have no meaning.
    """

    def __init__(self, data: np.ndarray, at: np.ndarray, end: np.ndarray) -> None:
        self.data, self.at, self.end = data, at.astype(np.int64), end.astype(np.int64)
        self.irregular = np.zeros(len(at), bool)

    def peek(self) -> np.ndarray:
        """Return the byte at each position, int64 `[n]`; -1 at the end."""
        inside = self.at < self.end
        if inside.all():
            return self.data[self.at].astype(np.int64)
        values = np.full(len(self.at), -1, np.int64)
        values[inside] = self.data[self.at[inside]]
        return values

    def skip_tag(self, expected: int) -> None:
        """Skip one byte; records with another byte than `expected` are irregular."""
        self.mark_irregular(self.peek() != expected)
        self.at = self.at + 1  # not in place: callers keep the array of an earlier position

    def read_varint(self, max_bytes: int = 10) -> np.ndarray:
        """Read a varint of at most `max_bytes` bytes: int64 `[n]`."""
        value = np.zeros(len(self.at), np.uint64)
        unfinished = np.arange(len(self.at))
        at = self.at.copy()
        for position in range(max_bytes):
            here = at[unfinished]
            inside = here < self.end[unfinished]
            self.irregular[unfinished[~inside]] = True
            unfinished, here = unfinished[inside], here[inside]
            bytes_here = self.data[here]
            value[unfinished] |= (bytes_here & 0x7F).astype(np.uint64) << np.uint64(7 * position)
            at[unfinished] += 1
            unfinished = unfinished[bytes_here >= 0x80]
            if not len(unfinished):
                break
        self.irregular[unfinished] = True
        self.at = np.where(self.irregular, self.end, at)
        return value.view(np.int64)

    def read_length(self) -> np.ndarray:
        """Read a length prefix; return the end of the message or value that follows it, int64 `[n]`."""
        ends = self.read_varint(5) + self.at
        self.mark_irregular(ends > self.end)
        return np.where(self.irregular, self.end, ends)

    def mark_irregular(self, mask: np.ndarray) -> None:
        """Mark the records of a bool mask `[n]` as irregular."""
        if mask.any():
            self.irregular |= mask
            self.at = np.where(self.irregular, self.end, self.at)

    def subset(self, indices: np.ndarray) -> Cursors:
        """Return new cursors at the positions of some of the records."""
        return Cursors(self.data, self.at[indices], self.end[indices])


class Spans(NamedTuple):
    """The position of a message in each record.

    Attributes:
        begins, ends: int64 `[n]`, -1 where a record does not have the message.
        irregular: bool `[n]`, records to read one by one.
    """

    begins: np.ndarray
    ends: np.ndarray
    irregular: np.ndarray


class Payloads(NamedTuple):
    """The values of one key in each record.

    Attributes:
        tags: uint8 `[n]`, BYTES_LIST, FLOAT_LIST, INT64_LIST; 0 where there are no values.
        begins, ends: int64 `[n]`, the position of the single bytes value, or of the packed numbers.
        irregular: bool `[n]`, records to read one by one.
    """

    tags: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    irregular: np.ndarray


def messages(data: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> tuple[Spans, Spans]:
    """Locate the Features (or the context) and the FeatureLists of each record."""
    cursors = Cursors(data, begins, ends)
    spans = []
    for tag in (0x0A, 0x12):
        span = np.full((2, len(begins)), -1, np.int64)
        present = np.flatnonzero(~cursors.irregular & (cursors.peek() == tag))
        inner = cursors.subset(present)
        inner.skip_tag(tag)
        stops = inner.read_length()
        span[:, present] = inner.at, stops
        cursors.irregular[present] |= inner.irregular
        cursors.at[present] = stops
        spans.append(span)
    irregular = cursors.irregular | (cursors.at != cursors.end)
    context, lists = spans
    return Spans(context[0], context[1], irregular), Spans(lists[0], lists[1], irregular)


class NewKeys:
    """Notices keys of maps that are not among the known ones.

    Args:
        known: the known keys.

    Attributes:
        first: the new keys, each with the first record that has it.
    """

    def __init__(self, known: Iterable[str]) -> None:
        self.first: dict[str, int] = {}
        names = [key.encode("utf-8") for key in known]
        ends = np.cumsum([len(name) for name in names], dtype=np.int64)
        data = np.frombuffer(b"".join(names), np.uint8)
        self._known = key_hashes(data, np.concatenate([[0], ends[:-1]]).astype(np.int64), ends) if names else np.zeros(0, np.uint64)

    def add(self, data: np.ndarray, begins: np.ndarray, ends: np.ndarray, records: np.ndarray) -> None:
        """Look at one key of some records: its position, int64 `[n]`, and the record, int64 `[n]`."""
        hashes = key_hashes(data, begins, ends)
        new = np.flatnonzero(~np.isin(hashes, self._known))
        for position in new[np.unique(hashes[new], return_index=True)[1]].tolist():  # the first record of each new key
            self.add_name(data[begins[position] : ends[position]].tobytes().decode("utf-8", "backslashreplace"), int(records[position]))

    def add_name(self, name: str, record: int) -> None:
        """Note that a record has a new key."""
        self.first[name] = min(record, self.first.get(name, record))


def key_hashes(data: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return a hash of the bytes from each begin to its end, uint64 `[n]`: of all bytes, eight at a time."""
    sizes = ends - begins
    hashes = sizes.astype(np.uint64)
    padded = data if len(data) >= 8 else np.concatenate([data, np.zeros(8, np.uint8)])
    for offset in range(0, int(sizes.max(initial=0)), 8):
        at = begins + offset
        inside = np.minimum(at, len(padded) - 8)  # the last word of the file may begin before the key
        word = words(padded, inside) >> (8 * np.minimum(at - inside, 7)).astype(np.uint64)
        left = np.clip(sizes - offset, 0, 8)
        mask = np.where(left == 8, np.uint64(0xFFFFFFFFFFFFFFFF), (np.uint64(1) << (8 * (left % 8)).astype(np.uint64)) - np.uint64(1))
        mixed = ((hashes ^ (word & mask)) + np.uint64(offset)) * np.uint64(0x9E3779B97F4A7C15)
        hashes = np.where(left > 0, mixed ^ (mixed >> np.uint64(29)), hashes)
    return hashes


def entries(data: np.ndarray, maps: Spans, keys: Iterable[str], new: NewKeys | None = None) -> dict[str, Spans]:
    """Locate the value of each key in a map whose entries may have any order; other keys are skipped.

    Args:
        data: uint8, the file.
        maps: the map of each record.
        keys: the keys.
        new: is told of every other key.
    """
    count = len(maps.begins)
    present = maps.begins >= 0
    cursors = Cursors(data, np.where(present, maps.begins, 0), np.where(present, maps.ends, 0))
    irregular = maps.irregular.copy()
    names = {key: np.frombuffer(key.encode("utf-8"), np.uint8) for key in keys}
    spans = {key: np.full((2, count), -1, np.int64) for key in names}
    for _ in range(_MAX_ENTRIES):
        active = np.flatnonzero(~irregular & (cursors.at < cursors.end))
        if not len(active):
            break
        entry = cursors.subset(active)
        entry.skip_tag(0x0A)
        stops = entry.end = entry.read_length()
        entry.skip_tag(0x0A)
        key_ends = entry.read_length()
        key_begins = entry.at
        entry.at = key_ends
        entry.skip_tag(0x12)
        value_ends = entry.read_length()
        entry.mark_irregular(value_ends != stops)
        others = ~entry.irregular
        for key, name in names.items():
            same = np.flatnonzero(~entry.irregular & (key_ends - key_begins == len(name)))
            same = same[(data[key_begins[same, None] + np.arange(len(name))] == name).all(axis=1)]
            entry.irregular[same] |= spans[key][0, active[same]] >= 0  # the key occurs twice
            spans[key][:, active[same]] = entry.at[same], value_ends[same]
            others[same] = False
        if new is not None and others.any():
            new.add(data, key_begins[others], key_ends[others], active[others])
        irregular[active] |= entry.irregular
        cursors.at[active] = stops
    irregular |= cursors.at < cursors.end
    return {key: Spans(span[0], span[1], irregular) for key, span in spans.items()}


def payloads(data: np.ndarray, features: Spans) -> Payloads:
    """Locate the values of a Feature in each record; a record without the Feature has no values."""
    count = len(features.begins)
    result = Payloads(np.zeros(count, np.uint8), np.zeros(count, np.int64), np.zeros(count, np.int64), features.irregular.copy())
    present = np.flatnonzero(~features.irregular & (features.begins < features.ends))
    cursors = Cursors(data, features.begins[present], features.ends[present])
    tags = cursors.peek()
    cursors.at = cursors.at + 1
    cursors.mark_irregular(~np.isin(tags, (BYTES_LIST, FLOAT_LIST, INT64_LIST)))
    cursors.mark_irregular(cursors.read_length() != cursors.end)
    full = np.flatnonzero(~cursors.irregular & (cursors.at < cursors.end))
    values = cursors.subset(full)
    values.skip_tag(0x0A)
    values.mark_irregular(values.read_length() != values.end)
    result.irregular[present] |= cursors.irregular
    result.irregular[present[full]] |= values.irregular
    result.tags[present] = tags.astype(np.uint8)
    result.begins[present[full]], result.ends[present[full]] = values.at, values.end
    return result


def steps(data: np.ndarray, lists: Spans) -> tuple[np.ndarray, Payloads]:
    """Locate the values of each step of a FeatureList in each record.

    Args:
        data: uint8, the file.
        lists: the FeatureList of each record.

    Returns:
        The record of each step, int64 `[steps]` in ascending order, and its values; all steps of a record that has to be read on its own
        are irregular, and there is at least one.
    """
    present = lists.begins >= 0
    cursors = Cursors(data, np.where(present, lists.begins, 0), np.where(present, lists.ends, 0))
    found = [np.zeros((3, 0), np.int64)]
    while len(active := np.flatnonzero(~cursors.irregular & (cursors.at < cursors.end))):
        step = cursors.subset(active)
        step.skip_tag(0x0A)
        stops = step.read_length()
        found.append(np.stack([active, step.at, stops]))
        cursors.at[active] = stops
        cursors.irregular[active] |= step.irregular
    records, begins, ends = np.concatenate(found, axis=1)
    order = np.argsort(records, kind="stable")
    records = records[order]
    values = payloads(data, Spans(begins[order], ends[order], cursors.irregular[records]))
    irregular = np.zeros(len(present), bool)
    irregular[records[values.irregular]] = True
    return records, values._replace(irregular=irregular[records])


def packed_integers(data: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decode packed varints.

    Args:
        data: uint8, the file.
        begins, ends: int64 `[n]`, the position of the packed numbers of each record.

    Returns:
        The int64 values of all records, one record after another; the number of values of each record, int64 `[n]`; and the irregular
        records, bool `[n]`, with a varint that does not end or has more than 10 bytes.
    """
    content = data[ranges(begins, ends - begins)]
    stops = np.flatnonzero(content < 0x80)
    irregular = (ends > begins) & (data[np.maximum(ends - 1, 0)] >= 0x80)
    if irregular.any():
        return np.zeros(0, np.int64), np.zeros(len(begins), np.int64), irregular
    starts = np.concatenate([[0], stops[:-1] + 1]).astype(np.int64) if len(stops) else np.zeros(0, np.int64)
    sizes = stops - starts + 1
    shifts = 7 * (np.arange(len(content)) - np.repeat(starts, sizes))
    parts = (content & 0x7F).astype(np.uint64) << np.minimum(shifts, 63).astype(np.uint64)
    values = np.add.reduceat(parts, starts).view(np.int64) if len(starts) else np.zeros(0, np.int64)
    before = np.concatenate([[0], np.cumsum(ends - begins)])
    counts = np.diff(np.searchsorted(stops, before))
    too_long = np.searchsorted(before, starts[sizes > 10], side="right") - 1
    irregular[too_long] = True
    return values, counts, irregular


def count_varints(data: np.ndarray) -> int:
    """Return the number of varints in these bytes; -1 if one of them does not end or has more than 10 bytes."""
    continued = data >= 0x80
    if not len(data) or continued[-1]:
        return -1 if len(data) else 0
    count = len(data) - int(np.count_nonzero(continued))
    if len(data) <= 10:
        return count
    for step in (1, 2, 2, 4):  # afterwards true at the start of 2, 4, 6 and 10 continuation bytes in a row
        continued = continued[step:] & continued[:-step]
    return -1 if continued.any() else count


def integers(data: bytes, feature: Feature) -> np.ndarray:
    """Return the values of an int64 feature of one record, int64."""
    if feature.whole is None:
        return np.array(wire.integers(data, feature), np.int64)
    begin, end = feature.whole
    run, parts = np.frombuffer(data, np.uint8)[begin:end], []
    while len(run):  # in pieces: decoding needs 50 bytes of memory for each byte
        piece = run[:_PIECE_BYTES]
        size = len(piece) - int(np.argmax(piece[::-1] < 0x80))
        parts.append(packed_integers(run, np.array([0]), np.array([size]))[0])
        run = run[size:]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def ranges(begins: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return `begin, begin + 1, ..., begin + size - 1` of every pair, one after another, int64."""
    ends = np.cumsum(sizes)
    return np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(begins - (ends - sizes), sizes)


def words(data: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the 8 bytes from each position on as little-endian uint64. The caller makes sure that `data` has them."""
    # A view with a step of one byte, so that a word starts at every position.
    return np.ndarray((len(data) - 7,), "<u8", data, strides=(1,))[at]
