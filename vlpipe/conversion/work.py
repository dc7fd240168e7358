"""What a process does of a conversion: all records of some of the shards, in their order."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vlpipe.errors import SchemaError
from vlpipe.sources.records import Records, Values
from vlpipe.storage.index import Index
from vlpipe.storage.schema import Text
from vlpipe.storage.shard_writer import Portion, Shard, shards_of
from vlpipe.storage.transaction import os_errors_named

PROGRESS_BYTES = 1 << 20  # of records between two calls of `progress`


class Part:
    """Of a conversion by `parts` processes, that of the process `number`.

    Args:
        target: the dataset to make, as it was named.
        directory: where its shards are written.
        names: the file of each shard, by its number.

    Attributes:
        row: the record that it is at.
        bytes: what the records before it have in the source.
    """

    def __init__(self, index: Index, target: str, directory: Path, names: dict[int, str], number: int = 0, parts: int = 1) -> None:
        self._index, self._target = index, target
        self._directory = directory
        self._names = {shard: name for shard, name in names.items() if shard % parts == number}
        self._shards = shards_of(len(index), len(names))
        self.rows = np.flatnonzero(self._shards % parts == number)
        self.row = self.bytes = 0

    def convert(self, progress: Callable[[], None]) -> tuple[np.ndarray, dict[int, Shard]]:
        """The rows that the index of the target has of these records, and the complete shards by number.

        Raises:
            DatasetError: a record cannot be read, or a shard cannot be written.
            SchemaError: a vlpipe dataset cannot hold a record.
        """
        index, shown = self._index, 0
        texts = [name for name, field in index.schema.fields.items() if isinstance(field, Text)] if index.foreign is not None else []
        sizes = index.rows["bytes"]
        with Records(index) as records, os_errors_named(self._target):
            portion = Portion(self._directory, records.schema, self._names)
            for row in self.rows.tolist():
                self.row = row
                values = records.values(row)
                for name in texts:
                    self._check_text(name, values)
                portion.add(int(self._shards[row]), values, functools.partial(index.where, row))
                self.bytes += int(sizes[row])
                if self.bytes - shown >= PROGRESS_BYTES:
                    shown = self.bytes
                    progress()
            return portion.finish()

    def _check_text(self, name: str, values: Values) -> None:
        """The texts of others may be any bytes; ours are UTF-8, so that they can be shown and stored as JSON."""
        try:
            bytes(values[name]).decode("utf-8")
        except UnicodeDecodeError as error:
            raise SchemaError(
                f'{self._index.where(self.row)}: "{name}" is no UTF-8 at its byte {error.start} ({error.reason}), which a text of a vlpipe '
                f"dataset has to be. {self._way_out(name)}"
            ) from error

    def _way_out(self, name: str) -> str:
        index = self._index
        if name == index.label:
            return "It is the label: pass a layout that has another, or none."
        frames = index.foreign.stored if index.foreign is not None else {}
        others = [key for key in index.schema.fields if key not in (name, index.label, *frames)]
        return f"Pass over it with layout=vlpipe.layouts.{index.metadata['layout']}(...).only({', '.join(map(repr, others))})."
