"""What the sidecars of other libraries have in common: features of a stated shape and dtype, and splits of stated files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vlpipe.files.filesystem import open_file
from vlpipe.layouts.base import Field, Frames, Layout, Listed, Number, Words
from vlpipe.layouts.resolve import MAX_NUMBERS
from vlpipe.storage.schema import SEQUENCE_DTYPES

# What json.load and the look at what it gave raise where a file is not what it should be; 1e999 is an infinity that is no integer.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)


@dataclass(frozen=True)
class Split:
    """A split of a directory, as a sidecar states it.

    Attributes:
        name: of the split.
        sidecar: name of the file that states it.
        files: names of its files that are there.
        missing: how many more it should have.
        counts: how many records each file has, as far as that is stated.
        records: how many records all its files have together; None: not stated.
    """

    name: str
    sidecar: str
    files: tuple[str, ...]
    missing: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    records: int | None = None


def read_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        OSError, ValueError, RecursionError: there is none.
    """
    with open_file(path) as file:
        found = json.loads(file.read().decode("utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"found {type(found).__name__}, expected an object")
    return found


def part(key: str, shape: tuple[int | None, ...], dtype: str) -> Frames | Field | None:
    """A feature as it can be delivered, which stands under its key as one list of its values; None where it cannot.

    Args:
        shape: None for an axis whose size differs between records.
        dtype: as TensorFlow calls it. A FloatList has float32, whatever it was made of; an Int64List is parsed.
    """
    kind, sizes = _kind(dtype), tuple(size for size in shape if size is not None)
    if not key.isprintable() or not key or 0 in sizes:
        return None
    if kind == "string":
        return None if shape else Words(key)
    if len(sizes) == len(shape):
        if kind == "floats" and np.prod(sizes, dtype=np.float64) <= MAX_NUMBERS:
            return Number(key, "float32", sizes)
        return Number(key) if kind == "integers" and not shape else None
    if shape != (None, *sizes):
        return None
    if kind == "integers":
        return Frames(key, "integers", sizes, dtype if dtype in SEQUENCE_DTYPES else "int64")
    return Frames(key, "floats", sizes) if kind == "floats" else None


def ragged_rows(key: str, flat: str, lengths: str, dtype: str) -> Frames | None:
    """A ragged feature of floats, whose values and the lengths of whose rows stand under keys of their own; all rows need one length."""
    is_known = key.isprintable() and key and _kind(dtype) == "floats"
    return Frames(flat, "floats", None, count_key=lengths, count="row_lengths") if is_known else None


def layout_of(name: str, parts: list[Frames | Field], labels: tuple[str, ...]) -> Layout | None:
    """The complete layout of described parts; None where none of them can be frames.

    Lists of integers stand in the index, as labels do; only where there are no other frames, one is what buckets: token ids, say.

    Args:
        name: of the layout.
        labels: keys of what is to be learnt; the first that is there is the label.
    """
    frames = [entry for entry in parts if isinstance(entry, Frames)]
    tokens = [entry for entry in frames if entry.form == "integers" and not entry.shape]
    frames = [entry for entry in frames if entry not in tokens] or sorted(tokens, key=lambda entry: entry.key in labels)[:1]
    fields = [Listed(entry.key) if isinstance(entry, Frames) else entry for entry in parts if entry not in frames]
    keys = [entry.key for entry in fields]
    label = next((label for label in labels if label in keys), None)
    return Layout(name, tuple(frames), label, tuple(fields), closed=True) if frames else None


def _kind(dtype: str) -> str:
    if re.fullmatch(r"b?float\d+", dtype):
        return "floats"
    return "integers" if re.fullmatch(r"u?int\d+|bool", dtype) else dtype
