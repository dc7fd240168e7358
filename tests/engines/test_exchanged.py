"""Files whose records are exchanged under right checksums, or announce absurd lengths: an error in each engine, never a signal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from tests.helpers.foreign_files import example, floats, ints
from tests.helpers.metadata_files import write_signed
from vlpipe.engines.framing import check_lengths, other_frames
from vlpipe.errors import DatasetError
from vlpipe.files.tfrecord import footer_of, header_of, headers_of, masked_crc, read_frames
from vlpipe.sources.native import open_source
from vlpipe.storage.index import digest_of_rows

pytestmark = pytest.mark.usefixtures("quick_graphs")

ENGINES = ("mapped", "graph", "stream")
Change = Callable[[list[bytes]], list[bytes]]


def framed(records: list[bytes]) -> bytes:
    return b"".join(header_of(len(data)) + data + footer_of(masked_crc(data)) for data in records)


def swapped(records: list[bytes]) -> list[bytes]:
    return [*records[:3], records[7], *records[4:7], records[3], *records[8:]]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Twelve records of the same length; the frames of record i are i, and its label is i."""
    vlpipe.write(tmp_path / "data", [{"features": np.full((4, 3), i, np.float32), "label": i} for i in range(12)], num_shards=1)
    return next((tmp_path / "data").glob("*.tfrecord"))


def rewrite(path: Path, change: Change) -> None:
    """Rewrite a file in place; its size and times stay."""
    status = path.stat()
    with path.open("r+b") as file:
        file.write(framed(change([frame.data for frame in read_frames(path)])))
    assert path.stat().st_size == status.st_size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def message(make: Callable[[], Any]) -> str:
    with pytest.raises((DatasetError, tf.errors.OpError)) as caught:
        list(make())
    return str(getattr(caught.value, "message", caught.value))


@pytest.mark.parametrize("engine", ENGINES)
def test_exchanged_records_are_an_error_before_and_while_the_file_is_open(shard: Path, engine: str) -> None:
    def dataset() -> tf.data.Dataset:
        return vlpipe.make_dataset(shard.parent, engine=engine, batch_size=4, seed=1)

    opened = dataset()
    for x, y in opened:
        np.testing.assert_array_equal(x[:, 0, 0], y)
    rewrite(shard, swapped)
    index = open_source(shard.parent)
    changed = message(lambda: opened)
    assert engine != "graph" or ": is not the record that was indexed. " in changed
    for text in (changed, message(dataset)):
        assert index.where(3) in text or index.where(7) in text
        assert "The file is damaged, or was changed or replaced after it was written" in text
    rewrite(shard, swapped)
    assert sum(len(y) for _, y in opened) == 12


def test_the_graph_engine_leaves_exchanged_records_out(shard: Path) -> None:
    arguments: dict[str, Any] = {"engine": "graph", "batch_size": 4, "seed": 1, "on_damage": vlpipe.Skip(most=2)}
    opened = vlpipe.make_dataset(shard.parent, **arguments)
    rewrite(shard, swapped)
    for dataset in (opened, vlpipe.make_dataset(shard.parent, **arguments)):
        found = [(int(frames), int(label)) for x, y in dataset for frames, label in zip(x[:, 0, 0], y, strict=True)]
        assert sorted(found) == [(i, i) for i in range(12) if i not in (3, 7)]


@pytest.mark.parametrize(("engine", "length"), [("graph", 2**62), ("stream", 2**40), ("stream", 2**62)])
def test_an_absurd_length_is_no_signal(shard: Path, engine: str, length: int) -> None:
    """In this process: a failure would end it."""
    dataset = vlpipe.make_dataset(shard.parent, engine=engine, batch_size=4, seed=1)
    index = open_source(shard.parent)
    with shard.open("r+b") as file:
        file.seek(int(index.rows["offset"][5]))
        file.write(header_of(length))
    text = message(lambda: dataset)
    expected = f"announces {length} bytes of data, but {index.rows['bytes'][5]} were indexed"
    assert f"{index.where(5)}: {'TensorFlow cannot read the record' if engine == 'graph' else expected}" in text
    if engine == "graph":
        expected = f"the length or a checksum around its {index.rows['bytes'][5]} bytes of data is not the one in the index"
        assert f"{index.where(5)}: {expected}" in message(lambda: vlpipe.make_dataset(shard.parent, engine="graph"))


def test_a_record_that_becomes_no_example_is_named_by_the_graph_engine(shard: Path) -> None:
    dataset = vlpipe.make_dataset(shard.parent, engine="graph", batch_size=4, seed=1)
    rewrite(shard, lambda records: [*records[:6], b"\xde" * len(records[6]), *records[7:]])
    assert f"{open_source(shard.parent).where(6)}: TensorFlow cannot read the record" in message(lambda: dataset)


def test_an_absurd_length_behind_the_last_record_is_no_signal(shard: Path) -> None:
    dataset = vlpipe.make_dataset(shard.parent, engine="graph", batch_size=4, seed=1)
    with shard.open("ab") as file:
        file.write(header_of(2**40))
    assert shard.name in message(lambda: dataset)


def test_a_native_record_that_is_no_example_is_named_by_the_stream_engine(shard: Path) -> None:
    """All digests are right. Its bytes are no text, but TensorFlow's own message quotes them."""
    index, size = open_source(shard.parent), int(open_source(shard.parent).rows["bytes"][2])
    rewrite(shard, lambda records: [*records[:2], b"\xde" * size, *records[3:]])
    rows = np.array(index.rows)
    rows["checksum"][2] = masked_crc(b"\xde" * size)
    np.save(shard.parent / "index.npy", rows)
    document = json.loads((shard.parent / "vlpipe.json").read_text("utf-8"))
    document["index"]["digest"] = digest_of_rows(rows)
    write_signed(shard.parent / "vlpipe.json", document)
    text = message(lambda: vlpipe.make_dataset(shard.parent, engine="stream"))
    assert f"{index.where(2)}: is no tf.train.Example of the schema: byte 0 of the data" in text


@pytest.mark.parametrize("engine", ENGINES)
def test_a_third_party_record_exchanged_under_the_same_size_and_time(tmp_path: Path, engine: str) -> None:
    path = tmp_path / "a.tfrecord"
    path.write_bytes(framed([example({"mel": floats([float(i)] * 600), "label": ints(i)}) for i in range(12)]))
    layout = vlpipe.layouts.float_list("mel", d=6, label="label")
    dataset = vlpipe.make_dataset(path, layout=layout, engine=engine, seed=1)
    for x, y in dataset:
        np.testing.assert_array_equal(x[:, 0, 0], y)
    rewrite(path, swapped)  # the cached index stays valid: it compares the ends of the file
    for make in (lambda: dataset, lambda: vlpipe.make_dataset(path, layout=layout, engine=engine, seed=1)):
        text = message(make)
        assert "a.tfrecord, record 3 at byte" in text or "a.tfrecord, record 7 at byte" in text


def test_headers_of_many_lengths() -> None:
    lengths = np.array([0, 1, 255, 256, 1 << 20, (1 << 32) - 1], np.int64)
    assert [bytes(header) for header in headers_of(lengths)] == [header_of(length) for length in lengths.tolist()]


def test_framing_is_compared_without_reading_data(shard: Path) -> None:
    index = open_source(shard.parent)
    rows = np.arange(12)
    assert other_frames(index, rows).tolist() == []
    size = int(index.rows["bytes"][0])
    for row, at in ((2, 0), (4, 11), (6, 12 + size), (11, 15 + size), (8, 12)):  # the last one is a byte of the data
        with shard.open("r+b") as file:
            file.seek(int(index.rows["offset"][row]) + at)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))
    assert other_frames(index, rows).tolist() == [2, 4, 6, 11]
    check_lengths(index, rows[:2])
    shard.rename(shard.with_suffix(".away"))
    with pytest.raises(DatasetError, match="reading it failed .No such file or directory.. Try again, or restore it from a copy"):
        check_lengths(index, rows)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc/self/mem is Linux's")
def test_files_that_are_cut_are_errors_where_a_mapped_one_would_end_the_process(tmp_path: Path) -> None:
    """In another process: a third-party file that is cut while it is indexed, and a shard where the system call is forbidden."""
    vlpipe.write(tmp_path / "d", [{"features": np.ones((50, 80), "f4"), "label": n} for n in range(40)], num_shards=1)
    foreign = tmp_path / "a.tfrecord"
    foreign.write_bytes(framed([example({"mel": floats([1.0] * 60), "label": ints(1)})] * 400))
    script = f"""
import os
import numpy as np
from pathlib import Path
import vlpipe
from vlpipe.engines import gather_copy, mapped_shards
from vlpipe.sources.foreign import content, index_file
from vlpipe.sources.native import open_source
from vlpipe.storage.index import digest_of_rows
gather_copy._system_call = lambda: None
index = open_source({str(tmp_path / "d")!r})
shards = mapped_shards.Shards(index, "always")
shards.check(np.arange(2), index.rows[:2])
os.truncate(index.shards[0].path, 40000)
for rows in (np.arange(2), np.arange(40)):
    try:
        shards.check(rows, index.rows[rows])
    except vlpipe.VlpipeError as error:
        print(error)
def cut(file, path, records):
    made = content_of(file, path, records)
    os.truncate(path, 4096)
    return made
content_of, index_file.content_of = index_file.content_of, cut
try:
    vlpipe.build_index({str(foreign)!r}, vlpipe.layouts.float_list("mel", d=6, label="label"))
except vlpipe.VlpipeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "the file was cut" in done.stdout
    size = foreign.stat().st_size
    assert size == 4096
    assert "a.tfrecord: was cut while it was indexed: nothing can be read at byte 4096 of" in done.stdout
