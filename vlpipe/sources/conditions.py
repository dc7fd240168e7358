"""Which records a condition selects: `where` of `RecordSet.select`, and --where of the command line."""

from __future__ import annotations

import csv
import difflib
import logging
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vlpipe.errors import ArgumentError
from vlpipe.sources.classes import class_names, is_class_label, named_label
from vlpipe.sources.table import Table, UnknownColumnError, described, listed
from vlpipe.storage.index import Index

Where = Mapping[str, Any] | Callable[[Mapping[str, np.ndarray]], Any]

_ORDERS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_MAX_NEAREST = 10_000  # values among which similar ones are sought: 0.2 s
_log = logging.getLogger("vlpipe")
_TEXT = re.compile(r"(.+?)\s*(!=|>=|<=|=|>|<)\s*(.*)", re.DOTALL)


def matching(index: Index, table: Table, where: Where) -> np.ndarray:
    """bool `[records]`: the records that match a condition.

    Args:
        where: for each column its value, a list of values, or for numbers the least and the greatest as a tuple (None: no limit); or a
            function from the table to bool `[records]`. {} is no condition.

    Raises:
        ArgumentError: a column, a class or a text is unknown, a value does not fit its column, or the function returns something else.
    """
    if callable(where):
        try:
            mask = np.asarray(where(table))
        except UnknownColumnError as error:
            table.check("where", error.args[0])
            raise
        if mask.dtype != bool or mask.shape != (len(index),):
            raise ArgumentError(f"where: the function returned {mask.dtype} {list(mask.shape)}, expected bool [{len(index)}].")
        return mask
    if not isinstance(where, Mapping):
        raise ArgumentError(f'where: came as {where!r}, expected a dict such as {{"speaker": ["ann", "bob"]}}, or a function of the table.')
    for name in where:
        table.check("where", name)
    masks = [_matching(index, table, name, wanted) for name, wanted in where.items()]
    return np.logical_and.reduce([np.ones(len(index), bool), *masks])


def what_there_is(table: Table, where: Where) -> str:
    """What the columns of a condition hold, for an error."""
    names = list(where) if isinstance(where, Mapping) else getattr(where, "columns", [])
    return "; ".join(f'"{name}" has {described(table[name])}' for name in names) or f"there are {len(table['id']):,} records"


def in_words(where: Where | None = None, rows: Any = None, fraction: float | None = None, without: Any = None) -> str:
    """A selection for people, by the arguments of `RecordSet.select`: "speaker=ann,bob frames>=100, a fraction of 0.1"."""
    if isinstance(where, Mapping):
        condition = " ".join(f"{name}{_in_words(wanted)}" for name, wanted in where.items())
    else:
        condition = repr(where) if isinstance(where, _Order) else "by a function"
    parts = {
        condition: where is not None and where != {},
        "rows": rows is not None,
        "not damaged": without is not None,
        f"a fraction of {fraction}": fraction is not None,
    }
    return ", ".join(text for text, is_there in parts.items() if is_there)


def _in_words(wanted: Any) -> str:
    if isinstance(wanted, _Written):
        return f"{'!=' if wanted.negated else '='}{listed(wanted.texts)}"
    if isinstance(wanted, tuple) and len(wanted) == 2:
        low, high = wanted
        return f">={low}" if high is None else f"<={high}" if low is None else f" {low} to {high}"
    return f"={listed(wanted) if isinstance(wanted, (list, tuple, set, frozenset, range, np.ndarray)) else wanted}"


def parse(text: str) -> Where:
    """A condition of the command line: `speaker=ann,bob`, `speaker="a,b",c`, `label!=3` or `frames>=100`.

    Values are written as in a line of CSV: one with a comma, and the empty text, in quotes.

    Raises:
        ArgumentError: the text is not of this form.
    """
    match = _TEXT.fullmatch(text)
    if match is None or not match[3]:
        raise ArgumentError(f"--where: came as {text!r}, expected COLUMN=VALUE,... or COLUMN!=VALUE,... or COLUMN>=NUMBER (also <=, >, <).")
    name, sign, value = match.groups()
    if sign in _ORDERS:
        return _Order(text, name, sign, value)
    try:
        (texts,) = csv.reader([value], strict=True)
    except (csv.Error, ValueError):  # a quote that does not end; a line break outside quotes
        raise ArgumentError(
            f'--where: the values in {text!r} are no line of CSV. Write a value with a comma or a quote as "a,b" or "say ""a""".'
        ) from None
    return {name: _Written(texts, negated=sign == "!=")}


class _Written:
    """Values as the user wrote them on the command line: their type is that of the column."""

    def __init__(self, texts: list[str], *, negated: bool) -> None:
        self.texts, self.negated = texts, negated

    def __repr__(self) -> str:
        return ("not " if self.negated else "") + ",".join(self.texts)


class _Order:
    """A condition such as `frames>=100`."""

    def __init__(self, text: str, name: str, sign: str, value: str) -> None:
        self._text, self._name, self._compare = text, name, _ORDERS[sign]
        try:
            self._limit = int(value) if re.fullmatch(r"[+-]?\d+", value) else float(value)
        except ValueError:
            raise ArgumentError(f"--where: {value!r} in {text!r} is not a number, which < and > compare with.") from None
        self.columns = [name]

    def __repr__(self) -> str:
        return self._text

    def __call__(self, table: Mapping[str, np.ndarray]) -> np.ndarray:
        values = table[table.check("--where", self._name) if isinstance(table, Table) else self._name]
        if values.dtype.kind not in "iuf":
            raise ArgumentError(f'--where: "{self._name}" in {self._text!r} is a text, which has no order here; use = or !=.')
        return np.asarray(self._compare(values, self._limit))


def _matching(index: Index, table: Table, name: str, wanted: Any) -> np.ndarray:
    field = table.fields().get(name, "")
    if isinstance(wanted, _Written):
        found = _matching(index, table, name, [_typed(index, table, name, text) for text in wanted.texts])
        return ~found if wanted.negated else found
    several = isinstance(wanted, (list, tuple, set, frozenset, range)) or (isinstance(wanted, np.ndarray) and wanted.ndim == 1)
    values = list(wanted) if several else [wanted]
    if field in index.texts:
        _check_texts(name, values)
        _check_known(name, values, index.texts[field].tolist())
        return np.isin(index.texts[field], np.array(values, object))[index.codes(field)]
    column = table[name]
    if column.dtype.kind == "O":
        _check_texts(name, values)
        if index.taken is None:
            _check_known(name, values, column.tolist())
        elif not (there := set(column)) >= set(values):  # the texts of the records that were not selected are not known
            _log.warning('where: "%s" has no %s in this selection', name, listed(value for value in values if value not in there))
        return np.fromiter(map(set(values).__contains__, column), bool, len(column))
    if any(isinstance(value, str) for value in values):
        values = _class_numbers(index, name, field, values)
    elif isinstance(wanted, tuple):
        return _between(name, column, wanted)
    if not all(isinstance(value, (bool, int, float, np.number, np.bool_)) for value in values):
        raise ArgumentError(f'where: "{name}" is {column.dtype}, but the condition has {listed(map(repr, values))}; expected numbers.')
    if field and not isinstance(wanted, range) and is_class_label(index, field):
        names = class_names(index.metadata) if field == named_label(index) else None
        _check_known(name, values, [*range(len(names or ())), *np.unique(Table(index.whole)[name]).tolist()])
    return np.isin(column, np.array(values, column.dtype if column.dtype.kind == "f" else None))


def _check_texts(name: str, values: list[Any]) -> None:
    if not all(isinstance(value, str) for value in values):
        raise ArgumentError(f'where: "{name}" is a text, but the condition has {listed(map(repr, values))}; expected one text or a list.')


def _check_known(name: str, values: list[Any], known: list[Any]) -> None:
    """Refuse values that no record of the dataset has.

    Args:
        known: all that there are.

    Raises:
        ArgumentError: there is such a value; the message has those that are written alike.
    """
    there = set(known)
    unknown = [value for value in values if value not in there]
    if unknown:
        raise ArgumentError(
            f'where: "{name}" has no {listed(map(repr, unknown))}{nearest(unknown[0], there)}; it has {listed(sorted(there))}. Leave out '
            "what is not there."
        )


def nearest(value: Any, known: set[Any]) -> str:
    """The values written like another one, for an error."""
    if not isinstance(value, str) or len(known) > _MAX_NEAREST:
        return ""
    nearest = difflib.get_close_matches(value, sorted(known), 3)
    return f" (did you mean {' or '.join(map(repr, nearest))}?)" if nearest else ""


def _between(name: str, column: np.ndarray, limits: tuple[Any, ...]) -> np.ndarray:
    numbers = (int, float, np.integer, np.floating)
    if len(limits) != 2 or any(limit is not None and (isinstance(limit, bool) or not isinstance(limit, numbers)) for limit in limits):
        raise ArgumentError(
            f'where: "{name}" has the tuple {limits!r}, expected (least, greatest) as numbers or None. For values pass a list.'
        )
    low, high = limits
    inside = np.ones(len(column), bool) if low is None else column >= low
    return inside if high is None else inside & (column <= high)


def _class_numbers(index: Index, name: str, field: str, values: list[Any]) -> list[Any]:
    """The values with the numbers of classes in place of their names."""
    names = class_names(index.metadata)
    if names is None or field != named_label(index):
        raise ArgumentError(f'where: "{name}" holds numbers without names, but the condition has {listed(map(repr, values))}.')
    numbers = {entry: number for number, entry in enumerate(names)}
    unknown = [value for value in values if isinstance(value, str) and value not in numbers]
    if unknown:
        raise ArgumentError(
            f'where: "{name}" has no class {listed(unknown)}{nearest(unknown[0], set(names))}; its classes are {listed(names)}.'
        )
    return [numbers.get(value, value) for value in values]


def _typed(index: Index, table: Table, name: str, text: str) -> Any:
    """A value of the command line in the type of its column; a class by its name or its number."""
    field = table.fields().get(name, "")
    is_text = field in index.texts or table[name].dtype.kind == "O"
    if is_text or (field == named_label(index) and text in (class_names(index.metadata) or ())):
        return text
    try:
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
    except ValueError:
        return text
