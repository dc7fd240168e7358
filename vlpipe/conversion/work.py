"""The part of a conversion that one process does: all records of some of the shards, in their order."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vlpipe.errors import SchemaError
from vlpipe.files.atomic_directory import os_errors_as_dataset_errors
from vlpipe.sources.records import Records, Values
from vlpipe.storage.index import Index
from vlpipe.storage.schema import Text
from vlpipe.storage.shard_writer import ShardWriter, WrittenShard, shard_numbers
from vlpipe.storage.text_columns import TextValues

PROGRESS_BYTES = 1 << 20  # of records between two calls of `progress`


class Part:
    """The part with this `number` of a conversion that is split into `parts`.

    Args:
        index: of the source.
        target: the dataset to make, as the user named it.
        directory: where its shards are written.
        names: file name of each shard of the dataset, by its number.

    Attributes:
        row: the record that is being converted.
        bytes: size, in the source, of the records before it.
    """

    def __init__(self, index: Index, target: str, directory: Path, names: dict[int, str], number: int = 0, parts: int = 1) -> None:
        self._index, self._target = index, target
        self._directory = directory
        self._names = {shard: name for shard, name in names.items() if shard % parts == number}
        self._shards = shard_numbers(len(index), len(names))
        self.rows = np.flatnonzero(self._shards % parts == number)
        self.row = self.bytes = 0

    def convert(self, progress: Callable[[], None]) -> tuple[np.ndarray, TextValues, dict[int, WrittenShard]]:
        """Write the shards; return the rows of their records in the index of the target, the values of texts, and the shards by number.

        Raises:
            DatasetError: a record cannot be read, or a shard cannot be written.
            SchemaError: a vlpipe dataset cannot hold a record.
        """
        index, reported = self._index, 0
        texts = [name for name, field in index.schema.fields.items() if isinstance(field, Text)] if index.foreign is not None else []
        sizes = index.rows["bytes"]
        with Records(index) as records, os_errors_as_dataset_errors(self._target):
            writer = ShardWriter(self._directory, records.schema, self._names)
            for row in self.rows.tolist():
                self.row = row
                values = records.values(row)
                for name in texts:
                    self._check_text(name, values)
                writer.add(int(self._shards[row]), values, functools.partial(index.where, row))
                self.bytes += int(sizes[row])
                if self.bytes - reported >= PROGRESS_BYTES:
                    reported = self.bytes
                    progress()
            return writer.finish()

    def _check_text(self, name: str, values: Values) -> None:
        """Check a text of a third-party file, which may be any bytes: in a vlpipe dataset it is UTF-8, to be printed and stored as JSON."""
        try:
            bytes(values[name]).decode("utf-8")
        except UnicodeDecodeError as error:
            raise SchemaError(
                f'{self._index.where(self.row)}: "{name}" is not UTF-8 at its byte {error.start} ({error.reason}); a vlpipe dataset stores '
                f"texts in UTF-8. {self._way_out(name)}"
            ) from error

    def _way_out(self, name: str) -> str:
        """Say how to convert the source without this field."""
        index = self._index
        if name == index.label:
            return "It is the label: pass a layout with another label, or without one."
        foreign = index.foreign
        frames = (foreign.features or [key for key in foreign.stored if key not in foreign.lists]) if foreign is not None else ()
        others = [key for key in index.schema.fields if key not in (name, index.label, *frames)]
        return f"Leave it out with layout=vlpipe.layouts.{index.metadata['layout']}(...).only({', '.join(map(repr, others))})."
