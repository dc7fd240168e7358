"""Text columns of datasets that are opened together: one list of values for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vlpipe.storage.field_access import column
from vlpipe.storage.index import Index, row_dtype
from vlpipe.storage.text_columns import as_objects, merged_values


def with_common_texts(parts: Sequence[Index]) -> list[Index]:
    """Datasets of one schema with the same codes for the same texts.

    A text that has no column in one of them, or too many values in all together, has none in any.
    """
    first = parts[0]
    if all(_same(part, first) for part in parts):
        return list(parts)
    values, codes = {}, {}
    for name in first.texts:
        merged, tables = merged_values([part.texts.get(name) for part in parts])
        if merged is not None:
            values[name], codes[name] = as_objects(merged), tables
    dtype = row_dtype(first.schema, values)
    return [_recoded(part, dtype, values, {name: tables[number] for name, tables in codes.items()}) for number, part in enumerate(parts)]


def _same(part: Index, other: Index) -> bool:
    return list(part.texts) == list(other.texts) and all(np.array_equal(part.texts[name], other.texts[name]) for name in part.texts)


def _recoded(part: Index, dtype: np.dtype, values: dict[str, np.ndarray], codes: dict[str, np.ndarray]) -> Index:
    rows = np.empty(len(part), dtype)
    for name in dtype.names or ():
        rows[name] = part.rows[name]
    for name, table in codes.items():
        if len(part):
            rows[column(part.schema, "code", name)] = table[part.codes(name)]
    return replace(part, rows=rows, texts=values)
