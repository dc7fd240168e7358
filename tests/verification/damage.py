"""Datasets and third-party files for the tests of `verify`, and ways to damage them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.foreign_files import example, floats, ints
from tests.helpers.metadata_files import edit_metadata
from vlpipe import layouts
from vlpipe.files.tfrecord import read_frames
from vlpipe.storage.index import digest_of_rows
from vlpipe.storage.metadata import open_directory
from vlpipe.storage.schema import Fixed, Schema, Sequence, Text
from vlpipe.verification import Problem, Report


def only(report: Report) -> Problem:
    """The only problem of a report."""
    assert not report.ok
    assert len(report.problems) == 1
    assert report.unlisted == 0
    return report.problems[0]


class FailingFile:
    """A file of which only the first reads succeed; then it ends, or fails as a disk does."""

    def __init__(self, path: str, reads: int, fails: bool) -> None:
        self._file, self._reads, self._fails = Path(path).open("rb"), reads, fails  # noqa: SIM115
        self.fileno = self._file.fileno

    def read(self, count: int) -> bytes:
        self._reads -= 1
        if self._reads >= 0:
            return self._file.read(count)
        if self._fails:
            raise OSError(errno.EIO, "Input/output error")
        return b""

    def __enter__(self) -> FailingFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


# ---- vlpipe datasets ------------------------------------------------------------------------------------------------------------

SCHEMA = Schema(x=Sequence(2, "float32"), wörter=Sequence((), "int16"), label=Fixed((), "int16"), half=Fixed(2, "float16"), text=Text())
LENGTHS = (3, 0, 1, 4, 2, 0, 5, 1)


def make_record(number: int, length: int) -> dict[str, Any]:
    """A record that fits `SCHEMA`."""
    random = np.random.default_rng(number)
    return {
        "x": random.standard_normal((length, 2)).astype(np.float32),
        "wörter": np.arange(number % 3, dtype=np.int16),
        "label": number,
        "half": np.array([-0.0, np.nan], np.float16),
        "text": "ß" * number,
    }


def shard_of(dataset: Path, number: int) -> Path:
    """Path of a shard."""
    return Path(open_directory(dataset).shards[number].path)


def record_spans(dataset: Path, number: int) -> list[tuple[int, int]]:
    """First byte of each record of a shard, and the byte after its last."""
    rows = open_directory(dataset).rows
    rows = np.sort(rows[rows["shard"] == number], order="offset")
    return [(int(row["offset"]), int(row["offset"]) + 16 + int(row["bytes"])) for row in rows]


def rewrite_index(dataset: Path, change: Callable[[np.ndarray], Any]) -> None:
    """Change the rows of the index, and the digest with them."""
    rows = np.array(open_directory(dataset).rows)
    change(rows)
    with (dataset / "index.npy").open("wb") as file:
        np.lib.format.write_array(file, rows, version=(3, 0), allow_pickle=False)
    edit_metadata(dataset / "vlpipe.json", lambda document: document["index"].update(digest=digest_of_rows(rows)))


# ---- third-party files ----------------------------------------------------------------------------------------------------------

LAYOUT = layouts.float_list("x", d=3, label="label")


def make_example(frames: int, label: int = 1) -> bytes:
    """A third-party record that fits `LAYOUT`."""
    return example({"x": floats(np.arange(3 * frames) + label), "label": ints(label), "tags": ints(*range(label))})


RECORDS = [make_example(20 + n % 9, n % 4) for n in range(40)]


def file_spans(path: Path) -> list[tuple[int, int]]:
    """First byte of each record of a file, and the byte after its last."""
    return [(frame.offset, frame.offset + 16 + len(frame.data)) for frame in read_frames(path)]


def flip(path: Path, at: int) -> None:
    """Change a byte, but neither the size nor the times by which an index recognises the file."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << at % 8
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
