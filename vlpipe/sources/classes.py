"""Class numbers of datasets that are opened together: labels are mapped by the names of their classes, or refused."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Sequence as Many
from dataclasses import replace
from typing import Any

import numpy as np

from vlpipe.errors import SchemaError
from vlpipe.storage.field_access import Location, column
from vlpipe.storage.index import Index, Renumbered
from vlpipe.storage.schema import Fixed, Schema, Text

CLASSES = "classes"  # of the metadata: the names of the classes, by number
_log = logging.getLogger("vlpipe")
_WAY_OUT = (
    'Write the datasets again with the same class list (`vlpipe ingest --classes`, or Writer.metadata["classes"]), or open them separately.'
)
_MAX_NAMES = 8  # in an error


def class_names(metadata: dict[str, Any]) -> list[str] | None:
    """The names of the classes, by number; None where the metadata have no list of different names."""
    names = metadata.get(CLASSES)
    valid = isinstance(names, list) and all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
    return names if valid else None


def class_labels(index: Index) -> list[str]:
    """The scalar integer fields whose values are in the index: all but those that a user's parse function computes."""
    return [name for name in index.schema.fields if is_class_label(index, name)]


def is_class_label(index: Index, name: str) -> bool:
    """Whether a field is a scalar integer whose values are in the index."""
    access = index.access(name)
    is_scalar = isinstance(access.field, Fixed) and access.field.dimensions == ()
    return access.location is Location.ROW and is_scalar and access.dtype.kind in "iu"


def named_label(index: Index) -> str | None:
    """The field whose numbers the class names are for: the default label, else "label", else the only scalar integer; None: unclear."""
    candidates = class_labels(index)
    label = index.label or ("label" if "label" in index.schema.fields else None)
    if label is None:
        return candidates[0] if len(candidates) == 1 else None
    return label if label in candidates else None


def with_common_classes(parts: Many[Index]) -> tuple[list[Index], list[str] | None]:
    """Number the classes of several datasets alike: as the first that has class names, with the names that only later ones have appended.

    Args:
        parts: datasets with the same schema; their records stay as they are, the rows of the indexes get the common numbers.

    Returns:
        The datasets, and the common names by number; None where the datasets agree or have none.

    Raises:
        SchemaError: only some datasets have class names, or the labels of one cannot be mapped.
    """
    values = [part.metadata.get(CLASSES) for part in parts]
    if all(value == values[0] for value in values) or not _holds_numbers(parts[0].schema):
        return list(parts), None
    _refuse_missing_names([part for part in parts if len(part) or part.metadata.get(CLASSES) is not None])
    named = [part for part in parts if part.metadata.get(CLASSES) is not None]
    common = list(dict.fromkeys(name for part in named for name in class_names(part.metadata) or ()))
    label = _common_label(named)
    mapped = [_mapped(part, label, common) if part.metadata.get(CLASSES) is not None else part for part in parts]
    first = named[0]
    for part in named[1:]:
        if part.metadata[CLASSES] != first.metadata[CLASSES]:
            _log.info("%s: its classes are numbered as in %s (%s)", place(part), place(first), _difference(first, part))
    return mapped, common


def common_numbers(parts: Many[Index]) -> Renumbered | None:
    """What `with_common_classes` did to these datasets, for all of their shards; None if nothing."""
    labels = [part.renumbered.label for part in parts if part.renumbered is not None]
    nothing: np.ndarray = np.zeros(0, np.int64)  # a dataset without records
    tables = [part.renumbered.tables if part.renumbered is not None else (nothing,) * len(part.shards) for part in parts]
    return Renumbered(labels[0], tuple(itertools.chain.from_iterable(tables))) if labels else None


def place(index: Index) -> str:
    """The directory of a dataset."""
    return os.path.dirname(index.shards[0].path)


def _holds_numbers(schema: Schema) -> bool:
    """Whether a field could hold class numbers: anything but texts and sequences of fractions."""
    return any(
        not isinstance(field, Text) and (isinstance(field, Fixed) or np.dtype(field.dtype).kind in "iu") for field in schema.fields.values()
    )


def _refuse_missing_names(parts: Many[Index]) -> None:
    """Refuse datasets whose numbers have no names beside others whose numbers have.

    Raises:
        SchemaError: there are both.
    """
    named = next(part for part in parts if part.metadata.get(CLASSES) is not None)
    for part in parts:
        if part.metadata.get(CLASSES) is None:
            known = _listed(named.metadata[CLASSES])
            raise SchemaError(
                f"source: {place(named)} has names for its classes ({known}), {place(part)} has none: the same number may stand for "
                f"different classes. {_WAY_OUT}"
            )
        if class_names(part.metadata) is None:
            other = next(entry for entry in parts if entry.metadata.get(CLASSES) != part.metadata[CLASSES])
            raise SchemaError(
                f"source: the classes of {place(part)} and {place(other)} differ, and {_listed(part.metadata[CLASSES])} is not a list of "
                f"different names, so their labels cannot be mapped. {_WAY_OUT}"
            )


def _common_label(parts: Many[Index]) -> str:
    """The field whose numbers the class names of all datasets are for.

    Raises:
        SchemaError: it is unclear, or is not a scalar integer.
    """
    labels = {named_label(part) for part in parts}
    label = labels.pop()
    if label is None or labels:
        first, other = parts[0], next(part for part in parts if part.metadata[CLASSES] != parts[0].metadata[CLASSES])
        raise SchemaError(
            f"source: the classes of {place(first)} and {place(other)} differ ({_difference(first, other)}), and only the numbers of one "
            f"scalar integer label can be mapped; the schema is {first.schema}. {_WAY_OUT}"
        )
    return label


def _mapped(part: Index, label: str, common: list[str]) -> Index:
    """The dataset with the common class numbers in its rows.

    Raises:
        SchemaError: a label has no name, or its dtype cannot hold the new number.
    """
    names = class_names(part.metadata) or []
    name = column(part.schema, "value", label)
    values = part.access(label).row_values(part.rows)
    unnamed = (values < 0) | (values >= len(names))
    if unnamed.any():
        raise SchemaError(
            f'{part.where(int(unnamed.argmax()))}: "{label}" is {values[unnamed][0]}, but {place(part)} names only the classes 0 to '
            f"{len(names) - 1}, so it cannot be mapped to the classes of the other datasets. {_WAY_OUT}"
        )
    position = {entry: number for number, entry in enumerate(common)}
    table = np.array([position[entry] for entry in names], np.int64)
    if table.max(initial=0) > np.iinfo(values.dtype).max:
        raise SchemaError(
            f'source: together the datasets have {len(common)} classes, more than "{label}" of {values.dtype} can number. {_WAY_OUT}'
        )
    rows = np.array(part.rows)
    rows[name] = table[values.astype(np.int64)]
    tables = [table] * len(part.shards) if part.renumbered is None else [table[before] for before in part.renumbered.tables]
    return replace(part, rows=rows, renumbered=Renumbered(label, tuple(tables)))


def _difference(first: Index, other: Index) -> str:
    """Which classes only one of two datasets has."""
    mine, theirs = first.metadata[CLASSES], other.metadata[CLASSES]
    if class_names(first.metadata) is None or class_names(other.metadata) is None:
        return f"{_listed(mine)} and {_listed(theirs)}"
    only = [
        f"only {place(part)} has {_listed([name for name in names if name not in without])}"
        for part, names, without in ((first, mine, set(theirs)), (other, theirs, set(mine)))
        if set(names) - without
    ]
    return "; ".join(only) or "the same names in another order"


def _listed(names: Any) -> str:
    """The first names of a list, or the beginning of another value."""
    if not isinstance(names, list):
        return f"{names!r:.60}"
    return ", ".join(map(str, names[:_MAX_NAMES])) + (f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else "")
