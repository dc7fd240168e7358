"""Single records of any source as NumPy values, read without a pipeline and without TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import BinaryIO

import numpy as np

from vlpipe.errors import DAMAGED, RESTORE, AudioError, DatasetError
from vlpipe.files.compression import uncompressed
from vlpipe.files.filesystem import open_file, stat_file
from vlpipe.files.tfrecord import FOOTER_BYTES, HEADER_BYTES, footer_of, header_of, masked_crc
from vlpipe.sources.foreign.decode import frames_in
from vlpipe.storage.example import decode
from vlpipe.storage.field_access import FieldAccess, Location
from vlpipe.storage.index import Index
from vlpipe.storage.schema import Fixed, Schema, Sequence
from vlpipe.storage.stored_frames import FrameDecoder

Values = dict[str, np.ndarray | bytes]


class Records:
    """Reads the records of an index, native or third-party. Use it in a `with` block, which closes the files.

    For one thread at a time. A compressed file is uncompressed into a temporary one when its first record is requested.

    Attributes:
        schema: of the values: that of the index, with float32 for stored bytes that stand for fractions.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._rows = np.asarray(index.rows)
        self._shard = -1
        self._file: BinaryIO | None = None
        scaled = {
            name: Sequence(field.shape, "float32") for name, field in index.schema.sequences.items() if index.stored(name).scale is not None
        }
        self.schema = Schema(**{**index.schema.fields, **scaled})
        self._fields = {name: index.access(name) for name in self.schema.fields}
        dtype = np.dtype(np.float32)  # of scaled values; the others are decoded as they are stored
        self._decoders = {name: FrameDecoder(field, index.stored(name), dtype) for name, field in index.schema.sequences.items()}

    def data(self, row: int) -> bytes:
        """The serialized record of a row, compared with its checksum in the index.

        Raises:
            DatasetError: it cannot be read, or is not the record that was indexed; the message names it.
        """
        entry = self._rows[row]
        try:
            file = self._shard_file(int(entry["shard"]))
            file.seek(int(entry["offset"]) + HEADER_BYTES)
            data = file.read(int(entry["bytes"]))
        except OSError as error:
            where = self._index.where(row)
            raise DatasetError(f"{where}: cannot be read ({error.strerror}), expected {entry['bytes']} bytes of data. {RESTORE}") from error
        self._index.check_record(row, masked_crc(data))
        return data

    def check_frame(self, row: int) -> None:
        """Compare the length before a record and the checksums around it, too, which TensorFlow's readers test.

        Raises:
            DatasetError: as for `data`; or these differ from what the index says.
        """
        entry = self._rows[row]
        size, offset = int(entry["bytes"]), int(entry["offset"])
        self.data(row)
        file = self._shard_file(int(entry["shard"]))
        file.seek(offset)
        header = file.read(HEADER_BYTES)
        file.seek(offset + HEADER_BYTES + size)
        if header != header_of(size) or file.read(FOOTER_BYTES) != footer_of(int(entry["checksum"])):
            raise DatasetError(f"{self._index.where(row)}: the length or a checksum around its {size} bytes of data is damaged. {DAMAGED}")

    def is_intact_frame(self, row: int) -> bool:
        """Whether a reader that knows no index takes a record, this one or another of its length, to be intact."""
        entry = self._rows[row]
        size = int(entry["bytes"])
        file = self._shard_file(int(entry["shard"]))
        file.seek(int(entry["offset"]))
        frame = file.read(HEADER_BYTES + size + FOOTER_BYTES)
        data = frame[HEADER_BYTES:-FOOTER_BYTES]
        return frame == header_of(size) + data + footer_of(masked_crc(data))

    def values(self, row: int, names: Iterable[str] | None = None) -> Values:
        """The fields of a record, as `Schema.check` returns them: a sequence is `[T, *shape]` in its dtype, a text is UTF-8.

        Args:
            names: of the requested fields; None: all.

        Raises:
            DatasetError: as for `data`; or the record does not fit the schema.
        """
        data = self.data(row)
        names = self.schema.fields if names is None else names
        foreign = self._index.foreign
        if foreign is None:
            return self._native_values(row, data, names)
        if foreign.parse is not None:
            fields = {name: value.numpy() for name, value in foreign.parse(data).items()}
            return {name: fields[name] if isinstance(fields[name], bytes) else np.asarray(fields[name]) for name in names}
        return {name: self._value(self._fields[name], row, data) for name in names}

    def text(self, row: int, name: str) -> bytes:
        """A text of a record. Of a third-party record only its bytes are read, and compared with nothing.

        Raises:
            DatasetError: it cannot be read.
        """
        access, rows = self._fields[name], self._rows[row : row + 1]
        if access.location is not Location.TEXT:
            return bytes(self.values(row, [name])[name])
        count = int(access.counts(rows)[0])
        try:
            file = self._shard_file(int(rows["shard"][0]))
            file.seek(int(rows["offset"][0]) + HEADER_BYTES + int(access.starts(rows)[0]))
            text = file.read(count)
        except OSError as error:
            raise DatasetError(
                f'{self._index.where(row)}: the bytes of its text "{name}" cannot be read ({error.strerror}). {RESTORE}'
            ) from error
        if len(text) < count:
            self.data(row)  # the file was cut, and this says so
        return text

    def _native_values(self, row: int, data: bytes, names: Iterable[str]) -> Values:
        try:
            written = self._index.written
            values = decode(written[int(self._rows["shard"][row])] if written else self._index.schema, data).values
        except ValueError as error:
            raise DatasetError(
                f"{self._index.where(row)}: does not fit the schema: {error}. `vlpipe verify` shows how many records are affected."
            ) from error
        for label in {part.label for part in (self._index.renumbered, self._index.numbered) if part is not None}:
            values[label] = np.asarray(self._fields[label].row_values(self._rows[row : row + 1])[0])
        return {name: values[name] for name in names}

    def _value(self, access: FieldAccess, row: int, data: bytes) -> np.ndarray | bytes:
        """A field of a third-party record."""
        rows = self._rows[row : row + 1]
        if access.location is Location.ROW:
            return np.asarray(access.row_values(rows)[0])
        start, count = int(access.starts(rows)[0]), int(access.counts(rows)[0])
        if access.location is Location.TEXT:
            return data[start : start + count]
        if access.location is Location.LIST:
            values = access.values[start : start + count]
            return _multi_hot(values, access.field) if isinstance(access.field, Fixed) else values
        return self._frames(access, row, data, start, count)

    def _frames(self, access: FieldAccess, row: int, data: bytes, start: int, count: int) -> np.ndarray:
        """The frames of a sequence `[T, *shape]`."""
        field = access.sequence
        if access.location is Location.ENCODED:
            try:
                return frames_in(data, access.name, field, access.stored)
            except (ValueError, AudioError) as error:
                raise DatasetError(f"{self._index.where(row)}: {error}.") from error
        dtype = np.dtype(self.schema.sequences[access.name].dtype)
        decoder = self._decoders[access.name]
        raw = np.frombuffer(data, np.uint8)[int(decoder.begins(start)) :][: count * decoder.stride]
        return decoder.values(raw).astype(dtype).reshape(count, *field.dimensions)

    def _shard_file(self, shard: int) -> BinaryIO:
        if self._file is None or shard != self._shard:
            self.close()
            entry = self._index.shards[shard]
            self._file = uncompressed(entry.path, entry.compression) if entry.compression else open_file(entry.path)
            self._shard = shard
        return self._file

    def close(self) -> None:
        """Close the file that is open, if there is one."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Records:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class RecordFiles:
    """Compares the records of an index with their files, which are opened for each call: several threads may use it."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def check(self, rows: np.ndarray, report: Callable[[int, DatasetError], None]) -> None:
        """Report each record that cannot be read, or is not the one that was indexed.

        Raises:
            DatasetError: a shard is missing or has another size.
        """
        self._check_sizes(np.unique(self._index.rows["shard"][rows]))
        with Records(self._index) as records:
            for row in rows.tolist():
                try:
                    records.check_frame(row)
                except DatasetError as error:
                    report(row, error)

    def data(self, rows: np.ndarray) -> list[bytes]:
        """The serialized records."""
        with Records(self._index) as records:
            return [records.data(row) for row in rows.tolist()]

    def _check_sizes(self, shards: np.ndarray) -> None:
        for shard in (self._index.shards[number] for number in shards.tolist()):
            try:
                found = stat_file(shard.path).bytes
            except OSError as error:
                raise DatasetError(f"{shard.path}: is no longer there ({error}). {RESTORE}") from error
            if found != shard.bytes:
                raise DatasetError(f"{shard.path}: has {found} bytes now, and had {shard.bytes} when the dataset was opened. {RESTORE}")


def check_ends(index: Index, *, skips: bool = False) -> None:
    """Compare the checksums of the first and the last record of each shard, which detects a replaced file of the same size.

    Args:
        skips: of a record that is corrupt, and not another one, nothing is said: it is found when it is read.

    Raises:
        DatasetError: a record is not the one that was written; the message names it.
    """
    if not len(index):
        return
    order = index.by_shard()
    firsts = np.flatnonzero(np.diff(index.rows["shard"][order].astype(np.int64), prepend=-1))
    lasts = np.append(firsts[1:], len(order)) - 1
    with Records(index) as records:
        for row in order[np.union1d(firsts, lasts)].tolist():
            try:
                records.data(row)
            except DatasetError:
                if not skips or records.is_intact_frame(row):
                    raise


def _multi_hot(classes: np.ndarray, field: Fixed) -> np.ndarray:
    hot = np.zeros(field.dimensions, np.float32)
    hot[classes] = 1
    return hot
