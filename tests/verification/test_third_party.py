"""Files that vlpipe did not write, damaged on purpose: all is found that can be reached, and what cannot is counted."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlpipe
from tests.helpers.foreign_files import Case, cases, example, floats, ints, prepared_directory, raw, sequence_example, write
from tests.verification.test_verification import _Failing
from vlpipe import layouts
from vlpipe.errors import ArgumentError, DatasetError, SchemaError
from vlpipe.files.tfrecord import footer_of, header_of, masked_crc, read_frames
from vlpipe.sources.foreign import build_index as build
from vlpipe.sources.foreign import cache, index_file
from vlpipe.verification import Problem, Report, files

CASES = cases()
LAYOUT = layouts.float_list("x", d=3, label="label")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def record(frames: int, label: int = 1) -> bytes:
    return example({"x": floats(np.arange(3 * frames) + label), "label": ints(label), "tags": ints(*range(label))})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """40 records, 14 KB: the twentieth is in neither the head nor the tail by which an index knows its file."""
    return write(tmp_path / "a.tfrecord", RECORDS)


RECORDS = [record(20 + n % 9, n % 4) for n in range(40)]


def places(path: Path) -> list[tuple[int, int]]:
    """Where each record begins and ends."""
    return [(frame.offset, frame.offset + 16 + len(frame.data)) for frame in read_frames(path)]


def flip(path: Path, at: int) -> None:
    """Change a byte, and nothing by which the file is known."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << at % 8
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def only(report: Report) -> Problem:
    assert not report.ok
    assert len(report.problems) == 1
    assert report.unlisted == 0
    return report.problems[0]


# ---- nothing wrong ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_files_of_every_layout_are_in_order(tmp_path: Path, name: str) -> None:
    case: Case = CASES[name]
    path = write(tmp_path / "a.tfrecord", case.records)
    expected = Report(1, len(case.records), path.stat().st_size, 0, 0, (), 0, case.layout.name)
    assert vlpipe.verify(path, case.layout) == expected
    assert expected.report().endswith(f"every checksum is right, and every record as the layout {case.layout.name} says")
    assert [file.name for file in tmp_path.rglob("*")] == ["a.tfrecord"]  # verifying leaves nothing behind
    guessed = vlpipe.verify(path)
    assert (guessed.ok, guessed.layout) == (True, case.layout.name if case.detected else None)
    vlpipe.build_index(path, case.layout)
    assert vlpipe.verify(path, case.layout, workers=1) == expected


def test_records_that_are_no_examples_have_checksums_all_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", [b"", b"\xff" * 9, b"text"])
    report = vlpipe.verify(path)
    assert report == Report(1, 3, path.stat().st_size, 0, 0, (), 0, None)
    assert "every checksum is right; what the records hold was not compared, as their layout is not known" in report.report()
    flip(path, 54)
    assert only(vlpipe.verify(path)).kind == "data"
    assert "what the records hold was not compared" in vlpipe.verify(path).report()


def test_files_without_records(tmp_path: Path) -> None:
    empty, full = write(tmp_path / "a.tfrecord", []), write(tmp_path / "b.tfrecord", [record(2)])
    assert vlpipe.verify(empty) == vlpipe.verify(empty, LAYOUT) == Report(1, 0, 0, 0, 0, (), 0, None)
    assert vlpipe.verify(tmp_path, LAYOUT) == Report(2, 1, full.stat().st_size, 0, 0, (), 0, "float_list")


# ---- damaged bytes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("name", ["float_list", "audioset"])
def test_a_flipped_byte_is_found_at_its_record(tmp_path: Path, name: str, indexed: bool) -> None:
    layout, records = LAYOUT, RECORDS
    if name == "audioset":
        layout, records = layouts.audioset(), [sequence_example({"video_id": raw(b"v")}, {"audio_embedding": [raw(bytes(128))] * 2})] * 40
    path = write(tmp_path / "a.tfrecord", records)
    if indexed:
        vlpipe.build_index(path, layout)
    content, where = path.read_bytes(), places(path)
    begin, end = where[20]
    for at in (*range(begin, begin + 12), *range(begin + 12, end - 4, 11), *range(end - 4, end)):
        flip(path, at)
        report = vlpipe.verify(path, layout, workers=1)
        problem = only(report)
        kind = "header" if at < begin + 12 else "data" if at < end - 4 or not indexed else "footer"
        lost = len(content) - begin if kind == "header" and not indexed else 0
        assert (problem.shard, problem.record, problem.offset, problem.kind) == (str(path), 20, begin, kind)
        assert (report.damaged, report.lost, report.records) == (1, lost, 21 if lost else 40)
        flip(path, at)
    assert path.read_bytes() == content


def test_a_damaged_length_says_what_it_costs(path: Path) -> None:
    content, (begin, _) = path.read_bytes(), places(path)[20]
    flip(path, begin + 1)
    problem = only(vlpipe.verify(path, LAYOUT))
    left = len(content) - begin
    assert str(problem) == (
        f"a.tfrecord, record 20 at byte {begin}: its header is damaged: the {left} bytes from here on cannot be read, expected a length "
        "and its checksum. Restore the file from a copy, or write the dataset again."
    )
    report = vlpipe.verify(path, LAYOUT).report()
    assert f": 1 records and {left:,} bytes that cannot be reached are damaged or lost, 1 problems" in report
    flip(path, begin + 1)
    flip(path, 0)
    for layout in (None, LAYOUT):
        report = vlpipe.verify(path, layout)
        assert (report.damaged, report.lost, report.layout) == (1, len(content), None)
        assert only(report).action == "It is no TFRecord file, or its beginning is damaged: pass another, or restore it from a copy."


def test_each_cut_says_what_is_lost(path: Path) -> None:
    content, where = path.read_bytes(), places(path)
    for size in (*range(len(content) - 1, len(content) - 800, -7), *range(where[-1][0] + 20, where[-1][0] - 20, -1)):
        path.write_bytes(content[:size])
        report = vlpipe.verify(path, LAYOUT)
        number, (begin, end) = next((number, place) for number, place in enumerate(where) if place[1] > size)
        if begin == size:
            assert (report.ok, report.records) == (True, number)  # nothing in the file tells
            continue
        problem = only(report)
        assert (problem.kind, problem.record, problem.offset) == ("cut", number, begin)
        assert (report.damaged, report.lost, report.records) == (1, size - begin, number + 1)
        if size - begin < 16:
            assert (problem.found, problem.expected) == (f"the file ends after {size - begin} bytes of it", "a record, of at least 16")
        else:
            assert problem.found == f"{size - begin - 16} bytes of data are left of the file"
            assert problem.expected.startswith(f"{end - begin - 16} (at most")


def test_damage_in_many_places_and_files_is_all_found(path: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "b.tfrecord", [record(3)] * 3)
    where = places(path)
    for number in (0, 1, 7, 39):
        flip(path, where[number][1] - 5)
    flip(other, 5)
    for layout in (None, LAYOUT):
        report = vlpipe.verify(tmp_path, layout, workers=2)
        assert [(Path(problem.shard).name[0], problem.record, problem.kind) for problem in report.problems] == [
            *(("a", number, "data") for number in (0, 1, 7, 39)),
            ("b", 0, "header"),
        ]
        assert (report.damaged, report.lost, report.records, report.shards) == (5, other.stat().st_size, 41, 2)


def test_a_length_beyond_the_file_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    path.write_bytes(header_of(1 << 60) + bytes(100))
    tracemalloc.start()
    try:
        problem = only(vlpipe.verify(path, LAYOUT))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (problem.kind, problem.found) == ("cut", "96 bytes of data are left of the file")
    assert peak < 1 << 23


def test_a_record_that_was_replaced_since_it_was_indexed(path: Path) -> None:
    vlpipe.build_index(path, LAYOUT)
    (begin, end), before = places(path)[20], path.stat()
    data = example({"x": floats(np.ones(3 * (20 + 20 % 9))), "label": ints(0), "tags": ints()})
    content = path.read_bytes()
    assert len(data) == end - begin - 16
    path.write_bytes(content[:begin] + header_of(len(data)) + data + footer_of(masked_crc(data)) + content[end:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    problem = only(vlpipe.verify(path, LAYOUT))
    assert (problem.kind, problem.record, problem.offset) == ("replaced", 20, begin)
    os.utime(path)  # now the index is known to be stale, and without one the record is as good as another
    assert vlpipe.verify(path, LAYOUT).ok


def test_behind_damage_of_every_kind_the_index_goes_on(path: Path) -> None:
    """Also where records are damaged by which the layout, and so the index, is told."""
    vlpipe.build_index(path, LAYOUT)
    (before, _), (begin, end) = places(path)[19:21]
    for at in (path.read_bytes().index(b"label", before), begin, end - 6):
        flip(path, at)
    report = vlpipe.verify(path, LAYOUT)
    assert [(problem.record, problem.kind) for problem in report.problems] == [(19, "data"), (20, "header"), (20, "data")]
    assert (report.damaged, report.lost, report.records) == (2, 0, 40)


# ---- compressed files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_what_was_compressed_is_verified(path: Path, compress: Callable[[bytes], bytes]) -> None:
    content, (begin, end) = path.read_bytes(), places(path)[20]
    path.write_bytes(compress(content))
    told: list[tuple[int, int]] = []
    report = vlpipe.verify(path, LAYOUT, progress=lambda *done: told.append(done))
    assert report == Report(1, 40, len(content), 0, 0, (), 0, "float_list")
    assert told[-1] == (len(content), len(content))
    path.write_bytes(compress(content[: end - 6] + b"?" + content[end - 5 :]))
    problem = only(vlpipe.verify(path, LAYOUT))
    assert (problem.kind, problem.record, problem.offset) == ("data", 20, begin)
    whole = compress(content)
    path.write_bytes(whole[: len(whole) // 2])
    report = vlpipe.verify(path, LAYOUT)
    assert (report.damaged, report.lost, report.layout) == (0, len(whole) // 2, None)
    assert only(report).kind == "unreadable"
    assert "compressed is damaged or was cut: it ends too early" in only(report).found


def test_no_room_for_what_was_compressed_is_no_damage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(gzip.compress(path.read_bytes()))
    monkeypatch.setattr("tempfile.TemporaryFile", lambda: open("/dev/full", "wb"))  # noqa: SIM115
    with pytest.raises(DatasetError, match="cannot be uncompressed into .* Make room there, or set TMPDIR"):
        vlpipe.verify(path, LAYOUT)


# ---- files that cannot be read ---------------------------------------------------------------------------------------------------


def test_what_is_no_file(path: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    size = path.stat().st_size
    report = vlpipe.verify([path, tmp_path / "pipe"], LAYOUT)
    problem = only(report)
    assert (problem.kind, problem.record, problem.shard, report.damaged) == ("unreadable", None, str(tmp_path / "pipe"), 0)
    assert (problem.found, report.records, report.bytes) == ("it cannot be read (no regular file)", 40, size)
    with pytest.raises(DatasetError, match="has no vlpipe.json"):
        vlpipe.verify(tmp_path / "pipe")
    with pytest.raises(DatasetError, match="gone: not found"):
        vlpipe.verify(tmp_path / "gone", LAYOUT)


def test_a_disk_that_fails_in_the_middle(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "opened", lambda name: _Failing(name, 3 * 20 + 1, fails=True))
    monkeypatch.setattr("vlpipe.verification.others.opened", files.opened)
    report = vlpipe.verify(path)
    problem = only(report)
    assert (problem.kind, report.records, report.damaged) == ("unreadable", 20, 0)
    assert report.lost == path.stat().st_size - places(path)[20][0] - 12
    monkeypatch.setattr("vlpipe.verification.others.opened", lambda name: _Failing(name, 3 * 20 + 1, fails=False))
    report = vlpipe.verify(path)
    assert (only(report).found, report.records, report.lost) == (
        "the file was cut while it was read",
        21,
        path.stat().st_size - places(path)[20][0],
    )


# ---- records and layouts that do not fit -----------------------------------------------------------------------------------------


def test_records_that_are_not_as_the_layout_says_are_all_found(tmp_path: Path) -> None:
    bad: dict[int, tuple[bytes, str]] = {
        2: (b"\xff" * 20, "not a tf.train.Example or SequenceExample: byte "),
        3: (example({"x": floats(range(4)), "label": ints(1)}), '"x", at byte'),
        17: (example({"label": ints(1)}), 'has no feature "x"'),
        38: (example({"x": floats(range(3)), "label": ints(1, 2)}), '"label" has 2 values, expected 1 in every record'),
    }
    path = write(tmp_path / "a.tfrecord", [bad[n][0] if n in bad else record(n, n % 4) for n in range(40)])
    flip(path, places(path)[30][0] + 14)
    report = vlpipe.verify(path, LAYOUT)
    assert [(problem.record, problem.kind) for problem in report.problems] == [
        (2, "example"),
        (3, "example"),
        (17, "example"),
        (30, "data"),
        (38, "example"),
    ]
    assert (report.damaged, report.lost, report.records) == (5, 0, 40)
    for problem in report.problems:
        if problem.record in bad:
            assert problem.found.startswith(bad[problem.record][1])
            assert problem.expected == "what the layout float_list says"
            assert problem.offset == places_of(report, path)[problem.record]
            assert problem.action.startswith("Pass the layout of these records (vlpipe inspect FILE shows")


def places_of(report: Report, path: Path) -> list[int]:
    content, at, found = path.read_bytes(), 0, []
    for _ in range(report.records):
        found.append(at)
        at += 16 + int.from_bytes(content[at : at + 8], "little")
    return found


def test_a_wrong_d_is_found_at_every_record(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", [example({"x": floats(range(3 * n + 1))}) for n in range(300)])
    report = vlpipe.verify(path, layouts.float_list("x", d=3))
    assert (report.damaged, len(report.problems), report.unlisted) == (300, 100, 200)
    assert [problem.record for problem in report.problems] == list(range(100))


@pytest.mark.parametrize("together", [1, 7, 1 << 16])
def test_records_of_many_kinds_among_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    monkeypatch.setattr("vlpipe.verification.others.CHUNK_RECORDS", together)
    kinds = [record(2, 3), b"\xff" * 9, example({"x": floats(range(4)), "label": ints(1)}), example({"label": ints(1)}), record(1)]
    path = write(tmp_path / "a.tfrecord", [kinds[n % 5] for n in range(150)])
    report = vlpipe.verify(path, LAYOUT)
    assert (report.damaged, report.records, report.unlisted) == (90, 150, 0)
    assert [problem.record for problem in report.problems] == [n for n in range(150) if n % 5 in (1, 2, 3)]
    said = {1: "not a tf.train.Example", 2: '"x", at byte', 3: 'has no feature "x"'}
    assert all(problem.found.startswith(said[(problem.record or 0) % 5]) for problem in report.problems)


def test_a_layout_that_does_not_serve(path: Path) -> None:
    with pytest.raises(SchemaError, match='the first records have no label "other"'):
        vlpipe.verify(path, layouts.float_list("x", d=3, label="other"))
    with pytest.raises(ArgumentError, match="layout: came as 'other', expected"):
        vlpipe.verify(path, "other")
    with pytest.raises(ArgumentError, match="gs://a/b is an address, and this reads local files only"):
        vlpipe.verify("gs://a/b", LAYOUT)


def altered(column: str, row: int, value: Any) -> Callable[[index_file.Table], None]:
    return lambda table: table.rows[column].__setitem__(row, value)


@pytest.mark.parametrize(
    ("change", "record", "said"),
    [
        (altered("frames", 21, 20), 21, '"frames" is 23, expected 20, as the index says'),
        (altered("start", 21, 0), 21, '"start" is '),
        (altered("value:label", 3, 9), 3, '"value:label" is 3, expected 9'),
        (altered("frames:tags", 39, 2), 39, '"frames:tags" is 3, expected 2'),
        (lambda table: table.lists["tags"].__setitem__(-1, 7), 39, 'the values of "tags", expected others, as the index says'),
    ],
)
def test_an_index_that_says_something_else(path: Path, change: Callable[[index_file.Table], None], record: int, said: str) -> None:
    layout = build.choose_layout([str(path)], layouts.float_list("x", d=3, label="label", lists=("tags",)))
    table = index_file.extract(path, layout)
    change(table)
    assert cache.save(str(path), layout, table, cache.identity(path))
    assert cache.load(str(path), layout) is not None
    report = vlpipe.verify(path, layout)
    problem = only(report)
    assert (problem.kind, problem.record, report.damaged) == ("index", record, 1)
    assert f"{problem.found}, expected {problem.expected}".startswith(said)
    assert problem.action == "Remove what .vlpipe-index has of the file, beside it or in the user's cache: it is made anew."


def test_an_index_of_records_that_do_not_fit(path: Path) -> None:
    """Which nobody makes: it is forged."""
    layout = build.choose_layout([str(path)], layouts.float_list("x", d=3, label="label", lists=("tags",)))
    table = index_file.extract(path, layout)
    begin, end = places(path)[33]
    content = path.read_bytes()
    data = content[begin + 12 : end - 4].replace(b"\x01x", b"\x01z")
    path.write_bytes(content[: begin + 12] + data + footer_of(masked_crc(data)) + content[end:])
    table.rows["checksum"][33] = masked_crc(data)
    assert cache.save(str(path), layout, table, cache.identity(path))
    problem = only(vlpipe.verify(path, layout))
    assert (problem.kind, problem.record, problem.found) == ("example", 33, 'has no feature "x"')


def test_the_values_of_lists_are_compared_around_damage(path: Path) -> None:
    layout = layouts.float_list("x", d=3, label="label", lists=("tags",))
    vlpipe.build_index(path, layout)
    flip(path, places(path)[22][0] + 14)
    assert (only(vlpipe.verify(path, layout)).kind, only(vlpipe.verify(path, layout)).record) == ("data", 22)


def test_a_directory_of_tensorflow_datasets_knows_its_numbers(tmp_path: Path) -> None:
    features = {
        "x": {"sequence": {"feature": {"tensor": {"shape": {"dimensions": ["3"]}, "dtype": "float32", "encoding": "none"}}}},
        "label": {"classLabel": {"numClasses": "4"}},
    }
    records = [example({"x": floats(range(3 * n)), "label": ints(1)}) for n in range(6)]
    directory = prepared_directory(tmp_path / "d", records, features, {"train": [4, 2]})
    report = vlpipe.verify(directory)
    assert (report.ok, report.records, report.layout) == (True, 6, "prepared")
    first = sorted(directory.glob("*.tfrecord*"))[0]
    os.truncate(first, places(first)[2][1])
    problem = only(vlpipe.verify(directory))
    assert (problem.kind, problem.record, problem.found) == ("records", None, "3 records")
    assert problem.expected == "4, as dataset_info.json says"
    (directory / "features.json").write_text("{")
    assert vlpipe.verify(directory).layout is None


# ---- progress --------------------------------------------------------------------------------------------------------------------


def test_progress_is_told_in_order_and_what_it_raises_ends_it(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "REPORT_EVERY", 1)
    write(tmp_path / "b.tfrecord", [record(5)] * 5)
    told: list[tuple[int, int]] = []
    report = vlpipe.verify(tmp_path, LAYOUT, progress=lambda *done: told.append(done))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (report.bytes, report.bytes)
    calls = []

    def stop(done: int, _total: int) -> None:
        calls.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vlpipe.verify(tmp_path, LAYOUT, workers=1, progress=stop)
    assert len(calls) == 1
    assert json.loads(json.dumps(calls)) == calls
