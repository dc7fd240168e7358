"""Directories prepared by TensorFlow Datasets: the layout in features.json, the files and their record counts in dataset_info.json.

tensorflow_datasets/core/example_serializer.py serialises each feature under its path (`a/b`): floats as a flat FloatList, integers and
booleans as an Int64List, a nested sequence as `KEY/ragged_flat_values` and `KEY/ragged_row_lengths_N`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from vlpipe.errors import SchemaError
from vlpipe.layouts.base import Frames, Layout, LayoutField
from vlpipe.layouts.sidecar_features import UNREADABLE, Split, complete_layout, layout_part, ragged_rows, read_object

FEATURES_NAME, INFO_NAME = "features.json", "dataset_info.json"


def read_layout(directory: str) -> Layout | None:
    """Return the layout of a directory; None if it has no features.json.

    Raises:
        SchemaError: features.json cannot be read, or no feature is a sequence of frames.
    """
    path = os.path.join(directory, FEATURES_NAME)
    try:
        parts = list(_features(read_object(path), "", ()))
    except FileNotFoundError:
        return None
    except UNREADABLE as error:
        raise SchemaError(
            f"{path}: cannot be read as the features of TensorFlow Datasets ({error!r}). Pass layout=..., or remove the file."
        ) from error
    layout = complete_layout("prepared", parts, (_supervised_key(directory), "label"))  # the name is part of the digest
    if layout is None:
        raise SchemaError(
            f"{path}: none of the features is a sequence of frames that can be delivered; images and compressed recordings cannot. Pass "
            "layout=..., or rewrite the records with vlpipe.Writer."
        )
    return layout


def splits(directory: str, names: Collection[str]) -> list[Split]:
    """Return the splits with files in a directory, as dataset_info.json specifies them.

    Args:
        directory: the directory.
        names: the names of all its entries.
    """
    info = _info(directory)
    result = []
    try:
        for split in info.get("splits", []):
            counts = _shard_lengths(info, split)
            files = tuple(name for name in counts if name in names)
            missing = sum(count > 0 for name, count in counts.items() if name not in names)
            if files:  # splits without files were not copied
                result.append(Split(str(split["name"]), INFO_NAME, files, missing, counts))
    except UNREADABLE:
        return []  # written by another version; record counts are not compared
    return result


def _shard_lengths(info: dict[str, Any], split: dict[str, Any]) -> dict[str, int]:
    """Return the number of records of each file of a split."""
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


def _supervised_key(directory: str) -> str:
    """Return the key of the target in dataset_info.json, "" if it does not specify one."""
    try:
        key = _info(directory)["supervisedKeys"]["tuple"]["items"][1]["featureKey"]
    except (KeyError, TypeError, IndexError):
        return ""
    return key if isinstance(key, str) else ""


def _features(document: dict[str, Any], key: str, outer: tuple[int | None, ...]) -> Iterator[Frames | LayoutField]:
    """Yield the parts of a feature and of its nested features.

    Args:
        document: the feature, as JSON values.
        key: its path.
        outer: the lengths of the enclosing sequences.
    """
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
        yield from _tensor(key, outer, _shape(document["tensor"]), document["tensor"]["dtype"])
    elif "audio" in document and not outer:
        yield from _audio(key, document["audio"])


def _shape(tensor: dict[str, Any]) -> tuple[int | None, ...]:
    return tuple(None if int(size) < 0 else int(size) for size in tensor.get("shape", {}).get("dimensions", []))


def _audio(key: str, audio: dict[str, Any]) -> Iterator[Frames]:
    """Yield the part of a recording (core/features/audio_feature.py).

    Mono samples `[T]` become `[T, 1]`, others are `[T, channels]`; with lazy decoding, the records hold the audio file.
    """
    if audio.get("encoding", "none").lower() != "none":
        return
    if audio.get("lazyDecode"):
        yield Frames(key, "audio", (1,))
        return
    shape, rate = _shape(audio), int(audio.get("sampleRate", 0))
    entry = layout_part(key, shape if len(shape) > 1 else (*shape, 1), audio.get("dtype", "int64"))
    if isinstance(entry, Frames):
        yield replace(entry, rate=rate if rate > 0 else None)


def _tensor(key: str, outer: tuple[int | None, ...], inner: tuple[int | None, ...], dtype: str) -> Iterator[Frames | LayoutField]:
    shape = outer + inner
    entry = layout_part(key, shape, dtype)
    if len(outer) > 1 and isinstance(entry, Frames):  # nested sequences are serialised as ragged rows
        return
    if len(outer) == 2 and shape == (None, None):
        entry = ragged_rows(key, f"{key}/ragged_flat_values", f"{key}/ragged_row_lengths_0", dtype)
    if entry is not None:
        yield entry
