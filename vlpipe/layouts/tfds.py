"""Directories that TensorFlow Datasets prepared: features.json has the layout, dataset_info.json the files and their numbers of records.

The serialisation is that of tensorflow_datasets/core/example_serializer.py: each feature under its path (`a/b`), floats as a flat
FloatList, integers and truth values as an Int64List; a nested sequence as `KEY/ragged_flat_values` and `KEY/ragged_row_lengths_N`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from vlpipe.errors import SchemaError
from vlpipe.layouts.base import Field, Frames, Layout
from vlpipe.layouts.sidecar_features import UNREADABLE, Split, layout_of, part, ragged_rows, read_object

FEATURES_NAME, INFO_NAME = "features.json", "dataset_info.json"


def prepared(directory: str) -> Layout | None:
    """The layout of a prepared directory; None where there is no features.json.

    Raises:
        SchemaError: it is there and cannot be read, or none of its features is a sequence of frames.
    """
    path = os.path.join(directory, FEATURES_NAME)
    try:
        found = list(_features(read_object(path), "", ()))
    except FileNotFoundError:
        return None
    except UNREADABLE as error:
        raise SchemaError(
            f"{path}: cannot be read as the features of TensorFlow Datasets ({error!r}). Pass layout=..., or remove it."
        ) from error
    layout = layout_of("prepared", found, (_supervised(directory), "label"))
    if layout is None:
        raise SchemaError(
            f"{path}: none of its features is a sequence of frames that can be delivered (images and compressed recordings cannot). "
            "Pass layout=..., or write the records anew with vlpipe.Writer."
        )
    return layout


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


def _supervised(directory: str) -> str:
    """The key of what is to be learnt, as the dataset says; "" where it does not."""
    try:
        key = _info(directory)["supervisedKeys"]["tuple"]["items"][1]["featureKey"]
    except (KeyError, TypeError, IndexError):
        return ""
    return key if isinstance(key, str) else ""


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
        yield from _tensor(key, outer, _shape(document["tensor"]), document["tensor"]["dtype"])
    elif "audio" in document and not outer:
        yield from _audio(key, document["audio"])


def _shape(tensor: dict[str, Any]) -> tuple[int | None, ...]:
    return tuple(None if int(size) < 0 else int(size) for size in tensor.get("shape", {}).get("dimensions", []))


def _audio(key: str, audio: dict[str, Any]) -> Iterator[Frames]:
    """A recording (core/features/audio_feature.py): its samples, `[T]` as `[T, 1]`, or `[T, channels]`; with lazy decoding its file."""
    if audio.get("encoding", "none").lower() != "none":
        return
    if audio.get("lazyDecode"):
        yield Frames(key, "audio", (1,))
        return
    shape, rate = _shape(audio), int(audio.get("sampleRate", 0))
    entry = part(key, shape if len(shape) > 1 else (*shape, 1), audio.get("dtype", "int64"))
    if isinstance(entry, Frames):
        yield replace(entry, rate=rate if rate > 0 else None)


def _tensor(key: str, outer: tuple[int | None, ...], inner: tuple[int | None, ...], dtype: str) -> Iterator[Frames | Field]:
    shape = outer + inner
    entry = part(key, shape, dtype)
    if len(outer) > 1 and isinstance(entry, Frames):  # nested sequences are serialised as ragged rows
        return
    if len(outer) == 2 and shape == (None, None):
        entry = ragged_rows(key, f"{key}/ragged_flat_values", f"{key}/ragged_row_lengths_0", dtype)
    if entry is not None:
        yield entry
