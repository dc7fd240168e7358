"""Opening datasets that vlpipe wrote: from directories, globs and files to one index."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np

from vlpipe.errors import ArgumentError, DatasetError, SchemaError
from vlpipe.sources.classes import CLASSES, common_numbers, with_common_classes
from vlpipe.sources.common_texts import with_common_texts
from vlpipe.storage.index import METADATA_NAME, Index
from vlpipe.storage.metadata import open_directory
from vlpipe.storage.paths import Paths, expand
from vlpipe.storage.statistics import merged


def open_source(source: Paths, *, check_files: bool = True) -> Index:
    """The index of a dataset directory, of some of its shards, or of several of these together.

    Args:
        source: directory, glob, file, or a list of them. A shard belongs to the dataset whose `vlpipe.json` is in the same directory.
        check_files: compare the sizes of the shards with the metadata; False: shards may be missing or cut.

    Raises:
        ArgumentError: the source is not a path, or names a file twice.
        DatasetError: nothing matches; metadata are missing, of another version or inconsistent; or a shard is missing or cut.
        SchemaError: the datasets have different schemas, or classes that cannot be numbered alike (`sources.classes`).
    """
    chosen: dict[str, list[str] | None] = {}  # directory -> names of its shards, None for all
    spelled: dict[str, str] = {}  # real path of a directory -> the path by which it was named first
    for path in expand(source):
        directory, names = (path, None) if os.path.isdir(path) else (os.path.dirname(path) or ".", [os.path.basename(path)])
        directory = spelled.setdefault(os.path.realpath(directory), directory)
        known = chosen.get(directory, [])
        if (names is None and directory in chosen) or known is None or (names and names[0] in known):
            raise ArgumentError(f"source: {path} is named twice; name each file once, or its records would be delivered twice.")
        chosen[directory] = None if names is None else known + names
    parts = []
    first_id = 0
    for directory, names in chosen.items():
        whole = open_directory(directory)
        whole = replace(whole, ids=whole.ids + first_id)
        first_id += len(whole)
        parts.append(whole if names is None else _select(whole, directory, names))
    index = parts[0] if len(parts) == 1 else combine(parts)
    if check_files:
        index.check_files()
    files = [os.path.realpath(shard.path) for shard in index.shards]
    if len(set(files)) < len(files):
        twice = next(path for path in files if files.count(path) > 1)
        raise ArgumentError(f"source: {twice} is named twice, through links; name each file once, or its records would be delivered twice.")
    return index


def _select(index: Index, directory: str, names: list[str]) -> Index:
    known = {shard.name: position for position, shard in enumerate(index.shards)}
    for name in names:
        if name not in known:
            raise DatasetError(
                f"{os.path.join(directory, name)}: not among the {len(known)} shards of {os.path.join(directory, METADATA_NAME)}, such as "
                f"{next(iter(known), None)}. Pass shards of this dataset."
            )
    positions = [known[name] for name in names]
    renumbered = np.full(len(index.shards), len(names), np.uint32)
    renumbered[positions] = np.arange(len(names))
    keep = np.flatnonzero(renumbered[index.rows["shard"]] < len(names))
    rows = np.array(index.rows[keep])
    rows["shard"] = renumbered[rows["shard"]]
    shards = tuple(index.shards[position] for position in positions)
    # The statistics cover all shards.
    return replace(index, shards=shards, rows=rows, ids=index.ids[keep], statistics=index.statistics if len(names) == len(known) else {})


def combine(datasets: list[Index], caller: str = "source") -> Index:
    """The records of several datasets, one after another.

    Args:
        caller: the argument or function that got them, for an error.

    Raises:
        SchemaError: they have different schemas, or classes that cannot be numbered alike.
    """
    first = datasets[0]
    for other in datasets[1:]:
        if other.schema != first.schema:
            raise SchemaError(
                f"{caller}: {os.path.dirname(first.shards[0].path)} has {first.schema}, {os.path.dirname(other.shards[0].path)} has "
                f"{other.schema}. Datasets that are read together need the same schema."
            )
    parts, classes = with_common_classes(with_common_texts(datasets))
    rows = np.concatenate([part.rows for part in parts])
    shards = np.repeat(np.cumsum([0] + [len(part.shards) for part in parts[:-1]]), [len(part) for part in parts])
    rows["shard"] += shards.astype(np.uint32)
    return Index(
        schema=first.schema,
        shards=tuple(shard for part in parts for shard in part.shards),
        rows=rows,
        ids=np.concatenate([part.ids for part in parts]),
        metadata={
            key: value
            for key, value in first.metadata.items()
            if all(key in part.metadata and part.metadata[key] == value for part in parts)
        }
        | ({} if classes is None else {CLASSES: classes}),
        statistics=merged([part.statistics for part in parts if len(part)]),
        renumbered=common_numbers(parts),
        texts=parts[0].texts,
        written=tuple(schema for part in parts for schema in part.written),
        numbered=parts[0].numbered,
        joined_rates=tuple(sorted({rate for part in parts for rate in part.sample_rates})),
    )
