"""Write a dataset record by record: shards, index and statistics; complete, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from vlpipe.errors import ArgumentError, SchemaError, VlpipeError, counted
from vlpipe.files.atomic_directory import os_errors_as_dataset_errors
from vlpipe.storage.schema import Record, Schema
from vlpipe.storage.shard_writer import ShardWriter, iterate_shard_numbers
from vlpipe.storage.transaction import DatasetTransaction


class Writer:
    """Writes a dataset of TFRecord shards with their index; use it in a `with` block.

    Records are spread over the shards at random, with a fixed seed, so that each shard is a fair sample. The dataset appears when the
    block ends without an error; until then, and after an error or a crash, the target is what it was before.

    Args:
        path: the directory to make.
        schema: the fields of a record; None: inferred from the first record (`Schema.infer`).
        num_shards: number of TFRecord files, from 1 to 100,000.
        overwrite: replace an existing dataset, which stays until the new one is complete.

    Attributes:
        metadata: a dict of JSON values, stored under "metadata" in `vlpipe.json` (class names, settings of the features). Its key "label"
            names the field that is the label, unless `make_dataset(label=...)` names another.

    Raises:
        ArgumentError: the path is an address, such as s3://bucket/train, or an argument has a value without meaning.
        DatasetError: the directory cannot be made.
        DatasetExistsError: the target exists and `overwrite` is false, or another process is writing it.

    Example:
        >>> with vlpipe.Writer("data/train", num_shards=4) as writer:
        ...     writer.write({"features": np.zeros((120, 80), np.float32), "label": 3})
    """

    def __init__(
        self, path: str | os.PathLike[str], schema: Schema | None = None, *, num_shards: int = 16, overwrite: bool = False
    ) -> None:
        if schema is not None and not isinstance(schema, Schema):
            raise ArgumentError(f"schema: came as {type(schema).__name__}, expected a vlpipe.Schema or None.")
        self.metadata: dict[str, Any] = {}
        self._schema = schema
        self._shard_writer: ShardWriter | None = None
        self._written = 0
        self._failure: str | None = None
        self._transaction: DatasetTransaction | None = DatasetTransaction(path, num_shards, overwrite=overwrite)
        self._path = self._transaction.path
        self._shards = iterate_shard_numbers(int(num_shards))

    def __repr__(self) -> str:
        state = "closed" if self._transaction is None else "open"
        return f"Writer({str(self._path)!r}), {state}, {counted(self._written, 'record')} written"

    def write(self, record: Record) -> None:
        """Add one record.

        Args:
            record: a value for each field of the schema: an array `[T, *shape]` of the schema's dtype for a `Sequence`, a number or an
                array for a `Fixed`, a str for a `Text`.

        Raises:
            SchemaError: the record does not fit the schema; the message has its number, from 0, in the order of writing. No part of it is
                written, and the dataset will not be committed.
            DatasetError: the system cannot write it.
            VlpipeError: the writer is closed, or this process was forked from the one that opened it.
        """
        if self._transaction is None:
            raise VlpipeError(f"{self._path}: this writer is closed; open another one.")
        self._transaction.check_process()
        try:
            with os_errors_as_dataset_errors(self._path):
                self._write(self._transaction, record)
        except BaseException as error:
            self._failure = self._failure or str(error) or type(error).__name__
            raise

    def _write(self, transaction: DatasetTransaction, record: Record) -> None:
        if self._schema is None:
            self._schema = Schema.infer(record)
        if self._shard_writer is None:
            self._shard_writer = ShardWriter(transaction.directory, self._schema, transaction.names)
        where = f"{self._path}, record {self._written}"
        self._shard_writer.add(next(self._shards), self._schema.check(record, where), lambda: where)
        self._written += 1

    def close(self) -> None:
        """Commit the dataset. A second call does nothing.

        Raises:
            VlpipeError: a record was refused before, which the dataset would lack; or this process was forked from the one that opened
                the writer, which alone may close it.
            ArgumentError: `metadata` holds a value that JSON cannot express.
            DatasetError: the system cannot write the files.
            SchemaError: without a record and without a schema, the fields are unknown.
            After any of them, the target is what it was before, unless the message says that the dataset is in its place: the disk
            failed after that.
        """
        if self._transaction is None:
            return
        self._transaction.check_process()
        try:
            if self._failure is not None:
                raise VlpipeError(
                    f"{self._path}: not committed, because a record was not written: {self._failure} "
                    "To leave records out, test them with Schema.check before you write them."
                )
            if self._schema is None:
                raise SchemaError(
                    f"{self._path}: no record was written, so the schema is unknown. Pass schema=... to write an empty dataset."
                )
            if not isinstance(self.metadata, dict):
                raise ArgumentError(f"{self._path}: Writer.metadata is {type(self.metadata).__name__}, expected a dict of JSON values.")
            with os_errors_as_dataset_errors(self._path):
                writer = self._shard_writer or ShardWriter(self._transaction.directory, self._schema, self._transaction.names)
                self._transaction.commit(self._schema, *writer.finish(), self.metadata)
        finally:
            self.abort()

    def abort(self) -> None:
        """Remove what was written, and leave the target as it was."""
        if self._transaction is not None:
            self._transaction.abort()
            self._transaction = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def write(
    path: str | os.PathLike[str],
    records: Iterable[Record],
    schema: Schema | None = None,
    *,
    num_shards: int = 16,
    overwrite: bool = False,
) -> None:
    """Write a dataset from an iterable of records, such as a list or a generator of dicts.

    Args and errors are those of `Writer`.

    Example:
        >>> pairs = [(np.zeros((n, 80), np.float32), n % 2) for n in (120, 90, 200)]
        >>> vlpipe.write("data/test", ({"features": x, "label": y} for x, y in pairs))
    """
    with Writer(path, schema, num_shards=num_shards, overwrite=overwrite) as writer:
        for record in records:
            writer.write(record)
