"""The report of `verify`, its progress, and its arguments."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import vlpipe
from tests.verification.damage import LENGTHS, SCHEMA, make_record, record_spans, rewrite_index, shard_of
from vlpipe.errors import ArgumentError, DatasetError
from vlpipe.verification import Problem, Report, files

# ---- the report ------------------------------------------------------------------------------------------------------------------


def test_the_list_of_problems_is_limited(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", [make_record(1, 1)] * 300, SCHEMA, num_shards=2)
    rewrite_index(tmp_path / "d", lambda rows: rows["value:label"].fill(5))
    report = vlpipe.verify(tmp_path / "d")
    assert (report.damaged, len(report.problems), report.unlisted) == (300, 100, 200)
    assert [problem.record for problem in report.problems] == list(range(100))
    assert "300 records are damaged or lost, 300 problems" in report.report()
    assert "… and 200 more problems" in report.report()
    with pytest.raises(ArgumentError, match="select: no record is left of the 300 records"):
        vlpipe.open(tmp_path / "d").select(without=report)  # not only of the 100 that are listed


def test_all_damaged_records_are_left_out_however_many(tmp_path: Path) -> None:
    """As a plain list of what was damaged: 250 records of one shard, all after a cut in another, and a whole missing third one."""
    vlpipe.write(tmp_path / "d", [make_record(n, 1) for n in range(1200)], SCHEMA, num_shards=4)
    source = vlpipe.open(tmp_path / "d")
    number_of, shard_of_row = source.index.numbers(), source.index.rows["shard"]
    rewrite_index(tmp_path / "d", lambda rows: rows["value:label"].__setitem__((rows["shard"] == 0) & (number_of < 250), -5))
    paths = [Path(shard.path) for shard in source.index.shards]
    begin, _ = record_spans(tmp_path / "d", 1)[40]
    paths[1].write_bytes(paths[1].read_bytes()[: begin + 20])
    paths[2].unlink()
    report = vlpipe.verify(tmp_path / "d")
    assert report.unlisted > 100
    expected = [
        row
        for row in range(1200)
        if (shard_of_row[row] == 0 and number_of[row] >= 250) or (shard_of_row[row] == 1 and number_of[row] < 40) or shard_of_row[row] == 3
    ]
    assert source.select(without=report).table()["id"].tolist() == expected
    assert report.damaged == 1200 - len(expected)


def test_the_table_has_the_place_of_a_problem_and_what_to_do(dataset: Path) -> None:
    path = shard_of(dataset, 0)
    begin, _ = record_spans(dataset, 0)[1]
    content = bytearray(path.read_bytes())
    content[begin + 20] ^= 1
    path.write_bytes(content)
    lines = vlpipe.verify(dataset).report().splitlines()
    assert lines[0] == "8 records in 2 shards, 0.0 MB read: 1 record is damaged or lost, 1 problem"
    assert lines[2].split() == ["shard", "record", "at", "byte", "problem", "found", "expected"]
    assert lines[3].split()[:4] == [path.name, "1", f"{begin:,}", "data"]
    assert lines[-1] == "data: Restore it from a copy, or write the dataset again."


def test_a_hostile_name_cannot_steer_the_terminal() -> None:
    problem = Problem("d/\x1b[2J[red].tfrecord", 1, 2, "data", "\x9b", "\r", "Do.")
    report = Report(1, 1, 1, 1, 0, (problem,), 0, "vlpipe").report()
    assert "\\x1b[2J[red].tfrecord" in report
    assert all(letter.isprintable() for letter in report.replace("\n", ""))


# ---- progress and threads --------------------------------------------------------------------------------------------------------


def test_progress_is_reported_in_order(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "REPORT_EVERY", 1)
    calls: list[tuple[int, int]] = []
    report = vlpipe.verify(dataset, progress=lambda done, total: calls.append((done, total)))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert len(calls) > len(LENGTHS)
    assert calls[-1] == (report.bytes, report.bytes)
    assert {total for _, total in calls} == {report.bytes}


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), BrokenPipeError("no terminal"), DatasetError("mine")])
def test_an_exception_of_progress_ends_the_verification(dataset: Path, monkeypatch: pytest.MonkeyPatch, raised: BaseException) -> None:
    monkeypatch.setattr(files, "REPORT_EVERY", 1)
    calls = []

    def stop(done: int, _total: int) -> None:
        calls.append(done)
        raise raised

    threads = threading.active_count()
    with pytest.raises(type(raised)):
        vlpipe.verify(dataset, workers=1, progress=stop)
    assert len(calls) == 1  # not called again for the other shard
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 0}, "workers: came as 0, expected an integer >= 1"),
        ({"workers": 2.0}, "workers: came as 2.0"),
        ({"progress": True}, "progress: came as True, expected a function of two numbers of bytes, or None"),
    ],
)
def test_invalid_arguments(dataset: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        vlpipe.verify(dataset, **arguments)


def test_an_address_is_refused_with_advice() -> None:
    with pytest.raises(ArgumentError, match="gs://a/b is an address, but this command reads local files only. Copy the dataset directory"):
        vlpipe.verify("gs://a/b")
