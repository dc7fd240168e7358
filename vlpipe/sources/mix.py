"""`vlpipe.mix`: several sources as one, each with its exact share of an epoch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from vlpipe.arguments import integer, number
from vlpipe.errors import ArgumentError, SchemaError, shortened
from vlpipe.sources.classes import place
from vlpipe.sources.foreign.combine import combine_foreign
from vlpipe.sources.native import combine
from vlpipe.storage.field_access import column
from vlpipe.storage.index import Index, row_dtype
from vlpipe.storage.mixture import Mixture, Part, exact
from vlpipe.storage.paths import Opened
from vlpipe.storage.schema import Schema

MAX_RECORDS = 2**31 - 1  # of an epoch
MAX_LETTERS = 60  # of how a source was selected


def mixed(sources: Iterable[tuple[Index, str, Any]], records: Any = None) -> Index:
    """The index of a mix.

    Args:
        sources: index, name and weight of each part.
        records: of an epoch; None: so many that each record of the largest part comes.

    Raises:
        ArgumentError: there is no part, or a weight has no meaning.
        SchemaError: the sources cannot be read together.
    """
    parts = list(sources)
    if not parts:
        raise ArgumentError("mix: there is no source, expected at least one with its weight.")
    expected = "a number >= 0 and below 2**1023"
    weights = [
        weight if isinstance(weight, Fraction) else exact(number(f"mix: the weight of {name}", weight, 0, 2.0**1023, expected=expected))
        for _, name, weight in parts
    ]
    if not any(weights):
        raise ArgumentError(f"mix: all {len(weights)} weights are 0, so no record would come. Pass a weight above 0.")
    if records is not None:
        records = integer("records", records, 1, MAX_RECORDS)
    index = _together([index for index, _, _ in parts])
    members, leaves, first = [], [], 0
    for (part, name, _), weight in zip(parts, weights, strict=True):
        inner = part.mixture
        if inner is None:
            members.append(Part(name, weight, leaf=first))
            leaves.append(np.full(len(part), first, np.int32))
            first += 1
        else:
            members.append(replace(inner.part.renumbered(first), name=name, weight=weight))
            leaves.append(inner.leaf_of + np.int32(first))
            first += len(inner.names)
    whole = Part("", exact(1), tuple(members), records=records)
    return replace(index, mixture=Mixture(whole, np.concatenate(leaves)))


def _together(indexes: list[Index]) -> Index:
    """The records of several indexes, one after another; each file is in it once, however many indexes have it."""
    for index in indexes[1:]:
        if index.numbered != indexes[0].numbered:
            raise SchemaError(
                f"mix: the texts of {place(indexes[0])} and {place(index)} have numbers by different label_classes, or only one has. "
                "Open all sources with the same label_classes."
            )
    wholes = {id(index.whole): index.whole for index in indexes}  # a balanced source has very many parts, all of one
    units = _units(list(wholes.values()))
    whole, firsts = _whole(units)
    begins = {}
    for key, part in wholes.items():
        number, shard = next((number, found) for number, unit in enumerate(units) if (found := _inside(part, unit)) is not None)
        begins[key] = firsts[number] + _first_row(units[number], shard)
    rows = [begins[id(index.whole)] + (np.arange(len(index)) if index.taken is None else index.taken.rows) for index in indexes]
    chosen = np.concatenate(rows)
    if len(units) == 1 and np.array_equal(chosen, np.arange(len(whole))):
        return whole
    taken = whole.take(chosen)
    return taken if len(np.unique(chosen)) == len(chosen) else replace(taken, statistics={})


def _units(wholes: list[Index]) -> list[Index]:
    """The indexes that are not inside another one, each once, in the order in which they or a part of them first appear."""
    largest: list[Index] = []
    for whole in sorted(wholes, key=lambda index: -len(index.shards)):
        if all(_inside(whole, unit) is None for unit in largest):
            largest.append(whole)
    appears = [next(number for number, whole in enumerate(wholes) if _inside(whole, unit) is not None) for unit in largest]
    return [largest[number] for number in np.argsort(appears, kind="stable")]


def _inside(index: Index, unit: Index) -> int | None:
    """The first of the consecutive shards of `unit` that are those of an index, with the same records; None where it has others."""
    names, among = [shard.path for shard in index.shards], [shard.path for shard in unit.shards]
    for first in range(len(among) - len(names) + 1):
        if among[first : first + len(names)] == names:
            rows = unit.rows["shard"]
            here = int(np.count_nonzero((rows >= first) & (rows < first + len(names))))
            return first if here == len(index) else None
    return None


def _first_row(unit: Index, shard: int) -> int:
    return int(np.flatnonzero(unit.rows["shard"] >= shard)[0]) if shard else 0


def _whole(units: list[Index]) -> tuple[Index, list[int]]:
    """One index of all records of these, and the first row of each."""
    sizes = [len(unit) for unit in units]
    firsts = (np.cumsum(sizes) - sizes).tolist()
    if len(units) == 1:
        return units[0], firsts
    ids, placed = 0, []
    for unit in units:
        placed.append(replace(unit, ids=unit.ids + ids))
        ids += int(unit.ids.max(initial=-1)) + 1
    native = [unit for unit in units if unit.foreign is None]
    if native and len(native) < len(units):
        other = next(unit for unit in units if unit.foreign is not None)
        raise SchemaError(
            f"mix: vlpipe wrote {place(native[0])}, but not {place(other)}, which is stored in another way. Convert it first (vlpipe "
            "convert)."
        )
    return (combine(_with_common_fields(placed), caller="mix") if native else combine_foreign(placed)), firsts


def _with_common_fields(units: list[Index]) -> list[Index]:
    """The indexes with the fields that all have alike; each keeps the schema with which its records were written.

    Raises:
        SchemaError: they share no sequence.
    """
    first = units[0].schema
    if all(unit.schema == first for unit in units) and not any(unit.written for unit in units):
        return units
    fields = {name: field for name, field in first.fields.items() if all(unit.schema.fields.get(name) == field for unit in units)}
    if not any(name in first.sequences for name in fields):
        raise SchemaError(
            f"mix: {place(units[0])} has {first}, and the other sources share no sequence with it: {difference(units)}. Mix sources with "
            "the same features."
        )
    schema = Schema(**fields)
    return [_projected(unit, schema) for unit in units]


def _projected(unit: Index, schema: Schema) -> Index:
    texts = {name: values for name, values in unit.texts.items() if name in schema.fields}
    rows = np.empty(len(unit), row_dtype(schema, texts))
    for name in ("shard", "offset", "bytes", "checksum"):
        rows[name] = unit.rows[name]
    for field in schema.fields:
        for kind in ("frames", "start", "value", "code"):
            target = column(schema, kind, field)
            if target in (rows.dtype.names or ()) and (field in schema.sequences) == (kind in ("frames", "start")):
                rows[target] = unit.rows[column(unit.schema, kind, field)]
    statistics = {name: moments for name, moments in unit.statistics.items() if name in schema.fields}
    written = unit.written or (unit.schema,) * len(unit.shards)
    return replace(unit, schema=schema, rows=rows, texts=texts, statistics=statistics, written=written)


def difference(units: list[Index]) -> str:
    """The fields in which sources differ, by name."""
    names = dict.fromkeys(name for unit in units for name in unit.schema.fields)
    differing = [name for name in names if len({repr(unit.schema.fields.get(name)) for unit in units}) > 1]
    return "; ".join(
        f'"{name}" is ' + ", ".join(f"{unit.schema.fields.get(name, 'missing')!s} in {place(unit)}" for unit in units) for name in differing
    )


def named_parts(sources: Any) -> list[tuple[Any, str, Any]]:
    """The sources of `vlpipe.mix` with their names and weights.

    Raises:
        ArgumentError: they are neither a dict nor pairs.
    """
    pairs = list(sources.items()) if isinstance(sources, Mapping) else sources
    if isinstance(pairs, (str, os.PathLike)) or not isinstance(pairs, Iterable):
        raise ArgumentError(f"mix: came as {sources!r:.200}, expected a dict from sources to weights, or a list of pairs (source, weight).")
    parts: list[tuple[Any, Any]] = []
    for position, pair in enumerate(pairs):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ArgumentError(f"mix: entry {position} is {type(pair).__name__}, expected a pair (source, weight).")
        parts.append((pair[0], pair[1]))
    names = _names([source for source, _ in parts])
    return [(source, name, weight) for name, (source, weight) in zip(names, parts, strict=True)]


def _names(sources: list[Any]) -> list[str]:
    """The names of the parts, for people: of its directory; where several have this name, also how it was selected, or the whole path."""
    short = [_name(source) for source in sources]
    long = [_longer_name(source) for source in sources]
    names = []
    for position, name in enumerate(short):
        if short.count(name) == 1:
            names.append(name)
        elif long.count(long[position]) == 1:
            names.append(long[position])
        else:
            names.append(f"{name} ({short[:position].count(name) + 1})")
    return names


def _name(source: Any) -> str:
    path = place(source.index) if isinstance(source, Opened) else source
    return os.path.basename(os.fspath(path).rstrip("/")) if isinstance(path, (str, os.PathLike)) else "several"


def _longer_name(source: Any) -> str:
    if isinstance(source, Opened):
        return f"{_name(source)}: {shortened(source.selected, MAX_LETTERS)}" if source.selected else place(source.index)
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else shortened(", ".join(map(str, source)), MAX_LETTERS)
