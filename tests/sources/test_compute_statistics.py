"""Mean and variance that are computed: those of NumPy over all frames, kept as long as the records are the same, and found again."""

from __future__ import annotations

import math
import os
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlpipe
from tests.helpers.foreign_files import Case, cases, example, floats, ints, raw, write
from vlpipe import layouts
from vlpipe.errors import DatasetError
from vlpipe.sources import compute_statistics
from vlpipe.sources.compute_statistics import with_statistics
from vlpipe.sources.foreign import cache
from vlpipe.sources.native import open_source
from vlpipe.sources.open import open_anywhere
from vlpipe.sources.records import Records
from vlpipe.storage.index import Index
from vlpipe.storage.statistics import Moments, merged

CASES = cases()
LAYOUT = layouts.float_list("x", d=3, label="label")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files of which records are read, one for each record, as that happens."""
    names: list[str] = []
    data = Records.data

    def noted(records: Records, row: int) -> bytes:
        names.append(records._index.shards[int(records._rows[row]["shard"])].name)
        return data(records, row)

    monkeypatch.setattr(Records, "data", noted)
    return names


def frames_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(number, 2, size=(5 * number % 7, 3)).astype(np.float32)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Four files of 0, 5, 10 and 15 records."""

    def record(number: int) -> bytes:
        return example({"x": floats(frames_of(number)), "label": ints(number), "other": ints(-number)})

    return [write(tmp_path / f"{n}.tfrecord", [record(10 * n + k) for k in range(5 * n)]) for n in range(4)]


ALL = [frames_of(10 * n + k) for n in range(4) for k in range(5 * n)]


def assert_of(moments: Moments, frames: list[np.ndarray]) -> None:
    """They are those of these frames, computed by NumPy in float64."""
    whole = np.concatenate([x.reshape(len(x), math.prod(x.shape[1:])) for x in frames]).astype(np.float64)
    np.testing.assert_allclose(moments.mean, whole.mean(axis=0), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(moments.variance, whole.var(axis=0), rtol=1e-11)
    assert (moments.count.tolist(), moments.not_finite) == ([len(whole)] * whole.shape[1], 0)


@pytest.mark.parametrize("name", CASES)
def test_frames_of_every_layout(tmp_path: Path, name: str) -> None:
    case: Case = CASES[name]
    path = write(tmp_path / "a.tfrecord", case.records)
    assert vlpipe.build_index(path, case.layout).statistics == {}
    found = with_statistics(open_anywhere(path, case.layout)).statistics
    assert list(found) == [entry.key for entry in case.layout.frames]  # and not the lists of labels
    assert_of(found[case.key], case.frames)
    again = vlpipe.build_index(path, case.layout).statistics
    assert_of(again[case.key], case.frames)
    assert again[case.key].mean.tobytes() == found[case.key].mean.tobytes()


def test_files_are_read_once_and_labels_do_not_matter(files: list[Path], read: list[str]) -> None:
    told: list[tuple[int, int]] = []
    index = vlpipe.build_index(files, LAYOUT)
    found = with_statistics(index, progress=lambda *done: told.append(done))
    assert_of(found.statistics["x"], ALL)
    assert len(read) == 30
    assert (told[0][0], told[-1]) == (0, (told[-1][1], int(index.rows["bytes"].sum())))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert np.array_equal(found.rows, index.rows)
    assert with_statistics(found) is found
    other = vlpipe.build_index(files, layouts.float_list("x", d=3, label="other").only())
    assert_of(other.statistics["x"], ALL)
    assert_of(with_statistics(vlpipe.build_index(files[2], LAYOUT)).statistics["x"], ALL[5:15])
    assert len(read) == 30
    assert vlpipe.build_index(files, layouts.float_list("x", d=1, label="label")).statistics == {}
    vlpipe.build_index(files, layouts.float_list("x", d=1, label="label"))
    os.utime(files[3], ns=(1, 1))  # another time: the index is made anew, and finds the same records
    assert_of(vlpipe.build_index(files, LAYOUT).statistics["x"], ALL)


def test_what_has_changed_is_read_again(files: list[Path], read: list[str]) -> None:
    with_statistics(vlpipe.build_index(files, LAYOUT))
    read.clear()
    frames = [np.full((2, 3), n, np.float32) for n in range(3)]
    write(files[2], [example({"x": floats(x), "label": ints(1), "other": ints(1)}) for x in frames])
    index = vlpipe.build_index(files, LAYOUT)
    assert index.statistics == {}
    assert_of(with_statistics(index).statistics["x"], ALL[:5] + frames + ALL[15:])
    assert read == [files[2].name] * 3
    read.clear()
    frames = [x + 1 for x in frames]  # other values, and every record where it was
    write(files[2], [example({"x": floats(x), "label": ints(1), "other": ints(1)}) for x in frames])
    assert_of(with_statistics(vlpipe.build_index(files, LAYOUT)).statistics["x"], ALL[:5] + frames + ALL[15:])
    assert read == [files[2].name] * 3


def test_statistics_of_another_reading_are_not_those(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", [example({"x": raw(np.arange(8, dtype=np.int16))})])
    indexes = [vlpipe.build_index(path, layouts.raw_bytes("x", dtype=dtype, d=2)) for dtype in ("float16", "int16")]
    with_statistics(indexes[0])
    (place,) = (tmp_path / cache.DIRECTORY).glob("*.statistics")
    assert_of(with_statistics(indexes[1]).statistics["x"], [np.arange(8).reshape(4, 2)])
    (other,) = set((tmp_path / cache.DIRECTORY).glob("*.statistics")) - {place}
    place.replace(other)
    assert_of(with_statistics(indexes[1]).statistics["x"], [np.arange(8).reshape(4, 2)])
    (shard,), (part,) = indexes[1].shards, indexes[1].parts()
    assert compute_statistics.load_moments(indexes[1], shard, part) is not None
    for name in ("frames", "start", "offset", "bytes", "checksum"):
        rows = indexes[1].rows.copy()
        rows[name] += 1
        assert compute_statistics.load_moments(replace(indexes[1], rows=rows), shard, part) is None


def test_files_are_merged_in_their_order(files: list[Path]) -> None:
    parts = [with_statistics(vlpipe.build_index(path, LAYOUT)).statistics for path in files[1:]]
    for place in (files[0].parent / cache.DIRECTORY).glob("*.statistics"):
        place.unlink()
    found = with_statistics(vlpipe.build_index(files, LAYOUT)).statistics["x"]
    assert found.mean.tobytes() == merged(parts)["x"].mean.tobytes() != merged(parts[::-1])["x"].mean.tobytes()
    assert found.variance.tobytes() == merged(parts)["x"].variance.tobytes()


def test_it_goes_on_from_the_last_file_that_was_complete(files: list[Path], read: list[str]) -> None:
    content = files[2].read_bytes()
    index = vlpipe.build_index(files, LAYOUT)
    offset = int(index.rows["offset"][5 + 7])
    files[2].write_bytes(content[: offset + 20] + b"?" + content[offset + 21 :])
    with pytest.raises(DatasetError, match=rf"^2.tfrecord, record 7 at byte {offset}: the checksum of its"):
        with_statistics(index)
    files[2].write_bytes(content)
    read.clear()
    assert_of(with_statistics(index).statistics["x"], ALL)
    assert set(read) == {files[2].name, files[3].name}


def test_statistics_that_are_damaged_or_of_something_else_are_computed_anew(files: list[Path], read: list[str]) -> None:
    index = vlpipe.build_index(files[2], LAYOUT)
    good = with_statistics(index).statistics["x"]
    (place,) = (files[2].parent / cache.DIRECTORY).glob("*.statistics")
    content = place.read_bytes()
    damages = [b"", content[:-1], b"{}\n{}", b"[" * 100_000, content.replace(b'"version": 1', b'"version": 2')]
    damages.append(content[:-40] + content[-40:].translate(bytes.maketrans(b"12345678", b"23456781")))  # other numbers
    damages += [content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :] for at in range(0, len(content), 23)]
    for damage in damages:
        place.write_bytes(damage)
        read.clear()
        assert with_statistics(vlpipe.build_index(files[2], LAYOUT)).statistics["x"].mean.tolist() == good.mean.tolist()
        assert len(read) == 10
    (shard,), (part,) = index.shards, index.parts()
    for wrong in ({}, {"x": Moments(2)}, {"y": Moments(3)}):
        assert compute_statistics.save_moments(index, shard, part, wrong)
        assert compute_statistics.load_moments(index, shard, part) is None
    assert compute_statistics.save_moments(index, shard, part, {"x": good})
    assert compute_statistics.load_moments(index, shard, part) is not None


def test_where_nothing_can_be_written_beside_the_files_the_cache_is_used(
    files: list[Path], read: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / cache.DIRECTORY).write_text("in the way")
    with_statistics(vlpipe.build_index(files, LAYOUT))
    assert_of(vlpipe.build_index(files, LAYOUT).statistics["x"], ALL)
    assert len(list((tmp_path / "cache").rglob("*.statistics"))) == 3
    monkeypatch.setenv("XDG_CACHE_HOME", str(files[1]))
    assert_of(with_statistics(vlpipe.build_index(files, LAYOUT)).statistics["x"], ALL)
    assert len(read) == 60
    assert "1.tfrecord: its statistics cannot be cached; they are computed again each time" in caplog.text


def test_processes_find_the_same_bits(files: list[Path], tmp_path: Path) -> None:
    index = vlpipe.build_index(files, LAYOUT)
    alone = with_statistics(index).statistics["x"]
    for place in (tmp_path / cache.DIRECTORY).glob("*.statistics"):
        place.unlink()
    told: list[tuple[int, int]] = []
    together = with_statistics(index, workers=2, progress=lambda *done: told.append(done)).statistics["x"]
    assert together.mean.tobytes() == alone.mean.tobytes()
    assert together.variance.tobytes() == alone.variance.tobytes()
    assert told[-1] == (int(index.rows["bytes"].sum()),) * 2
    assert len(told) == 4
    assert len(list((tmp_path / cache.DIRECTORY).glob("*.statistics"))) == 3


def test_a_process_that_dies_leaves_its_files_to_this_one(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying:
        def submit(self, *_: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(BrokenProcessPool("killed"))
            return future

        def shutdown(self, **_: Any) -> None:
            pass

    monkeypatch.setattr(compute_statistics, "start_pool", lambda workers: Dying())
    assert_of(with_statistics(vlpipe.build_index(files, LAYOUT), workers=2).statistics["x"], ALL)


@pytest.mark.parametrize("numbers", [1, 20, 60, 10**6])
def test_how_many_are_taken_in_together_does_not_matter(files: list[Path], monkeypatch: pytest.MonkeyPatch, numbers: int) -> None:
    monkeypatch.setattr(compute_statistics, "_NUMBERS", numbers)
    assert_of(with_statistics(vlpipe.build_index(files, LAYOUT)).statistics["x"], ALL)


def test_what_is_not_finite_is_left_out_and_counted(tmp_path: Path) -> None:
    x = np.array([[np.nan, 1, 2], [3, np.inf, 4], [5, 6, -np.inf]], np.float32)
    path = write(
        tmp_path / "a.tfrecord", [example({"x": floats(x[:1]), "label": ints(1)}), example({"x": floats(x[1:]), "label": ints(1)})]
    )
    for _ in range(2):
        found = with_statistics(vlpipe.build_index(path, LAYOUT)).statistics["x"]
        assert (found.mean.tolist(), found.count.tolist(), found.not_finite) == ([4.0, 3.5, 3.0], [2, 2, 2], 3)
    nothing = write(tmp_path / "b.tfrecord", [example({"x": floats([]), "label": ints(1)})])
    assert with_statistics(vlpipe.build_index(nothing, LAYOUT)).statistics["x"].count.tolist() == [0, 0, 0]


def shards_of(dataset: Path) -> list[str]:
    return [shard.path for shard in open_source(dataset).shards]


def listing(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.rglob("*")}


def test_some_shards_of_a_dataset(tmp_path: Path, read: list[str]) -> None:
    written = [{"x": frames_of(n).astype(np.float16), "tokens": np.arange(n % 3), "label": n} for n in range(40)]
    vlpipe.write(tmp_path / "d", written, num_shards=3)
    before = listing(tmp_path / "d")
    some = shards_of(tmp_path / "d")[:2]
    index = open_anywhere(some)
    expected = [written[number]["x"] for number in index.ids.tolist()]
    assert index.statistics == {}
    found = with_statistics(index)
    assert_of(found.statistics["x"], expected)  # type: ignore[arg-type]
    assert_of(found.statistics["tokens"], [np.asarray(written[number]["tokens"])[:, None] for number in index.ids.tolist()])
    assert_of(open_anywhere(some).statistics["x"], expected)  # type: ignore[arg-type]
    assert len(read) == len(expected)
    assert listing(tmp_path / "d") == before  # a dataset is complete; nothing is added to it
    whole = open_anywhere(tmp_path / "d")
    assert with_statistics(whole) is whole
    with_statistics(open_anywhere([tmp_path / "d"]))
    assert len(read) == len(expected)


def test_the_rows_of_an_index_in_any_order(tmp_path: Path) -> None:
    written = [{"x": frames_of(n), "label": n} for n in range(20)]
    vlpipe.write(tmp_path / "d", written, num_shards=4)
    index = open_source(tmp_path / "d")
    for shard, part in enumerate(index.parts()):
        rows = index.rows[part]
        assert set(rows["shard"].tolist()) <= {shard}
        assert (np.diff(rows["offset"].astype(np.int64)) > 0).all()
    assert sorted(np.concatenate(index.parts()).tolist()) == list(range(20))
    bare = Index(index.schema, index.shards, index.rows, index.ids)
    assert_of(with_statistics(bare).statistics["x"], [record["x"] for record in written])  # type: ignore[misc]
