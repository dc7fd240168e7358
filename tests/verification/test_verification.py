"""Damage of every kind, done to a dataset on purpose: it is found, at the right record, and named for what it is."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import vlpipe
from tests.storage.test_example import schemas_and_records
from vlpipe.errors import ArgumentError, DatasetError
from vlpipe.files.tfrecord import footer_of, header_of, masked_crc
from vlpipe.storage.example import encode
from vlpipe.storage.index import digest_of_rows
from vlpipe.storage.metadata import open_directory
from vlpipe.storage.schema import Fixed, Schema, Sequence, Text
from vlpipe.verification import Problem, Report, files

SCHEMA = Schema(x=Sequence(2, "float32"), wörter=Sequence((), "int16"), label=Fixed((), "int16"), half=Fixed(2, "float16"), text=Text())
LENGTHS = (3, 0, 1, 4, 2, 0, 5, 1)


def make_record(number: int, length: int) -> dict[str, Any]:
    random = np.random.default_rng(number)
    return {
        "x": random.standard_normal((length, 2)).astype(np.float32),
        "wörter": np.arange(number % 3, dtype=np.int16),
        "label": number,
        "half": np.array([-0.0, np.nan], np.float16),
        "text": "ß" * number,
    }


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    vlpipe.write(tmp_path / "d", (make_record(*pair) for pair in enumerate(LENGTHS)), SCHEMA, num_shards=2)
    return tmp_path / "d"


def shard_of(dataset: Path, number: int) -> Path:
    return Path(open_directory(dataset).shards[number].path)


def places(dataset: Path, number: int) -> list[tuple[int, int]]:
    """Where each record of a shard begins and ends."""
    rows = open_directory(dataset).rows
    rows = np.sort(rows[rows["shard"] == number], order="offset")
    return [(int(row["offset"]), int(row["offset"]) + 16 + int(row["bytes"])) for row in rows]


def rewrite_index(dataset: Path, change: Callable[[np.ndarray], Any]) -> None:
    """Change the rows of the index, and the digest with them."""
    rows = np.array(open_directory(dataset).rows)
    change(rows)
    with (dataset / "index.npy").open("wb") as file:
        np.lib.format.write_array(file, rows, version=(3, 0), allow_pickle=False)
    document = json.loads((dataset / "vlpipe.json").read_text("utf-8"))
    document["index"]["digest"] = digest_of_rows(rows)
    (dataset / "vlpipe.json").write_text(json.dumps(document), "utf-8")


def only(report: Report) -> Problem:
    assert not report.ok
    assert len(report.problems) == 1
    assert report.unlisted == 0
    return report.problems[0]


# ---- nothing wrong ---------------------------------------------------------------------------------------------------------------


def test_what_was_written_is_in_order(dataset: Path) -> None:
    size = sum(path.stat().st_size for path in dataset.glob("*.tfrecord"))
    expected = Report(shards=2, records=len(LENGTHS), bytes=size, damaged=0, lost=0, problems=(), unlisted=0, layout="vlpipe")
    assert vlpipe.verify(dataset) == vlpipe.verify(str(dataset), workers=1) == expected
    assert expected.ok
    assert expected.report() == "8 records in 2 shards, 0.0 MB read: all as they were written"


@settings(max_examples=20)
@given(schemas_and_records())
def test_any_schema_is_in_order(tmp_path: Path, case: tuple[Schema, dict[str, Any]]) -> None:
    schema, record = case
    vlpipe.write(tmp_path / "d", [record] * 3, schema, num_shards=2, overwrite=True)
    assert vlpipe.verify(tmp_path / "d").ok


def test_sources_of_several_kinds(dataset: Path) -> None:
    shutil.copytree(dataset, dataset.parent / "e")
    both = vlpipe.verify([dataset, dataset.parent / "e"])
    assert (both.ok, both.shards, both.records) == (True, 4, 16)
    one = vlpipe.verify(shard_of(dataset, 1))
    assert (one.ok, one.shards, one.records) == (True, 1, len(places(dataset, 1)))


def test_an_empty_dataset_is_in_order(tmp_path: Path) -> None:
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
    for record, (begin, end) in enumerate(places(dataset, 0)):
        for position in range(begin, end):
            damaged = bytearray(content)
            damaged[position] ^= 1 << position % 8
            path.write_bytes(damaged)
            report = vlpipe.verify(dataset, workers=1)
            problem = only(report)
            kind = "header" if position < begin + 12 else "data" if position < end - 4 else "footer"
            assert (problem.shard, problem.record, problem.offset, problem.kind) == (str(path), record, begin, kind)
            assert (report.damaged, report.bytes) == (1, sum(file.stat().st_size for file in dataset.glob("*.tfrecord")))


def test_each_cut_says_from_where_on_records_are_lost(dataset: Path) -> None:
    path = shard_of(dataset, 0)
    content, where = path.read_bytes(), places(dataset, 0)
    for size in range(len(content) - 1, -1, -1):
        os.truncate(path, size)
        report = vlpipe.verify(dataset, workers=1)
        problem = only(report)
        record = next(number for number, (_, end) in enumerate(where) if end > size)
        assert (problem.kind, problem.record, problem.offset) == ("cut", record, where[record][0])
        assert problem.found == f"the file ends at byte {size}: from here on it cannot be read"
        assert problem.expected == f"{len(where) - record} more records, to byte {len(content)}"
        assert report.damaged == len(where) - record
        assert report.bytes == size + shard_of(dataset, 1).stat().st_size


def test_damage_in_many_places_is_all_found(dataset: Path) -> None:
    for number in (0, 1):
        path = shard_of(dataset, number)
        damaged = bytearray(path.read_bytes())
        for begin, end in places(dataset, number):
            damaged[begin] ^= 1
            damaged[end - 6] ^= 1
        path.write_bytes(damaged)
    report = vlpipe.verify(dataset)
    assert [(problem.record, problem.kind) for problem in report.problems] == [
        (record, kind) for number in (0, 1) for record in range(len(places(dataset, number))) for kind in ("header", "data")
    ]
    assert report.damaged == len(LENGTHS)
    length = places(dataset, 0)[0][1] - 16
    assert str(report.problems[0]) == (
        f"{shard_of(dataset, 0).name}, record 0 at byte 0: its header is damaged: a reader without the index cannot go on from here, "
        f"expected the length {length} and its checksum. Restore the file from a copy, or write the dataset again."
    )


def test_an_index_that_claims_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", [make_record(1, 1)], SCHEMA, num_shards=1)
    document = json.loads((tmp_path / "d" / "vlpipe.json").read_text("utf-8"))
    rewrite_index(tmp_path / "d", lambda rows: rows["bytes"].fill(3_000_000_000))
    document["index"] = json.loads((tmp_path / "d" / "vlpipe.json").read_text("utf-8"))["index"]
    document["shards"][0]["bytes"] = 3_000_000_016
    (tmp_path / "d" / "vlpipe.json").write_text(json.dumps(document), "utf-8")
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
def test_a_shard_that_is_no_file(dataset: Path, kind: str) -> None:
    path = shard_of(dataset, 0)
    path.unlink()
    if kind == "directory":
        path.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    report = vlpipe.verify(dataset)
    problem = only(report)
    assert (problem.kind, problem.record, report.damaged) == ("unreadable", None, len(places(dataset, 0)))
    assert ("No such file or directory" if kind == "missing" else "no regular file") in problem.found
    assert report.bytes == shard_of(dataset, 1).stat().st_size


class _Failing:
    """A file of which only so many reads succeed; then it ends, or fails as a disk does."""

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

    def __enter__(self) -> _Failing:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@pytest.mark.parametrize(("fails", "kind"), [(True, "unreadable"), (False, "cut")])
def test_a_file_that_fails_while_it_is_read(dataset: Path, monkeypatch: pytest.MonkeyPatch, fails: bool, kind: str) -> None:
    path = str(shard_of(dataset, 0))
    monkeypatch.setattr(files, "opened", lambda name: _Failing(name, 4 if name == path else 1000, fails))
    report = vlpipe.verify(dataset)
    problem = only(report)
    assert (problem.kind, report.damaged) == (kind, len(places(dataset, 0)) - 1)
    assert problem.record == (None if fails else 1)


# ---- parts that do not belong together -------------------------------------------------------------------------------------------


def test_swapped_shards_are_recognised(dataset: Path) -> None:
    first, second = shard_of(dataset, 0), shard_of(dataset, 1)
    first.rename(dataset / "x")
    second.rename(first)
    (dataset / "x").rename(second)
    report = vlpipe.verify(dataset)
    assert [(problem.kind, problem.found, problem.expected) for problem in report.problems] == [
        ("digest", f"the content of {other.name}", f"that of {own.name}") for own, other in ((first, second), (second, first))
    ]
    assert report.damaged == len(LENGTHS)
    assert report.problems[0].action.startswith("Bring back the shards, index.npy and vlpipe.json of one and the same writing")


def test_a_wrong_digest(dataset: Path) -> None:
    document = json.loads((dataset / "vlpipe.json").read_text("utf-8"))
    digest = document["shards"][1]["digest"]
    for wrong in (digest[:-1] + ("0" if digest[-1] != "0" else "1"), "md5:abc", ""):
        document["shards"][1]["digest"] = wrong
        (dataset / "vlpipe.json").write_text(json.dumps(document), "utf-8")
        report = vlpipe.verify(dataset)
        problem = only(report)
        assert (problem.kind, problem.record, problem.offset, report.damaged) == ("digest", None, None, 0)
        assert (problem.found, problem.expected) == (f"the digest {digest}", f"{wrong}, as vlpipe.json says")


def replace_data(path: Path, place: tuple[int, int], data: bytes) -> None:
    """Put another record of the same length there, with sound checksums."""
    begin, end = place
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
    place = next(place for place in places(dataset, number) if place[0] == begin)
    replace_data(path, place, encode(SCHEMA, SCHEMA.check(record)).data)
    problem = only(vlpipe.verify(dataset))
    assert (problem.kind, problem.offset) == ("replaced", begin)
    assert problem.found.startswith("another record: ")
    # An index that knows of it leaves only the digest of the file to tell.
    rewrite_index(dataset, lambda rows: rows["checksum"].__setitem__(row, masked_crc(path.read_bytes()[place[0] + 12 : place[1] - 4])))
    assert only(vlpipe.verify(dataset)).kind == "digest"


def test_a_sound_header_of_another_length(dataset: Path) -> None:
    path, (begin, end) = shard_of(dataset, 0), places(dataset, 0)[1]
    content = path.read_bytes()
    path.write_bytes(content[:begin] + header_of(2**60) + content[begin + 12 :])
    problem = only(vlpipe.verify(dataset))
    assert (problem.kind, problem.record, problem.offset) == ("length", 1, begin)
    assert problem.found == f"a record of {2**60} bytes of data"
    assert problem.expected == f"one of {end - begin - 16}, as the index says"


@pytest.mark.parametrize("data", [b"", b"\xff" * 11, b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0a\x80\x80\x80\x80\x10"])
def test_sound_records_that_are_no_example(dataset: Path, data: bytes) -> None:
    path, place = shard_of(dataset, 0), places(dataset, 0)[0]
    data = data.ljust(place[1] - place[0] - 16, b"\0")
    replace_data(path, place, data)
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
        ("checksum", 1, "replaced", "bytes of data of checksum"),
        ("frames", -1, "index", '5 frames of "x" from byte'),
        ("start", -1, "index", '5 frames of "x" from byte'),
        ("frames:wörter", -1, "index", '"wörter" from byte'),
        ("start:wörter", 1, "index", '"wörter" from byte'),
        ("value:label", 1, "index", '"label" is 6'),
        ("value:half", 1, "index", '"half" is [-0. nan]'),
    ],
)
def test_an_index_that_says_something_else(dataset: Path, column: str, change: int, kind: str, words: str) -> None:
    row = 6 if column != "frames:wörter" else 2  # five frames; two words

    def edit(rows: np.ndarray) -> None:
        rows[column][row : row + 1] += np.array(change).astype(rows[column].dtype)  # wraps around where it must

    rewrite_index(dataset, edit)
    report = vlpipe.verify(dataset)
    problem = only(report)
    assert (problem.kind, problem.offset, report.damaged) == (kind, int(open_directory(dataset).rows["offset"][row]), 1)
    assert words in problem.found
    assert "as the index says" in problem.expected


def test_the_sign_of_a_zero_is_a_difference(dataset: Path) -> None:
    rewrite_index(dataset, lambda rows: rows["value:half"].__setitem__((3, 0), 0.0))
    assert only(vlpipe.verify(dataset)).expected == "[ 0. nan], as the index says"


def test_an_index_of_another_dataset_is_refused(dataset: Path, tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "e", [make_record(9, 2)] * 8, SCHEMA, num_shards=2)
    shutil.copy(tmp_path / "e" / "index.npy", dataset)
    with pytest.raises(DatasetError, match="the two do not belong together"):
        vlpipe.verify(dataset)
    shutil.copy(tmp_path / "e" / "vlpipe.json", dataset)  # both: now the shards are those of another
    (tmp_path / "e").rename(tmp_path / "f")
    for number in (0, 1):
        shard_of(tmp_path / "d", number)
        (dataset / f"d-{number:05d}-of-00002.tfrecord").rename(dataset / f"e-{number:05d}-of-00002.tfrecord")
    report = vlpipe.verify(dataset)
    assert {problem.kind for problem in report.problems} <= {"header", "length", "replaced", "data", "cut", "size"}
    assert report.damaged == 8


# ---- the report ------------------------------------------------------------------------------------------------------------------


def test_the_list_of_problems_has_an_end(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", [make_record(1, 1)] * 300, SCHEMA, num_shards=2)
    rewrite_index(tmp_path / "d", lambda rows: rows["value:label"].fill(5))
    report = vlpipe.verify(tmp_path / "d")
    assert (report.damaged, len(report.problems), report.unlisted) == (300, 100, 200)
    assert [problem.record for problem in report.problems] == list(range(100))
    assert "300 records are damaged or lost, 300 problems" in report.report()
    assert "… and 200 more problems" in report.report()


def test_the_table_has_place_and_way_out(dataset: Path) -> None:
    path = shard_of(dataset, 0)
    begin, _ = places(dataset, 0)[1]
    content = bytearray(path.read_bytes())
    content[begin + 20] ^= 1
    path.write_bytes(content)
    lines = vlpipe.verify(dataset).report().splitlines()
    assert lines[0] == "8 records in 2 shards, 0.0 MB read: 1 records are damaged or lost, 1 problems"
    assert lines[2].split() == ["shard", "record", "at", "byte", "problem", "found", "expected"]
    assert lines[3].split()[:4] == [path.name, "1", f"{begin:,}", "data"]
    assert lines[-1] == "data: Restore the file from a copy, or write the dataset again."


def test_a_hostile_name_cannot_steer_the_terminal() -> None:
    problem = Problem("d/\x1b[2J[red].tfrecord", 1, 2, "data", "\x9b", "\r", "Do.")
    report = Report(1, 1, 1, 1, 0, (problem,), 0, "vlpipe").report()
    assert "\\x1b[2J[red].tfrecord" in report
    assert all(letter.isprintable() for letter in report.replace("\n", ""))


# ---- progress and threads --------------------------------------------------------------------------------------------------------


def test_progress_is_told_in_order(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "REPORT_EVERY", 1)
    told: list[tuple[int, int]] = []
    report = vlpipe.verify(dataset, progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len(told) > len(LENGTHS)
    assert told[-1] == (report.bytes, report.bytes)
    assert {total for _, total in told} == {report.bytes}


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), BrokenPipeError("no terminal"), DatasetError("mine")])
def test_what_progress_raises_ends_it(dataset: Path, monkeypatch: pytest.MonkeyPatch, raised: BaseException) -> None:
    monkeypatch.setattr(files, "REPORT_EVERY", 1)
    calls = []

    def stop(done: int, _total: int) -> None:
        calls.append(done)
        raise raised

    threads = threading.active_count()
    with pytest.raises(type(raised)):
        vlpipe.verify(dataset, workers=1, progress=stop)
    assert len(calls) == 1  # not once more for the other shard
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 0}, "workers: came as 0, expected an integer >= 1"),
        ({"workers": 2.0}, "workers: came as 2.0"),
        ({"progress": True}, "progress: came as True, expected a function of two numbers of bytes, or None"),
    ],
)
def test_arguments_without_a_meaning(dataset: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        vlpipe.verify(dataset, **arguments)


def test_an_address_is_refused_with_the_way_out() -> None:
    with pytest.raises(ArgumentError, match="gs://a/b is an address, and this reads local files only. Copy the whole dataset directory"):
        vlpipe.verify("gs://a/b")
