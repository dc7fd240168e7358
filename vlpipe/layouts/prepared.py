"""Directories that TensorFlow Datasets prepared: features.json has the layout, dataset_info.json the files and their numbers of records.

The serialisation is that of tensorflow_datasets/core/example_serializer.py: each feature under its path (`a/b`), floats as a flat
FloatList, integers and truth values as an Int64List; a nested sequence as `KEY/ragged_flat_values` and `KEY/ragged_row_lengths_N`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from vlpipe.errors import SchemaError
from vlpipe.layouts.base import Field, Frames, Layout, Listed, Number, Words

FEATURES_NAME, INFO_NAME = "features.json", "dataset_info.json"


def prepared(directory: str) -> Layout | None:
    """The layout of a prepared directory; None where there is no features.json.

    Raises:
        SchemaError: it is there and cannot be read, or none of its features is a sequence of frames of floats.
    """
    path = os.path.join(directory, FEATURES_NAME)
    if not os.path.exists(path):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            found = list(_features(json.load(file), "", ()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SchemaError(
            f"{path}: cannot be read as the features of TensorFlow Datasets ({error!r}). Pass layout=..., or remove it."
        ) from error
    frames = tuple(part for part in found if isinstance(part, Frames))
    if not frames:
        raise SchemaError(
            f"{path}: none of its features is a sequence of frames of floats that can be read in place (integers, encoded audio and images "
            "cannot). Pass layout=..., or write the records anew with vlpipe.Writer."
        )
    fields: tuple[Field, ...] = tuple(part for part in found if not isinstance(part, Frames))
    return Layout("prepared", frames, _label(directory, {field.key for field in fields}), fields, closed=True)


def shard_lengths(directory: str) -> dict[str, int]:
    """How many records each file of a prepared directory has, as far as its dataset_info.json says."""
    lengths: dict[str, int] = {}
    info = _info(directory)
    try:
        for split in info.get("splits", []):
            counts = [int(count) for count in split["shardLengths"]]
            template = split.get("filepathTemplate") or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
            for number, count in enumerate(counts):
                values = {"DATASET": info["name"], "SPLIT": split["name"], "FILEFORMAT": info.get("fileFormat", "tfrecord")}
                values["SHARD_X_OF_Y"] = f"{number:05d}-of-{len(counts):05d}"
                name = template
                for key, value in values.items():
                    name = name.replace(f"{{{key}}}", str(value))
                lengths[name] = count
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}  # written by another version: what it does not say is not compared
    return lengths


def _info(directory: str) -> dict[str, Any]:
    try:
        with open(os.path.join(directory, INFO_NAME), encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _label(directory: str, keys: set[str]) -> str | None:
    """What is supervised, as the dataset says; else a field that is called label."""
    try:
        items = _info(directory)["supervisedKeys"]["tuple"]["items"]
        key = items[1]["featureKey"]
    except (KeyError, TypeError, IndexError):
        key = "label"
    return key if key in keys else None


def _features(document: dict[str, Any], key: str, outer: tuple[int | None, ...]) -> Iterator[Frames | Field]:
    """The parts of a feature and of those in it; `outer` are the lengths of the sequences around it."""
    if "featuresDict" in document:
        for name, inner in document["featuresDict"]["features"].items():
            yield from _features(inner, f"{key}/{name}" if key else name, outer)
    elif "sequence" in document:
        length = int(document["sequence"].get("length", -1))
        yield from _features(document["sequence"]["feature"], key, (*outer, None if length < 0 else length))
    elif "classLabel" in document:
        yield from _tensor(key, outer, (), "int64")
    elif "text" in document:
        yield from [Words(key)] if not outer else []
    elif "tensor" in document and document["tensor"].get("encoding", "none") == "none":
        tensor = document["tensor"]
        shape = tuple(None if int(size) < 0 else int(size) for size in tensor.get("shape", {}).get("dimensions", []))
        yield from _tensor(key, outer, shape, tensor["dtype"])


def _tensor(key: str, outer: tuple[int | None, ...], inner: tuple[int | None, ...], dtype: str) -> Iterator[Frames | Field]:
    shape = outer + inner
    kind = "b" if dtype == "bool" else "S" if dtype == "string" else np.dtype(dtype).kind if dtype != "bfloat16" else "f"
    if kind == "S":
        yield from [Words(key)] if not shape else []
    elif None not in shape:
        size = tuple(int(length or 0) for length in shape)
        if kind == "f" and np.prod(size, dtype=np.int64) <= 4096:
            yield Number(key, "float32", size)
        elif kind in "iub" and not size:
            yield Number(key)
    elif kind in "iub" and shape == (None,):
        yield Listed(key)
    elif kind == "f" and shape[0] is None and None not in shape[1:] and len(outer) < 2:
        yield Frames(key, "floats", tuple(int(length or 0) for length in shape[1:]))
    elif kind == "f" and len(outer) == 2 and shape == (None, None):
        yield Frames(f"{key}/ragged_flat_values", "floats", None, count_key=f"{key}/ragged_row_lengths_0", count="row_lengths")
