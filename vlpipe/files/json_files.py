"""Read JSON that anyone may have written: never more than a limit, no key twice, and every failure is one kind of error."""

from __future__ import annotations

import json
from typing import Any

from vlpipe.files.filesystem import Path, read_file

# Small JSON values take up to 20 times their bytes in memory: a document of this size takes at most 0.7 GB.
MAX_JSON_BYTES = 1 << 25


def parse_json(content: bytes) -> Any:
    """Return the value of a JSON document in UTF-8.

    Raises:
        ValueError: it is not UTF-8, not JSON, nested too deeply, too long, or has a key twice in one object (readers differ in which of
            the two values they take).

    Example:
        >>> parse_json(b'{"a": 1, "a": 2}')
        Traceback (most recent call last):
        ValueError: the key 'a' occurs twice in one object
    """
    if len(content) > MAX_JSON_BYTES:
        raise ValueError(f"it has {len(content)} bytes, expected at most {MAX_JSON_BYTES}")
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json(path: Path) -> Any:
    """Return the value of a JSON file, at a path or an address.

    Raises:
        OSError: the file cannot be read, is not a regular file, or has more than `MAX_JSON_BYTES`.
        ValueError: as `parse_json`.
    """
    return parse_json(read_file(path, MAX_JSON_BYTES))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} occurs twice in one object")
    return result
