"""A dataset while it is written: the directory of its shards, and the commit that makes it the target, complete or not at all."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vlpipe.arguments import integer
from vlpipe.errors import ArgumentError, DatasetError, VlpipeError
from vlpipe.files.atomic_directory import AtomicDirectory
from vlpipe.storage.field_access import column
from vlpipe.storage.index import FORMAT, INDEX_NAME, METADATA_NAME, VERSION, digest_of_rows, row_dtype
from vlpipe.storage.schema import Schema
from vlpipe.storage.shard_writer import WrittenShard
from vlpipe.storage.statistics import merged
from vlpipe.storage.text_columns import TEXTS_NAME, TextValues, to_documents, with_columns

MAX_SHARDS = 100_000  # shard names have five digits
_OUR_FILES = re.compile(
    rf"{re.escape(METADATA_NAME)}|{re.escape(INDEX_NAME)}|{re.escape(TEXTS_NAME)}|.*-\d{{5}}-of-\d{{5,6}}\.tfrecord", re.DOTALL
)


class DatasetTransaction:
    """A dataset while it is written: `commit` makes it the target, `abort` removes it.

    Args:
        path: the directory to make.
        num_shards: number of TFRecord files.
        overwrite: replace an existing dataset, which stays until the new one is complete.

    Attributes:
        path: the argument.
        directory: where to write the shards.
        names: file name of each shard, by its number.

    Raises:
        ArgumentError: the path is an address or cannot be a directory, or the number of shards is out of range.
        DatasetExistsError: the target exists and `overwrite` is false, or another process is writing it.
        DatasetError: the directory cannot be made.
    """

    def __init__(self, path: str | os.PathLike[str], num_shards: int, *, overwrite: bool) -> None:
        num_shards = integer("num_shards", num_shards, 1, MAX_SHARDS, expected=f"an integer from 1 to {MAX_SHARDS}")
        if not isinstance(path, (str, os.PathLike)) or not _is_directory_name(os.fspath(path)):
            raise ArgumentError(f"path: came as {path!r}, expected the directory to make.")
        self.path = os.fspath(path)
        name = os.path.basename(os.path.realpath(path))
        self.names = {number: f"{name}-{number:05d}-of-{num_shards:05d}.tfrecord" for number in range(num_shards)}
        self._atomic = AtomicDirectory(path, overwrite=overwrite, replaceable=_why_not_replaceable)
        self.directory = self._atomic.path

    def commit(
        self, schema: Schema, rows: np.ndarray, texts: TextValues, shards: dict[int, WrittenShard], metadata: dict[str, Any]
    ) -> None:
        """Write index and metadata beside the shards, and make the directory the target.

        Args:
            schema: of the records.
            rows: the index, in the order of the records, with a code for every text.
            texts: the values of each text, by code.
            shards: all shards, by their number.
            metadata: a dict of JSON values.

        Raises:
            ArgumentError: the metadata hold a value that JSON cannot express.
            DatasetError: the system cannot write the files; nothing is committed.
            DatasetExistsError: the target has appeared since, and may not be replaced.
        """
        with os_errors_as_dataset_errors(self.path):
            kept = [name for name, values in texts.items() if values is not None]
            rows, values = with_columns(rows, schema, texts, row_dtype(schema, kept))
            self._write_metadata(schema, rows, values, shards, metadata)
            self._atomic.commit()

    def abort(self) -> None:
        """Remove what was written, and leave the target as it was. Does nothing after a commit."""
        self._atomic.abort()

    def _write_metadata(
        self, schema: Schema, rows: np.ndarray, texts: dict[str, list[str]], shards: dict[int, WrittenShard], metadata: dict[str, Any]
    ) -> None:
        entries, texts_file = to_documents(texts)
        if texts_file is not None:
            (self.directory / TEXTS_NAME).write_bytes(texts_file)
        _save(self.directory / INDEX_NAME, rows)
        numbers, firsts = np.unique(rows["shard"], return_index=True)
        # Merged in the order of the first record of each shard: in another order, sums of floats differ in their last bits.
        moments = [shards[number].moments for number in numbers[np.argsort(firsts)].tolist()]
        document = {
            "format": FORMAT,
            "version": VERSION,
            "schema": schema.to_json(),
            "records": len(rows),
            "shards": [shards[number].to_json() for number in self.names],
            "index": {"name": INDEX_NAME, "digest": digest_of_rows(rows)},
            "statistics": {name: moments.to_json() for name, moments in merged(moments).items()},
            "lengths": {name: _lengths(rows[column(schema, "frames", name)]) for name in schema.sequences if len(rows)},
            **entries,
            "metadata": metadata,
        }
        try:
            lines = [f'"{key}": {json.dumps(value, ensure_ascii=False, allow_nan=False)}' for key, value in document.items()]
            text = ("{\n " + ",\n ".join(lines) + "\n}\n").encode("utf-8")
        except (TypeError, ValueError, RecursionError) as error:
            raise ArgumentError(f"{self.path}: Writer.metadata holds a value that JSON cannot express ({error}).") from error
        (self.directory / METADATA_NAME).write_bytes(text)


@contextmanager
def os_errors_as_dataset_errors(path: str) -> Iterator[None]:
    """Raise errors of the system (no room, no permission) as a `DatasetError` that names the dataset: the file itself is removed anyway."""
    try:
        yield
    except VlpipeError:
        raise
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be written ({error.strerror or error}); nothing is committed. Make room for it, or choose another target."
        ) from error


def _lengths(frames: np.ndarray) -> list[list[int]]:
    """Return each length that occurs, and how many records have it."""
    return np.stack(np.unique(frames.astype(np.int64), return_counts=True), axis=1).tolist()


def _save(path: Path, rows: np.ndarray) -> None:
    """Save an array as `numpy.save` does, but without its warning about column names outside Latin-1, which need NumPy's format 3.0."""
    version = None if all(ord(letter) < 256 for letter in str(rows.dtype.names)) else (3, 0)
    write_array: Any = np.lib.format.write_array
    with path.open("wb") as file:
        write_array(file, rows, version=version, allow_pickle=False)


def _is_directory_name(path: str) -> bool:
    try:
        return bool(os.path.basename(os.path.realpath(path)).encode("utf-8"))
    except (ValueError, AttributeError):  # a NUL, a lone surrogate, bytes
        return False


def _why_not_replaceable(directory: Path) -> str | None:
    """Return why a directory may not be replaced, or None: replacing removes it, so it must hold a vlpipe dataset and nothing else."""
    try:
        with (directory / METADATA_NAME).open("rb") as file:
            beginning = file.read(100)  # present even if the file was cut
    except OSError:
        return f"it holds no {METADATA_NAME} and so is not a vlpipe dataset"
    if f'"format": "{FORMAT}"'.encode() not in beginning:
        return f"its {METADATA_NAME} is not one that vlpipe wrote"
    others = [entry.name for entry in directory.iterdir() if not _OUR_FILES.fullmatch(entry.name) or not entry.is_file()]
    return f"it also holds {sorted(others)[:5]}, which vlpipe did not write" if others else None
