"""Which field a key of the first records becomes, or why it cannot be delivered."""

from __future__ import annotations

from vlpipe.layouts.base import Frames, LayoutField, Listed, Number, Words
from vlpipe.layouts.sample import KeyStats

MAX_NUMBERS = 4096  # of a vector in the index
NO_VALUES = "it has no values in the first records"


def field_of(stats: KeyStats, records: int) -> LayoutField | str:
    """Return the field of a key, or the reason why the key cannot be delivered.

    Args:
        stats: the statistics of the key.
        records: the number of records of the sample.
    """
    if not stats.key or not stats.key.isprintable():
        return "its name is empty or not printable"
    if stats.is_shadowed:
        return "a feature of the context and a feature list have this name"
    if stats.kind == "mixed":
        return f"its values are of several kinds: {', '.join(sorted(stats.kinds))}"
    if not stats.kind:
        return NO_VALUES
    return _list_field(stats) if stats.place == "lists" else _feature_field(stats, records)


def _feature_field(stats: KeyStats, records: int) -> LayoutField | str:
    """Return the field of a feature of an Example, or of the context of a SequenceExample."""
    low, high = stats.counts
    always = low == high and stats.records == records
    if stats.kind == "bytes":
        return Words(stats.key) if high == 1 else f"a record has up to {high} texts or bytes values in it, and a field holds one"
    if stats.kind == "int64":
        return Number(stats.key) if always and high == 1 else Listed(stats.key)
    if always and 1 <= high <= MAX_NUMBERS:
        return Number(stats.key, "float32", () if high == 1 else (high,))
    return Frames(stats.key, "floats", (), packed=stats.packed, optional=True)


def _list_field(stats: KeyStats) -> LayoutField | str:
    """Return the field of a feature list: a sequence with one value, or a fixed number of values, for each step."""
    least, most = stats.sizes
    if stats.kind == "bytes" and stats.is_text:
        return "its steps are texts, and only numbers can be delivered step by step"
    if not 0 < least == most:
        unit, width = {"bytes": ("bytes", 1), "float": ("numbers", 4), "int64": ("numbers", 8)}[stats.kind]
        return f"its steps have {least // width} to {most // width} {unit}, expected the same number in every step"
    if stats.kind == "bytes":
        return Frames(stats.key, "byte_frames", (most,), "uint8", optional=True)
    if stats.kind == "int64":
        return Frames(stats.key, "integer_frames", _step_shape(most // 8), "int64", optional=True)
    if not stats.packed:
        return "its numbers are not packed"
    return Frames(stats.key, "float_frames", _step_shape(most // 4), optional=True)


def _step_shape(values: int) -> tuple[int, ...]:
    return () if values == 1 else (values,)
