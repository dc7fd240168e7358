"""`RecordSet.balance`: the mix of one source in which rare classes come more often."""

from __future__ import annotations

import math

import numpy as np

from vlpipe.arguments import number
from vlpipe.sources.classes import class_names, named_label
from vlpipe.sources.mix import mixed
from vlpipe.sources.table import Groups, Table
from vlpipe.storage.index import Index
from vlpipe.storage.mixture import tempered


def balanced(index: Index, by: str, *, temperature: float, records: int | None) -> Index:
    """The mix of the classes of a column.

    Args:
        by, temperature, records: as for `RecordSet.balance`.

    Raises:
        ArgumentError: the column is unknown, or the temperature is below 1.
    """
    number("temperature", temperature, 1, math.inf, expected="a number >= 1, such as 2 or float('inf')")
    table = Table(index)
    groups = Groups.of(index, table, table.check("by", by))
    sizes = np.bincount(groups.number_of)
    order = np.argsort(groups.number_of, kind="stable")
    names = _names(index, by, table, groups.values)
    parts = zip(np.split(order, np.cumsum(sizes)[:-1]), names, tempered(sizes.tolist(), temperature), strict=True)
    return mixed([(index.take(rows), name, weight) for rows, name, weight in parts], records)


def _names(index: Index, by: str, table: Table, values: np.ndarray) -> list[str]:
    """The names of the parts: those of the classes where these are known, else the values."""
    classes = class_names(index.metadata) if table.fields().get(by) == named_label(index) else None
    known = classes is not None and all(0 <= value < len(classes) for value in values.tolist())
    return [classes[value] if known and classes else f"{by} {value}" for value in values.tolist()]
