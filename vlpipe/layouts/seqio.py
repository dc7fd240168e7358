"""Tasks that SeqIO cached: `info.SPLIT.json` has the features, `stats.SPLIT.json` how many examples, `SPLIT.tfrecord-I-of-N` the records.

github.com/google/seqio: `GetInfo` and `GetStats` of beam_utils.py write the two, `dict_to_tfexample` of utils.py the records, and
`_CachedDataSource` of dataset_providers.py reads them. Each feature stands under its key as the list of its values, floats of any
precision as a FloatList, integers and truth values as an Int64List; the lengths of the rows of a ragged one under `_rl:0:KEY`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from typing import Any

from vlpipe.errors import SchemaError
from vlpipe.layouts.base import Field, Frames, Layout
from vlpipe.layouts.sidecar_features import UNREADABLE, Split, layout_of, part, ragged_rows, read_object

_FILE = re.compile(r"(.+)\.tfrecord-\d+-of-(\d+)")
LABELS = ("targets", "label")  # what a task calls what is to be learnt; the first that is there


def info_name(split: str) -> str:
    """Name of the file with the features of a split."""
    return f"info.{split}.json"


def split_of(name: str) -> str | None:
    """The split of a file, which its name says; None where that is no name of a cached file."""
    found = _FILE.fullmatch(name)
    return found[1] if found else None


def cached(directory: str, split: str) -> Layout | None:
    """The layout of a split; None where there is no info.SPLIT.json, or where it says nothing, as that of a split without examples.

    Raises:
        SchemaError: it is there and cannot be read, or none of its features is a sequence of frames.
    """
    path = os.path.join(directory, info_name(split))
    try:
        features = read_object(path).get("features")
        parts = list(_parts(features)) if features else []
    except FileNotFoundError:
        return None
    except UNREADABLE as error:
        raise SchemaError(f"{path}: cannot be read as the features of a SeqIO task ({error!r}). Pass layout=..., or remove it.") from error
    if not features:
        return None
    layout = layout_of("seqio", parts, LABELS)
    if layout is None:
        raise SchemaError(
            f"{path}: of its features {sorted(features)} none is a sequence of frames of numbers, [T] or [T, d]. Pass layout=..., or write "
            "the records anew with vlpipe.Writer."
        )
    return layout


def splits(directory: str, names: Collection[str]) -> list[Split]:
    """The splits that a directory has files of, as far as its info.SPLIT.json and stats.SPLIT.json state them.

    Args:
        names: of everything in the directory.
    """
    shards: dict[str, list[str]] = {}
    for name in sorted(names):
        split = split_of(name)
        if split is not None and info_name(split) in names:
            shards.setdefault(split, []).append(name)
    return [_split(directory, split, files) for split, files in shards.items()]


def _split(directory: str, name: str, shards: list[str]) -> Split:
    """A split of which these files are there; those of another number of files are left over from another time."""
    count = _number(os.path.join(directory, info_name(name)), "num_shards", 1)
    files = tuple(shard for shard in shards if count is None or int(shard.rpartition("-of-")[2]) == count)
    records = _number(os.path.join(directory, f"stats.{name}.json"), "examples", 0)
    return Split(name, info_name(name), files, (count or len(files)) - len(files), records=records)


def _number(path: str, key: str, least: int) -> int | None:
    """A number that a sidecar states; None where it does not: that is not compared."""
    try:
        number = read_object(path).get(key)
    except UNREADABLE:
        return None
    return number if type(number) is int and number >= least else None


def _parts(features: dict[str, Any]) -> Iterator[Frames | Field]:
    """What of the features can be delivered. An axis after the first that differs is that of the rows of a ragged feature."""
    for key, feature in sorted(features.items()):
        shape, dtype = feature["shape"], feature["dtype"]
        is_shape = isinstance(shape, list) and all(size is None or (type(size) is int and size >= 0) for size in shape)
        if not is_shape or not isinstance(dtype, str):
            raise ValueError(f"{key!r} has shape {shape!r} and dtype {dtype!r}")
        entry = part(key, tuple(shape), dtype)
        if shape == [None, None]:
            entry = ragged_rows(key, key, f"_rl:0:{key}", dtype)
        if entry is not None:
            yield entry
