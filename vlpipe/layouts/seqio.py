"""Tasks cached by SeqIO: features in `info.SPLIT.json`, number of examples in `stats.SPLIT.json`, records in `SPLIT.tfrecord-I-of-N`.

In github.com/google/seqio, `GetInfo` and `GetStats` of beam_utils.py write the sidecars, `dict_to_tfexample` of utils.py writes the
records, and `_CachedDataSource` of dataset_providers.py reads them. Each feature is stored under its key as a list of values: floats of
any precision as a FloatList, integers and booleans as an Int64List. The row lengths of a ragged feature are stored under `_rl:0:KEY`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from typing import Any

from vlpipe.errors import SchemaError
from vlpipe.layouts.base import Frames, Layout, LayoutField
from vlpipe.layouts.sidecar_features import UNREADABLE, Split, complete_layout, layout_part, ragged_rows, read_object

_FILE = re.compile(r"(.+)\.tfrecord-\d+-of-(\d+)")
LABELS = ("targets", "label")  # the usual keys of targets; the first one that exists is the label


def info_name(split: str) -> str:
    """Return the name of the sidecar with the features of a split."""
    return f"info.{split}.json"


def split_of(name: str) -> str | None:
    """Return the split of a cached file by its name; None if the name has another form."""
    match = _FILE.fullmatch(name)
    return match[1] if match else None


def read_layout(directory: str, split: str) -> Layout | None:
    """Return the layout of a split; None if info.SPLIT.json does not exist or has no features, as for a split without examples.

    Raises:
        SchemaError: info.SPLIT.json cannot be read, or no feature is a sequence of frames.
    """
    path = os.path.join(directory, info_name(split))
    try:
        features = read_object(path).get("features")
        parts = list(_parts(features)) if features else []
    except FileNotFoundError:
        return None
    except UNREADABLE as error:
        raise SchemaError(
            f"{path}: cannot be read as the features of a SeqIO task ({error!r}). Pass layout=..., or remove the file."
        ) from error
    if not features:
        return None
    layout = complete_layout("seqio", parts, LABELS)
    if layout is None:
        raise SchemaError(
            f"{path}: none of the features {sorted(features)} is a numeric sequence of frames, [T] or [T, d]. Pass layout=..., or rewrite "
            "the records with vlpipe.Writer."
        )
    return layout


def splits(directory: str, names: Collection[str]) -> list[Split]:
    """Return the splits with files in a directory, as info.SPLIT.json and stats.SPLIT.json specify them.

    Args:
        directory: the directory.
        names: the names of all its entries.
    """
    shards: dict[str, list[str]] = {}
    for name in sorted(names):
        split = split_of(name)
        if split is not None and info_name(split) in names:
            shards.setdefault(split, []).append(name)
    return [_split(directory, split, files) for split, files in shards.items()]


def _split(directory: str, name: str, shards: list[str]) -> Split:
    """Return a split with these files; files with another total number are left over from an earlier run and ignored."""
    count = _number(os.path.join(directory, info_name(name)), "num_shards", 1)
    files = tuple(shard for shard in shards if count is None or int(shard.rpartition("-of-")[2]) == count)
    records = _number(os.path.join(directory, f"stats.{name}.json"), "examples", 0)
    return Split(name, info_name(name), files, (count or len(files)) - len(files), records=records)


def _number(path: str, key: str, least: int) -> int | None:
    """Return a number of a sidecar; None, which is not compared, if the sidecar does not contain it."""
    try:
        number = read_object(path).get(key)
    except UNREADABLE:
        return None
    return number if type(number) is int and number >= least else None


def _parts(features: dict[str, Any]) -> Iterator[Frames | LayoutField]:
    """Yield the parts of the features that can be delivered. Shape [None, None] is a ragged feature."""
    for key, feature in sorted(features.items()):
        shape, dtype = feature["shape"], feature["dtype"]
        is_shape = isinstance(shape, list) and all(size is None or (type(size) is int and size >= 0) for size in shape)
        if not is_shape or not isinstance(dtype, str):
            raise ValueError(f"{key!r} has shape {shape!r} and dtype {dtype!r}")
        entry = layout_part(key, tuple(shape), dtype)
        if shape == [None, None]:
            entry = ragged_rows(key, key, f"_rl:0:{key}", dtype)
        if entry is not None:
            yield entry
