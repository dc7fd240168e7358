"""`verify` on damaged third-party files: it finds every problem that it can reach, and counts the bytes that it cannot."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import vlpipe
from tests.helpers.foreign_files import Case, cases, example, floats, ints, raw, sequence_example, write
from tests.verification.damage import LAYOUT, RECORDS, FailingFile, file_spans, flip, make_example, only
from vlpipe import layouts
from vlpipe.errors import DatasetError
from vlpipe.files.tfrecord import footer_of, header_of, masked_crc
from vlpipe.verification import Report, files

CASES = cases()
# ---- intact files -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_intact_files_of_every_layout_have_no_problems(tmp_path: Path, name: str) -> None:
    case: Case = CASES[name]
    path = write(tmp_path / "a.tfrecord", case.records)
    expected = Report(1, len(case.records), path.stat().st_size, 0, 0, (), 0, case.layout.name)
    assert vlpipe.verify(path, case.layout) == expected
    assert expected.report().endswith(f"every checksum matches, and every record fits the layout {case.layout.name}")
    assert [file.name for file in tmp_path.rglob("*")] == ["a.tfrecord"]  # verifying leaves nothing behind
    detected = vlpipe.verify(path)
    assert (detected.ok, detected.layout) == (True, case.layout.name if case.detected else None)
    vlpipe.build_index(path, case.layout)
    assert vlpipe.verify(path, case.layout, workers=1) == expected


def test_of_records_that_are_not_examples_the_checksums_are_compared(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", [b"", b"\xff" * 9, b"text"])
    report = vlpipe.verify(path)
    assert report == Report(1, 3, path.stat().st_size, 0, 0, (), 0, None)
    assert "every checksum matches; the content of the records was not compared, as their layout is unknown" in report.report()
    flip(path, 54)
    assert only(vlpipe.verify(path)).kind == "data"
    assert "the content of the records was not compared" in vlpipe.verify(path).report()


def test_files_without_records(tmp_path: Path) -> None:
    empty, full = write(tmp_path / "a.tfrecord", []), write(tmp_path / "b.tfrecord", [make_example(2)])
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
    content, spans = path.read_bytes(), file_spans(path)
    begin, end = spans[20]
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


def test_after_a_corrupt_length_the_rest_is_counted_as_lost(path: Path) -> None:
    content, (begin, _) = path.read_bytes(), file_spans(path)[20]
    flip(path, begin + 1)
    problem = only(vlpipe.verify(path, LAYOUT))
    left = len(content) - begin
    assert str(problem) == (
        f"a.tfrecord, record 20 at byte {begin}: its header is corrupt: the {left} bytes from here on cannot be read, expected a length "
        "and its checksum. Restore it from a copy, or write the dataset again."
    )
    report = vlpipe.verify(path, LAYOUT).report()
    assert f": 1 record and {left:,} bytes that cannot be reached are damaged or lost, 1 problem" in report
    flip(path, begin + 1)
    flip(path, 0)
    for layout in (None, LAYOUT):
        report = vlpipe.verify(path, layout)
        assert (report.damaged, report.lost, report.layout) == (1, len(content), None)
        assert only(report).action.startswith("It is not a TFRecord file, or its beginning is damaged")


def test_after_each_cut_the_rest_is_counted_as_lost(path: Path) -> None:
    content, spans = path.read_bytes(), file_spans(path)
    for size in (*range(len(content) - 1, len(content) - 800, -7), *range(spans[-1][0] + 20, spans[-1][0] - 20, -1)):
        path.write_bytes(content[:size])
        report = vlpipe.verify(path, LAYOUT)
        number, (begin, end) = next((number, span) for number, span in enumerate(spans) if span[1] > size)
        if begin == size:
            assert (report.ok, report.records) == (True, number)  # cut between two records: nothing in the file shows it
            continue
        problem = only(report)
        assert (problem.kind, problem.record, problem.offset) == ("cut", number, begin)
        assert (report.damaged, report.lost, report.records) == (1, size - begin, number + 1)
        if size - begin < 16:
            assert (problem.found, problem.expected) == (f"only {size - begin} bytes until the end of the file", "a record, of at least 16")
        else:
            assert problem.found == f"{size - begin - 16} bytes of data until the end of the file"
            assert problem.expected.startswith(f"{end - begin - 16} (at most")


def test_damage_in_many_places_and_files_is_all_found(path: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "b.tfrecord", [make_example(3)] * 3)
    spans = file_spans(path)
    for number in (0, 1, 7, 39):
        flip(path, spans[number][1] - 5)
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
    assert (problem.kind, problem.found) == ("cut", "96 bytes of data until the end of the file")
    assert peak < 1 << 23


def test_a_record_that_was_replaced_after_it_was_indexed(path: Path) -> None:
    vlpipe.build_index(path, LAYOUT)
    (begin, end), before = file_spans(path)[20], path.stat()
    data = example({"x": floats(np.ones(3 * (20 + 20 % 9))), "label": ints(0), "tags": ints()})
    content = path.read_bytes()
    assert len(data) == end - begin - 16
    path.write_bytes(content[:begin] + header_of(len(data)) + data + footer_of(masked_crc(data)) + content[end:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    problem = only(vlpipe.verify(path, LAYOUT))
    assert (problem.kind, problem.record, problem.offset) == ("replaced", 20, begin)
    os.utime(path)  # now the index is stale, and without it the record is valid
    assert vlpipe.verify(path, LAYOUT).ok


def test_with_an_index_reading_continues_after_damage_of_every_kind(path: Path) -> None:
    """Also where the damaged records include those by which the layout, and so the index, is chosen."""
    vlpipe.build_index(path, LAYOUT)
    (before, _), (begin, end) = file_spans(path)[19:21]
    for at in (path.read_bytes().index(b"label", before), begin, end - 6):
        flip(path, at)
    report = vlpipe.verify(path, LAYOUT)
    assert [(problem.record, problem.kind) for problem in report.problems] == [(19, "data"), (20, "header"), (20, "data")]
    assert (report.damaged, report.lost, report.records) == (2, 0, 40)


# ---- compressed files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_compressed_content_is_verified(path: Path, compress: Callable[[bytes], bytes]) -> None:
    content, (begin, end) = path.read_bytes(), file_spans(path)[20]
    path.write_bytes(compress(content))
    calls: list[tuple[int, int]] = []
    report = vlpipe.verify(path, LAYOUT, progress=lambda *done: calls.append(done))
    assert report == Report(1, 40, len(content), 0, 0, (), 0, "float_list")
    assert calls[-1] == (len(content), len(content))
    path.write_bytes(compress(content[: end - 6] + b"?" + content[end - 5 :]))
    problem = only(vlpipe.verify(path, LAYOUT))
    assert (problem.kind, problem.record, problem.offset) == ("data", 20, begin)
    whole = compress(content)
    path.write_bytes(whole[: len(whole) // 2])
    report = vlpipe.verify(path, LAYOUT)
    assert (report.damaged, report.lost, report.layout) == (0, len(whole) // 2, None)
    assert only(report).kind == "unreadable"
    assert "stream is damaged or was cut: it ends too early" in only(report).found


def test_a_full_disk_is_not_reported_as_damage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(gzip.compress(path.read_bytes()))
    monkeypatch.setattr("tempfile.TemporaryFile", lambda: open("/dev/full", "wb"))  # noqa: SIM115
    with pytest.raises(DatasetError, match="cannot be uncompressed into .* Make room there, or set TMPDIR"):
        vlpipe.verify(path, LAYOUT)


# ---- files that cannot be read ---------------------------------------------------------------------------------------------------


def test_a_pipe_and_a_missing_file(path: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    size = path.stat().st_size
    report = vlpipe.verify([path, tmp_path / "pipe"], LAYOUT)
    problem = only(report)
    assert (problem.kind, problem.record, problem.shard, report.damaged) == ("unreadable", None, str(tmp_path / "pipe"), 0)
    assert (problem.found, report.records, report.bytes) == ("it cannot be read (it is a pipe, not a regular file)", 40, size)
    with pytest.raises(DatasetError, match="has no vlpipe.json"):
        vlpipe.verify(tmp_path / "pipe")
    with pytest.raises(DatasetError, match="gone: not found"):
        vlpipe.verify(tmp_path / "gone", LAYOUT)


def test_a_disk_that_fails_in_the_middle(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "open_regular", lambda name: FailingFile(name, 3 * 20 + 1, fails=True))
    monkeypatch.setattr("vlpipe.verification.third_party.open_regular", files.open_regular)
    report = vlpipe.verify(path)
    problem = only(report)
    assert (problem.kind, report.records, report.damaged) == ("unreadable", 20, 0)
    assert report.lost == path.stat().st_size - file_spans(path)[20][0] - 12
    monkeypatch.setattr("vlpipe.verification.third_party.open_regular", lambda name: FailingFile(name, 3 * 20 + 1, fails=False))
    report = vlpipe.verify(path)
    assert (only(report).found, report.records, report.lost) == (
        "the file was cut while it was read",
        21,
        path.stat().st_size - file_spans(path)[20][0],
    )


# ---- progress --------------------------------------------------------------------------------------------------------------------


def test_progress_is_reported_in_order_and_may_raise(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "REPORT_EVERY", 1)
    write(tmp_path / "b.tfrecord", [make_example(5)] * 5)
    reports: list[tuple[int, int]] = []
    report = vlpipe.verify(tmp_path, LAYOUT, progress=lambda *done: reports.append(done))
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    assert reports[-1] == (report.bytes, report.bytes)
    calls = []

    def stop(done: int, _total: int) -> None:
        calls.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vlpipe.verify(tmp_path, LAYOUT, workers=1, progress=stop)
    assert len(calls) == 1
    assert json.loads(json.dumps(calls)) == calls
