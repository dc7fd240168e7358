"""Complete a layout from the first records: unspecified shapes and dtypes, and the other keys that can be delivered."""

from __future__ import annotations

import dataclasses

import numpy as np

from vlpipe.audio.containers import read_header
from vlpipe.audio.header import Header
from vlpipe.errors import AudioError, SchemaError
from vlpipe.layouts.base import Frames, Layout, LayoutField, Number
from vlpipe.layouts.deliverable import field_of
from vlpipe.layouts.sample import KeyStats, Sample, SampleRecord
from vlpipe.protobuf.tensor_proto import describe
from vlpipe.protobuf.wire import WireError


def resolve(layout: Layout, sample: Sample) -> Layout:
    """Return the layout with all shapes and dtypes, and with the other keys of the sample.

    Raises:
        SchemaError: the sample does not match the layout; the message names the record and lists its keys.
    """
    frames = tuple(_frames(entry, sample) for entry in layout.frames)
    if layout.closed:
        return dataclasses.replace(layout, frames=frames, kept=tuple(entry.key for entry in layout.fields))
    specified = {entry.key: entry for entry in (*layout.fields, *(_default(entry, sample) for entry in layout.defaults))}
    candidates = _candidates(layout, frames, sample)
    if layout.label is not None and layout.label not in {*candidates, *specified}:
        raise SchemaError(
            f'layout: the first records have no label "{layout.label}"; their keys are {_keys(sample)}. Pass another label, or none.'
        )
    positions = {key: position for position, key in enumerate(sample.key_stats)}
    order = sorted({**specified, **candidates}, key=lambda key: (key != layout.label, positions[key] if key in candidates else -1))
    fields: list[LayoutField] = []
    refused: list[tuple[str, str]] = []
    for key in order:
        field = specified.get(key) or field_of(candidates[key], len(sample.records))
        if not isinstance(field, str):
            fields.append(field)
        elif key == layout.label:
            raise SchemaError(f'layout: "{key}" cannot be delivered as a label: {field}. Pass another label, or none.')
        elif layout.kept is not None:
            raise SchemaError(f'layout: only{list(layout.kept)}: "{key}" cannot be delivered: {field}. Leave it out of only(...).')
        else:
            refused.append((key, field))
    return dataclasses.replace(layout, frames=frames, fields=tuple(fields), refused=tuple(refused), closed=True)


def left_out(layout: Layout, sample: Sample, reason: str) -> Layout:
    """Return a layout that refuses the keys of the sample that it does not have, for a reason."""
    known = {*layout.keys, *(entry.count_key for entry in layout.frames)}
    return dataclasses.replace(layout, kept=None, refused=tuple((key, reason) for key in sample.key_stats if key not in known))


def _default(entry: Number, sample: Sample) -> Number:
    """Return the field of a key with a default: a whole number may stand for a float, if the records hold floats."""
    stats = sample.key_stats.get(entry.key)
    return dataclasses.replace(entry, dtype="float32") if stats is not None and stats.kind == "float" else entry


def _candidates(layout: Layout, frames: tuple[Frames, ...], sample: Sample) -> dict[str, KeyStats]:
    """Return the keys of the sample that may become fields of the layout."""
    taken = {entry.key for entry in frames} | {entry.count_key for entry in frames}
    candidates = {key: stats for key, stats in sample.key_stats.items() if key not in taken}
    if layout.kept is None:
        return candidates
    defaults = [entry.key for entry in layout.defaults]
    missing = [key for key in layout.kept if key not in candidates and key not in defaults]
    if missing:
        raise SchemaError(
            f"layout: only{list(layout.kept)}: the first records do not have {missing}; their keys are {_keys(sample)}. Pass other keys, "
            "or the values of records without them: default={KEY: VALUE}."
        )
    return {key: stats for key, stats in candidates.items() if key in (*layout.kept, layout.label)}


def _frames(entry: Frames, sample: Sample) -> Frames:
    """Return a sequence with the shape and dtype of the first record that determines them."""
    stats = sample.key_stats.get(entry.key)
    place = "lists" if entry.in_list else "features"
    if stats is None or stats.place != place:
        which = "feature list" if place == "lists" else "feature"
        raise SchemaError(
            f'layout: {sample.records[0].where} lacks the {which} "{entry.key}"; its keys are {_keys(sample)}. Pass another layout.'
        )
    if entry.form == "floats" and not stats.packed:
        entry = dataclasses.replace(entry, packed=False)
    if entry.form == "audio" and (entry.rate is None or entry.shape is None):
        header = _header(entry, sample)
        entry = dataclasses.replace(entry, rate=entry.rate or header.rate, shape=entry.shape or (header.channels,))
    if entry.shape is not None and entry.dtype is not None:
        return entry
    for record in sample.records:
        dtype_and_shape = _shape_in(entry, record)
        if dtype_and_shape is not None:
            return dataclasses.replace(entry, dtype=dtype_and_shape[0], shape=dtype_and_shape[1])
    raise SchemaError(
        f'layout: the first {len(sample.records)} records do not determine the number of values in a frame of "{entry.key}" '
        f"({stats.to_json()}). Pass d=... or another layout."
    )


def _header(entry: Frames, sample: Sample) -> Header:
    """Return the header of the audio file in the first record."""
    first = sample.records[0]
    try:
        return read_header(first.bytes_of(entry.key) or b"", f'{first.where}: "{entry.key}"')
    except AudioError as error:
        raise SchemaError(f"layout: {error} Pass a layout other than encoded_audio.") from error


def _shape_in(entry: Frames, record: SampleRecord) -> tuple[str, tuple[int, ...]] | None:
    """Return dtype and shape of a frame in a record, None if the record does not determine them."""
    dtype = entry.dtype or "float32"
    if entry.form == "tensor":
        try:
            tensor = describe(record.bytes_of(entry.key) or b"")
        except WireError:
            return None
        return (tensor[0], tensor[1][1:]) if tensor and tensor[1][0] and all(tensor[1]) else None
    if entry.form in ("float_frames", "byte_frames"):
        frames = record.message.lists.get(entry.key) or []
        if not frames or not frames[0].ranges:
            return None
        begin, end = frames[0].ranges[0]
        size = frames[0].count * 4 if frames[0].kind == "float" else end - begin
        width = np.dtype(dtype).itemsize
        return (dtype, (size // width,)) if size >= width and size % width == 0 else None
    counts = record.numbers(entry.count_key) if entry.count_key else None
    feature = record.message.features.get(entry.key)
    if not counts or counts[0] <= 0 or feature is None:
        return None
    if entry.count == "shape":
        return (dtype, tuple(counts[1:])) if all(size > 0 for size in counts[1:]) else None
    if entry.count == "row_lengths":
        return dtype, (counts[0],)
    values = feature.count if entry.form in ("floats", "integers") else (len(record.bytes_of(entry.key) or b"") // np.dtype(dtype).itemsize)
    return (dtype, (values // counts[0],)) if values and values % counts[0] == 0 else None


def _keys(sample: Sample) -> str:
    keys = [
        f"{stats.key!r} ({stats.kind or 'empty'}{', a feature list' if stats.place == 'lists' else ''})"
        for stats in sample.key_stats.values()
    ]
    return ", ".join(keys[:12]) + (", …" if len(keys) > 12 else "") or "none"
