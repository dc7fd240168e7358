"""What the sidecars of other libraries have in common: features of a stated shape and dtype, and splits of stated files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vlpipe.layouts.base import Field, Frames, Listed, Number, Words
from vlpipe.layouts.resolve import MOST_NUMBERS
from vlpipe.schema import SEQUENCE_DTYPES

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
    with open(path, encoding="utf-8") as file:
        found = json.load(file)
    if not isinstance(found, dict):
        raise ValueError(f"found {type(found).__name__}, expected an object")
    return found


def part(key: str, shape: tuple[int | None, ...], dtype: str) -> Frames | Field | None:
    """A feature as it can be delivered, which stands under its key as one list of its values; None where it cannot.

    Args:
        shape: None for an axis whose size differs between records.
        dtype: as TensorFlow calls it. A FloatList has float32, whatever it was made of.
    """
    kind, sizes = _kind(dtype), tuple(size for size in shape if size is not None)
    if not key.isprintable() or not key or 0 in sizes:
        return None
    if kind == "string":
        return None if shape else Words(key)
    if len(sizes) == len(shape):
        if kind == "floats" and np.prod(sizes, dtype=np.float64) <= MOST_NUMBERS:
            return Number(key, "float32", sizes)
        return Number(key) if kind == "integers" and not shape else None
    if shape == (None,) and kind == "integers":
        return Listed(key)
    if shape != (None, *sizes) or kind not in ("floats", "integers"):
        return None
    if kind == "floats":
        return Frames(key, "floats", sizes)
    return Frames(key, "integers", sizes, dtype=dtype if dtype in SEQUENCE_DTYPES else "int64")


def _kind(dtype: str) -> str:
    if re.fullmatch(r"b?float\d+", dtype):
        return "floats"
    return "integers" if re.fullmatch(r"u?int\d+|bool", dtype) else dtype
