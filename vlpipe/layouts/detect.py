"""Which layout the first records may have: each guess with its confidence and its reasons.

A guess counts only where it leaves no doubt: it is complete, more than 90 % sure, and the only one. Otherwise the user has the candidates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from vlpipe.errors import SchemaError
from vlpipe.layouts.base import Layout
from vlpipe.layouts.facts import Fact, Sample
from vlpipe.layouts.table import TABLE
from vlpipe.layouts.tensors import describe
from vlpipe.wire import WireError

CERTAIN = 0.9
LABELS = ("label", "labels", "class", "target", "targets", "y")
ENCODED = {b"RIFF": "WAV", b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3": "MP3", b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG"}
WAVEFORM = 256  # more integers than that are no label
FEW_LENGTHS = 3  # as many different ones as tell a length from a number that happens to divide


@dataclass(frozen=True)
class Guess:
    """A layout that the records may have.

    Attributes:
        function: of `vlpipe.layouts`.
        keys: its positional arguments.
        options: its others; `...` where the user has to say.
        confidence: 0 to 1.
        reasons: what speaks for it.
    """

    function: str
    keys: tuple[str, ...]
    options: dict[str, Any]
    confidence: float
    reasons: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Nothing is left for the user to say."""
        return ... not in self.options.values()

    @property
    def call(self) -> str:
        """As one writes it."""
        options = [f"{name}={'...' if value is ... else repr(value)}" for name, value in self.options.items() if value is not None]
        return f"vlpipe.layouts.{self.function}({', '.join([*map(repr, self.keys), *options])})"

    def layout(self) -> Layout:
        """The layout itself."""
        return TABLE[self.function](*self.keys, **self.options)


@dataclass(frozen=True)
class Guesses:
    """The candidates, the most likely first, and what is there that cannot be read."""

    sample: Sample
    candidates: tuple[Guess, ...]
    refusals: tuple[str, ...]

    @cached_property
    def only(self) -> Guess | None:
        """The one that leaves no doubt."""
        sure = [guess for guess in self.candidates if guess.confidence > CERTAIN and guess.is_complete]
        return sure[0] if len(sure) == 1 else None

    def certain(self, path: str) -> Layout:
        """The layout that leaves no doubt.

        Raises:
            SchemaError: there is none; the message has the candidates, or what the records have.
        """
        if self.only is not None:
            return self.only.layout()
        calls = [f"layout={guess.call} ({guess.confidence:.0%}: {'; '.join(guess.reasons)})" for guess in self.candidates[:4]]
        facts = [
            f"{fact.key!r}: {fact.kind or 'empty'} x {fact.counts[0]} to {fact.counts[1]}" for fact in list(self.sample.facts.values())[:8]
        ]
        what = f"could be {' or '.join(calls)}" if calls else f"are of no layout that is known here, they have {{{', '.join(facts)}}}"
        refused = "".join(f" {refusal}." for refusal in self.refusals)
        raise SchemaError(
            f"{path}: its records are not vlpipe's own (no vlpipe.json lies beside it) and {what}.{refused} Say which: pass layout=..., "
            "see `vlpipe inspect FILE`; or copy vlpipe.json and index.npy to it if vlpipe wrote it."
        )


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
    wide = [fact for fact in floats if fact.sizes[0] > 4]
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
    floats, raw = _always(sample, "features", "float"), _always(sample, "features", "bytes")
    explained: set[str] = set()
    for guess in (*_tensors(sample, raw), *_ragged(sample, floats), *_counted(sample, floats, raw)):
        explained.update(guess.keys)
        yield guess
    for fact in floats:
        if fact.key not in explained and fact.counts[1] > 1 and "/ragged_" not in fact.key and fact.packed:
            counts = [record.walked.features[fact.key].count for record in sample.records]
            divisor = math.gcd(*counts)
            reason = (
                f"{fact.counts[0]} to {fact.counts[1]} floats in {fact.key}, all multiples of {divisor}; how many make a frame is not said"
            )
            yield Guess("float_list", (fact.key,), {"d": ..., "label": _label(sample, {fact.key})}, 0.6, (reason,))
    for fact in raw:
        if fact.key not in explained and fact.counts == (1, 1) and fact.sizes[1] > 8 and not fact.is_text and not _encoded(fact):
            dtype = "float32" if fact.sizes[0] % 4 == 0 and _plausible(sample, fact.key, "<f4") else ...
            options = {"dtype": dtype, "d": ..., "label": _label(sample, {fact.key})}
            yield Guess(
                "raw_bytes", (fact.key,), options, 0.4, (f"{fact.sizes[0]} to {fact.sizes[1]} bytes in {fact.key}, of unknown frames",)
            )


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
            yield Guess("serialized_tensor", (fact.key,), {"label": _label(sample, {fact.key})}, 0.97 if shape else 0.7, (reason,))


def _ragged(sample: Sample, floats: list[Fact]) -> Iterator[Guess]:
    for fact in floats:
        key, suffix, rest = fact.key.partition("/ragged_flat_values")
        rows = sample.facts.get(f"{key}/ragged_row_lengths_0")
        if not suffix or rest or rows is None or rows.values is None or f"{key}/ragged_row_lengths_1" in sample.facts:
            continue
        if rows.values[0] == rows.values[1] > 0:
            reason = f"{rows.values[0]} values in every row of {rows.key}"
            yield Guess("ragged_rows", (key,), {"label": _label(sample, {fact.key, rows.key})}, 0.95, (reason,))


def _counted(sample: Sample, floats: list[Fact], raw: list[Fact]) -> Iterator[Guess]:
    """Keys whose values are as many as another key says."""
    integers = _always(sample, "features", "int64")
    for fact in (*floats, *raw):
        if (fact.kind == "bytes" and fact.counts != (1, 1)) or not fact.packed:
            continue
        for other in integers:
            found = _agreement(sample, fact, other)
            if found is None:
                continue
            option, unit, sure = found
            options: dict[str, Any] = {option: other.key, "label": _label(sample, {fact.key, other.key})}
            reason = f"{other.key} is the {option} of {fact.key} in all of {len(sample.records)} records, {unit} {_unit(fact, option)}"
            if fact.kind == "float":
                yield Guess("float_list", (fact.key,), options, (0.97 if option == "shape" else 0.95) if sure else 0.6, (reason,))
                continue
            dtype, order = _dtype(sample, fact.key, unit, option)
            options = {"dtype": dtype or ..., "byteorder": order} | options
            yield Guess("raw_bytes", (fact.key,), options, 0.92 if sure and dtype else 0.5, (reason, f"values that make sense as {dtype}"))


def _unit(fact: Fact, option: str) -> str:
    return ("values" if fact.kind == "float" else "bytes") + (" a frame" if option == "length" else " a value")


def _agreement(sample: Sample, fact: Fact, other: Fact) -> tuple[str, int, bool] | None:
    """Whether an integer key is the length or the shape.

    Which of these; the values or bytes for each frame (length) or for each value (shape); whether it is sure.
    """
    units, lengths, shapes = set(), set(), set()
    for record in sample.records:
        said = record.numbers(other.key) or []
        has = record.walked.features[fact.key].count if fact.kind == "float" else len(record.bytes_of(fact.key) or b"")
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
        return ("shape", unit, True) if unit == 1 or fact.kind == "bytes" else None
    return "length", unit, len(lengths) >= FEW_LENGTHS and unit > 1


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
    """The key that is called like a label, or the only integer of its own."""
    facts = {key: fact for key, fact in sample.facts.items() if fact.place == "features" and key not in taken}
    usual = [key for key in LABELS if key in facts and facts[key].kind in ("int64", "float")]
    whole = [key for key, fact in facts.items() if fact.kind == "int64" and fact.counts == (1, 1) and fact.records == len(sample.records)]
    return next(iter(usual), whole[0] if len(whole) == 1 else None)


def _encoded(fact: Fact) -> str | None:
    return next((name for magic, name in ENCODED.items() if fact.head.startswith(magic)), None)


def _refusals(sample: Sample) -> Iterator[str]:
    """What is there but cannot be read from where it stands."""
    for fact in sample.facts.values():
        if _encoded(fact):
            yield f'"{fact.key}" holds encoded {_encoded(fact)}, which is not decoded here: unpack it and use `vlpipe ingest`'
        elif fact.kind == "int64" and fact.counts[1] > WAVEFORM:
            yield (
                f'"{fact.key}" holds up to {fact.counts[1]} integers as varints, whose bytes are not those of the values: frames of '
                "integers are not read from an Int64List, write them anew with vlpipe.Writer"
            )
        elif fact.kind == "float" and not fact.packed:
            yield f'"{fact.key}" holds floats that are not packed, between which other bytes stand: write them anew with vlpipe.Writer'
