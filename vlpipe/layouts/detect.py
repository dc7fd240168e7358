"""Which layout the first records may have: each guess with its confidence and its reasons."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from vlpipe.audio.containers import read_header
from vlpipe.errors import AudioError
from vlpipe.layouts.guesses import Guess, Guesses
from vlpipe.layouts.sample import Fact, Record, Sample
from vlpipe.protobuf.tensor_proto import describe
from vlpipe.protobuf.wire import WireError

LABELS = ("label", "labels", "class", "target", "targets", "y")
ENCODED = {b"RIFF": "WAV", b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3": "MP3", b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG"}
_LOUD = 256  # of 32,768: there are hardly quieter recordings
WAVEFORM = 128  # fewer numbers than that are no recording
FEW_VALUES = 4  # no more in a frame may as well be boxes, points, or begin and end of something
FEW_LENGTHS = 3  # as many different ones as tell a length from a number that happens to divide


def guess(sample: Sample) -> Guesses:
    """The layouts that the records may have."""
    found = list(_sequences(sample) if sample.is_sequence else _examples(sample))
    found.sort(key=lambda guess: -guess.confidence)
    best: dict[tuple[str, ...], Guess] = {}
    for candidate in found:  # of several ways to read the same keys, the most likely
        best.setdefault(candidate.keys or (candidate.function,), candidate)
    candidates = [best.pop(guess.keys or (guess.function,)) for guess in found if guess in best.values()]
    return Guesses(sample, tuple(candidates), tuple(_refusals(sample)))


def _always(sample: Sample, place: str, kind: str) -> list[Fact]:
    """The keys that every record has, and always of one kind."""
    facts = sample.facts.values()
    return [fact for fact in facts if fact.place == place and fact.kind == kind and fact.records == len(sample.records)]


def _sequences(sample: Sample) -> Iterator[Guess]:
    """SequenceExamples: the frames of a feature list are what they are, only their dtype may be in doubt."""
    context = {fact.key for fact in sample.facts.values() if fact.place == "features"}
    bytes_of = {fact.key: fact.sizes[0] for fact in _always(sample, "lists", "bytes") if fact.sizes[0] == fact.sizes[1]}
    if bytes_of.get("audio_embedding") == 128 and context & {"video_id", "labels"}:
        yield Guess("audioset", (), {}, 0.99, ("feature list audio_embedding of 128 bytes", f"context {sorted(context)}"))
    known = tuple(key for key, size in (("rgb", 1024), ("audio", 128)) if bytes_of.get(key) == size)
    if known and context & {"id", "video_id"}:
        options: dict[str, Any] = {} if len(known) == 2 else {"features": known}
        yield Guess("youtube8m", (), options, 0.99, tuple(f"feature list {key} of {bytes_of[key]} bytes" for key in known))
    floats = [fact for fact in _always(sample, "lists", "float") if 0 < fact.sizes[0] == fact.sizes[1] and fact.packed]
    wide = [fact for fact in floats if fact.sizes[0] > 4 * FEW_VALUES]
    if floats:
        reasons = tuple(f"feature list {fact.key} of {fact.sizes[0] // 4} floats a frame" for fact in wide or floats)
        keys = tuple(fact.key for fact in wide or floats)
        yield Guess("float_frames", keys, {"label": _label(sample, set(keys))}, 0.95 if wide else 0.6, reasons)
    for key, size in bytes_of.items():
        fact = sample.facts[key]
        if size and key not in ("audio_embedding", *known) and not _encoded(fact) and not fact.is_text:
            options = {"dtype": ..., "label": _label(sample, {key})}
            yield Guess("byte_frames", (key,), options, 0.5, (f"feature list {key} of {size} bytes a frame, of unknown dtype",))


def _examples(sample: Sample) -> Iterator[Guess]:
    floats, raw, integers = (_always(sample, "features", kind) for kind in ("float", "bytes", "int64"))
    long = [fact for fact in integers if fact.counts[1] > WAVEFORM]
    explained: set[str] = set()
    for guess in (*_tensors(sample, raw), *_audio(sample, raw), *_ragged(sample, floats), *_counted(sample, floats, raw, long)):
        explained.update(guess.keys)
        yield guess
    for fact in (*floats, *long):
        if fact.key not in explained and fact.counts[1] > 1 and "/ragged_" not in fact.key:
            yield _of_unknown_width(sample, fact)
    for fact in raw:
        if fact.key not in explained and fact.counts == (1, 1) and fact.sizes[1] > 8 and not fact.is_text and not _encoded(fact):
            dtype = "float32" if fact.sizes[0] % 4 == 0 and _plausible(sample, fact.key, "<f4") else ...
            options = {"dtype": dtype, "d": ..., "label": _label(sample, {fact.key})}
            yield Guess(
                "raw_bytes", (fact.key,), options, 0.4, (f"{fact.sizes[0]} to {fact.sizes[1]} bytes in {fact.key}, of unknown frames",)
            )


def _of_unknown_width(sample: Sample, fact: Fact) -> Guess:
    """Numbers of which nothing says how many make a frame: one, if no other number divides the lengths and they look like a recording."""
    counts = {record.walked.features[fact.key].count for record in sample.records}
    divisor = math.gcd(*counts)
    span = f"{fact.counts[0]} to {fact.counts[1]} {'floats' if fact.kind == 'float' else 'integers'} in {fact.key}"
    function, options = ("float_list", {}) if fact.kind == "float" else ("int_list", {"dtype": _narrowest(fact)})
    label = _label(sample, {fact.key})
    values = _values(sample, fact)
    if (
        divisor == 1
        and len(counts) >= FEW_LENGTHS
        and fact.counts[1] > WAVEFORM
        and _swings(values, 1 if fact.kind == "float" else 1 << 15)
    ):
        extremes = f"values from {values.min():g} to {values.max():g}"
        reasons = (f"{span}, which nothing but 1 divides", f"{extremes}, as samples of a recording")
        return Guess(function, (fact.key,), {"d": 1, **options, "label": label}, 0.92, reasons)
    reason = f"{span}, all multiples of {divisor}; how many make a frame is not said"
    return Guess(function, (fact.key,), {"d": ..., **options, "label": label}, 0.6 if fact.kind == "float" else 0.4, (reason,))


def _values(sample: Sample, fact: Fact) -> np.ndarray:
    """All that were seen of a key of numbers."""
    if fact.kind == "int64":
        return np.concatenate([np.array(record.numbers(fact.key) or [], np.int64) for record in sample.records])
    values = [np.frombuffer(record.data[begin:end], "<f4") for record in sample.records for begin, end in _ranges(record, fact.key)]
    return np.concatenate([np.zeros(0, np.float32), *values])


def _swings(values: np.ndarray, most: int) -> bool:
    """As samples of a recording do, about zero; unlike numbers of words among which a negative one means none, or small differences."""
    low, high = -float(values.min()), float(values.max())
    negative = np.count_nonzero(values < 0) / len(values)
    loud = 0 < max(low, high) <= most and (most == 1 or max(low, high) >= _LOUD)
    return loud and min(low, high) * 8 >= max(low, high) and 0.1 < negative < 0.9


def _ranges(record: Record, key: str) -> list[tuple[int, int]]:
    return record.walked.features[key].ranges


def _narrowest(fact: Fact) -> str:
    """The dtype of the samples: 16 bits, as most recordings have, where that is enough."""
    low, high = fact.values or (0, 0)
    return next(dtype for dtype in ("int16", "int32", "int64") if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max)


def _audio(sample: Sample, raw: list[Fact]) -> Iterator[Guess]:
    for fact in raw:
        if fact.counts != (1, 1) or not _encoded(fact):
            continue
        try:
            headers = [read_header(record.bytes_of(fact.key) or b"", fact.key) for record in sample.records]
        except AudioError:
            continue
        kinds, rates = {header.kind for header in headers}, {header.rate for header in headers}
        if len(rates) == 1:
            reason = f"{' and '.join(sorted(kinds))} of {rates.pop()} Hz in {fact.key}"
            yield Guess("encoded_audio", (fact.key,), {"label": _label(sample, {fact.key})}, 0.97, (reason,))


def _tensors(sample: Sample, raw: list[Fact]) -> Iterator[Guess]:
    for fact in raw:
        try:
            found = {describe(record.bytes_of(fact.key) or b"") for record in sample.records}
        except WireError:
            continue
        if None in found:
            continue
        kinds = {(dtype, shape[1:]) for dtype, shape in filter(None, found)}
        if len(kinds) == 1:
            dtype, shape = kinds.pop()
            reason = f"serialized tensors of {dtype} [T{''.join(f', {size}' for size in shape)}] in {fact.key}"
            sure = bool(shape) and _is_sequence({shape[0] for _, shape in filter(None, found)}, shape)
            yield Guess("serialized_tensor", (fact.key,), {"label": _label(sample, {fact.key})}, 0.97 if sure else 0.7, (reason,))


def _is_sequence(lengths: set[int], shape: tuple[int, ...]) -> bool:
    """Whether arrays `[T, *shape]` of these lengths are no pictures: those have one size, or a last axis of colours."""
    return len(lengths) > 1 and not (len(shape) > 1 and shape[-1] in (1, 3, 4))


def _ragged(sample: Sample, floats: list[Fact]) -> Iterator[Guess]:
    for fact in floats:
        key, suffix, rest = fact.key.partition("/ragged_flat_values")
        rows = sample.facts.get(f"{key}/ragged_row_lengths_0")
        if not suffix or rest or rows is None or rows.values is None or f"{key}/ragged_row_lengths_1" in sample.facts:
            continue
        if rows.values[0] == rows.values[1] > 0:
            reason = f"{rows.values[0]} values in every row of {rows.key}"
            confidence = 0.95 if rows.values[0] > FEW_VALUES else 0.6
            yield Guess("ragged_rows", (key,), {"label": _label(sample, {fact.key, rows.key})}, confidence, (reason,))


def _counted(sample: Sample, floats: list[Fact], raw: list[Fact], long: list[Fact]) -> Iterator[Guess]:
    """Keys whose values are as many as another key says."""
    integers = _always(sample, "features", "int64")
    for fact in (*floats, *raw, *long):
        if fact.kind == "bytes" and fact.counts != (1, 1):
            continue
        for other in integers:
            found = _agreement(sample, fact, other) if other is not fact and other not in long else None
            if found is None:
                continue
            option, unit, sure = found
            options: dict[str, Any] = {option: other.key, "label": _label(sample, {fact.key, other.key})}
            reason = f"{other.key} is the {option} of {fact.key} in all of {len(sample.records)} records, {unit} {_unit(fact, option)}"
            if fact.kind != "bytes":
                function, dtype = ("float_list", {}) if fact.kind == "float" else ("int_list", {"dtype": _narrowest(fact)})
                confidence = (0.97 if option == "shape" else 0.95) if sure else 0.6
                yield Guess(function, (fact.key,), {**dtype, **options}, confidence, (reason,))
                continue
            kind, order = _dtype(sample, fact.key, unit, option)
            options = {"dtype": kind or ..., "byteorder": order} | options
            yield Guess("raw_bytes", (fact.key,), options, 0.92 if sure and kind else 0.5, (reason, f"values that make sense as {kind}"))


def _unit(fact: Fact, option: str) -> str:
    return ("values" if fact.kind != "bytes" else "bytes") + (" a frame" if option == "length" else " a value")


def _agreement(sample: Sample, fact: Fact, other: Fact) -> tuple[str, int, bool] | None:
    """Whether an integer key is the length or the shape.

    Which of these; the values or bytes for each frame (length) or for each value (shape); whether it is sure.
    """
    units, lengths, shapes = set(), set(), set()
    for record in sample.records:
        said = record.numbers(other.key) or []
        has = record.walked.features[fact.key].count if fact.kind != "bytes" else len(record.bytes_of(fact.key) or b"")
        if not said or min(said) < 0:
            return None
        total = math.prod(said)
        if (total == 0) != (has == 0) or (total and has % total):
            return None
        units |= {has // total} if total else set()
        lengths.add(said[0])
        shapes.add(tuple(said[1:]))
    if len(units) != 1 or len(shapes) != 1:
        return None
    unit, shape = units.pop(), shapes.pop()
    if shape:
        return ("shape", unit, _is_sequence(lengths, shape)) if unit == 1 or fact.kind == "bytes" else None
    return "length", unit, len(lengths) >= FEW_LENGTHS and unit > FEW_VALUES * (4 if fact.kind == "bytes" else 1)


def _dtype(sample: Sample, key: str, unit: int, option: str) -> tuple[str | None, str]:
    """A dtype of raw bytes, where only one makes sense, and the byte order."""
    for dtype, width in (("float32", 4), ("float64", 8)):
        if (unit == width) if option == "shape" else unit % width == 0:
            for order, sign in (("little", "<"), ("big", ">")):
                if _plausible(sample, key, f"{sign}f{width}"):
                    return dtype, order
    return None, "little"


def _plausible(sample: Sample, key: str, dtype: str) -> bool:
    """Whether bytes make sense as floats: of integers, texts or another byte order most would be absurdly small or large, or NaN."""
    good = total = 0
    for record in sample.records:
        data = record.bytes_of(key) or b""
        with np.errstate(invalid="ignore"):  # some NaN among what are no floats complain when they are converted
            values = np.abs(np.frombuffer(data[: len(data) // 8 * 8], dtype).astype(np.float64))
        values = values[values != 0]
        good += int(np.count_nonzero((values > 2.0**-40) & (values < 2.0**40)))
        total += len(values)
    return total > 32 and good > 0.98 * total


def _label(sample: Sample, taken: set[str]) -> str | None:
    """The key that is called like a label, or the only integer of its own that is neither always the same nor always another."""
    facts = {key: fact for key, fact in sample.facts.items() if fact.place == "features" and key not in taken}
    usual = [key for key in LABELS if key in facts and facts[key].kind in ("int64", "float")]
    whole = [key for key, fact in facts.items() if fact.kind == "int64" and fact.counts == (1, 1) and fact.records == len(sample.records)]
    different = {key: len({tuple(record.numbers(key) or ()) for record in sample.records}) for key in whole}
    classes = [key for key in whole if 1 < different[key] < len(sample.records)]
    return next(iter(usual), classes[0] if len(classes) == 1 else None)


def _encoded(fact: Fact) -> str | None:
    return next((name for magic, name in ENCODED.items() if fact.head.startswith(magic)), None)


def _refusals(sample: Sample) -> Iterator[str]:
    """What is there but cannot be read."""
    for fact in sample.facts.values():
        kind = _encoded(fact)
        files = [data for data in (record.bytes_of(fact.key) for record in sample.records) if data is not None]
        if kind in ("JPEG", "PNG"):
            yield f'"{fact.key}" holds encoded {kind}, which is no sequence'
        elif kind:
            try:
                rates = {read_header(data, fact.key).rate for data in files}
            except AudioError as error:
                yield f'"{fact.key}" begins like {kind}, but {error}'.rstrip(".")
            else:
                if len(rates) > 1:
                    yield f'"{fact.key}" holds {kind} of {sorted(rates)} Hz, where all need one rate: unpack it and use `vlpipe ingest`'
