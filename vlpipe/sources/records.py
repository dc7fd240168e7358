"""Records of any source, one by one, as NumPy values: for whoever reads them without a pipeline, and without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import BinaryIO

import numpy as np

from vlpipe.errors import AudioError, DatasetError
from vlpipe.files.compression import uncompressed
from vlpipe.files.filesystem import open_file
from vlpipe.files.tfrecord import HEADER_BYTES, masked_crc
from vlpipe.sources.foreign.decode import frames_in
from vlpipe.storage.example import decode
from vlpipe.storage.index import RESTORE, Index, column
from vlpipe.storage.schema import Fixed, Schema, Sequence, Text

Values = dict[str, np.ndarray | bytes]


class Records:
    """The records of an index, whoever wrote them; use it in a `with` block, which closes the files.

    One thread at a time. A compressed file is uncompressed into a temporary one when its first record is asked for.

    Attributes:
        schema: of the values: that of the index, with float32 for bytes that stand for fractions.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._rows = np.asarray(index.rows)
        self._shard = -1
        self._open: BinaryIO | None = None
        scaled = {
            name: Sequence(field.shape, "float32") for name, field in index.schema.sequences.items() if index.stored(name).scale is not None
        }
        self.schema = Schema(**{**index.schema.fields, **scaled})

    def data(self, row: int) -> bytes:
        """The data of a record, compared with the checksum that it was written with.

        Raises:
            DatasetError: it cannot be read, or is not the record that the index knows; the message names it.
        """
        entry = self._rows[row]
        try:
            file = self._shard_file(int(entry["shard"]))
            file.seek(int(entry["offset"]) + HEADER_BYTES)
            data = file.read(int(entry["bytes"]))
        except OSError as error:
            where = self._index.where(row)
            raise DatasetError(f"{where}: cannot be read ({error.strerror}), expected {entry['bytes']} bytes. {RESTORE}") from error
        self._index.check_record(row, masked_crc(data))
        return data

    def values(self, row: int, names: Iterable[str] | None = None) -> Values:
        """The fields of a record, as `schema.check` gives them: a sequence `[T, *shape]` in its dtype, a text in UTF-8.

        Args:
            names: which are wanted; None: all.

        Raises:
            DatasetError: as `data`; or the record is not what the schema describes.
        """
        data = self.data(row)
        names = self.schema.fields if names is None else names
        if self._index.foreign is not None and self._index.foreign.parse is not None:
            given = {name: value.numpy() for name, value in self._index.foreign.parse(data).items()}
            return {name: given[name] if isinstance(given[name], bytes) else np.asarray(given[name]) for name in names}
        if self._index.foreign is not None:
            return {name: self._foreign_value(name, row, data) for name in names}
        try:
            values = decode(self._index.schema, data).values
            return {name: values[name] for name in names}
        except ValueError as error:
            raise DatasetError(
                f"{self._index.where(row)}: is not what the schema describes: {error}. `vlpipe verify` tells how much of the dataset is."
            ) from error

    def _foreign_value(self, name: str, row: int, data: bytes) -> np.ndarray | bytes:
        field, entry, lists = self._index.schema.fields[name], self._rows[row], self._index.lists
        if self._index.is_inline(name):
            return np.asarray(entry[f"value:{name}"]).astype(field.dtype)  # type: ignore[union-attr]
        if name in lists or isinstance(field, Text):
            begin, count = int(entry[f"start:{name}"]), int(entry[f"frames:{name}"])
            if name not in lists:
                return data[begin : begin + count]
            values = lists[name][begin : begin + count]
            return _multi_hot(values, field) if isinstance(field, Fixed) else values
        return self._frames(name, field, row, data)  # type: ignore[arg-type]

    def _frames(self, name: str, field: Sequence, row: int, data: bytes) -> np.ndarray:
        """The frames of a sequence `[T, *shape]`, as they are delivered."""
        stored, schema, entry = self._index.stored(name), self._index.schema, self._rows[row]
        frames, begin = int(entry[column(schema, "frames", name)]), int(entry[column(schema, "start", name)])
        if stored.parsed:
            try:
                return frames_in(data, name, field, stored.parsed)
            except (ValueError, AudioError) as error:
                raise DatasetError(f"{self._index.where(row)}: {error}.") from error
        dtype = np.dtype(field.dtype).newbyteorder("<" if stored.byteorder == "little" else ">")
        if not frames:
            return np.zeros((0, *field.dimensions), self.schema.sequences[name].dtype)
        stride = stored.gap + field.frame_bytes
        raw = np.frombuffer(data, np.uint8, frames * stride, begin - stored.gap).reshape(frames, stride)
        values = np.ascontiguousarray(raw[:, stored.gap :]).view(dtype)
        table = stored.table(np.dtype(np.float32))
        values = values.astype(field.dtype) if table is None else table[values]
        return values.reshape(frames, *field.dimensions)

    def _shard_file(self, shard: int) -> BinaryIO:
        if self._open is None or shard != self._shard:
            self.close()
            entry = self._index.shards[shard]
            self._open = uncompressed(entry.path, entry.compression) if entry.compression else open_file(entry.path)
            self._shard = shard
        return self._open

    def close(self) -> None:
        """Close the file that is open, if one is."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def __enter__(self) -> Records:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def check_ends(index: Index) -> None:
    """Compare the checksums of the first and the last record of each shard, which tells another file of the same size.

    Raises:
        DatasetError: one is not the record that was written; the message names it.
    """
    if not len(index):
        return
    order = index.by_shard()
    firsts = np.flatnonzero(np.diff(index.rows["shard"][order].astype(np.int64), prepend=-1))
    lasts = np.append(firsts[1:], len(order)) - 1
    with Records(index) as records:
        for row in order[np.union1d(firsts, lasts)].tolist():
            records.data(row)


def _multi_hot(classes: np.ndarray, field: Fixed) -> np.ndarray:
    found = np.zeros(field.dimensions, np.float32)
    found[classes] = 1
    return found
