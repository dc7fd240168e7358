"""Texts in the index: a text field of few different values is a column of codes, so that records can be selected by it without being read.

The codes are positions in the ascending list of the values, in `vlpipe.json` under "texts", or in `texts.json` beside it where the lists
are long. A field of more values than `MAX_VALUES`, which a code of 16 bits can number, has no column.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import google_crc32c
import numpy as np

from vlpipe.files.json_files import parse_json
from vlpipe.storage.field_access import column
from vlpipe.storage.schema import Schema, Text

TEXTS_NAME = "texts.json"
MAX_VALUES = 1 << 16
MAX_BYTES = 1 << 16  # of the lists in vlpipe.json, which people read

TextValues = dict[str, list[str] | None]  # the values of each text field, by code; None: too many


class TextCodes:
    """The codes of the values of a field, in the order in which they appear."""

    def __init__(self) -> None:
        self._codes: dict[bytes, int] | None = {}

    def code(self, text: bytes) -> int:
        """The code of a value; 0 once there are too many values."""
        if self._codes is None:
            return 0
        code = self._codes.setdefault(text, len(self._codes))
        if code < MAX_VALUES:
            return code
        self._codes = None
        return 0

    def values(self) -> list[str] | None:
        """The values by code; None: too many."""
        return None if self._codes is None else [text.decode("utf-8") for text in self._codes]


def text_fields(schema: Schema) -> list[str]:
    """The names of the texts of a schema."""
    return [name for name, field in schema.fields.items() if isinstance(field, Text)]


def merged_values(parts: Sequence[Sequence[str] | np.ndarray | None]) -> tuple[list[str] | None, list[np.ndarray]]:
    """The values of a field in several parts of a dataset, in ascending order, and for each part the code of each of its values.

    Args:
        parts: the values of each part, by code; None: too many.

    Returns:
        The values, None where they are too many; and uint16 `[values of the part]` for each part.
    """
    known = [part for part in parts if part is not None]
    values = sorted({value for part in known for value in part}) if len(known) == len(parts) else None
    if values is None or len(values) > MAX_VALUES:
        return None, []
    position = {value: code for code, value in enumerate(values)}
    return values, [np.array([position[value] for value in part], np.uint16) for part in known]


def with_columns(rows: np.ndarray, schema: Schema, values: TextValues, dtype: np.dtype) -> tuple[np.ndarray, dict[str, list[str]]]:
    """The rows with the codes of ascending values, without the columns of fields that have too many; and these values.

    Args:
        rows: with a column of codes for each text field.
        values: of each text field, by code.
        dtype: of the result.
    """
    kept: dict[str, list[str]] = {}
    result = rows if rows.dtype == dtype else np.empty(len(rows), dtype)
    for name in dtype.names or ():
        if result is not rows:
            result[name] = rows[name]
    for name in text_fields(schema):
        ascending, (codes, *_) = merged_values([values[name]]) if values[name] is not None else (None, (None,))
        if ascending is not None and codes is not None:
            kept[name] = ascending
            if len(rows):
                result[column(schema, "code", name)] = codes[rows[column(schema, "code", name)]]
    return result, kept


def to_documents(values: dict[str, list[str]]) -> tuple[dict[str, Any], bytes | None]:
    """The entries of `vlpipe.json` for these values, and the content of `texts.json` if they are in there."""
    if not values:
        return {}, None
    content = json.dumps(values, ensure_ascii=False).encode("utf-8")
    if len(content) <= MAX_BYTES:
        return {"texts": values}, None
    return {"texts_file": {"name": TEXTS_NAME, "digest": _digest(content)}}, content


def file_of(document: dict[str, Any]) -> str | None:
    """The digest of `texts.json`; None where a `vlpipe.json` refers to none.

    Raises:
        ValueError: the entry is not as `to_documents` makes it.
    """
    entry = document.get("texts_file")
    if entry is None:
        return None
    if not isinstance(entry, dict) or entry.get("name") != TEXTS_NAME or not isinstance(entry.get("digest"), str):
        raise ValueError(f'"texts_file" is {entry!r:.100}, expected the name {TEXTS_NAME} and its digest')
    return str(entry["digest"])


def parse_file(content: bytes, digest: str) -> Any:
    """The content of `texts.json`.

    Raises:
        ValueError: it has another digest, or is not JSON.
    """
    if _digest(content) != digest:
        raise ValueError(f"its digest is {_digest(content)}, vlpipe.json says {digest}")
    return parse_json(content)


def read_values(schema: Schema, entries: Any) -> dict[str, np.ndarray]:
    """str `[values]` (object) of each text field that has a column, from its JSON.

    Raises:
        ValueError: the entries are not as `to_documents` makes them.
    """
    if not isinstance(entries, dict):
        raise ValueError(f'"texts" is {type(entries).__name__}, expected an object')
    for name, values in entries.items():
        if name not in text_fields(schema):
            raise ValueError(f'"texts" has {name!r}, which is not a text of the schema')
        is_list = isinstance(values, list) and all(isinstance(value, str) for value in values)
        if not is_list or len(values) > MAX_VALUES or len(set(values)) < len(values):
            raise ValueError(f'the values of the text "{name}" are not a list of at most {MAX_VALUES} different texts')
    return {name: as_objects(values) for name, values in entries.items()}


def as_objects(values: Iterable[str]) -> np.ndarray:
    """An array of Python strings, which have no longest length."""
    listed = list(values)
    array = np.empty(len(listed), object)
    array[:] = listed
    return array


def _digest(content: bytes) -> str:
    return f"crc32c:{google_crc32c.value(content):08x}"
