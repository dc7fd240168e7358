"""A dataset while it is written: the directory of its shards, and the commit that makes it the target, complete or not at all."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from vlpipe.arguments import integer
from vlpipe.errors import ArgumentError
from vlpipe.files.atomic_directory import AtomicDirectory, os_errors_as_dataset_errors
from vlpipe.files.json_files import parse_json
from vlpipe.regular_files import create, open_regular
from vlpipe.storage.field_access import column
from vlpipe.storage.index import DIGEST, FORMAT, INDEX_NAME, METADATA_NAME, VERSION, digest_of_document, digest_of_rows, row_dtype
from vlpipe.storage.rows_file import save_rows
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
            DatasetError: the system cannot write the files; the message says whether the target is still what it was.
            DatasetExistsError: the target has appeared since, and may not be replaced.
            VlpipeError: this is a fork of the process that opened the transaction.
        """
        self.check_process()
        with os_errors_as_dataset_errors(self.path):
            kept = [name for name, values in texts.items() if values is not None]
            rows, values = with_columns(rows, schema, texts, row_dtype(schema, kept))
            self._write_metadata(schema, rows, values, shards, metadata)
            self._atomic.commit()

    def check_process(self) -> None:
        """Refuse to go on in a forked process.

        Raises:
            VlpipeError: as `AtomicDirectory.check_process`.
        """
        self._atomic.check_process()

    def abort(self) -> None:
        """Remove what was written, and leave the target as it was. Does nothing after a commit."""
        self._atomic.abort()

    def _write_metadata(
        self, schema: Schema, rows: np.ndarray, texts: dict[str, list[str]], shards: dict[int, WrittenShard], metadata: dict[str, Any]
    ) -> None:
        entries, texts_file = to_documents(texts)
        if texts_file is not None:
            with create(self.directory / TEXTS_NAME) as file:
                file.write(texts_file)
        save_rows(self.directory / INDEX_NAME, rows)
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
            text = _as_text(document)
            text = _as_text({**document, DIGEST: digest_of_document(parse_json(text))})  # last: of the values as a reader finds them
            parse_json(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise ArgumentError(f"{self.path}: Writer.metadata holds a value that JSON cannot express ({error}).") from error
        with create(self.directory / METADATA_NAME) as file:
            file.write(text)


def _as_text(document: dict[str, Any]) -> bytes:
    lines = [f'"{key}": {json.dumps(value, ensure_ascii=False, allow_nan=False)}' for key, value in document.items()]
    return ("{\n " + ",\n ".join(lines) + "\n}\n").encode("utf-8")


def _lengths(frames: np.ndarray) -> list[list[int]]:
    """Return each length that occurs, and how many records have it."""
    return np.stack(np.unique(frames.astype(np.int64), return_counts=True), axis=1).tolist()


def _is_directory_name(path: str) -> bool:
    try:
        return bool(os.path.basename(os.path.realpath(path)).encode("utf-8"))
    except (ValueError, AttributeError):  # a NUL, a lone surrogate, bytes
        return False


def _why_not_replaceable(directory: Path) -> str | None:
    """Return why a directory may not be replaced, or None: replacing removes it, so it must hold a vlpipe dataset and nothing else."""
    try:
        with open_regular(directory / METADATA_NAME) as file:
            beginning = file.read(100)  # present even if the file was cut
    except OSError:
        return f"it holds no {METADATA_NAME} and so is not a vlpipe dataset"
    if f'"format": "{FORMAT}"'.encode() not in beginning:
        return f"its {METADATA_NAME} is not one that vlpipe wrote"
    others = [entry.name for entry in directory.iterdir() if not _OUR_FILES.fullmatch(entry.name) or not entry.is_file()]
    return f"it also holds {sorted(others)[:5]}, which vlpipe did not write" if others else None
