"""Guess the layout of the first records, with the confidence and the reasons of each guess."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from vlpipe.audio.containers import read_header
from vlpipe.errors import AudioError
from vlpipe.layouts.guesses import CERTAIN, Guess, Guesses
from vlpipe.layouts.label_evidence import LABELS, is_bookkeeping_name, is_label_name, is_no_label
from vlpipe.layouts.sample import KeyStats, Sample, SampleRecord
from vlpipe.protobuf.tensor_proto import describe
from vlpipe.protobuf.wire import WireError

ENCODED = {b"RIFF": "WAV", b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3": "MP3", b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG"}
_RATE = re.compile(r"(?i)(^|_)(sample_?rate|sampling_rate|rate|sr|hz|fs)$")
_MIN_PEAK = 256  # of 32,768: quieter recordings are rare
WAVEFORM = 128  # a recording has more samples than this
FEW_VALUES = 4  # this many values or fewer may also be boxes, points, or pairs of begin and end
FEW_LENGTHS = 3  # this many different lengths distinguish a length from a number that happens to divide


def guess(sample: Sample) -> Guesses:
    """Return the layouts that the records may have, the most likely first."""
    guesses = list(_sequences(sample) if sample.is_sequence else _examples(sample))
    guesses.sort(key=lambda guess: -guess.confidence)
    best: dict[tuple[bool, tuple[str, ...]], Guess] = {}
    for candidate in guesses:  # the most likely of several ways to read the same keys; that with an unknown frame size stays beside it
        best.setdefault(("d" in candidate.options, candidate.keys or (candidate.function,)), candidate)
    return Guesses(sample, tuple(best.values()), tuple(_refusals(sample)))


def _always(sample: Sample, place: str, kind: str) -> list[KeyStats]:
    """Return the keys that every record has, always with values of this kind."""
    keys = sample.key_stats.values()
    return [stats for stats in keys if stats.place == place and stats.kind == kind and stats.records == len(sample.records)]


def _sequences(sample: Sample) -> Iterator[Guess]:
    """Guess the layout of SequenceExamples: feature lists have frames; only the dtype may be unknown."""
    context = {stats.key for stats in sample.key_stats.values() if stats.place == "features"}
    bytes_of = {stats.key: stats.sizes[0] for stats in _always(sample, "lists", "bytes") if stats.sizes[0] == stats.sizes[1]}
    if bytes_of.get("audio_embedding") == 128 and context & {"video_id", "labels"}:
        yield Guess("audioset", (), {}, 0.99, ("feature list audio_embedding of 128 bytes", f"context {sorted(context)}"))
    known = tuple(key for key, size in (("rgb", 1024), ("audio", 128)) if bytes_of.get(key) == size)
    if known and context & {"id", "video_id"}:
        options: dict[str, Any] = {} if len(known) == 2 else {"features": known}
        yield Guess("youtube8m", (), options, 0.99, tuple(f"feature list {key} of {bytes_of[key]} bytes" for key in known))
    floats = [stats for stats in _always(sample, "lists", "float") if 0 < stats.sizes[0] == stats.sizes[1] and stats.packed]
    wide = [stats for stats in floats if stats.sizes[0] > 4 * FEW_VALUES]
    if floats:
        reasons = tuple(f"feature list {stats.key} of {stats.sizes[0] // 4} floats a frame" for stats in wide or floats)
        keys = tuple(stats.key for stats in wide or floats)
        yield Guess("float_frames", keys, {"label": _label(sample, set(keys))}, 0.95 if wide else 0.6, reasons)
    for key, size in bytes_of.items():
        stats = sample.key_stats[key]
        if size and key not in ("audio_embedding", *known) and not _encoded(stats) and not stats.is_text:
            options = {"dtype": ..., "label": _label(sample, {key})}
            yield Guess("byte_frames", (key,), options, 0.5, (f"feature list {key} of {size} bytes a frame, of unknown dtype",))


def _examples(sample: Sample) -> Iterator[Guess]:
    floats, raw, integers = (_always(sample, "features", kind) for kind in ("float", "bytes", "int64"))
    long = [stats for stats in integers if stats.counts[1] > WAVEFORM]
    explained: set[str] = set()
    for guess in (*_tensors(sample, raw), *_audio(sample, raw), *_ragged(sample, floats), *_counted(sample, floats, raw, long)):
        explained.update(guess.keys if guess.confidence > CERTAIN or guess.function in ("raw_bytes", "serialized_tensor") else ())
        yield guess
    for stats in (*floats, *long):
        if stats.key not in explained and stats.counts[1] > 1 and "/ragged_" not in stats.key:
            yield _of_unknown_width(sample, stats)
    for stats in raw:
        if stats.key not in explained and stats.counts == (1, 1) and stats.sizes[1] > 8 and not stats.is_text and not _encoded(stats):
            dtype = "float32" if stats.sizes[0] % 4 == 0 and _plausible(sample, stats.key, "<f4") else ...
            options = {"dtype": dtype, "d": ..., "label": _label(sample, {stats.key})}
            yield Guess(
                "raw_bytes",
                (stats.key,),
                options,
                0.4,
                (f"{stats.sizes[0]} to {stats.sizes[1]} bytes in {stats.key}, of unknown frame size{_if_samples(sample, stats)}",),
            )


def _if_samples(sample: Sample, stats: KeyStats) -> str:
    """What to pass if the bytes are samples, which a sample rate beside them suggests."""
    rates = [other.key for other in _always(sample, "features", "int64") if other.counts == (1, 1) and _RATE.search(other.key)]
    is_even = stats.sizes[0] % 2 == stats.sizes[1] % 2 == 0
    return f"; beside {rates[0]}, if they are 16-bit samples of one channel: dtype='int16', d=1" if rates and is_even else ""


def _of_unknown_width(sample: Sample, stats: KeyStats) -> Guess:
    """Guess the layout of numbers with an unknown frame size: 1 if the lengths have no other common divisor and the values oscillate."""
    counts = {record.message.features[stats.key].count for record in sample.records}
    divisor = math.gcd(*counts)
    span = f"{stats.counts[0]} to {stats.counts[1]} {'floats' if stats.kind == 'float' else 'integers'} in {stats.key}"
    function, options = ("float_list", {}) if stats.kind == "float" else ("int_list", {"dtype": _narrowest(stats)})
    label = _label(sample, {stats.key})
    values = _values(sample, stats)
    if (
        divisor == 1
        and len(counts) >= FEW_LENGTHS
        and stats.counts[1] > WAVEFORM
        and _oscillates(values, 1 if stats.kind == "float" else 1 << 15)
    ):
        extremes = f"values from {values.min():g} to {values.max():g}"
        reasons = (f"{span}, without a common divisor", f"{extremes}, like the samples of a recording")
        return Guess(function, (stats.key,), {"d": 1, **options, "label": label}, 0.92, reasons)
    reason = f"{span}, all multiples of {divisor}; the number of values in a frame is not specified"
    return Guess(function, (stats.key,), {"d": ..., **options, "label": label}, 0.6 if stats.kind == "float" else 0.4, (reason,))


def _values(sample: Sample, stats: KeyStats) -> np.ndarray:
    """Return the numbers of a key in all records of the sample."""
    if stats.kind == "int64":
        return np.concatenate([np.array(record.numbers(stats.key) or [], np.int64) for record in sample.records])
    values = [np.frombuffer(record.data[begin:end], "<f4") for record in sample.records for begin, end in _ranges(record, stats.key)]
    return np.concatenate([np.zeros(0, np.float32), *values])


def _oscillates(values: np.ndarray, limit: int) -> bool:
    """Return whether the values oscillate about zero like samples, unlike token ids with negative padding, or small differences."""
    low, high = -float(values.min()), float(values.max())
    negative = np.count_nonzero(values < 0) / len(values)
    loud = 0 < max(low, high) <= limit and (limit == 1 or max(low, high) >= _MIN_PEAK)
    return loud and min(low, high) * 8 >= max(low, high) and 0.1 < negative < 0.9


def _ranges(record: SampleRecord, key: str) -> list[tuple[int, int]]:
    return record.message.features[key].ranges


def _narrowest(stats: KeyStats) -> str:
    """Return the narrowest dtype that holds the values: int16, as most recordings have, if possible."""
    low, high = stats.values or (0, 0)
    return next(dtype for dtype in ("int16", "int32", "int64") if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max)


def _audio(sample: Sample, raw: list[KeyStats]) -> Iterator[Guess]:
    for stats in raw:
        if stats.counts != (1, 1) or not _encoded(stats):
            continue
        try:
            headers = [read_header(record.bytes_of(stats.key) or b"", stats.key) for record in sample.records]
        except AudioError:
            continue
        kinds, rates = {header.kind for header in headers}, {header.rate for header in headers}
        if len(rates) == 1:
            reason = f"{' and '.join(sorted(kinds))} of {rates.pop()} Hz in {stats.key}"
            yield Guess("encoded_audio", (stats.key,), {"label": _label(sample, {stats.key})}, 0.97, (reason,))


def _tensors(sample: Sample, raw: list[KeyStats]) -> Iterator[Guess]:
    for stats in raw:
        try:
            tensors = {describe(record.bytes_of(stats.key) or b"") for record in sample.records}
        except WireError:
            continue
        if None in tensors:
            continue
        kinds = {(dtype, shape[1:]) for dtype, shape in filter(None, tensors)}
        if len(kinds) == 1:
            dtype, shape = kinds.pop()
            reason = f"serialized tensors of {dtype} [T{''.join(f', {size}' for size in shape)}] in {stats.key}"
            sure = bool(shape) and _is_sequence({shape[0] for _, shape in filter(None, tensors)}, shape)
            yield Guess("serialized_tensor", (stats.key,), {"label": _label(sample, {stats.key})}, 0.97 if sure else 0.7, (reason,))


def _is_sequence(lengths: set[int], shape: tuple[int, ...]) -> bool:
    """Return whether arrays `[T, *shape]` of these lengths are sequences; images have one size or a last axis of colours."""
    return len(lengths) > 1 and not (len(shape) > 1 and shape[-1] in (1, 3, 4))


def _ragged(sample: Sample, floats: list[KeyStats]) -> Iterator[Guess]:
    for stats in floats:
        key, suffix, rest = stats.key.partition("/ragged_flat_values")
        rows = sample.key_stats.get(f"{key}/ragged_row_lengths_0")
        if not suffix or rest or rows is None or rows.values is None or f"{key}/ragged_row_lengths_1" in sample.key_stats:
            continue
        if rows.values[0] == rows.values[1] > 0:
            reason = f"{rows.values[0]} values in every row of {rows.key}"
            confidence = 0.95 if rows.values[0] > FEW_VALUES else 0.6
            yield Guess("ragged_rows", (key,), {"label": _label(sample, {stats.key, rows.key})}, confidence, (reason,))


def _counted(sample: Sample, floats: list[KeyStats], raw: list[KeyStats], long: list[KeyStats]) -> Iterator[Guess]:
    """Guess the layout of keys whose number of values follows from another key."""
    integers = _always(sample, "features", "int64")
    for stats in (*floats, *raw, *long):
        if stats.kind == "bytes" and stats.counts != (1, 1):
            continue
        for other in integers:
            agreement = _agreement(sample, stats, other) if other is not stats and other not in long else None
            if agreement is None:
                continue
            option, unit, sure = agreement
            options: dict[str, Any] = {option: other.key, "label": _label(sample, {stats.key, other.key})}
            reason = f"{other.key} is the {option} of {stats.key} in all {len(sample.records)} records, {unit} {_unit(stats, option)}"
            if stats.kind != "bytes":
                function, dtype = ("float_list", {}) if stats.kind == "float" else ("int_list", {"dtype": _narrowest(stats)})
                confidence = (0.97 if option == "shape" else 0.95) if sure else 0.6
                yield Guess(function, (stats.key,), {**dtype, **options}, confidence, (reason,))
                continue
            kind, order = _dtype(sample, stats.key, unit, option)
            options = {"dtype": kind or ..., "byteorder": order} | options
            yield Guess(
                "raw_bytes",
                (stats.key,),
                options,
                0.92 if sure and kind else 0.5,
                (reason, f"the values are plausible as {kind}" if kind else "the dtype is unknown"),
            )


def _unit(stats: KeyStats, option: str) -> str:
    return ("values" if stats.kind != "bytes" else "bytes") + (" a frame" if option == "length" else " a value")


def _agreement(sample: Sample, stats: KeyStats, other: KeyStats) -> tuple[str, int, bool] | None:
    """Return whether the integer key `other` is the length or the shape of a sequence.

    Returns:
        "length" or "shape"; the number of values or bytes per frame (length) or per value (shape); whether this is certain. None if the
        key is neither.
    """
    units, lengths, shapes = set(), set(), set()
    for record in sample.records:
        numbers = record.numbers(other.key) or []
        count = record.message.features[stats.key].count if stats.kind != "bytes" else len(record.bytes_of(stats.key) or b"")
        if not numbers or min(numbers) < 0:
            return None
        total = math.prod(numbers)
        if (total == 0) != (count == 0) or (total and count % total):
            return None
        units |= {count // total} if total else set()
        lengths.add(numbers[0])
        shapes.add(tuple(numbers[1:]))
    if len(units) != 1 or len(shapes) != 1:
        return None
    unit, shape = units.pop(), shapes.pop()
    if not shape and len(lengths) == 1 and len(sample.records) > 1:
        return None  # a constant divides many numbers
    if shape:
        return ("shape", unit, _is_sequence(lengths, shape)) if unit == 1 or stats.kind == "bytes" else None
    return "length", unit, len(lengths) >= FEW_LENGTHS and unit > FEW_VALUES * (4 if stats.kind == "bytes" else 1)


def _dtype(sample: Sample, key: str, unit: int, option: str) -> tuple[str | None, str]:
    """Return the only plausible dtype of raw bytes, or None, and the byte order."""
    for dtype, width in (("float32", 4), ("float64", 8)):
        if (unit == width) if option == "shape" else unit % width == 0:
            for order, sign in (("little", "<"), ("big", ">")):
                if _plausible(sample, key, f"{sign}f{width}"):
                    return dtype, order
    return None, "little"


def _plausible(sample: Sample, key: str, dtype: str) -> bool:
    """Return whether bytes are plausible as floats: integers, text or another byte order give extreme magnitudes or NaN."""
    good = total = 0
    for record in sample.records:
        data = record.bytes_of(key) or b""
        with np.errstate(invalid="ignore"):  # converting signalling NaNs, which occur in other data, warns
            values = np.abs(np.frombuffer(data[: len(data) // 8 * 8], dtype).astype(np.float64))
        values = values[values != 0]
        good += int(np.count_nonzero((values > 2.0**-40) & (values < 2.0**40)))
        total += len(values)
    return total > 32 and good > 0.98 * total


def _label(sample: Sample, taken: set[str]) -> str | None:
    """Return a key with the name of a label, or else the only scalar integer key that nothing speaks against and that is not unique."""
    keys = {key: stats for key, stats in sample.key_stats.items() if stats.place == "features" and key not in taken}
    numeric = [key for key, stats in keys.items() if stats.kind in ("int64", "float")]
    usual = [key for key in LABELS if key in numeric] or [key for key in numeric if is_label_name(key)]
    if usual:
        return usual[0] if usual[0] in LABELS or len(usual) == 1 else None
    lengths = [_counts(sample, key) for key in taken]
    classes = [stats.key for stats in _always(sample, "features", "int64") if stats.key in keys and stats.counts == (1, 1)]
    plausible = [key for key in classes if _is_plausible(sample, key, [counts for counts in lengths if counts is not None])]
    return plausible[0] if len(plausible) == 1 else None


def _is_plausible(sample: Sample, key: str, lengths: list[np.ndarray]) -> bool:
    """Return whether the integers of a key may be classes."""
    values = np.array([(record.numbers(key) or [0])[0] for record in sample.records])
    different = len(np.unique(values))
    return not is_bookkeeping_name(key) and 1 < different < len(values) and not is_no_label(values, lengths)


def _counts(sample: Sample, key: str) -> np.ndarray | None:
    """Return the number of values, or of bytes, of a key in each record; None if some lack it."""
    features = [record.message.features.get(key) for record in sample.records]
    sizes = [None if found is None else found.count if found.kind != "bytes" else sum(e - b for b, e in found.ranges) for found in features]
    return np.array(sizes, np.int64) if None not in sizes else None


def _encoded(stats: KeyStats) -> str | None:
    return next((name for magic, name in ENCODED.items() if stats.head.startswith(magic)), None)


def _refusals(sample: Sample) -> Iterator[str]:
    """Yield the keys that cannot be read, with the reason."""
    for stats in sample.key_stats.values():
        kind = _encoded(stats)
        files = [data for data in (record.bytes_of(stats.key) for record in sample.records) if data is not None]
        if kind in ("JPEG", "PNG"):
            yield f'"{stats.key}" holds encoded {kind}, which is not a sequence'
        elif kind:
            try:
                rates = {read_header(data, stats.key).rate for data in files}
            except AudioError as error:
                yield f'"{stats.key}" starts like {kind}, but {error}'.rstrip(".")
            else:
                if len(rates) > 1:
                    advice = "but all records must have one rate: extract the files and use `vlpipe ingest`"
                    yield f'"{stats.key}" holds {kind} of {sorted(rates)} Hz, {advice}'
