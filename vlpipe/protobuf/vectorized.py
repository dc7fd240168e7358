"""The protocol buffers of many records at a time, as arrays: the same step of the walk for all of them in one NumPy call.

It knows the messages as the usual writers make them: each once, its fields in order, numbers packed. A record that has anything else is
`odd` and left to `wire.walk`, one by one. Nothing is read outside the record that it belongs to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from vlpipe.protobuf import wire
from vlpipe.protobuf.wire import Feature

BYTES_LIST, FLOAT_LIST, INT64_LIST = 0x0A, 0x12, 0x1A  # the tags of a Feature's kinds
_PIECE_BYTES = 1 << 16  # of the integers of a record that are looked at together
_MAX_ENTRIES = 256  # of a map; a record with more is odd


class Cursors:
    """A position in each of n records, which move on together.

    Attributes:
        data: uint8, the file.
        at, end: int64 `[n]`, the positions and what they may not pass.
        odd: bool `[n]`, records that had something else than what was asked for; their positions mean nothing.
    """

    def __init__(self, data: np.ndarray, at: np.ndarray, end: np.ndarray) -> None:
        self.data, self.at, self.end = data, at.astype(np.int64), end.astype(np.int64)
        self.odd = np.zeros(len(at), bool)

    def byte(self) -> np.ndarray:
        """int64 `[n]`: the byte at each position; -1 at the end."""
        inside = self.at < self.end
        if inside.all():
            return self.data[self.at].astype(np.int64)
        found = np.full(len(self.at), -1, np.int64)
        found[inside] = self.data[self.at[inside]]
        return found

    def tag(self, expected: int) -> None:
        """Pass one byte, which has to be this."""
        self.refuse(self.byte() != expected)
        self.at = self.at + 1  # not in place: whoever keeps a position keeps the array

    def number(self, most_bytes: int = 10) -> np.ndarray:
        """int64 `[n]`: pass a varint, and what it says."""
        value = np.zeros(len(self.at), np.uint64)
        going = np.arange(len(self.at))
        at = self.at.copy()
        for position in range(most_bytes):
            here = at[going]
            inside = here < self.end[going]
            self.odd[going[~inside]] = True
            going, here = going[inside], here[inside]
            bytes_here = self.data[here]
            value[going] |= (bytes_here & 0x7F).astype(np.uint64) << np.uint64(7 * position)
            at[going] += 1
            going = going[bytes_here >= 0x80]
            if not len(going):
                break
        self.odd[going] = True
        self.at = np.where(self.odd, self.end, at)
        return value.view(np.int64)

    def length(self) -> np.ndarray:
        """int64 `[n]`: pass a length, and where what it is the length of ends."""
        ends = self.number(5) + self.at
        self.refuse(ends > self.end)
        return np.where(self.odd, self.end, ends)

    def refuse(self, these: np.ndarray) -> None:
        """Call these records odd."""
        if these.any():
            self.odd |= these
            self.at = np.where(self.odd, self.end, self.at)

    def some(self, which: np.ndarray) -> Cursors:
        """Cursors of their own at the positions of some of the records (indices)."""
        return Cursors(self.data, self.at[which], self.end[which])


class Spans(NamedTuple):
    """Where something stands in each record: int64 begins and ends `[n]`, -1 where it is not; and which records are odd."""

    begins: np.ndarray
    ends: np.ndarray
    odd: np.ndarray


class Payloads(NamedTuple):
    """The values of one key in each record.

    Attributes:
        tags: uint8 `[n]`, BYTES_LIST, FLOAT_LIST, INT64_LIST; 0 where there are no values.
        begins, ends: int64 `[n]`, the one bytes value, or the packed numbers.
        odd: bool `[n]`, records that need a closer look.
    """

    tags: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    odd: np.ndarray


def messages(data: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> tuple[Spans, Spans]:
    """The Features (or context) and the FeatureLists of each record."""
    cursors = Cursors(data, begins, ends)
    found = []
    for tag in (0x0A, 0x12):
        span = np.full((2, len(begins)), -1, np.int64)
        there = np.flatnonzero(~cursors.odd & (cursors.byte() == tag))
        inner = cursors.some(there)
        inner.tag(tag)
        stops = inner.length()
        span[:, there] = inner.at, stops
        cursors.odd[there] |= inner.odd
        cursors.at[there] = stops
        found.append(span)
    odd = cursors.odd | (cursors.at != cursors.end)
    context, lists = found
    return Spans(context[0], context[1], odd), Spans(lists[0], lists[1], odd)


def entries(data: np.ndarray, maps: Spans, keys: Iterable[str]) -> dict[str, Spans]:
    """Where the value of each of the keys stands in a map, in any order; keys that are not asked for are passed over."""
    count = len(maps.begins)
    there = maps.begins >= 0
    cursors = Cursors(data, np.where(there, maps.begins, 0), np.where(there, maps.ends, 0))
    odd = maps.odd.copy()
    names = {key: np.frombuffer(key.encode("utf-8"), np.uint8) for key in keys}
    found = {key: np.full((2, count), -1, np.int64) for key in names}
    for _ in range(_MAX_ENTRIES):
        going = np.flatnonzero(~odd & (cursors.at < cursors.end))
        if not len(going):
            break
        entry = cursors.some(going)
        entry.tag(0x0A)
        stops = entry.end = entry.length()
        entry.tag(0x0A)
        key_ends = entry.length()
        key_begins = entry.at
        entry.at = key_ends
        entry.tag(0x12)
        value_ends = entry.length()
        entry.refuse(value_ends != stops)
        for key, name in names.items():
            same = np.flatnonzero(~entry.odd & (key_ends - key_begins == len(name)))
            same = same[(data[key_begins[same, None] + np.arange(len(name))] == name).all(axis=1)]
            entry.odd[same] |= found[key][0, going[same]] >= 0  # twice
            found[key][:, going[same]] = entry.at[same], value_ends[same]
        odd[going] |= entry.odd
        cursors.at[going] = stops
    odd |= cursors.at < cursors.end
    return {key: Spans(span[0], span[1], odd) for key, span in found.items()}


def payloads(data: np.ndarray, features: Spans) -> Payloads:
    """The values of a Feature in each record; what is not there has none."""
    count = len(features.begins)
    found = Payloads(np.zeros(count, np.uint8), np.zeros(count, np.int64), np.zeros(count, np.int64), features.odd.copy())
    there = np.flatnonzero(~features.odd & (features.begins < features.ends))
    cursors = Cursors(data, features.begins[there], features.ends[there])
    tags = cursors.byte()
    cursors.at = cursors.at + 1
    cursors.refuse(~np.isin(tags, (BYTES_LIST, FLOAT_LIST, INT64_LIST)))
    cursors.refuse(cursors.length() != cursors.end)
    full = np.flatnonzero(~cursors.odd & (cursors.at < cursors.end))
    values = cursors.some(full)
    values.tag(0x0A)
    values.refuse(values.length() != values.end)
    found.odd[there] |= cursors.odd
    found.odd[there[full]] |= values.odd
    found.tags[there] = tags.astype(np.uint8)
    found.begins[there[full]], found.ends[there[full]] = values.at, values.end
    return found


def packed_integers(data: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The numbers of packed varints: int64 values of all records, one after another; how many each has; which records are odd."""
    places = ranges(begins, ends - begins)
    found = data[places]
    stops = np.flatnonzero(found < 0x80)
    odd = (ends > begins) & (data[np.maximum(ends - 1, 0)] >= 0x80)
    if odd.any():
        return np.zeros(0, np.int64), np.zeros(len(begins), np.int64), odd
    starts = np.concatenate([[0], stops[:-1] + 1]).astype(np.int64) if len(stops) else np.zeros(0, np.int64)
    sizes = stops - starts + 1
    shifts = 7 * (np.arange(len(found)) - np.repeat(starts, sizes))
    parts = (found & 0x7F).astype(np.uint64) << np.minimum(shifts, 63).astype(np.uint64)
    values = np.add.reduceat(parts, starts).view(np.int64) if len(starts) else np.zeros(0, np.int64)
    before = np.concatenate([[0], np.cumsum(ends - begins)])
    counts = np.diff(np.searchsorted(stops, before))
    too_long = np.searchsorted(before, starts[sizes > 10], side="right") - 1
    odd[too_long] = True
    return values, counts, odd


def count_varints(data: np.ndarray) -> int:
    """How many varints these bytes are; -1 where one of them does not end, or has more than 10 bytes."""
    going_on = data >= 0x80
    if not len(data) or going_on[-1]:
        return -1 if len(data) else 0
    count = len(data) - int(np.count_nonzero(going_on))
    if len(data) <= 10:
        return count
    for step in (1, 2, 2, 4):  # then true where 2, 4, 6 and 10 in a row go on
        going_on = going_on[step:] & going_on[:-step]
    return -1 if going_on.any() else count


def integers(data: bytes, feature: Feature) -> np.ndarray:
    """int64: the values of an int64 feature of one record."""
    if feature.whole is None:
        return np.array(wire.integers(data, feature), np.int64)
    begin, end = feature.whole
    run, found = np.frombuffer(data, np.uint8)[begin:end], []
    while len(run):  # in pieces: on the way there are 50 bytes for each of theirs
        piece = run[:_PIECE_BYTES]
        size = len(piece) - int(np.argmax(piece[::-1] < 0x80))
        found.append(packed_integers(run, np.array([0]), np.array([size]))[0])
        run = run[size:]
    return np.concatenate([np.zeros(0, np.int64), *found])


def ranges(begins: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """int64: `begin, begin + 1, ...` of each, as many as its size, one after another."""
    ends = np.cumsum(sizes)
    return np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(begins - (ends - sizes), sizes)


def words(data: np.ndarray, at: np.ndarray) -> np.ndarray:
    """uint64: the 8 bytes from each position on, little-endian. Whoever calls sees to it that there are as many."""
    # A view whose steps are one byte: every position has a word.
    return np.ndarray((len(data) - 7,), "<u8", data, strides=(1,))[at]
