"""Directories that TensorFlow Datasets prepared: features.json has the layout, dataset_info.json the files and their numbers of records.

The serialisation is that of tensorflow_datasets/core/example_serializer.py: each feature under its path (`a/b`), floats as a flat
FloatList, integers and truth values as an Int64List; a nested sequence as `KEY/ragged_flat_values` and `KEY/ragged_row_lengths_N`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from typing import Any

from vlpipe.errors import SchemaError
from vlpipe.layouts.base import Field, Frames, Layout
from vlpipe.layouts.described import UNREADABLE, Split, part, read_object

FEATURES_NAME, INFO_NAME = "features.json", "dataset_info.json"


def prepared(directory: str) -> Layout | None:
    """The layout of a prepared directory; None where there is no features.json.

    Raises:
        SchemaError: it is there and cannot be read, or none of its features is a sequence of frames.
    """
    path = os.path.join(directory, FEATURES_NAME)
    if not os.path.exists(path):
        return None
    try:
        found = list(_features(read_object(path), "", ()))
    except UNREADABLE as error:
        raise SchemaError(
            f"{path}: cannot be read as the features of TensorFlow Datasets ({error!r}). Pass layout=..., or remove it."
        ) from error
    frames = tuple(entry for entry in found if isinstance(entry, Frames))
    if not frames:
        raise SchemaError(
            f"{path}: none of its features is a sequence of frames that can be delivered (videos and compressed recordings cannot). "
            "Pass layout=..., or write the records anew with vlpipe.Writer."
        )
    fields: tuple[Field, ...] = tuple(entry for entry in found if not isinstance(entry, Frames))
    return Layout("prepared", frames, _label(directory, {field.key for field in fields}), fields, closed=True)


def splits(directory: str, names: Collection[str]) -> list[Split]:
    """The splits that a prepared directory has files of, as far as its dataset_info.json states them.

    Args:
        names: of everything in the directory.
    """
    info = _info(directory)
    found = []
    try:
        for split in info.get("splits", []):
            counts = _shard_lengths(info, split)
            files = tuple(name for name in counts if name in names)
            missing = sum(count > 0 for name, count in counts.items() if name not in names)
            if files:  # the others were not copied
                found.append(Split(str(split["name"]), INFO_NAME, files, missing, counts))
    except UNREADABLE:
        return []  # written by another version: what it does not say is not compared
    return found


def _shard_lengths(info: dict[str, Any], split: dict[str, Any]) -> dict[str, int]:
    """How many records each file of a split has."""
    counts = [int(count) for count in split["shardLengths"]]
    values = {"DATASET": info["name"], "SPLIT": split["name"], "FILEFORMAT": info.get("fileFormat", "tfrecord")}
    template = split.get("filepathTemplate") or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    for key, value in values.items():
        template = template.replace(f"{{{key}}}", str(value))
    return {template.replace("{SHARD_X_OF_Y}", f"{number:05d}-of-{len(counts):05d}"): count for number, count in enumerate(counts)}


def _info(directory: str) -> dict[str, Any]:
    try:
        return read_object(os.path.join(directory, INFO_NAME))
    except UNREADABLE:
        return {}


def _label(directory: str, keys: set[str]) -> str | None:
    """What is supervised, as the dataset says; else a field that is called label."""
    try:
        items = _info(directory)["supervisedKeys"]["tuple"]["items"]
        key = items[1]["featureKey"]
    except (KeyError, TypeError, IndexError):
        key = "label"
    return key if isinstance(key, str) and key in keys else None


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
        yield from _tensor(key, outer, (), "string")
    elif "tensor" in document and document["tensor"].get("encoding", "none") == "none":
        tensor = document["tensor"]
        shape = tuple(None if int(size) < 0 else int(size) for size in tensor.get("shape", {}).get("dimensions", []))
        yield from _tensor(key, outer, shape, tensor["dtype"])
    elif "audio" in document and not outer:
        yield from _audio(key, document["audio"])


def _audio(key: str, audio: dict[str, Any]) -> Iterator[Frames]:
    """A recording (core/features/audio_feature.py): its samples `[T]` or `[T, channels]`, or with lazy decoding the file as it was."""
    shape, dtype = [int(size) for size in audio.get("shape", {}).get("dimensions", ["-1"])], audio.get("dtype", "int64")
    if audio.get("encoding", "none") != "none" or shape[:1] != [-1] or min(shape[1:], default=1) < 1:
        return
    if audio.get("lazyDecode"):
        yield Frames(key, "audio", (1,))
    else:
        channels = tuple(shape[1:]) or (1,)
        yield Frames(key, "floats", channels) if dtype.startswith("float") else Frames(key, "integers", channels, dtype)


def _tensor(key: str, outer: tuple[int | None, ...], inner: tuple[int | None, ...], dtype: str) -> Iterator[Frames | Field]:
    shape = outer + inner
    entry = part(key, shape, dtype)
    if len(outer) > 1 and isinstance(entry, Frames):  # nested sequences are serialised as ragged rows
        return
    if len(outer) == 2 and shape == (None, None) and isinstance(part(key, (None,), dtype), Frames):
        entry = Frames(f"{key}/ragged_flat_values", "floats", None, count_key=f"{key}/ragged_row_lengths_0", count="row_lengths")
    if entry is not None:
        yield entry
