"""Datasets at an address that TensorFlow's file systems know, such as `gs://bucket/train`: their index, read through `tf.io.gfile`."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vlpipe.errors import ArgumentError, DatasetError
from vlpipe.files.filesystem import is_address
from vlpipe.sources.foreign.build_index import build_index
from vlpipe.sources.foreign.find_files import is_foreign
from vlpipe.sources.native import open_source
from vlpipe.sources.statistics_cache import kept_moments
from vlpipe.storage.index import INDEX_NAME, METADATA_NAME, Index
from vlpipe.storage.metadata import open_directory
from vlpipe.storage.paths import Source, items


def open_anywhere(source: Source, layout: Any = None) -> Index:
    """The index of a source: whatever `open_source` or `build_index` takes, or the address of one dataset directory.

    Args:
        layout: how the records are laid out that vlpipe did not write; None: vlpipe wrote them, or it can be told.

    Raises:
        VlpipeError: as `open_source` and `build_index`; or what is at the address cannot be read.
    """
    source = source if isinstance(source, (str, os.PathLike)) else items(source)  # it is gone through twice
    if layout is not None or is_foreign(source):
        return build_index(source, layout)
    if isinstance(source, str) and is_address(source):
        return _open_address(source.rstrip("/"))
    index = open_source(source)
    known = all(name in index.statistics for name in index.schema.sequences)
    return index if known else replace(index, statistics={**kept_moments(index), **index.statistics})


def open_local(source: Source, layout: Any = None) -> Index:
    """As `open_anywhere`, for what reads the shards by itself.

    Raises:
        ArgumentError: the source is an address.
    """
    refuse_address(source)
    return open_anywhere(source, layout)


def refuse_address(source: Source) -> None:
    """Say of an address that it cannot be read.

    Raises:
        ArgumentError: the source is one.
    """
    for item in source if isinstance(source, (list, tuple)) else [source]:
        if isinstance(item, str) and is_address(item):
            raise ArgumentError(
                f"source: {item} is an address, and this reads local files only. Copy the whole dataset directory here first."
            )


def _open_address(address: str) -> Index:
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as scratch:
        for name in (METADATA_NAME, INDEX_NAME):
            try:
                (Path(scratch) / name).write_bytes(tf.io.gfile.GFile(f"{address}/{name}", "rb").read())
            except (tf.errors.OpError, OSError, UnicodeError) as error:
                raise DatasetError(
                    f"{address}/{name}: cannot be read ({error}). Pass the address of a dataset directory; some file systems "
                    "need a package that registers them, such as tensorflow-io (import tensorflow_io)."
                ) from error
        index = open_directory(scratch)
        index = replace(
            index,
            rows=np.array(index.rows),  # the file goes
            shards=tuple(replace(shard, path=f"{address}/{shard.name}") for shard in index.shards),
        )
    for shard in index.shards:
        try:
            size = tf.io.gfile.stat(shard.path).length
        except tf.errors.OpError as error:
            raise DatasetError(f"{shard.path}: cannot be read ({error.message}), expected a shard of {shard.bytes} bytes.") from error
        if size != shard.bytes:
            raise DatasetError(f"{shard.path}: found {size} bytes, expected {shard.bytes}. Copy it again.")
    return index
