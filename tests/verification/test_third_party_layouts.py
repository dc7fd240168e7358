"""Third-party records that do not fit the layout, or differ from an index that was built before."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vlpipe
from tests.helpers.foreign_files import cases, example, floats, ints, prepared_directory, write
from tests.verification.damage import LAYOUT, file_spans, flip, make_example, only
from vlpipe import layouts
from vlpipe.errors import ArgumentError, SchemaError
from vlpipe.files.tfrecord import footer_of, masked_crc
from vlpipe.sources.foreign import build_index as build
from vlpipe.sources.foreign import cache, index_file
from vlpipe.verification import Report

CASES = cases()
# ---- records and layouts that do not fit -----------------------------------------------------------------------------------------


def test_every_record_that_does_not_fit_the_layout_is_found(tmp_path: Path) -> None:
    bad: dict[int, tuple[bytes, str]] = {
        2: (b"\xff" * 20, "neither a tf.train.Example nor a SequenceExample: byte "),
        3: (example({"x": floats(range(4)), "label": ints(1)}), '"x", at byte'),
        17: (example({"label": ints(1)}), 'has no feature "x"'),
        38: (example({"x": floats(range(3)), "label": ints(1, 2)}), '"label" has 2 values, expected 1 in every record'),
    }
    path = write(tmp_path / "a.tfrecord", [bad[n][0] if n in bad else make_example(n, n % 4) for n in range(40)])
    flip(path, file_spans(path)[30][0] + 14)
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
            assert problem.expected == "a record of the layout float_list"
            assert problem.offset == offsets_of(report, path)[problem.record]
            assert problem.action.startswith("Pass the layout of these records (vlpipe inspect FILE shows")


def offsets_of(report: Report, path: Path) -> list[int]:
    """First byte of each record, by the lengths in the headers."""
    content, at, offsets = path.read_bytes(), 0, []
    for _ in range(report.records):
        offsets.append(at)
        at += 16 + int.from_bytes(content[at : at + 8], "little")
    return offsets


def test_a_wrong_d_is_found_at_every_record(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", [example({"x": floats(range(3 * n + 1))}) for n in range(300)])
    report = vlpipe.verify(path, layouts.float_list("x", d=3))
    assert (report.damaged, len(report.problems), report.unlisted) == (300, 100, 200)
    assert [problem.record for problem in report.problems] == list(range(100))


@pytest.mark.parametrize("chunk_records", [1, 7, 1 << 16])
def test_misfits_of_several_kinds_interleaved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_records: int) -> None:
    monkeypatch.setattr("vlpipe.verification.third_party.CHUNK_RECORDS", chunk_records)
    kinds = [
        make_example(2, 3),
        b"\xff" * 9,
        example({"x": floats(range(4)), "label": ints(1)}),
        example({"label": ints(1)}),
        make_example(1),
    ]
    path = write(tmp_path / "a.tfrecord", [kinds[n % 5] for n in range(150)])
    report = vlpipe.verify(path, LAYOUT)
    assert (report.damaged, report.records, report.unlisted) == (90, 150, 0)
    assert [problem.record for problem in report.problems] == [n for n in range(150) if n % 5 in (1, 2, 3)]
    beginnings = {1: "neither a tf.train.Example nor a SequenceExample", 2: '"x", at byte', 3: 'has no feature "x"'}
    assert all(problem.found.startswith(beginnings[(problem.record or 0) % 5]) for problem in report.problems)


def test_an_invalid_layout_or_source(path: Path) -> None:
    with pytest.raises(SchemaError, match='the first records have no label "other"'):
        vlpipe.verify(path, layouts.float_list("x", d=3, label="other"))
    with pytest.raises(ArgumentError, match="layout: came as 'other', expected"):
        vlpipe.verify(path, "other")
    with pytest.raises(ArgumentError, match="gs://a/b is an address, but this command reads local files only"):
        vlpipe.verify("gs://a/b", LAYOUT)


def altered(column: str, row: int, value: Any) -> Callable[[index_file.Table], None]:
    return lambda table: table.rows[column].__setitem__(row, value)


@pytest.mark.parametrize(
    ("change", "record", "message"),
    [
        (altered("frames", 21, 20), 21, '"frames" is 23, expected 20, according to the index'),
        (altered("start", 21, 0), 21, '"start" is '),
        (altered("value:label", 3, 9), 3, '"value:label" is 3, expected 9'),
        (altered("frames:tags", 39, 2), 39, '"frames:tags" is 3, expected 2'),
        (lambda table: table.lists["tags"].__setitem__(-1, 7), 39, 'the values of "tags" differ, expected those in the index'),
    ],
)
def test_an_index_that_does_not_match(path: Path, change: Callable[[index_file.Table], None], record: int, message: str) -> None:
    layout = build.choose_layout([str(path)], layouts.float_list("x", d=3, label="label", lists=("tags",)))
    table = index_file.extract(path, layout)
    change(table)
    assert cache.save(str(path), layout, table, cache.identity(path))
    assert cache.load(str(path), layout) is not None
    report = vlpipe.verify(path, layout)
    problem = only(report)
    assert (problem.kind, problem.record, report.damaged) == ("index", record, 1)
    assert f"{problem.found}, expected {problem.expected}".startswith(message)
    assert problem.action.startswith("Remove the entries of the file in .vlpipe-index, beside it")


def test_a_forged_index_of_records_that_do_not_fit_the_layout(path: Path) -> None:
    layout = build.choose_layout([str(path)], layouts.float_list("x", d=3, label="label", lists=("tags",)))
    table = index_file.extract(path, layout)
    begin, end = file_spans(path)[33]
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
    flip(path, file_spans(path)[22][0] + 14)
    assert (only(vlpipe.verify(path, layout)).kind, only(vlpipe.verify(path, layout)).record) == ("data", 22)


def test_a_directory_of_tensorflow_datasets_states_its_numbers_of_records(tmp_path: Path) -> None:
    features = {
        "x": {"sequence": {"feature": {"tensor": {"shape": {"dimensions": ["3"]}, "dtype": "float32", "encoding": "none"}}}},
        "label": {"classLabel": {"numClasses": "4"}},
    }
    records = [example({"x": floats(range(3 * n)), "label": ints(1)}) for n in range(6)]
    directory = prepared_directory(tmp_path / "d", records, features, {"train": [4, 2]})
    report = vlpipe.verify(directory)
    assert (report.ok, report.records, report.layout) == (True, 6, "prepared")
    first = sorted(directory.glob("*.tfrecord*"))[0]
    os.truncate(first, file_spans(first)[2][1])
    problem = only(vlpipe.verify(directory))
    assert (problem.kind, problem.record, problem.found) == ("records", None, "3 records")
    assert problem.expected == "4, according to dataset_info.json"
    (directory / "features.json").write_text("{")
    assert vlpipe.verify(directory).layout is None
