"""The common part of the sidecars of other libraries: features with shape and dtype, and splits with their files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vlpipe.files.json_files import read_json
from vlpipe.layouts.base import Frames, Layout, LayoutField, Listed, Number, Words
from vlpipe.layouts.deliverable import MAX_NUMBERS
from vlpipe.storage.schema import SEQUENCE_DTYPES

# Raised by json.load, and when its result does not have the expected structure; 1e999 is read as infinity, which is not an integer.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)


@dataclass(frozen=True)
class Split:
    """A split of a directory, as a sidecar specifies it.

    Attributes:
        name: the name of the split.
        sidecar: the name of the sidecar.
        files: the names of the existing files of the split.
        missing: the number of missing files.
        counts: the number of records of each file, if specified.
        records: the number of records of all files together; None: not specified.
    """

    name: str
    sidecar: str
    files: tuple[str, ...]
    missing: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    records: int | None = None


def read_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        OSError, ValueError: the file cannot be read, or does not contain a JSON object.
    """
    document = read_json(path)
    if not isinstance(document, dict):
        raise ValueError(f"found {type(document).__name__}, expected a JSON object")
    return document


def layout_part(key: str, shape: tuple[int | None, ...], dtype: str) -> Frames | LayoutField | None:
    """Return the layout part of a feature that is stored as one list of values; None if it cannot be delivered.

    Args:
        key: the key of the feature.
        shape: the shape, with None for an axis whose size differs between records.
        dtype: the TensorFlow name of the dtype. Floats of any dtype are stored as a FloatList of float32; an Int64List is parsed.
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
    """Return the layout part of a ragged feature of floats, None for other dtypes. All rows must have the same length.

    Args:
        key: the name of the feature.
        flat: the key of its values.
        lengths: the key of its row lengths.
        dtype: the TensorFlow name of the dtype.
    """
    is_supported = key.isprintable() and key and _kind(dtype) == "floats"
    return Frames(flat, "floats", None, count_key=lengths, count="row_lengths") if is_supported else None


def complete_layout(name: str, parts: list[Frames | LayoutField], labels: tuple[str, ...]) -> Layout | None:
    """Return the complete layout of some parts; None if no part is a sequence of frames.

    Lists of integers are stored in the index, like labels. If there are no other sequences, one of them (token ids, for example) becomes
    the frames.

    Args:
        name: the name of the layout.
        parts: the parts of all features.
        labels: the usual keys of labels; the first one among the parts is the label.
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
