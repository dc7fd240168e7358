"""Which records of a source `RecordSet.select` chooses: those that match a condition, are intact, are named, or are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vlpipe.arguments import integer, number
from vlpipe.errors import ArgumentError, counted
from vlpipe.sources.conditions import Where, matching, what_there_is
from vlpipe.sources.partition import random_order
from vlpipe.sources.table import Table
from vlpipe.sources.without_damaged import not_damaged
from vlpipe.storage.index import Index
from vlpipe.storage.mixture import apportion, exact


def chosen_rows(index: Index, where: Where | None, *, rows: Any, fraction: float | None, without: Any, seed: int) -> np.ndarray:
    """int64 `[n]`: the positions of the records that fulfil all conditions, in the order of the index (or of `rows`).

    Args:
        where, rows, fraction, without, seed: as for `RecordSet.select`.

    Raises:
        ArgumentError: a condition does not fit the source, or no record is left.
    """
    table, mask = Table(index), np.ones(len(index), bool)
    if where is not None:
        mask &= matching(index, table, where)
        if not mask.any():
            raise ArgumentError(f"where: {where!r} matches no record of the source: {what_there_is(table, where)}.")
    if without is not None:
        mask &= not_damaged(index, without)
    if rows is None:
        chosen = np.flatnonzero(mask)
    else:
        chosen = positions("rows", rows, len(index))
        if len(np.unique(chosen)) < len(chosen):
            raise ArgumentError("rows: a position is there twice; name each record once. To repeat records, mix sources (vlpipe.mix).")
        chosen = chosen[mask[chosen]]
    if fraction is not None:
        share = exact(number("fraction", fraction, 0, 1, expected="a number above 0, at most 1"))
        count = apportion(len(chosen), [share, 1 - share])[0]
        chosen = chosen[np.sort(random_order(len(chosen), integer("seed", seed, 0))[:count])]
    if not len(chosen):
        raise ArgumentError(f"select: no record is left of the {counted(len(index), 'record')} of the source. Select by other conditions.")
    return chosen


def positions(option: str, rows: Any, records: int, outside_error: type[Exception] = ArgumentError) -> np.ndarray:
    """int64 `[n]`: positions from 0 in a source of so many records; those below 0 count from its end.

    Args:
        option: the argument that has them, for an error.

    Raises:
        ArgumentError: they are no positions.
        outside_error: one is outside the source.
    """
    many = isinstance(rows, Iterable) and not isinstance(rows, (np.ndarray, str, bytes, Mapping))
    found = np.asarray(list(rows) if many else rows)
    if found.ndim != 1 or (len(found) and found.dtype.kind not in "iu"):
        raise ArgumentError(f"{option}: came as {rows!r:.200}, expected positions from 0 to {records - 1}.")
    outside = (found < -records) | (found >= records)
    if outside.any():
        raise outside_error(
            f"{option}: {found[outside][0]} is outside the source, which has {counted(records, 'record')}; expected positions from "
            f"{-records} to {records - 1}."
        )
    return found.astype(np.int64) % max(1, records)
