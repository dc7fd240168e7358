"""Writing a dataset: records into shards, the index and the statistics along with them; complete, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from vlpipe.errors import ArgumentError, SchemaError, VlpipeError
from vlpipe.storage.schema import Record, Schema
from vlpipe.storage.shard_writer import Portion, shard_numbers
from vlpipe.storage.transaction import Draft, os_errors_named


class Writer:
    """Writes a dataset of TFRecord shards with their index; use it in a `with` block.

    Records are spread over the shards at random, by a fixed seed, so that one shard is a fair sample. The dataset appears when
    the block ends without an error; until then, and after an error or a crash, the target is what it was before.

    Args:
        path: the directory to make.
        schema: what each record holds; None: as the first record suggests (`Schema.infer`).
        num_shards: number of TFRecord files.
        overwrite: replace a dataset that exists; it stays until the new one is complete.

    Attributes:
        metadata: a dict of JSON values, stored under "metadata" in `vlpipe.json` (class names, settings of the features). "label" names the
            field that is the label unless `make_dataset(label=...)` says another.

    Raises:
        DatasetExistsError: the target exists and `overwrite` is false, or another process is writing it.
        SchemaError: a record does not fit the schema. Nothing of it is written, and the dataset is not committed.

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
        self._portion: Portion | None = None
        self._written = 0
        self._failure: str | None = None
        self._draft: Draft | None = Draft(path, num_shards, overwrite=overwrite)
        self._path = self._draft.path
        self._shards = shard_numbers(int(num_shards))

    def write(self, record: Record) -> None:
        """Add one record.

        Args:
            record: a value for each field of the schema: an array `[T, *shape]` of the schema's dtype for a `Sequence`,
                a number or an array for a `Fixed`, a str for a `Text`.

        Raises:
            SchemaError: the record does not fit; it is named by its number, from 0, in the order of writing.
        """
        if self._draft is None:
            raise VlpipeError(f"{self._path}: this writer is closed; open another one.")
        try:
            with os_errors_named(self._path):
                self._write(self._draft, record)
        except BaseException as error:
            self._failure = self._failure or str(error) or type(error).__name__
            raise

    def _write(self, draft: Draft, record: Record) -> None:
        if self._schema is None:
            self._schema = Schema.infer(record)
        if self._portion is None:
            self._portion = Portion(draft.directory, self._schema, draft.names)
        where = f"{self._path}, record {self._written}"
        self._portion.add(next(self._shards), self._schema.check(record, where), lambda: where)
        self._written += 1

    def close(self) -> None:
        """Commit the dataset. Does nothing the second time.

        Raises:
            VlpipeError: a record was refused before, so that the dataset would lack it; nothing is committed.
            ArgumentError: `metadata` holds what JSON cannot express.
            DatasetError: the system cannot write the files; nothing is committed.
            SchemaError: no record was written and no schema given, so that there is nothing to describe.
        """
        if self._draft is None:
            return
        try:
            if self._failure is not None:
                raise VlpipeError(
                    f"{self._path}: not committed, because a record was not written: {self._failure} "
                    "To leave records out, test them with Schema.check before they are written."
                )
            if self._schema is None:
                raise SchemaError(
                    f"{self._path}: no record was written, so that no schema is known. Pass schema=... to write an empty dataset."
                )
            if not isinstance(self.metadata, dict):
                raise ArgumentError(f"{self._path}: Writer.metadata is {type(self.metadata).__name__}, expected a dict of JSON values.")
            with os_errors_named(self._path):
                portion = self._portion or Portion(self._draft.directory, self._schema, self._draft.names)
                self._draft.commit(self._schema, *portion.finish(), self.metadata)
        finally:
            self.abort()

    def abort(self) -> None:
        """Give up: remove what was written and leave the target as it was."""
        if self._draft is not None:
            self._draft.abort()
            self._draft = None

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
    """Write a dataset from an iterable of records, such as a list or a generator of dicts; see `Writer`.

    Example:
        >>> vlpipe.write("data/train", ({"features": x, "label": y} for x, y in pairs))
    """
    with Writer(path, schema, num_shards=num_shards, overwrite=overwrite) as writer:
        for record in records:
            writer.write(record)
