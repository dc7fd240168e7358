"""Writing a dataset: records into shards, the index and the statistics along with them; complete, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from vlpipe.errors import ArgumentError, DatasetError, SchemaError, VlpipeError
from vlpipe.index import FORMAT, INDEX_NAME, METADATA_NAME, VERSION, column, digest_of_rows, row_dtype
from vlpipe.record import encode
from vlpipe.schema import Record, Schema
from vlpipe.staging import StagedDirectory
from vlpipe.statistics import Moments
from vlpipe.tfrecord import FOOTER_BYTES, HEADER_BYTES, footer_of, header_of, masked_crc

MAX_RECORD_BYTES = 2**31 - 1  # a protocol buffer may not be larger
MAX_SHARDS = 100_000  # five digits in a shard's name
_BUFFER_BYTES = 1 << 20
_OUR_FILES = re.compile(rf"{re.escape(METADATA_NAME)}|{re.escape(INDEX_NAME)}|.*-\d{{5}}-of-\d{{5,6}}\.tfrecord", re.DOTALL)


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
        metadata: a dict of JSON values, stored under "metadata" in `vlpipe.json` (class names, settings of the features).

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
        if not isinstance(num_shards, (int, np.integer)) or isinstance(num_shards, bool) or not 1 <= num_shards <= MAX_SHARDS:
            raise ArgumentError(f"num_shards: came as {num_shards!r}, expected an integer from 1 to {MAX_SHARDS}.")
        if not isinstance(path, (str, os.PathLike)) or not _is_directory_name(os.fspath(path)):
            raise ArgumentError(f"path: came as {path!r}, expected the directory to make.")
        self.metadata: dict[str, Any] = {}
        self._path = os.fspath(path)
        self._schema = schema
        self._num_shards = int(num_shards)
        self._random = np.random.default_rng(0)
        self._rows: _Rows | None = None
        self._written = 0
        self._failure: str | None = None
        self._staged: StagedDirectory | None = StagedDirectory(path, overwrite=overwrite, replaceable=_why_not_replaceable)
        self._shards = [_ShardFile(self._staged.path, _shard_name(path, number, self._num_shards)) for number in range(self._num_shards)]
        self._moments: dict[str, Moments] = {}
        self._lengths: dict[str, Counter[int]] = {}

    def write(self, record: Record) -> None:
        """Add one record.

        Args:
            record: a value for each field of the schema: an array `[T, *shape]` of the schema's dtype for a `Sequence`,
                a number or an array for a `Fixed`, a str for a `Text`.

        Raises:
            SchemaError: the record does not fit; it is named by its number, from 0, in the order of writing.
        """
        if self._staged is None:
            raise VlpipeError(f"{self._path}: this writer is closed; open another one.")
        try:
            with _os_errors_named(self._path):
                self._write(record)
        except BaseException as error:
            self._failure = self._failure or str(error) or type(error).__name__
            raise

    def _write(self, record: Record) -> None:
        where = f"{self._path}, record {self._written}"
        if self._schema is None:
            self._schema = Schema.infer(record)
        schema = self._schema
        if self._rows is None:
            self._rows = _Rows(row_dtype(schema))
            self._moments = {name: Moments(int(np.prod(entry.dimensions, dtype=np.int64))) for name, entry in schema.sequences.items()}
            self._lengths = {name: Counter() for name in schema.sequences}
        values = schema.check(record, where)
        data, starts = encode(schema, values)
        if len(data) > MAX_RECORD_BYTES:
            raise SchemaError(
                f"{where}: takes {len(data)} bytes, a TFRecord Example can hold {MAX_RECORD_BYTES}. Cut it into shorter records."
            )
        shard = int(self._random.integers(self._num_shards))
        checksum = masked_crc(data)
        row = self._rows.append()
        row["shard"], row["offset"], row["bytes"], row["checksum"] = shard, self._shards[shard].bytes, len(data), checksum
        for (name, _), start in zip(schema.sequences.items(), starts, strict=True):
            frames = np.asarray(values[name])
            row[column(schema, "frames", name)], row[column(schema, "start", name)] = len(frames), start
            self._lengths[name][len(frames)] += 1
            self._moments[name].update(frames)
        for name in row.dtype.names or ():
            if name.startswith("value:"):
                row[name] = values[name.removeprefix("value:")]
        self._shards[shard].append(data, checksum)
        self._written += 1

    def close(self) -> None:
        """Commit the dataset. Does nothing the second time.

        Raises:
            VlpipeError: a record was refused before, so that the dataset would lack it; nothing is committed.
            ArgumentError: `metadata` holds what JSON cannot express.
            DatasetError: the system cannot write the files; nothing is committed.
            SchemaError: no record was written and no schema given, so that there is nothing to describe.
        """
        if self._staged is None:
            return
        if self._failure is not None:
            self.abort()
            raise VlpipeError(
                f"{self._path}: not committed, because a record was not written: {self._failure} "
                "To leave records out, test them with Schema.check before they are written."
            )
        staged = self._staged
        try:
            with _os_errors_named(self._path):
                self._finish(staged.path)
                staged.commit()
        finally:
            self.abort()

    def abort(self) -> None:
        """Give up: remove what was written and leave the target as it was."""
        if self._staged is not None:
            self._staged.abort()
            self._staged = None

    def _finish(self, directory: Path) -> None:
        if not isinstance(self.metadata, dict):
            raise ArgumentError(f"{self._path}: Writer.metadata is {type(self.metadata).__name__}, expected a dict of JSON values.")
        if self._schema is None:
            raise SchemaError(
                f"{self._path}: no record was written, so that no schema is known. Pass schema=... to write an empty dataset."
            )
        rows = self._rows.array() if self._rows is not None else np.empty(0, row_dtype(self._schema))
        for shard in self._shards:
            shard.flush()
        _save(directory / INDEX_NAME, rows)
        document = {
            "format": FORMAT,
            "version": VERSION,
            "schema": self._schema.to_json(),
            "records": self._written,
            "shards": [shard.to_json() for shard in self._shards],
            "index": {"name": INDEX_NAME, "digest": digest_of_rows(rows)},
            "statistics": {name: moments.to_json() for name, moments in self._moments.items()},
            "lengths": {name: sorted(counter.items()) for name, counter in self._lengths.items()},
            "metadata": self.metadata,
        }
        try:
            lines = [f'"{key}": {json.dumps(value, ensure_ascii=False, allow_nan=False)}' for key, value in document.items()]
            text = ("{\n " + ",\n ".join(lines) + "\n}\n").encode("utf-8")
        except (TypeError, ValueError, RecursionError) as error:
            raise ArgumentError(f"{self._path}: Writer.metadata holds what JSON cannot express ({error}).") from error
        (directory / METADATA_NAME).write_bytes(text)

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


class _ShardFile:
    """One shard as it grows. Appends through a buffer and keeps no file open, so that their number is not limited."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.bytes = 0
        self.records = 0
        self._path = directory / name
        self._digest = hashlib.sha256()
        self._buffer = bytearray()

    def append(self, data: bytes, checksum: int) -> None:
        self._buffer += header_of(len(data))
        self._buffer += data
        self._buffer += footer_of(checksum)
        self.bytes += HEADER_BYTES + len(data) + FOOTER_BYTES
        self.records += 1
        if len(self._buffer) >= _BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        with self._path.open("ab") as file:
            file.write(self._buffer)
        self._digest.update(self._buffer)
        self._buffer.clear()

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "bytes": self.bytes, "records": self.records, "digest": f"sha256:{self._digest.hexdigest()}"}


class _Rows:
    """A structured array that grows by doubling."""

    def __init__(self, dtype: np.dtype) -> None:
        self._array = np.zeros(1024, dtype)
        self._used = 0

    def append(self) -> np.void:
        if self._used == len(self._array):
            self._array = np.concatenate([self._array, np.zeros_like(self._array)])
        self._used += 1
        row: np.void = self._array[self._used - 1]
        return row

    def array(self) -> np.ndarray:
        return self._array[: self._used]


def _save(path: Path, rows: np.ndarray) -> None:
    """As `numpy.save`, which warns where a name is not Latin-1 and the file therefore of NumPy's format 3.0."""
    version = None if all(ord(letter) < 256 for letter in str(rows.dtype.names)) else (3, 0)
    write_array: Any = np.lib.format.write_array
    with path.open("wb") as file:
        write_array(file, rows, version=version, allow_pickle=False)


@contextmanager
def _os_errors_named(path: str) -> Iterator[None]:
    """What the system cannot do (no room, no permission), said of the dataset and not of a file that is gone afterwards."""
    try:
        yield
    except VlpipeError:
        raise
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be written ({error.strerror or error}); nothing is committed. Make room for it, or choose another target."
        ) from error


def _is_directory_name(path: str) -> bool:
    try:
        return bool(os.path.basename(os.path.realpath(path)).encode("utf-8"))
    except (ValueError, AttributeError):  # a NUL, a lone surrogate, bytes
        return False


def _shard_name(path: str | os.PathLike[str], number: int, total: int) -> str:
    return f"{os.path.basename(os.path.realpath(path))}-{number:05d}-of-{total:05d}.tfrecord"


def _why_not_replaceable(directory: Path) -> str | None:
    """Overwriting removes a directory, so it must hold nothing but a dataset that vlpipe wrote."""
    try:
        with (directory / METADATA_NAME).open("rb") as file:
            beginning = file.read(100)  # enough even of one that was cut
    except OSError:
        return f"it holds no {METADATA_NAME} and so is not a vlpipe dataset"
    if f'"format": "{FORMAT}"'.encode() not in beginning:
        return f"its {METADATA_NAME} is not one that vlpipe wrote"
    others = [entry.name for entry in directory.iterdir() if not _OUR_FILES.fullmatch(entry.name) or not entry.is_file()]
    return f"it also holds {sorted(others)[:5]}, which vlpipe did not write" if others else None
