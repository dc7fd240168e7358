"""A layout completed by the first records: shapes and dtypes that it leaves open, and the other keys that can be delivered."""

from __future__ import annotations

import dataclasses

import numpy as np

from vlpipe.audio.containers import read_header
from vlpipe.errors import AudioError, SchemaError
from vlpipe.layouts.base import Field, Frames, Layout, Listed, Number, Words
from vlpipe.layouts.sample import Fact, Record, Sample
from vlpipe.protobuf.tensor_proto import describe
from vlpipe.protobuf.wire import WireError

MAX_NUMBERS = 4096  # of a vector that is kept in the index


def resolve(layout: Layout, sample: Sample) -> Layout:
    """The layout with every shape and dtype known, and with the other keys that the sample has.

    Raises:
        SchemaError: the sample does not have what the layout says; the message names the record and what it has.
    """
    frames = tuple(_frames(entry, sample) for entry in layout.frames)
    if layout.closed:
        return dataclasses.replace(layout, frames=frames)
    taken = {entry.key for entry in frames} | {entry.count_key for entry in frames}
    given = {entry.key: entry for entry in layout.fields}
    facts = {key: fact for key, fact in sample.facts.items() if key not in taken and fact.place == "features"}
    if layout.kept is not None:
        absent = [key for key in layout.kept if key not in facts]
        if absent:
            raise SchemaError(
                f"layout: only{list(layout.kept)}: the first records have no {absent}; they have {_what(sample)}. Name others."
            )
        facts = {key: fact for key, fact in facts.items() if key in (*layout.kept, layout.label)}
    if layout.label is not None and layout.label not in {*facts, *given}:
        raise SchemaError(f'layout: the first records have no label "{layout.label}"; they have {_what(sample)}. Name another, or none.')
    order = sorted({*given, *facts}, key=lambda key: (key != layout.label, list(sample.facts).index(key) if key in facts else -1))
    fields: list[Field] = []
    for key in order:
        field = given.get(key) or _field(facts[key], len(sample.records))
        if field is not None:
            fields.append(field)
        elif key == layout.label:
            raise SchemaError(f'layout: "{key}" is no label that can be delivered: {facts[key].to_json()}. Name another, or none.')
    return dataclasses.replace(layout, frames=frames, fields=tuple(fields), closed=True)


def _field(fact: Fact, records: int) -> Field | None:
    """How a key can be delivered; None where it cannot."""
    low, high = fact.counts
    if not fact.key or not fact.key.isprintable() or fact.kind not in ("bytes", "int64", "float"):
        return None
    always = low == high and fact.records == records
    if fact.kind == "bytes":
        return Words(fact.key) if high == 1 else None
    if fact.kind == "int64":
        return Number(fact.key) if always and high == 1 else Listed(fact.key)
    if always and 1 <= high <= MAX_NUMBERS:
        return Number(fact.key, "float32", () if high == 1 else (high,))
    return None


def _frames(entry: Frames, sample: Sample) -> Frames:
    """The shape and the dtype of a sequence, from the first record that shows them."""
    fact = sample.facts.get(entry.key)
    place = "lists" if entry.form in ("float_frames", "byte_frames") else "features"
    if fact is None or fact.place != place:
        which = "feature list" if place == "lists" else "feature"
        raise SchemaError(f'layout: {sample.records[0].where} has no {which} "{entry.key}"; it has {_what(sample)}. Pass another layout.')
    if entry.form == "floats" and not fact.packed:
        entry = dataclasses.replace(entry, packed=False)
    if entry.form == "audio" and entry.rate is None:
        entry = dataclasses.replace(entry, rate=_rate(entry, sample))
    if entry.shape is not None and entry.dtype is not None:
        return entry
    for record in sample.records:
        found = _shape_in(entry, record)
        if found is not None:
            return dataclasses.replace(entry, shape=found[1], dtype=found[0])
    raise SchemaError(
        f'layout: how many values a frame of "{entry.key}" has does not follow from the first {len(sample.records)} records '
        f"({fact.to_json()}). Pass d=... or another layout."
    )


def _rate(entry: Frames, sample: Sample) -> int:
    """The sample rate of the audio file in the first record."""
    first = sample.records[0]
    try:
        return read_header(first.bytes_of(entry.key) or b"", f'{first.where}: "{entry.key}"').rate
    except AudioError as error:
        raise SchemaError(f"layout: {error} Pass another layout.") from error


def _shape_in(entry: Frames, record: Record) -> tuple[str, tuple[int, ...]] | None:
    """Dtype and shape of a frame, as one record shows them."""
    dtype = entry.dtype or "float32"
    if entry.form == "tensor":
        try:
            found = describe(record.bytes_of(entry.key) or b"")
        except WireError:
            return None
        return (found[0], found[1][1:]) if found and found[1][0] and all(found[1]) else None
    if entry.form in ("float_frames", "byte_frames"):
        frames = record.walked.lists.get(entry.key) or []
        if not frames or not frames[0].ranges:
            return None
        begin, end = frames[0].ranges[0]
        size = frames[0].count * 4 if frames[0].kind == "float" else end - begin
        width = np.dtype(dtype).itemsize
        return (dtype, (size // width,)) if size >= width and size % width == 0 else None
    counts = record.numbers(entry.count_key) if entry.count_key else None
    feature = record.walked.features.get(entry.key)
    if not counts or counts[0] <= 0 or feature is None:
        return None
    if entry.count == "shape":
        return (dtype, tuple(counts[1:])) if all(size > 0 for size in counts[1:]) else None
    if entry.count == "row_lengths":
        return dtype, (counts[0],)
    values = feature.count if entry.form in ("floats", "integers") else (len(record.bytes_of(entry.key) or b"") // np.dtype(dtype).itemsize)
    return (dtype, (values // counts[0],)) if values and values % counts[0] == 0 else None


def _what(sample: Sample) -> str:
    found = [f"{fact.key!r} ({fact.kind or 'empty'}{', a list' if fact.place == 'lists' else ''})" for fact in sample.facts.values()]
    return ", ".join(found[:12]) + (", …" if len(found) > 12 else "") or "no keys"
