"""`verify` finds damage of every kind in a vlpipe dataset, at the right record, and names its kind."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import vlpipe
from tests.helpers.metadata_files import write_signed
from tests.storage.test_example import schemas_and_records
from tests.verification.damage import LENGTHS, SCHEMA, FailingFile, make_record, only, record_spans, rewrite_index, shard_of
from vlpipe.errors import DatasetError
from vlpipe.files.tfrecord import footer_of, header_of, masked_crc
from vlpipe.storage.example import encode
from vlpipe.storage.metadata import open_directory
from vlpipe.storage.schema import Fixed, Schema, Sequence
from vlpipe.verification import Report, files

# ---- intact datasets --------------------------------------------------------------------------------------------------------------


def test_an_intact_dataset_has_no_problems(dataset: Path) -> None:
    size = sum(path.stat().st_size for path in dataset.glob("*.tfrecord"))
    expected = Report(shards=2, records=len(LENGTHS), bytes=size, damaged=0, lost=0, problems=(), unlisted=0, layout="vlpipe")
    assert vlpipe.verify(dataset) == vlpipe.verify(str(dataset), workers=1) == expected
    assert expected.ok
    assert expected.report() == "8 records in 2 shards, 0.0 MB read: all as they were written"


@settings(max_examples=20)
@given(schemas_and_records())
def test_an_intact_dataset_of_any_schema_has_no_problems(tmp_path: Path, case: tuple[Schema, dict[str, Any]]) -> None:
    schema, record = case
    vlpipe.write(tmp_path / "d", [record] * 3, schema, num_shards=2, overwrite=True)
    assert vlpipe.verify(tmp_path / "d").ok


def test_several_directories_or_a_single_shard(dataset: Path) -> None:
    shutil.copytree(dataset, dataset.parent / "e")
    two_datasets = vlpipe.verify([dataset, dataset.parent / "e"])
    assert (two_datasets.ok, two_datasets.shards, two_datasets.records) == (True, 4, 16)
    one_shard = vlpipe.verify(shard_of(dataset, 1))
    assert (one_shard.ok, one_shard.shards, one_shard.records) == (True, 1, len(record_spans(dataset, 1)))


def test_an_empty_dataset_has_no_problems(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", [], SCHEMA, num_shards=3)
    assert vlpipe.verify(tmp_path / "d") == Report(3, 0, 0, 0, 0, (), 0, "vlpipe")


def test_many_fields(tmp_path: Path) -> None:
    fields = {f"field {number}": Fixed((), "int8") for number in range(300)}
    vlpipe.write(tmp_path / "d", [{"x": [1.0]} | dict.fromkeys(fields, -1)] * 2, Schema(x=Sequence(), **fields), num_shards=1)
    assert vlpipe.verify(tmp_path / "d").ok


# ---- damaged bytes ---------------------------------------------------------------------------------------------------------------


def test_each_flipped_byte_is_found_at_its_record(dataset: Path) -> None:
    path = shard_of(dataset, 0)
    content = path.read_bytes()
    for record, (begin, end) in enumerate(record_spans(dataset, 0)):
        for position in range(begin, end):
            damaged = bytearray(content)
            damaged[position] ^= 1 << position % 8
            path.write_bytes(damaged)
            report = vlpipe.verify(dataset, workers=1)
            problem = only(report)
            kind = "header" if position < begin + 12 else "data" if position < end - 4 else "footer"
            assert (problem.shard, problem.record, problem.offset, problem.kind) == (str(path), record, begin, kind)
            assert (report.damaged, report.bytes) == (1, sum(file.stat().st_size for file in dataset.glob("*.tfrecord")))


def test_the_report_of_a_cut_shard_names_the_first_record_that_is_lost(dataset: Path) -> None:
    path = shard_of(dataset, 0)
    content, spans = path.read_bytes(), record_spans(dataset, 0)
    for size in range(len(content) - 1, -1, -1):
        os.truncate(path, size)
        report = vlpipe.verify(dataset, workers=1)
        problem = only(report)
        record = next(number for number, (_, end) in enumerate(spans) if end > size)
        assert (problem.kind, problem.record, problem.offset) == ("cut", record, spans[record][0])
        assert problem.found == f"the file ends at byte {size}: from here on it cannot be read"
        assert problem.expected == f"{len(spans) - record} more records, to byte {len(content)}"
        assert report.damaged == len(spans) - record
        assert report.bytes == size + shard_of(dataset, 1).stat().st_size


def test_damage_in_many_places_is_all_found(dataset: Path) -> None:
    for number in (0, 1):
        path = shard_of(dataset, number)
        damaged = bytearray(path.read_bytes())
        for begin, end in record_spans(dataset, number):
            damaged[begin] ^= 1
            damaged[end - 6] ^= 1
        path.write_bytes(damaged)
    report = vlpipe.verify(dataset)
    assert [(problem.record, problem.kind) for problem in report.problems] == [
        (record, kind) for number in (0, 1) for record in range(len(record_spans(dataset, number))) for kind in ("header", "data")
    ]
    assert report.damaged == len(LENGTHS)
    length = record_spans(dataset, 0)[0][1] - 16
    assert str(report.problems[0]) == (
        f"{shard_of(dataset, 0).name}, record 0 at byte 0: its header is corrupt: a reader without the index cannot continue from here, "
        f"expected the length {length} and its checksum. Restore it from a copy, or write the dataset again."
    )


def test_an_index_that_claims_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", [make_record(1, 1)], SCHEMA, num_shards=1)
    document = json.loads((tmp_path / "d" / "vlpipe.json").read_text("utf-8"))
    rewrite_index(tmp_path / "d", lambda rows: rows["bytes"].fill(3_000_000_000))
    document["index"] = json.loads((tmp_path / "d" / "vlpipe.json").read_text("utf-8"))["index"]
    document["shards"][0]["bytes"] = 3_000_000_016
    write_signed(tmp_path / "d" / "vlpipe.json", document)
    tracemalloc.start()
    try:
        problem = only(vlpipe.verify(tmp_path / "d"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert problem.kind == "cut"
    assert peak < 1 << 24


def test_bytes_after_the_last_record(dataset: Path) -> None:
    path = shard_of(dataset, 1)
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(bytes(3))
    report = vlpipe.verify(dataset)
    problem = only(report)
    assert (problem.kind, problem.record, problem.offset, report.damaged) == ("size", None, size, 0)
    assert str(problem).startswith(f"{path.name} at byte {size}: 3 bytes follow the last record, expected a file of {size} bytes. Restore")


@pytest.mark.parametrize("kind", ["missing", "directory", "pipe"])
def test_a_shard_that_is_not_a_regular_file(dataset: Path, kind: str) -> None:
    path = shard_of(dataset, 0)
    path.unlink()
    if kind == "directory":
        path.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    report = vlpipe.verify(dataset)
    problem = only(report)
    assert (problem.kind, problem.record, report.damaged) == ("unreadable", None, len(record_spans(dataset, 0)))
    assert ("No such file or directory" if kind == "missing" else "not a regular file") in problem.found
    assert report.bytes == shard_of(dataset, 1).stat().st_size


@pytest.mark.parametrize(("fails", "kind"), [(True, "unreadable"), (False, "cut")])
def test_a_file_that_fails_while_it_is_read(dataset: Path, monkeypatch: pytest.MonkeyPatch, fails: bool, kind: str) -> None:
    path = str(shard_of(dataset, 0))
    monkeypatch.setattr(files, "open_regular", lambda name: FailingFile(name, 4 if name == path else 1000, fails))
    report = vlpipe.verify(dataset)
    problem = only(report)
    assert (problem.kind, report.damaged) == (kind, len(record_spans(dataset, 0)) - 1)
    assert problem.record == (None if fails else 1)


# ---- inconsistent parts ------------------------------------------------------------------------------------------


def test_swapped_shards_are_recognised(dataset: Path) -> None:
    first, second = shard_of(dataset, 0), shard_of(dataset, 1)
    first.rename(dataset / "x")
    second.rename(first)
    (dataset / "x").rename(second)
    report = vlpipe.verify(dataset)
    assert [(problem.kind, problem.found, problem.expected) for problem in report.problems] == [
        ("digest", f"the content of {other.name}", f"that of {shard.name}") for shard, other in ((first, second), (second, first))
    ]
    assert report.damaged == len(LENGTHS)
    assert report.problems[0].action.startswith("Restore the shards, index.npy and vlpipe.json from the same copy")


def test_a_wrong_digest(dataset: Path) -> None:
    document = json.loads((dataset / "vlpipe.json").read_text("utf-8"))
    digest = document["shards"][1]["digest"]
    for wrong in (digest[:-1] + ("0" if digest[-1] != "0" else "1"), "md5:abc", ""):
        document["shards"][1]["digest"] = wrong
        write_signed(dataset / "vlpipe.json", document)
        report = vlpipe.verify(dataset)
        problem = only(report)
        assert (problem.kind, problem.record, problem.offset, report.damaged) == ("digest", None, None, 0)
        assert (problem.found, problem.expected) == (f"the digest {digest}", f"{wrong}, according to vlpipe.json")


def replace_data(path: Path, span: tuple[int, int], data: bytes) -> None:
    """Replace a record by another of the same length, with matching checksums."""
    begin, end = span
    assert len(data) == end - begin - 16
    content = path.read_bytes()
    path.write_bytes(content[:begin] + header_of(len(data)) + data + footer_of(masked_crc(data)) + content[end:])


def test_another_record_of_the_same_length(dataset: Path) -> None:
    index = open_directory(dataset)
    row = int(np.flatnonzero(index.frames("x") > 0)[0])
    record = make_record(row, LENGTHS[row])
    record["x"] = record["x"] + 1
    number, path = int(index.rows["shard"][row]), Path(index.shards[index.rows["shard"][row]].path)
    begin = int(index.rows["offset"][row])
    span = next(span for span in record_spans(dataset, number) if span[0] == begin)
    replace_data(path, span, encode(SCHEMA, SCHEMA.check(record)).data)
    problem = only(vlpipe.verify(dataset))
    assert (problem.kind, problem.offset) == ("replaced", begin)
    assert problem.found.startswith("another record: ")
    # With the checksum of the other record in the index, only the digest of the file differs.
    rewrite_index(dataset, lambda rows: rows["checksum"].__setitem__(row, masked_crc(path.read_bytes()[span[0] + 12 : span[1] - 4])))
    assert only(vlpipe.verify(dataset)).kind == "digest"


def test_a_valid_header_with_another_length(dataset: Path) -> None:
    path, (begin, end) = shard_of(dataset, 0), record_spans(dataset, 0)[1]
    content = path.read_bytes()
    path.write_bytes(content[:begin] + header_of(2**60) + content[begin + 12 :])
    problem = only(vlpipe.verify(dataset))
    assert (problem.kind, problem.record, problem.offset) == ("length", 1, begin)
    assert problem.found == f"a record of {2**60} bytes of data"
    assert problem.expected == f"one of {end - begin - 16}, according to the index"


@pytest.mark.parametrize("data", [b"", b"\xff" * 11, b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0a\x80\x80\x80\x80\x10"])
def test_valid_frames_whose_data_are_not_an_example(dataset: Path, data: bytes) -> None:
    path, span = shard_of(dataset, 0), record_spans(dataset, 0)[0]
    data = data.ljust(span[1] - span[0] - 16, b"\0")
    replace_data(path, span, data)
    index = open_directory(dataset)
    row = int(np.flatnonzero((index.rows["shard"] == 0) & (index.rows["offset"] == 0))[0])
    rewrite_index(dataset, lambda rows: rows["checksum"].__setitem__(row, masked_crc(data)))
    problem = only(vlpipe.verify(dataset))
    assert (problem.kind, problem.record) == ("example", 0)
    assert problem.found.startswith("byte ")
    assert problem.expected == "an Example of the schema"


@pytest.mark.parametrize(
    ("column", "change", "kind", "words"),
    [
        ("checksum", 1, "replaced", "bytes of data with checksum"),
        ("frames", -1, "index", '5 frames of "x" from byte'),
        ("start", -1, "index", '5 frames of "x" from byte'),
        ("frames:wörter", -1, "index", '"wörter" from byte'),
        ("start:wörter", 1, "index", '"wörter" from byte'),
        ("value:label", 1, "index", '"label" is 6'),
        ("value:half", 1, "index", '"half" is [-0. nan]'),
    ],
)
def test_an_index_that_does_not_match_the_data(dataset: Path, column: str, change: int, kind: str, words: str) -> None:
    row = 6 if column != "frames:wörter" else 2  # five frames; two words

    def edit(rows: np.ndarray) -> None:
        rows[column][row : row + 1] += np.array(change).astype(rows[column].dtype)  # wraps around where it must

    rewrite_index(dataset, edit)
    report = vlpipe.verify(dataset)
    problem = only(report)
    assert (problem.kind, problem.offset, report.damaged) == (kind, int(open_directory(dataset).rows["offset"][row]), 1)
    assert words in problem.found
    assert "according to the index" in problem.expected


def test_the_sign_of_a_zero_is_a_difference(dataset: Path) -> None:
    rewrite_index(dataset, lambda rows: rows["value:half"].__setitem__((3, 0), 0.0))
    assert only(vlpipe.verify(dataset)).expected == "[ 0. nan], according to the index"


def test_an_index_of_another_dataset_is_refused(dataset: Path, tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "e", [make_record(9, 2)] * 8, SCHEMA, num_shards=2)
    shutil.copy(tmp_path / "e" / "index.npy", dataset)
    with pytest.raises(DatasetError, match="the files do not belong together"):
        vlpipe.verify(dataset)
    shutil.copy(tmp_path / "e" / "vlpipe.json", dataset)  # both: now the shards belong to another dataset
    (tmp_path / "e").rename(tmp_path / "f")
    for number in (0, 1):
        shard_of(tmp_path / "d", number)
        (dataset / f"d-{number:05d}-of-00002.tfrecord").rename(dataset / f"e-{number:05d}-of-00002.tfrecord")
    report = vlpipe.verify(dataset)
    assert {problem.kind for problem in report.problems} <= {"header", "length", "replaced", "data", "cut", "size"}
    assert report.damaged == 8
