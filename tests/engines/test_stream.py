"""Damage that is found while reading: never wrong frames, never a clean end, always the name of the file."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from tests.helpers.metadata_files import write_signed
from vlpipe.files.tfrecord import footer_of, header_of, masked_crc
from vlpipe.sources.native import open_source
from vlpipe.storage.index import digest_of_rows

pytestmark = pytest.mark.usefixtures("quick_graphs")

BATCHINGS = ("bucket", "pad", "ragged", "same_length")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Five records of 1 to 3 frames in one shard."""
    records = [{"features": np.full((1 + number % 3, 2), number, np.float32), "label": number} for number in range(5)]
    vlpipe.write(tmp_path / "data", records, num_shards=1)
    return tmp_path / "data"


@pytest.fixture
def shard(source: Path) -> Path:
    return next(source.glob("*.tfrecord"))


def stream(source: Path, **arguments: Any) -> tf.data.Dataset:
    return vlpipe.make_dataset(source, engine="stream", ids=True, **arguments)


def read(dataset: tf.data.Dataset) -> list[int]:
    return sorted(int(number) for x, _ in dataset for number in x["id"])


def failure(dataset: tf.data.Dataset) -> str:
    with pytest.raises(tf.errors.OpError) as caught:
        read(dataset)
    return str(caught.value.message)


def share_of(damages: Iterator[tuple[str, bytes]], batching: str) -> Iterator[tuple[str, bytes]]:
    """Every fourth damage, a different quarter for each batching: all combinations would take minutes and find no more."""
    return itertools.islice(damages, BATCHINGS.index(batching), None, len(BATCHINGS))


def cuts_and_flips(shard: Path, row: np.void) -> Iterator[tuple[str, bytes]]:
    """The file cut at every byte of its last record, and with every third byte of that record flipped."""
    whole = shard.read_bytes()
    start = int(row["offset"])
    for kept in range(start, len(whole)):
        yield f"cut at {kept}", whole[:kept]
    for position in range(start, len(whole), 3):
        yield f"flipped at {position}", whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :]


@pytest.mark.parametrize("batching", ["bucket", "ragged"])
def test_each_cut_and_each_flipped_byte_is_reported_with_the_place(source: Path, shard: Path, batching: str) -> None:
    index = open_source(source)
    last = int(index.by_shard()[-1])
    whole = shard.read_bytes()
    dataset = stream(source, batching=batching, batch_size=2)
    assert read(dataset) == [0, 1, 2, 3, 4]
    for damage, content in itertools.islice(share_of(cuts_and_flips(shard, index.rows[last]), batching), 0, None, 2):
        shard.write_bytes(content)
        message = failure(dataset)
        assert f"{index.where(last)}: cannot be read; read 4 of 5 records" in message, damage
        assert "restore it from a copy, or write the dataset again." in message
    shard.write_bytes(whole)
    assert read(dataset) == [0, 1, 2, 3, 4]


def test_a_cut_shard_is_refused_before_iteration(source: Path, shard: Path) -> None:
    size = shard.stat().st_size
    with shard.open("ab") as file:
        file.truncate(size - 1)
    with pytest.raises(vlpipe.DatasetError, match=f"{shard.name}: has {size - 1} bytes, expected {size} with 5 records: the file was cut"):
        vlpipe.make_dataset(source)
    with shard.open("ab") as file:
        file.write(b"more")
    with pytest.raises(vlpipe.DatasetError, match="the file was changed after it was written. Restore it"):
        vlpipe.make_dataset(source)


def test_a_shard_that_vanishes_is_an_error_and_no_endless_loop(source: Path, shard: Path) -> None:
    dataset = stream(source)
    os.rename(shard, shard.with_suffix(".away"))
    assert shard.name in failure(dataset)
    with pytest.raises(vlpipe.DatasetError, match=f"{shard.name}: cannot be read .No such file or directory., expected a shard of"):
        vlpipe.make_dataset(source)


def framed(data: bytes) -> bytes:
    return header_of(len(data)) + data + footer_of(masked_crc(data))


def test_a_shard_that_grew_by_a_record_is_not_taken_for_whole(source: Path, shard: Path) -> None:
    dataset = stream(source)
    with shard.open("ab") as file:
        file.write(framed(b""))
    assert f"{shard.name}: holds more than 5 records" in failure(dataset)


def test_a_shard_swapped_for_another_is_found_by_the_lengths_of_its_records(tmp_path: Path) -> None:
    records = [{"features": np.full((1 + number % 3, 2), number, np.float32), "label": number} for number in range(5)]
    vlpipe.write(tmp_path / "a", records, num_shards=1)
    vlpipe.write(tmp_path / "b", records[1:] + records[:1], num_shards=1)
    (a,), (b,) = (tmp_path / "a").glob("*.tfrecord"), (tmp_path / "b").glob("*.tfrecord")
    dataset = stream(tmp_path / "a", shuffle=False, num_parallel_calls=1)
    a.write_bytes(b.read_bytes())
    sizes = [open_source(tmp_path / name).rows["bytes"][0] for name in ("b", "a")]
    assert f"record 0 at byte 0: announces {sizes[0]} bytes of data, but {sizes[1]} were indexed. " in failure(dataset)


def test_a_wrong_d_in_the_schema_is_named_with_place_found_and_expected(source: Path) -> None:
    """Metadata edited by hand: frames were written with 2 values, the schema claims 3."""
    path = source / "vlpipe.json"
    document = json.loads(path.read_text("utf-8"))
    document["schema"]["features"]["shape"] = [3]
    document["statistics"] = {}
    rows = np.array(np.load(source / "index.npy"))
    rows["frames"] = 0
    np.save(source / "index.npy", rows)
    document["index"]["digest"] = digest_of_rows(rows)
    write_signed(path, document)
    dataset = stream(source, length_range=(0, None), shuffle=False, num_parallel_calls=1)
    message = failure(dataset).replace("\\", "")
    assert 'record 0 at byte 0: "features" holds 8 bytes, not a multiple of 12 (d = 3, float32). Pass the schema that wrote it' in message


def test_a_record_that_is_no_example_is_an_error(source: Path, shard: Path) -> None:
    dataset = stream(source)
    index = open_source(source)
    content = bytearray(shard.read_bytes())
    row: Any = index.rows[int(index.by_shard()[-1])]
    content[int(row["offset"]) :] = framed(bytes(int(row["bytes"])))
    shard.write_bytes(content)
    assert f"{index.where(int(index.by_shard()[-1]))}: the checksum of its" in failure(dataset)
    unchecked = stream(source, verify="never")
    assert "Feature: features (data type: string) is required but could not be found" in failure(unchecked)


def test_records_of_one_size_with_other_frames_are_found_without_checksums(tmp_path: Path) -> None:
    schema = vlpipe.Schema(features=vlpipe.Sequence(2), others=vlpipe.Sequence(2))
    sizes = (1, 2), (2, 1)
    for name, order in (("a", sizes), ("b", sizes[::-1])):
        records = [{"features": np.ones((first, 2), "f4"), "others": np.ones((second, 2), "f4")} for first, second in order]
        vlpipe.write(tmp_path / name, records, schema=schema, num_shards=1)
    (a,), (b,) = (tmp_path / "a").glob("*.tfrecord"), (tmp_path / "b").glob("*.tfrecord")
    dataset = stream(tmp_path / "a", features="features", label="others", shuffle=False, num_parallel_calls=1, verify="never")
    a.write_bytes(b.read_bytes())
    message = failure(dataset).replace("\\", "")
    assert 'record 0 at byte 0: "features" has 2 frames, but 1 were indexed. ' in message
