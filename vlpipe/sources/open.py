"""From any source to its index: native or third-party files, local or at an address of TensorFlow's file systems (`gs://bucket/train`)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from vlpipe.errors import ArgumentError, DatasetError
from vlpipe.files.filesystem import is_address, stat_file
from vlpipe.layouts.base import Layout
from vlpipe.sources.foreign.build_index import build_index
from vlpipe.sources.foreign.find_files import is_foreign
from vlpipe.sources.label_classes import with_label_classes
from vlpipe.sources.mix import mixed, named_parts
from vlpipe.sources.native import open_source
from vlpipe.sources.record_set import RecordSet
from vlpipe.sources.statistics_cache import cached_moments
from vlpipe.storage.index import Index
from vlpipe.storage.metadata import open_directory
from vlpipe.storage.paths import Opened, Source, items


def open(source: Source, *, layout: str | Layout | None = None, label_classes: Any = None) -> RecordSet:
    """Open a source, to look at its records, to select and divide them, and to pass it on: it is accepted wherever a path is.

    A list has paths only: open sources are joined by `vlpipe.mix`.

    Only the index is read, and TensorFlow is not loaded. `print(source)` shows a small table.

    Args:
        source: as for `make_dataset`: a dataset directory, a glob, files, an address, or a list of these.
        layout: how third-party records are laid out, as for `make_dataset`.
        label_classes: numbers for a label that is a text, as for `make_dataset`. Unless it is named, it is that of the layout, or the field
            called "label", or the only text; of several, the one with the name of a label.

    Returns:
        A `RecordSet`: `len`, `schema`, `classes`, `metadata`, `statistics`; `source[17]` and iteration read records; `table()` has what
        is known of each record as columns; `select`, `split` and `folds` return sources again.

    Raises:
        VlpipeError: the source is missing or damaged, or its layout is unknown.

    Example:
        >>> vlpipe.write("data/train", ({"features": np.ones((t, 4), np.float32), "label": t % 2} for t in range(1, 11)))
        >>> source = vlpipe.open("data/train")
        >>> len(source), source[2]["features"].shape, source.table()["label"].tolist()
        (10, (3, 4), [1, 0, 1, 0, 1, 0, 1, 0, 1, 0])
        >>> parts = source.split({"train": 0.8, "val": 0.2})
        >>> vlpipe.plan(parts["val"], batch_size=2).steps_per_epoch
        1
    """
    index = open_anywhere(source, layout, label_classes)
    if isinstance(source, Opened):
        return RecordSet(index, source.layout, source.selected)
    return RecordSet(index, layout)


def mix(sources: Mapping[Any, float] | Iterable[tuple[Source, float]], *, records: int | None = None) -> RecordSet:
    """Several sources as one: each has its exact share of every epoch, whatever its number of records.

    A part of which an epoch has q records, and which has n, has the rate q / n: each of its records comes floor(q / n) or ceil(q / n)
    times. The counts of each part in each bucket are the same in every epoch, and so are steps and shapes. Which records come once more
    than the others is drawn from (seed, epoch), each equally often in the long run. Copies of a record have their own crop and masks.

    Args:
        sources: a dict from sources to weights, or a list of pairs (source, weight). A source is as for `make_dataset`, or itself a mix, a
            selection or `balance`; the same records may be in several parts. Class numbers are mapped by the names of the classes.
        records: how many records an epoch has (with windows: how many windows); None: so many that each record of the source with most
            records can come.

    Returns:
        A `RecordSet` with the records of all parts, their `rates` and its `parts`. Its ids (`ids=True`, `table()["id"]`) are rows of the
        datasets joined in the order of the parts: those of the second begin behind the last of the first. A dataset that is in several
        parts is there once, so that a record has the same id in each of them. The stream engine cannot deliver a mix.

    Raises:
        ArgumentError: a weight is negative or all are 0.
        SchemaError: the sources share no features, or their classes cannot be mapped.

    Example:
        >>> for name, count in (("clean", 100), ("noisy", 30)):
        ...     vlpipe.write(name, ({"features": np.ones((t, 4), np.float32), "label": t % 2} for t in range(1, count + 1)))
        >>> train = vlpipe.mix({"clean": 0.5, "noisy": 0.5})
        >>> train.parts
        {'clean': 100, 'noisy': 100}
        >>> vlpipe.plan(train, batch_size=10).steps_per_epoch
        20
    """
    parts = [(open_anywhere(source), name, weight) for source, name, weight in named_parts(sources)]
    return RecordSet(mixed(parts, records))


def open_anywhere(source: Source, layout: str | Layout | None = None, label_classes: Any = None, label: Any = None) -> Index:
    """The index of a source: anything that `open_source` or `build_index` takes, the address of one dataset directory, or an open source.

    Args:
        layout: of third-party records; None: the records are native, or their layout is detected.
        label_classes: numbers for a label that is a text; None: it stays one.
        label: the argument of `make_dataset`.

    Raises:
        VlpipeError: as for `open_source`, `build_index` and `with_label_classes`; or the dataset at the address cannot be read.
    """
    index = _opened(source, layout)
    return index if label_classes is None else with_label_classes(index, label_classes, label)


def _opened(source: Source, layout: str | Layout | None) -> Index:
    if isinstance(source, Opened):
        if layout is not None:
            raise ArgumentError(f"layout: came as {layout!r:.100}, but the source is open already. Pass the layout to vlpipe.open.")
        return source.index
    source = source if isinstance(source, (str, os.PathLike)) else items(source)  # an iterator could not be read twice
    if layout is not None or is_foreign(source):
        return build_index(source, layout)
    if isinstance(source, str) and is_address(source):
        return _open_address(source.rstrip("/"))
    index = open_source(source)
    known = all(name in index.statistics for name in index.schema.sequences)
    return index if known else replace(index, statistics={**cached_moments(index), **index.statistics})


def open_local(source: Source, layout: str | Layout | None = None) -> Index:
    """As `open_anywhere`, for code that reads local shards only.

    Raises:
        ArgumentError: the source is an address.
    """
    refuse_address(source)
    return open_anywhere(source, layout)


def refuse_address(source: Source) -> None:
    """Refuse addresses, for code that reads local files only.

    Raises:
        ArgumentError: the source is an address, or contains one.
    """
    paths = [shard.path for shard in source.index.shards] if isinstance(source, Opened) else source
    for item in paths if isinstance(paths, (list, tuple)) else [paths]:
        if isinstance(item, str) and is_address(item):
            raise ArgumentError(
                f"source: {item} is an address, but this command reads local files only. Copy the dataset directory to this machine first."
            )


def _open_address(address: str) -> Index:
    index = open_directory(address)
    for shard in index.shards:
        try:
            size = stat_file(shard.path).bytes
        except OSError as error:
            raise DatasetError(
                f"{shard.path}: the address cannot be read ({error.strerror}), expected a shard of {shard.bytes} bytes."
            ) from error
        if size != shard.bytes:
            raise DatasetError(f"{shard.path}: has {size} bytes, expected {shard.bytes}. Copy it again.")
    return index
