"""The cached index of a third-party file when the file, the cache or its directory change. Imports no TensorFlow."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import vlpipe
from tests.attacks.records import example, floats, framed, ints
from tests.attacks.records import write as write_tfrecord
from vlpipe import layouts
from vlpipe.sources.foreign import cache
from vlpipe.sources.foreign.build_index import choose_layout

LAYOUT = layouts.float_list("x", d=2, label="label", lists=("tags",))
RECORDS = [example({"x": floats(np.arange(2 * n)), "label": ints(n), "tags": ints(*range(n))}) for n in range(1, 7)]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_tfrecord(tmp_path / "a.tfrecord", RECORDS)


def test_a_file_that_was_cut_between_two_records_is_indexed_with_a_word(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert len(vlpipe.build_index(path, LAYOUT)) == 6
    assert caplog.messages == []
    os.truncate(path, sum(len(framed(record)) for record in RECORDS[:4]))
    assert len(vlpipe.build_index(path, LAYOUT)) == 4
    assert caplog.messages == [f"{path}: holds 4 records, and 6 when it was indexed before: it was changed since"]
    caplog.clear()
    vlpipe.build_index(path, LAYOUT)
    write_tfrecord(path, RECORDS[2:])
    os.utime(path, ns=(1, 1))
    assert len(vlpipe.build_index(path, LAYOUT)) == 4
    assert caplog.messages == []  # as many as before


@pytest.mark.parametrize("content", [b"", b"\n", b"{}\n", b"x" * 100_000, b'{"format": 1}\n\x93NUMPY', b"\xff\n\xff"])
def test_a_cached_index_that_is_none_says_nothing_about_the_count(path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    vlpipe.build_index(path, LAYOUT)
    (kept,) = (path.parent / ".vlpipe-index").iterdir()
    chosen = choose_layout([str(path)], LAYOUT)
    assert cache.earlier_count(str(path), chosen) == 6
    kept.write_bytes(content)
    assert cache.earlier_count(str(path), chosen) is None
    assert len(vlpipe.build_index(path, LAYOUT)) == 6
    assert caplog.messages == []


def test_a_cached_index_that_is_too_large_for_its_file_is_not_read(path: Path) -> None:
    vlpipe.build_index(path, LAYOUT)
    (kept,) = (path.parent / ".vlpipe-index").iterdir()
    chosen = choose_layout([str(path)], LAYOUT)
    assert cache._most_bytes(path.stat().st_size, chosen) < 1 << 26
    assert cache.load(str(path), chosen) is not None
    os.truncate(kept, 1 << 40)  # a sparse file of a terabyte
    assert cache.load(str(path), chosen) is None
    assert len(vlpipe.build_index(path, LAYOUT)) == 6


@pytest.mark.parametrize("lists", [0, 200])
def test_the_largest_index_of_a_file_is_read(tmp_path: Path, lists: int) -> None:
    """Empty records and long lists of small numbers take the most bytes of index for a byte of the file."""
    path = write_tfrecord(tmp_path / "b.tfrecord", [example({"x": floats([]), "label": ints(1), "tags": ints(*[1] * lists)})] * 3000)
    vlpipe.build_index(path, LAYOUT)
    table = cache.load(str(path), choose_layout([str(path)], LAYOUT))
    assert table is not None
    assert (len(table.rows), len(table.lists["tags"])) == (3000, 3000 * lists)
