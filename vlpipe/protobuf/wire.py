"""The protocol buffer of one record that vlpipe did not write: where in its bytes the values of each feature stand.

    Example          {features=1: Features}
    SequenceExample  {context=1: Features, feature_lists=2: {repeated feature_list=1: map entry {key=1: text, value=2: FeatureList}}}
    Features         {repeated feature=1: map entry {key=1: text, value=2: Feature}}
    FeatureList      {repeated feature=1: Feature}
    Feature          one of bytes_list=1, float_list=2, int64_list=3, each {repeated value=1}, numbers packed or not

Published as tensorflow/core/example/feature.proto and example.proto; the encoding is that of protobuf.dev/programming-guides/encoding.

This walk is the slow and complete one: fields in any order, unknown ones skipped, a message that comes in parts, keys that come twice (the
last counts, as in every reader). `bulk` does the same for thousands of records at a time where they are as every writer makes them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
KINDS = {1: "bytes", 2: "float", 3: "int64"}
_MAX_VARINT_BYTES = 10
_GOING_ON = bytes(range(0x80, 0x100))  # the bytes of a varint but its last
_ENDLESS = re.compile(rb"[\x80-\xff]{%d}" % _MAX_VARINT_BYTES)
_FLOAT_TAG = b"\x0d"  # field 1, 4 bytes
_MAX_KEYS = 65_536  # of a record: hostile bytes cost 2 bytes an entry
_MAX_PARTS = 1 << 22  # of a list: frames, or values that are not packed; each takes some 100 bytes here


class WireError(ValueError):
    """The bytes are not such a message. `at` is where in the record."""

    def __init__(self, at: int, problem: str) -> None:
        super().__init__(problem)
        self.at = at


@dataclass
class Feature:
    """The values of one key.

    Attributes:
        kind: "bytes", "float", "int64", or "" where nothing says.
        count: how many values.
        ranges: where they stand: of each bytes value, of each run of packed numbers, of each number that is not packed.
        packed: the numbers of the ranges are packed, several in each.
    """

    kind: str = ""
    count: int = 0
    ranges: list[tuple[int, int]] = field(default_factory=list)
    packed: bool = True

    @property
    def whole(self) -> tuple[int, int] | None:
        """Begin and end of the values, where they stand together as one range; `(0, 0)` for none."""
        if not self.count:
            return 0, 0
        return self.ranges[0] if len(self.ranges) == 1 else None


@dataclass
class Walked:
    """A record: its features (the context of a SequenceExample), its feature lists, and where the bytes of each list stand."""

    features: dict[str, Feature] = field(default_factory=dict)
    lists: dict[str, list[Feature]] = field(default_factory=dict)
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    is_sequence: bool = False


def walk(data: bytes) -> Walked:
    """Every feature of a serialized Example or SequenceExample.

    Raises:
        WireError: it is neither.
    """
    found = Walked()
    for number, wire, begin, end in fields(data, 0, len(data)):
        if number in (1, 2) and wire != BYTES:
            raise WireError(begin, f"field {number} has wire type {wire}, which is no message")
        if number == 1:
            for key, first, last in _entries(data, begin, end):
                found.features[key] = _feature(data, first, last)
        elif number == 2:
            found.is_sequence = True
            for key, first, last in _entries(data, begin, end):
                found.spans[key] = (first, last)
                frames = itertools.islice(_messages(data, first, last), _MAX_PARTS + 1)
                found.lists[key] = [_feature(data, *frame) for frame in frames]
                _check_parts(first, len(found.lists[key]))
        if len(found.features) + len(found.lists) > _MAX_KEYS:
            raise WireError(begin, f"has more than {_MAX_KEYS} keys")
    return found


def fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message as (number, wire type, begin, end) of their values."""
    while at < end:
        here = at
        tag, at = varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if not 1 <= number < 2**29 or (data[at - 1] == 0):  # more bytes than it needs: no writer does it, and not every reader takes it
            raise WireError(here, f"field number {number} in {at - here} bytes")
        if wire == VARINT:
            begin, (_, stop) = at, varint(data, at, end)
        elif wire in (FIXED64, FIXED32):
            begin, stop = at, at + (8 if wire == FIXED64 else 4)
        elif wire == BYTES:
            size, begin = varint(data, at, end)
            stop = begin + size
        else:
            raise WireError(here, f"wire type {wire}")
        if stop > end:
            raise WireError(here, f"a field of {stop - begin} bytes where {end - begin} are left")
        yield number, wire, begin, stop
        at = stop


def varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """An unsigned varint, and where it ends.

    Raises:
        WireError: it has more than 10 bytes, or reaches beyond `end`.
    """
    value = 0
    for position in range(at, min(end, at + _MAX_VARINT_BYTES)):
        byte = data[position]
        value |= (byte & 0x7F) << 7 * (position - at)
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position + 1
    raise WireError(at, "a number that does not end")


def signed(value: int) -> int:
    """The int64 that a varint stands for."""
    return value - (1 << 64) if value >> 63 else value


def integers(data: bytes, feature: Feature) -> list[int]:
    """The values of an int64 feature."""
    values = []
    for at, end in feature.ranges:
        while at < end:
            value, at = varint(data, at, end)
            values.append(signed(value))
    return values


def is_plain(data: bytes, key: str) -> bool:
    """Whether TensorFlow's parser (core/util/example_proto_fast_parsing.cc) reads the numbers of this key in an Example.

    It knows less than the protocol allows, and passes over some of the rest in silence: each entry of the map has to be one key and one
    value, a Feature one list, and a list one run of packed numbers, or each number by itself.
    """
    for number, _, begin, end in fields(data, 0, len(data)):
        for inner, _, first, last in fields(data, begin, end) if number == 1 else ():
            parts = [(part, at, stop) for part, _, at, stop in fields(data, first, last)] if inner == 1 else []
            if sorted(part for part, *_ in parts) != [1, 2]:
                return False
            (_, *name), (_, *value) = sorted(parts)
            if data[slice(*name)] == key.encode() and not _is_one_list(data, *value):
                return False
    return True


def _is_one_list(data: bytes, begin: int, end: int) -> bool:
    lists = list(fields(data, begin, end))
    if len(lists) != 1:
        return not lists
    number, _, begin, end = lists[0]
    if number not in KINDS or _are_single_floats(data, begin, end):
        return number in KINDS
    values = [(number, wire) for number, wire, *_ in fields(data, begin, end)]
    return values == [(1, BYTES)] or all(value in ((1, VARINT), (1, FIXED32)) for value in values)


def _are_single_floats(data: bytes, begin: int, end: int) -> bool:
    """Each float by itself: seen at once, where a look at each takes 1 us."""
    count, rest = divmod(end - begin, 5)
    return not rest and data[begin:end:5] == _FLOAT_TAG * count


def _messages(data: bytes, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Where each message of the repeated field 1 stands."""
    for number, wire, first, last in fields(data, begin, end):
        if number == 1:
            if wire != BYTES:
                raise WireError(first, f"field 1 has wire type {wire}, which is no message")
            yield first, last


def _entries(data: bytes, begin: int, end: int) -> Iterator[tuple[str, int, int]]:
    """Key, begin and end of the value of each entry of a map."""
    for first, last in _messages(data, begin, end):
        key, value = "", (last, last)
        for number, wire, at, stop in fields(data, first, last):
            if number in (1, 2) and wire != BYTES:
                raise WireError(at, f"an entry of a map with wire type {wire}")
            if number == 1:
                try:
                    key = data[at:stop].decode("utf-8")
                except UnicodeDecodeError as error:
                    raise WireError(at, "a key that is not UTF-8") from error
            elif number == 2:
                value = (at, stop)
        yield key, *value


def _feature(data: bytes, begin: int, end: int) -> Feature:
    found = Feature()
    for number, wire, first, last in fields(data, begin, end):
        kind = KINDS.get(number)
        if kind is None:
            continue
        if wire != BYTES:
            raise WireError(first, f"a list of values with wire type {wire}")
        if kind != found.kind:  # the last kind counts, and parts of one kind are put together
            found = Feature(kind)
        _values(data, first, last, found)
    return found


def _values(data: bytes, begin: int, end: int, found: Feature) -> None:
    single = {"bytes": BYTES, "float": FIXED32, "int64": VARINT}[found.kind]
    if end - begin > 5 and found.kind == "float" and _are_single_floats(data, begin, end):
        found.ranges += zip(range(begin + 1, end, 5), range(begin + 5, end + 1, 5), strict=True)
        found.count += (end - begin) // 5
        found.packed = False
        return
    for number, wire, first, last in fields(data, begin, end):
        if number != 1:
            continue
        if wire == single:
            found.ranges.append((first, last))
            found.count += 1
            found.packed &= found.kind == "bytes" or found.count == 1
            _check_parts(first, len(found.ranges))
        elif wire == BYTES and found.kind == "float":
            if (last - first) % 4:
                raise WireError(first, f"{last - first} bytes of packed floats, not a multiple of 4")
            _packed(found, first, last, (last - first) // 4)
        elif wire == BYTES:
            run = data[first:last]
            if run[-1:] >= b"\x80" or _ENDLESS.search(run):
                raise WireError(first, "a number that does not end")
            _packed(found, first, last, len(run.translate(None, _GOING_ON)))
        else:
            raise WireError(first, f"a value of kind {found.kind} with wire type {wire}")


def _check_parts(at: int, parts: int) -> None:
    if parts > _MAX_PARTS:
        raise WireError(at, f"a list of more than {_MAX_PARTS} parts")


def _packed(found: Feature, begin: int, end: int, count: int) -> None:
    if count:
        found.ranges.append((begin, end))
        found.count += count
