"""Weights of classes: how many values of each class a label has, and which weight each class gets in a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vlpipe.arguments import integer, number
from vlpipe.errors import ArgumentError, DatasetError, SchemaError
from vlpipe.sources.records import Records
from vlpipe.storage.field_access import Location
from vlpipe.storage.index import Index
from vlpipe.storage.schema import Fixed, Sequence, Text

# Keras needs a weight for every class up to the greatest; a label beyond this limit is not a class number.
MAX_CLASSES = 1 << 20
BALANCED = "balanced"
_BLOCK = 1 << 20  # values that are counted together


def has_classes(field: Any) -> bool:
    """Whether a field can name classes: an integer, a vector with one number a class, or a sequence of integers or of vectors of them."""
    if not isinstance(field, (Fixed, Sequence)):
        return False
    is_vector = isinstance(field, Fixed) and len(field.dimensions) == 1  # may have probabilities; a sequence of floats is a feature
    return len(field.dimensions) < 2 and np.dtype(field.dtype).kind in ("iuf" if is_vector else "iu")


def class_counts(index: Index, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The classes of a label in ascending order, and how many values (records, or frames of a sequence) each has.

    Values of a mix count as often as they come in an epoch, on average: the counts are fractions then.

    From the index where it has the values; those of sequences and long vectors are read from the records.

    Raises:
        ArgumentError: a vector has numbers other than 0 and 1.
        DatasetError: a record cannot be read.
    """
    field = index.schema.fields[name]
    counts: dict[int, float] = {}
    for block, rates in _values(index, name):
        if field.dimensions:  # type: ignore[union-attr]  # no text
            wrong = block[(block != 0) & (block != 1)]
            if wrong.size:
                raise ArgumentError(f'label: "{name}" has the value {wrong[0]} in a vector, expected 1 for each class it names, and 0.')
            positions, block = np.nonzero(block.reshape(-1, block.shape[-1]))
            rates = rates if rates is None else rates[positions]
        different, numbers = np.unique(block, return_inverse=True)
        times = np.bincount(numbers.reshape(-1), rates, minlength=len(different))
        for value, count in zip(different.tolist(), times.tolist(), strict=True):
            counts[value] = counts.get(value, 0) + count
    values = sorted(value for value, count in counts.items() if count)
    return np.array(values, np.int64), np.array([counts[value] for value in values])


def _values(index: Index, name: str) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """The values of a label, in blocks; with how often each comes in an epoch of a mix, float64, None for other sources."""
    access, rates = index.access(name), None if index.mixture is None else index.mixture.rates()
    if access.location is Location.ROW:
        yield access.row_values(index.rows), rates
        return
    block: list[np.ndarray] = []
    rows: list[int] = []
    size = 0
    with Records(index) as records:
        for row in index.by_shard().tolist():
            value = np.asarray(records.values(row, [name])[name])
            block.append(value if isinstance(access.field, Sequence) else value[None])
            rows.append(row)
            size += value.size
            if size > _BLOCK:
                yield _joined(block, rows, rates)
                block, rows, size = [], [], 0
    if block:
        yield _joined(block, rows, rates)


def _joined(block: list[np.ndarray], rows: list[int], rates: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    return np.concatenate(block), None if rates is None else np.repeat(rates[rows], [len(value) for value in block])


def balanced(values: np.ndarray, counts: np.ndarray) -> dict[int, float] | None:
    """The weight of each class, as scikit-learn's "balanced"; None if the values are not class numbers."""
    if not len(values) or values[0] < 0 or values[-1] >= MAX_CLASSES:
        return None
    weights = dict.fromkeys(range(int(values[-1]) + 1), 1.0)
    return weights | dict(zip(values.tolist(), (counts.sum() / (len(counts) * counts)).tolist(), strict=True))


def balanced_weights(index: Index, name: str) -> dict[int, float]:
    """The weight of each class of a label, such that all classes have the same total weight.

    Raises:
        DatasetError: there are no records.
        ArgumentError: the values are not class numbers.
    """
    values, counts = class_counts(index, name)
    if not len(values):
        raise DatasetError(f'label: "{name}" has no values, expected at least one, to weigh the classes. Pass a source with records.')
    weights = balanced(values, counts)
    if weights is None:
        wrong = values[0] if values[0] < 0 else values[-1]
        raise ArgumentError(
            f'label: "{name}" has the value {wrong}, expected class numbers from 0 to {MAX_CLASSES - 1}, as fit(class_weight=) requires. '
            "Number the classes from 0 on."
        )
    return weights


def checked_class_weight(value: Any) -> Any:
    """Return `class_weight`: None, "balanced", weights by class, or any of the last two by the name of the label.

    Raises:
        ArgumentError: it is none of these, or a class or a weight is not one.
    """
    if value is None or (isinstance(value, str) and value == BALANCED):
        return value
    if isinstance(value, Mapping) and value:
        if all(isinstance(name, str) for name in value):
            return {name: _checked(f"class_weight[{name!r}]", weights) for name, weights in value.items()}
        return _checked("class_weight", value)
    raise ArgumentError(
        f'class_weight: came as {value!r}, expected "balanced", weights by class, such as {{0: 1.0, 1: 2.5}}, or these by '
        "the name of the label."
    )


def _checked(where: str, weights: Any) -> Any:
    if isinstance(weights, str) and weights == BALANCED:
        return weights
    if not isinstance(weights, Mapping) or not weights:
        raise ArgumentError(f'{where}: came as {weights!r}, expected "balanced" or weights by class.')
    return {
        integer(f"{where}: a class", key, 0, MAX_CLASSES - 1): number(f"{where}: weight", weight, 0.0, expected="a number from 0 on")
        for key, weight in weights.items()
    }


def by_label(index: Index, names: tuple[str, ...], class_weight: Any) -> dict[str, Any]:
    """The argument `class_weight` for each label that it weighs: weights by class, or "balanced".

    Raises:
        ArgumentError: there is no such label, or several and none is named.
        SchemaError: a label does not name classes.
    """
    if class_weight is None:
        return {}
    named = class_weight if isinstance(class_weight, dict) and all(isinstance(name, str) for name in class_weight) else None
    if named is None and len(names) != 1:
        raise ArgumentError(f"class_weight: the labels that are delivered are {list(names)}; name the one to weigh: {{NAME: weights}}.")
    weights = dict.fromkeys(names, class_weight) if named is None else named
    for name in weights:
        if name not in names:
            raise ArgumentError(f'class_weight: names "{name}", but the labels that are delivered are {list(names)}.')
        field = index.schema.fields[name]
        if isinstance(field, Text) or not has_classes(field):
            raise SchemaError(
                f'class_weight: "{name}" is {field!r}, which names no classes; expected integers, or vectors with a number for each class.'
            )
    return weights


def tables(index: Index, labels: tuple[str, ...], class_weight: Any) -> dict[str, np.ndarray]:
    """float32 `[classes]` for each label that is weighed: the weight of each class, 1 where none is given."""
    result = {}
    for name, given in by_label(index, labels, class_weight).items():
        weights = balanced_weights(index, name) if given == BALANCED else given
        field = index.schema.fields[name]
        table = np.ones(max([*weights, *(size - 1 for size in field.dimensions)]) + 1, np.float32)  # type: ignore[union-attr]
        table[list(weights)] = list(weights.values())
        result[name] = table
    return result
