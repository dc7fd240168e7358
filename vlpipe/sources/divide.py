"""Which records come into which part or fold: `RecordSet.split` and `RecordSet.folds`, with the columns that keep groups and classes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from fractions import Fraction

import numpy as np

from vlpipe.arguments import integer, number
from vlpipe.errors import ArgumentError, counted
from vlpipe.sources.partition import partition
from vlpipe.sources.table import Groups, Table, listed
from vlpipe.storage.index import Index
from vlpipe.storage.mixture import exact

_log = logging.getLogger("vlpipe")


def rows_of_parts(index: Index, parts: Mapping[str, float], *, by: str | None, stratify: str | None, seed: int) -> dict[str, np.ndarray]:
    """int64 `[n]` by the name of each part: the positions of its records.

    Args:
        parts, by, stratify, seed: as for `RecordSet.split`.

    Raises:
        ArgumentError: as `RecordSet.split`.
    """
    if not isinstance(parts, Mapping) or not parts:
        raise ArgumentError(f'split: came as {parts!r}, expected a dict of fractions, such as {{"train": 0.9, "val": 0.1}}.')
    expected = "a fraction above 0, at most 1"
    weights = [exact(number(f"split[{name!r}]", share, 5e-324, 1, expected=expected)) for name, share in parts.items()]
    if abs(float(sum(weights)) - 1) > 1e-6:
        raise ArgumentError(f"split: the parts {dict(parts)} add up to {float(sum(weights)):g}, expected 1.")
    part_of = _part_of(index, "split", weights, by, stratify, seed)
    rows = [np.flatnonzero(part_of == part) for part in range(len(weights))]
    for name, chosen in zip(parts, rows, strict=True):
        if not len(chosen):
            raise ArgumentError(f"split: {name!r} gets none of the {len(index):,} records. Pass a larger fraction than {parts[name]!r}.")
    return {str(name): chosen for name, chosen in zip(parts, rows, strict=True)}


def rows_of_folds(index: Index, k: int, *, by: str | None, stratify: str | None, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """int64 `[n]` and `[m]` of each fold: the positions of the records for training, and of those for validation.

    Args:
        k, by, stratify, seed: as for `RecordSet.folds`.

    Raises:
        ArgumentError: as `RecordSet.folds`.
    """
    k = integer("folds", k, 2, max(2, len(index)), expected=f"an integer from 2 to {len(index):,}, the number of records")
    fold_of = _part_of(index, "folds", [Fraction(1)] * k, by, stratify, seed)
    return [(np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)) for fold in range(k)]


def _part_of(index: Index, option: str, weights: list[Fraction], by: str | None, stratify: str | None, seed: int) -> np.ndarray:
    """int64 `[records]`: the part of each record."""
    table = Table(index)
    names = {"by": by, "stratify": stratify}
    found = {key: Groups.of(index, table, table.check(key, name)) for key, name in names.items() if name is not None}
    groups, strata = found.get("by"), found.get("stratify")
    if groups is not None and len(groups.values) < len(weights):
        raise ArgumentError(
            f'{option}: by="{by}" has {len(groups.values)} different values ({listed(groups.values)}), fewer than the {len(weights)} '
            "parts, and a group is not divided. Ask for fewer parts."
        )
    part_of = partition(
        len(index),
        weights,
        groups=None if groups is None else groups.number_of,
        strata=None if strata is None else strata.number_of,
        seed=integer("seed", seed, 0),
    )
    if strata is not None:
        _check_classes(option, str(stratify), strata, part_of, len(weights))
    return part_of


def _check_classes(option: str, column: str, strata: Groups, part_of: np.ndarray, parts: int) -> None:
    """Refuse a fold without a record of a class; log a part of a split without one.

    Raises:
        ArgumentError: there is such a fold.
    """
    counts = np.bincount(strata.number_of * parts + part_of, minlength=len(strata.values) * parts).reshape(-1, parts)
    lacking = np.flatnonzero((counts == 0).any(axis=1))
    if not len(lacking):
        return
    records = counts.sum(axis=1)
    names = listed(
        f"{value} ({counted(count, 'record')})" for value, count in zip(strata.values[lacking], records[lacking].tolist(), strict=True)
    )
    if option == "folds":
        raise ArgumentError(
            f'folds: stratify="{column}": there are not enough records of {names} for one in each of {parts} folds. Ask for fewer folds, '
            "or leave these classes out (select)."
        )
    _log.warning('split: stratify="%s": not every part has records of %s', column, names)
