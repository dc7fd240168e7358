"""Several indexes of third-party files as one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vlpipe.errors import SchemaError
from vlpipe.sources.classes import place
from vlpipe.storage.field_access import column
from vlpipe.storage.index import Foreign, Index
from vlpipe.storage.statistics import merged


def combine_foreign(parts: list[Index]) -> Index:
    """The records of several indexes of third-party files with the same layout, one after another.

    Raises:
        SchemaError: their layouts differ.
    """
    first, shards = parts[0], 0
    foreign = [part.foreign for part in parts if part.foreign is not None]
    for part, own in zip(parts, foreign, strict=True):
        if part.schema != first.schema or (own.label, own.stored, own.parse) != (foreign[0].label, foreign[0].stored, foreign[0].parse):
            raise SchemaError(
                f"mix: {place(part)} has other fields or another layout than {place(first)}: {part.schema} and {first.schema}. Convert "
                "them to the native format first (vlpipe convert)."
            )
    rows = [np.array(part.rows) for part in parts]
    for number, part in enumerate(parts):
        rows[number]["shard"] += np.uint32(shards)
        shards += len(part.shards)
        for name in foreign[0].lists:
            before = sum(len(entry.lists[name]) for entry in foreign[:number])
            rows[number][column(first.schema, "start", name)] += np.uint64(before)
    lists = {name: np.concatenate([entry.lists[name] for entry in foreign]) for name in foreign[0].lists}
    return replace(
        first,
        shards=tuple(shard for part in parts for shard in part.shards),
        rows=np.concatenate(rows),
        ids=np.concatenate([part.ids for part in parts]),
        metadata={key: value for key, value in first.metadata.items() if all(part.metadata.get(key) == value for part in parts)},
        statistics=merged([part.statistics for part in parts if len(part)]),
        foreign=Foreign(foreign[0].label, foreign[0].stored, lists, foreign[0].parse),
        joined_rates=tuple(sorted({rate for part in parts for rate in part.sample_rates})),
    )
