"""The index of a dataset: one row for each record, in the order of writing.

A dataset is a directory (format version 1):

    vlpipe.json     format, schema, table of shards, statistics, lengths, values of texts, a digest of all of these (read by
                    `metadata.parse_metadata`)
    index.npy       a structured little-endian NumPy array, one row for each record (columns: `row_dtype`)
    texts.json      values of texts, where these are long
    *.tfrecord      the shards
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import google_crc32c
import numpy as np

from vlpipe.errors import RESTORE, REWRITTEN, DatasetError, counted, record_place
from vlpipe.files.filesystem import is_address
from vlpipe.regular_files import kind_of
from vlpipe.storage.field_access import FieldAccess, column, locate
from vlpipe.storage.mixture import Mixture
from vlpipe.storage.schema import Fixed, Schema
from vlpipe.storage.statistics import Moments
from vlpipe.storage.stored_frames import Stored

FORMAT = "vlpipe"
VERSION = 1
METADATA_NAME = "vlpipe.json"
INDEX_NAME = "index.npy"
DIGEST = "digest"  # the last key of vlpipe.json
# Fixed values of up to this size are also stored in the index, so that labels are available without reading records.
INLINE_BYTES = 64
DEFAULT_FEATURES = "default_features"  # of the metadata: the sequences that are features if the user names none


def _rate_in(metadata: dict[str, Any]) -> int | None:
    """A whole number above 0, also where it was written as a float; None: the metadata have something else, or nothing."""
    rate = metadata.get("sample_rate")
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < 1 << 53:
        return None
    return int(rate) if rate == int(rate) else None


def row_dtype(schema: Schema, texts: Iterable[str] = ()) -> np.dtype:
    """The columns of an index.

    `shard`, `offset` (of the record's header in its file), `bytes` (of its data), `checksum` (masked CRC32C of its data); `frames` and
    `start` (byte of the data at which the frames start) of the first sequence, `frames:NAME` and `start:NAME` of the others; `value:NAME`
    of every `Fixed` field of at most 64 bytes; `code:NAME` of the texts that have a column (`storage.text_columns`).
    """
    columns: list[tuple[Any, ...]] = [("shard", "<u4"), ("offset", "<u8"), ("bytes", "<u4"), ("checksum", "<u4")]
    for name in schema.sequences:
        columns += [(column(schema, "frames", name), "<u4"), (column(schema, "start", name), "<u4")]
    for name, entry in inline_fields(schema).items():
        columns.append((column(schema, "value", name), np.dtype(entry.dtype).newbyteorder("<").str, entry.dimensions))
    return np.dtype(columns + [(column(schema, "code", name), "<u2") for name in texts])


def inline_fields(schema: Schema) -> dict[str, Fixed]:
    """The fields whose values are also in the rows of the index."""
    fields = {name: entry for name, entry in schema.fields.items() if isinstance(entry, Fixed)}
    return {name: entry for name, entry in fields.items() if np.dtype(entry.dtype).itemsize * math.prod(entry.dimensions) <= INLINE_BYTES}


@dataclass(frozen=True)
class Shard:
    """One file of a dataset.

    Attributes:
        path: of the file.
        bytes: its size.
        records: number of records in it.
        digest: of the whole file; "" for a third-party file.
        compression: "GZIP", "ZLIB", or "" for none. Offsets of records are positions in the uncompressed content.
    """

    path: str
    bytes: int
    records: int
    digest: str
    compression: str = ""

    @property
    def name(self) -> str:
        """The file's name without its directory."""
        return os.path.basename(self.path)


@dataclass(frozen=True, eq=False)
class Foreign:
    """What an index of third-party files has in addition to its rows.

    A text has the columns `frames:NAME` (its bytes) and `start:NAME` (byte of the data at which it starts). A list has the same columns,
    which refer to `lists`.

    Attributes:
        label: the default label.
        stored: how each sequence is stored in its records.
        lists: int64 values of each field that is a list of integers: varints have no fixed position in a record.
        parse: the user's function, in the graph, from a serialized record to all its fields by name; None without one.
        features: the sequences that are features if the user names none; None: all may be.
        left_out: the keys of the records that are not delivered although nobody left them out, each with the reason.
    """

    label: str | None
    stored: dict[str, Stored]
    lists: dict[str, np.ndarray]
    parse: Callable[[Any], dict[str, Any]] | None = None
    features: tuple[str, ...] | None = None
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Renumbered:
    """A label whose numbers in the rows are not those in the records: datasets that number their classes differently, opened together.

    Attributes:
        label: the field, a scalar integer.
        tables: int64 `[classes]` for each shard: the number in the rows of each number in the records.
    """

    label: str
    tables: tuple[np.ndarray, ...]

    def written(self, shard: int, number: int) -> int:
        """The number in a record of a shard that has this `number` in its row."""
        return int(np.flatnonzero(self.tables[shard] == number)[0])


@dataclass(frozen=True)
class Numbered:
    """A label that is a text in the records and in the rows the number of its class (`sources.label_classes`).

    Attributes:
        label: the field.
        classes: the texts by number.
    """

    label: str
    classes: tuple[str, ...]


class Taken(NamedTuple):
    """Where the records of a selection are in the index of all records of their files.

    Attributes:
        whole: the index of all records.
        rows: int64 `[records]`, their rows in it.
    """

    whole: Index
    rows: np.ndarray


@dataclass(frozen=True, eq=False)
class Index:
    """Everything about a dataset that does not require reading a record.

    Attributes:
        schema: the fields of every record.
        shards: the files; `shard` of a row is a position in this tuple.
        rows: `[records]`, dtype `row_dtype(schema, texts)`.
        ids: int64 `[records]`, the row of each record in the index on disk (of several datasets: in the concatenation of their indexes).
        metadata: user data of the writer, such as class names; of several datasets, the entries on which all agree.
        statistics: mean and variance of each sequence; omitted where the figures do not cover exactly these records.
        foreign: additional data for third-party files; None for native ones.
        renumbered: the label whose numbers in the records differ from those in the rows, which are delivered; None: there is none.
        numbered: the label that is a text in the records and a number in the rows; None: there is none.
        texts: str `[values]` (object) of each text that has a column: the codes in this column are positions in it.
        mixture: the parts of a mix, which say how often each record comes in an epoch; None: each comes once.
        written: of files with different schemas, the schema of the records of each shard; `schema` has what they share. Else empty.
        taken: the index that these records were taken from, and their rows in it; None: all records of the files are in the rows.
        joined_rates: of several datasets, the sample rates that any of them has; else empty.
    """

    schema: Schema
    shards: tuple[Shard, ...]
    rows: np.ndarray
    ids: np.ndarray
    metadata: dict[str, Any] = field(default_factory=dict)
    statistics: dict[str, Moments] = field(default_factory=dict)
    foreign: Foreign | None = None
    renumbered: Renumbered | None = None
    texts: dict[str, np.ndarray] = field(default_factory=dict)
    mixture: Mixture | None = None
    written: tuple[Schema, ...] = ()
    taken: Taken | None = None
    numbered: Numbered | None = None
    joined_rates: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Index: {counted(len(self), 'record')} in {counted(len(self.shards), 'file')}, {self.schema!r}"

    def take(self, rows: np.ndarray) -> Index:
        """The index of some of these records: they keep their ids, and the statistics are left out unless these are all records.

        Args:
            rows: int64 `[n]`, rows of this index; different ones, but for a mix of parts that share records.
        """
        taken = Taken(self, rows) if self.taken is None else Taken(self.taken.whole, self.taken.rows[rows])
        statistics = self.statistics if len(rows) == len(self) else {}
        mixture = self.mixture and self.mixture.take(rows)
        rows_taken = np.asarray(self.rows).take(rows)
        return replace(self, rows=rows_taken, ids=self.ids[rows], statistics=statistics, mixture=mixture, taken=taken)

    @property
    def sample_rate(self) -> int | None:
        """The one sample rate of the waveforms in Hz that the metadata have; None: none, or datasets with different ones."""
        return _rate_in(self.metadata)

    @property
    def sample_rates(self) -> tuple[int, ...]:
        """All sample rates that are known: of datasets that were opened together there may be several."""
        return self.joined_rates or (() if self.sample_rate is None else (self.sample_rate,))

    @property
    def whole(self) -> Index:
        """The index of all records of the files."""
        return self if self.taken is None else self.taken.whole

    def access(self, name: str, *, as_feature: bool = False) -> FieldAccess:
        """Where the value of a field is.

        Args:
            as_feature: a list of integers is delivered as frames: it is parsed then, not taken from the index.
        """
        foreign = self.foreign
        if foreign is None:
            return locate(name, self.schema, self._columns, None, {}, custom=False)
        lists = {} if as_feature else foreign.lists
        return locate(name, self.schema, self._columns, foreign.stored, lists, custom=foreign.parse is not None)

    @property
    def _columns(self) -> tuple[str, ...]:
        return self.rows.dtype.names or ()

    def stored(self, name: str) -> Stored:
        """How the frames of the sequence `name` are stored in their records."""
        return self.access(name).stored

    @property
    def lists(self) -> dict[str, np.ndarray]:
        """The fields whose values are in the index, beside its rows."""
        return {} if self.foreign is None else self.foreign.lists

    @property
    def counted(self) -> list[str]:
        """The sequences whose frames the index counts: all but those that only the user's function returns."""
        return [name for name in self.schema.sequences if self.access(name).is_counted]

    @property
    def label(self) -> str | None:
        """The default label: that of the layout, or of the writer's metadata."""
        label = self.metadata.get("label") if self.foreign is None else self.foreign.label
        return label if isinstance(label, str) and label in self.schema.fields else None

    @property
    def default_features(self) -> tuple[str, ...] | None:
        """The sequences that are features if the user names none: those of the layout, or of the writer's metadata; None: all may be."""
        names = self.metadata.get(DEFAULT_FEATURES) if self.foreign is None else self.foreign.features
        if not isinstance(names, (list, tuple)) or not names or any(name not in self.schema.sequences for name in names):
            return None
        return tuple(names)

    def frames(self, name: str) -> np.ndarray:
        """int64 `[records]`: true length of the sequence `name` in each record, in frames."""
        return self.access(name).counts(self.rows)

    def codes(self, name: str) -> np.ndarray:
        """uint16 `[records]`: the position in `texts` of a text of each record."""
        return np.ascontiguousarray(self.rows[column(self.schema, "code", name)], np.uint16)

    def by_shard(self) -> np.ndarray:
        """int64 `[records]`: the rows in the order of the records in the shards."""
        rows = np.asarray(self.rows)  # copies of a memmap, which is a subclass, would be memmaps too
        shards = rows["shard"].astype(np.min_scalar_type(len(self.shards)))
        order = np.argsort(shards, kind="stable")  # a radix sort up to 65,535 shards: a tenth of the time of lexsort
        shards, offsets = shards[order], rows["offset"].astype(np.uint64)[order]
        # Rows that vlpipe wrote ascend within a shard; a user may have sorted the index.
        if np.any((offsets[1:] <= offsets[:-1]) & (shards[1:] == shards[:-1])):
            return np.lexsort((rows["offset"], rows["shard"]))
        return order

    def numbers(self) -> np.ndarray:
        """int64 `[records]`: the number of each record in its file, from 0."""
        if self.taken is not None:
            return self.taken.whole.numbers()[self.taken.rows]
        order = self.by_shard()
        shards = self.rows["shard"][order]
        numbers = np.empty(len(order), np.int64)
        numbers[order] = np.arange(len(order)) - np.searchsorted(shards, shards)
        return numbers

    def parts(self) -> list[np.ndarray]:
        """int64: the rows of each shard, in the order of its records."""
        order = self.by_shard()
        ends = np.searchsorted(self.rows["shard"][order], np.arange(1, len(self.shards)))
        return np.split(order, ends)

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the data: a digest of every row of the index, checksums included, and of the names of the files.

        It does not depend on the directory. Computed once: 0.3 s for ten million records.
        """
        names = json.dumps([self.schema.to_json(), [[shard.name, shard.bytes, shard.records] for shard in self.shards]])
        crc = google_crc32c.extend(google_crc32c.value(names.encode()), self.ids.astype("<i8").tobytes())
        for name, values in self.lists.items():
            crc = google_crc32c.extend(google_crc32c.extend(crc, name.encode()), values.astype("<i8").tobytes())
        return f"{digest_of_rows(self.rows)}-{crc:08x}"

    def where(self, row: int) -> str:
        """Name a record in an error: `train-00003-of-00016.tfrecord, record 17 at byte 88120`."""
        rows = self.whole.rows
        shard, offset = int(self.rows["shard"][row]), int(self.rows["offset"][row])
        position = int(np.count_nonzero((rows["shard"] == shard) & (rows["offset"] < offset)))
        return record_place(self.shards[shard].name, position, offset)

    def check_files(self) -> None:
        """Compare the shards on disk with the table.

        Raises:
            DatasetError: a shard is missing, or has another size than in the metadata.
        """
        for shard in self.shards:
            try:
                status = os.stat(shard.path)
            except (OSError, ValueError) as error:
                raise DatasetError(
                    f"{shard.path}: cannot be read ({getattr(error, 'strerror', error)}), expected a shard of {shard.bytes} bytes with "
                    f"{shard.records} records. {RESTORE}"
                ) from error
            size = status.st_size
            if not stat.S_ISREG(status.st_mode):
                raise DatasetError(f"{shard.path}: is {kind_of(status.st_mode)}, expected a shard, a regular file. {RESTORE}")
            if size != shard.bytes:
                what = "cut" if size < shard.bytes else "changed"
                raise DatasetError(
                    f"{shard.path}: has {size} bytes, expected {shard.bytes} with {shard.records} records: the file was {what} after "
                    f"it was written. {RESTORE}"
                )

    @property
    def is_local(self) -> bool:
        """Whether all shards are local files."""
        return not any(is_address(shard.path) for shard in self.shards)

    @property
    def is_compressed(self) -> bool:
        """Whether a shard can only be read from its beginning."""
        return any(shard.compression for shard in self.shards)

    def check_record(self, row: int, checksum: int) -> None:
        """Compare the checksum of a record's data with the index.

        Raises:
            DatasetError: they differ; the message names the record.
        """
        entry = self.rows[row]
        if checksum != entry["checksum"]:
            raise DatasetError(
                f"{self.where(row)}: the checksum of its {entry['bytes']} bytes of data is {checksum:08x}, the index says "
                f"{entry['checksum']:08x}. {REWRITTEN}"
            )


def digest_of_document(document: dict[str, Any]) -> str:
    """The digest of the content of a `vlpipe.json`, which the document itself contains: of its values, whatever their order and spaces."""
    content = {key: value for key, value in document.items() if key != DIGEST}
    return f"crc32c:{google_crc32c.value(json.dumps(content, sort_keys=True, separators=(',', ':')).encode()):08x}"


def digest_of_rows(rows: np.ndarray) -> str:
    """The digest of `index.npy`, which `vlpipe.json` contains."""
    crc = 0
    step = max(1, (1 << 24) // rows.dtype.itemsize)  # 16 MiB at a time: an index may be larger than memory
    for first in range(0, len(rows), step):
        crc = google_crc32c.extend(crc, rows[first : first + step].tobytes())
    return f"crc32c:{crc:08x}"
