"""Labels that are texts, delivered as the numbers of their classes: `label_classes=` of `make_dataset` and `vlpipe.open`.

The texts are read when the source is opened, and their numbers become a column of the index, as those of labels that are integers: all
engines deliver them, and everything that counts classes counts them.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from vlpipe.errors import ArgumentError, DatasetError, SchemaError, shortened
from vlpipe.layouts.label_evidence import is_label_name
from vlpipe.sources.class_list import read_classes
from vlpipe.sources.classes import CLASSES, class_names
from vlpipe.sources.records import Records
from vlpipe.storage.field_access import Location, column
from vlpipe.storage.index import Index, Numbered
from vlpipe.storage.paths import Opened
from vlpipe.storage.schema import Fixed, Schema, Text

_MAX_NAMES = 8  # in an error


def with_label_classes(index: Index, classes: Any, label: Any = None) -> Index:
    """The same records with the numbers of classes in the place of a text.

    Args:
        classes: the names by number: a list, a file with one name a line, a dataset, or an open source; or {NAME: these}, with the name of
            the label.
        label: the argument `label` of `make_dataset`: the text is among these; None: that of the source.

    Raises:
        ArgumentError: `classes` is no list of different names; or no text, or several, can be meant.
        SchemaError: the records have no such text, or a function of the user's returns it.
        DatasetError: a text is not among the classes, or cannot be read.
    """
    if index.numbered is not None:
        raise ArgumentError(f'label_classes: the source has numbers for "{index.numbered.label}" already. Pass label_classes once.')
    if isinstance(classes, Mapping):
        if len(classes) != 1:
            raise ArgumentError(f"label_classes: came with the labels {list(classes)}, expected one: {{NAME: classes}}.")
        ((label, classes),) = classes.items()
    names = _names(classes)
    name = _text(index, label)
    if index.access(name).location is Location.CUSTOM:
        raise SchemaError(f'label_classes: parse_fn of the custom layout returns the text "{name}": let it return the number of the class.')
    numbers = _numbers(index, name, names)
    field = column(index.schema, "value", name)
    numbered = Numbered(name, tuple(names))
    if index.taken is None:
        return _with_column(index, numbered, field, numbers)
    whole = np.full(len(index.whole), -1, np.int64)  # of records that are not in the selection, the text is not read
    whole[index.taken.rows] = numbers
    taken = index.taken._replace(whole=_with_column(index.whole, numbered, field, whole))
    return replace(_with_column(index, numbered, field, numbers), taken=taken)


def _names(classes: Any) -> list[str]:
    if isinstance(classes, Opened):
        known = class_names(classes.index.metadata)
        if not known:
            raise ArgumentError("label_classes: the source has no names of its classes. Pass a list of names.")
        return known
    if isinstance(classes, (str, os.PathLike)):
        return read_classes(classes)
    names = list(classes) if isinstance(classes, (list, tuple)) else []
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ArgumentError(
            f"label_classes: came as {shortened(repr(classes), 200)}, expected a list of different names, a file with one name a line, or "
            "a dataset with names of its classes."
        )
    return names


def _text(index: Index, label: Any) -> str:
    """The field that has the texts."""
    fields = index.schema.fields
    texts = sorted(name for name, field in fields.items() if isinstance(field, Text))  # protobuf stores the fields in any order
    if label is None or label is False:
        label = index.label if index.label is not None else "label" if "label" in fields else None
    if label is None:
        named = [name for name in texts if is_label_name(name)] or texts
    else:
        wanted = (label,) if isinstance(label, str) else tuple(label)
        named = [name for name in texts if name in wanted]
    if len(named) == 1:
        return named[0]
    if named:
        raise ArgumentError(
            f"label_classes: the records have the texts {named}, and one can be meant. Name it: label_classes={{{named[0]!r}: classes}}."
        )
    wrong = [label] if isinstance(label, str) else list(label or [])
    what = ", ".join(f'"{name}" is {fields[name]!r}' for name in wrong if name in fields) or "there is none"
    raise SchemaError(
        f"label_classes: expected a label that is a text, but {what}; the texts of the records are {texts}. Name one of them, or leave "
        "label_classes out."
    )


def _numbers(index: Index, name: str, names: list[str]) -> np.ndarray:
    """int64 `[records]`: the number of the class of each record."""
    known = {text.encode("utf-8", "surrogateescape"): number for number, text in enumerate(names)}
    if name in index.texts:
        table = np.array([known.get(str(text).encode("utf-8", "surrogateescape"), -1) for text in index.texts[name]], np.int64)
        numbers = table[index.codes(name)] if len(index) else np.zeros(0, np.int64)
        wrong = numbers < 0
        if wrong.any():
            row = int(wrong.argmax())
            raise _unknown(index, row, name, str(index.texts[name][index.codes(name)[row]]), names, int(wrong.sum()))
        return numbers
    numbers = np.zeros(len(index), np.int64)
    unknown: dict[int, bytes] = {}
    with Records(index) as records:
        for row in index.by_shard().tolist():
            text = records.text(row, name)
            number = known.get(text)
            if number is None:
                unknown[row] = text
            else:
                numbers[row] = number
    if unknown:
        row = min(unknown)
        raise _unknown(index, row, name, unknown[row].decode("utf-8", "surrogateescape"), names, len(unknown))
    return numbers


def _unknown(index: Index, row: int, name: str, text: str, names: list[str], count: int) -> DatasetError:
    nearest = difflib.get_close_matches(text, names, 3)
    listed = ", ".join(map(repr, names[:_MAX_NAMES])) + (f" and {len(names) - _MAX_NAMES:,} more" if len(names) > _MAX_NAMES else "")
    hint = f"the nearest are {', '.join(map(repr, nearest))}" if nearest else listed
    return DatasetError(
        f'{index.where(row)}: "{name}" is {shortened(repr(text), 80)}, none of the {len(names):,} label_classes ({hint}); so it is '
        f"in {count:,} of {len(index):,} records. Add the name, or leave these records out: vlpipe.open(...).select(...)."
    )


def _with_column(index: Index, numbered: Numbered, field: str, numbers: np.ndarray) -> Index:
    rows = np.empty(len(index), np.dtype([*index.rows.dtype.descr, (field, "<i8")]))
    for name in index.rows.dtype.names or ():
        rows[name] = index.rows[name]
    rows[field] = numbers
    name = numbered.label
    schema = Schema(**{key: Fixed((), "int64") if key == name else entry for key, entry in index.schema.fields.items()})
    metadata = {**index.metadata, CLASSES: list(numbered.classes)}
    if index.foreign is None:
        return replace(
            index,
            schema=schema,
            rows=rows,
            metadata={**metadata, "label": name},
            texts={key: values for key, values in index.texts.items() if key != name},
            written=index.written or (index.schema,) * len(index.shards),
            numbered=numbered,
        )
    return replace(index, schema=schema, rows=rows, metadata=metadata, foreign=replace(index.foreign, label=name), numbered=numbered)
