"""The first records: they show the values that were written, and cannot control a terminal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlpipe
from tests.helpers.foreign_files import cases, example, floats, raw
from tests.helpers.foreign_files import write as foreign_write
from tests.verification.damage import rewrite_index
from vlpipe.errors import ArgumentError, DatasetError
from vlpipe.files.tfrecord import footer_of, header_of, masked_crc
from vlpipe.inspection.head import first_records
from vlpipe.sources.native import open_source
from vlpipe.sources.records import Records
from vlpipe.storage.schema import Fixed, Schema, Sequence, Text

SCHEMA = Schema(
    x=Sequence((2, 2), "float16"), tokens=Sequence((), "int64"), label=Fixed((), "int8"), vector=Fixed(8, "float32"), text=Text()
)


def make_records(count: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(3)
    return [
        {
            "x": random.standard_normal((number, 2, 2)).astype(np.float16),
            "tokens": np.arange(number) - 2**62,
            "label": -number,
            "vector": random.standard_normal(8).astype(np.float32),
            "text": "é\x1b[2J" * number,
        }
        for number in range(count)
    ]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    vlpipe.write(tmp_path / "d", make_records(12), SCHEMA, num_shards=3)
    return tmp_path / "d"


def test_views_show_the_records_that_were_written(dataset: Path) -> None:
    index = open_source(dataset)
    views = list(first_records(dataset, 10))
    assert len(views) == 10
    for row, (view, record) in enumerate(zip(views, make_records(12), strict=False)):
        assert f"{view.shard}, record {view.record} at byte {view.offset}" == index.where(row)
        assert (view.id, view.bytes) == (row, index.rows["bytes"][row])
        for name in ("x", "tokens", "vector"):
            field, value = view.fields[name], np.asarray(record[name])
            assert (field.dtype, field.shape, field.first) == (value.dtype.name, value.shape, tuple(value.ravel()[:6].tolist()))
            if value.size:
                assert (field.min, field.max) == (value.min(), value.max())
                assert field.mean == pytest.approx(value.astype(np.float64).mean())
            else:
                assert (field.min, field.max, field.mean) == (None, None, None)
        assert (view.fields["label"].shape, view.fields["label"].first) == ((), (-row,))
        assert view.fields["text"].text == record["text"]
    assert len(list(first_records(dataset, 100))) == 12


def test_the_records_of_one_shard_keep_their_ids(dataset: Path) -> None:
    shard = open_source(dataset).shards[1]
    views = list(first_records(shard.path, 100))
    assert [view.record for view in views] == list(range(shard.records))
    assert [view.id for view in views] == np.flatnonzero(open_source(dataset).rows["shard"] == 1).tolist()


def test_the_report_of_a_record(dataset: Path) -> None:
    text = list(first_records(dataset, 3))[2].report()
    lines = [" ".join(line.split()) for line in text.splitlines()]
    x, vector = make_records(3)[2]["x"], make_records(3)[2]["vector"]
    first = " ".join(f"{number:.4g}" for number in x.ravel()[:6].tolist())
    assert lines[0].startswith("record 2: d-0000")
    assert lines[1] == f"x [2, 2, 2] float16 {first} … (min {x.min():.4g}, max {x.max():.4g}, mean {x.astype(float).mean():.4g})"
    assert lines[2].startswith(f"tokens [2] int64 {-(2**62)} {1 - 2**62} (min {-(2**62)}, max")
    assert lines[3] == "label int8 -2"
    assert lines[4].startswith("vector [8] float32 ")
    assert f"max {vector.max():.4g}" in text
    assert lines[5] == "text text 'é\\x1b[2Jé\\x1b[2J'"
    assert "\x1b" not in text
    assert "no frames" in next(first_records(dataset, 1)).report()


def test_values_that_are_not_finite_and_long_texts(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", [{"x": np.array([np.nan, 1, np.inf, -2], np.float32), "t": "a" * 300}] * 2, num_shards=1)
    view = next(first_records(tmp_path / "d", 1))
    x = view.fields["x"]
    assert (x.first, x.min, x.max, x.mean, x.not_finite) == ((None, 1.0, None, -2.0), -2.0, 1.0, -0.5, 2)
    assert "not finite 1 not finite -2 (min -2, max 1, mean -0.5, 2 not finite)" in " ".join(view.report().split())
    assert "a" * 200 + "…'" in view.report().replace("\n", "").replace(" ", "")
    vlpipe.write(tmp_path / "e", [{"x": np.full(3, np.nan, np.float32)}], num_shards=1)
    assert "3 not finite" in next(first_records(tmp_path / "e", 1)).report()


def test_a_damaged_record_is_named(dataset: Path) -> None:
    index = open_source(dataset)
    path, begin = Path(index.shards[index.rows["shard"][1]].path), int(index.rows["offset"][1])
    content = bytearray(path.read_bytes())
    content[begin + 12] ^= 1
    path.write_bytes(content)
    views = first_records(dataset, 5)
    assert next(views).id == 0
    where, size = re.escape(index.where(1)), index.rows["bytes"][1]
    with pytest.raises(DatasetError, match=rf"^{where}: the checksum of its {size} bytes of data is [0-9a-f]{{8}}, the index says"):
        next(views)


def test_an_intact_record_that_is_not_an_example_is_named(dataset: Path) -> None:
    index = open_source(dataset)
    path, begin, size = Path(index.shards[index.rows["shard"][0]].path), int(index.rows["offset"][0]), int(index.rows["bytes"][0])
    content = path.read_bytes()
    path.write_bytes(content[:begin] + header_of(size) + bytes(size) + footer_of(masked_crc(bytes(size))) + content[begin + size + 16 :])
    rewrite_index(dataset, lambda rows: rows["checksum"].__setitem__(0, masked_crc(bytes(size))))
    with pytest.raises(DatasetError, match="does not fit the schema: byte 0 of the data: the Example should begin with 0x0a, found 0x00"):
        next(first_records(dataset, 1))


def test_a_missing_shard_is_named(dataset: Path) -> None:
    index = open_source(dataset)
    Path(index.shards[index.rows["shard"][0]].path).unlink()
    where, size = re.escape(index.where(0)), index.rows["bytes"][0]
    with pytest.raises(
        DatasetError, match=rf"^{where}: cannot be read \(No such file or directory\), expected {size} bytes of data\. Restore it from"
    ):
        Records(index).data(0)


@pytest.mark.parametrize("name", cases())
def test_third_party_records(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    case = cases(5)[name]
    path = foreign_write(tmp_path / "a.tfrecord", case.records)
    views = list(first_records(path, 100, case.layout))
    assert len(views) == 5
    index = vlpipe.build_index(path, case.layout)
    for row, (view, frames) in enumerate(zip(views, case.frames, strict=True)):
        assert f"{view.shard}, record {view.record} at byte {view.offset}" == index.where(row)
        assert (view.id, view.bytes) == (row, len(case.records[row]))
        field = view.fields[case.key]
        assert (field.dtype, field.shape, field.first) == (frames.dtype.name, frames.shape, tuple(frames.ravel()[:6].tolist()))
        assert list(view.fields) == list(index.schema.fields)
        label = view.fields[index.foreign.label or ""]  # type: ignore[union-attr]
        assert label.first == tuple(np.ravel(case.labels[row])[:6].tolist())
        assert view.report()


def test_bytes_that_are_not_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    values = [b"\xff\x00\x1b[2Ja", b"\x80" * 70, "é".encode(), b""]
    records = [example({"x": floats([1, 2]), "jpeg": raw(value)}) for value in values]
    views = list(first_records(foreign_write(tmp_path / "a.tfrecord", records), 4, vlpipe.layouts.float_list("x", d=2)))
    fields = [view.fields["jpeg"] for view in views]
    assert [(field.dtype, field.shape) for field in fields] == [("bytes", (7,)), ("bytes", (70,)), ("text", ()), ("text", ())]
    assert [field.text for field in fields] == ["\\xff\x00\x1b[2Ja", "\\x80" * 64 + "…", "é", ""]
    assert views[0].report().splitlines()[-1].split() == ["jpeg", "[7]", "bytes", "\\xff\\x00\\x1b[2Ja"]
    assert all(letter.isprintable() or letter == "\n" for view in views for letter in view.report())


def test_a_damaged_third_party_record_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    case = cases(40)["length"]
    path = foreign_write(tmp_path / "a.tfrecord", case.records)
    index = vlpipe.build_index(path, case.layout)
    begin, content = int(index.rows["offset"][35]), bytearray(path.read_bytes())  # beyond the records that the layout is detected from
    content[begin + 12 + int(index.rows["start"][35])] ^= 1
    path.write_bytes(content)
    views = first_records(path, 40, case.layout)
    assert [next(views).id for _ in range(35)] == list(range(35))
    size = index.rows["bytes"][35]
    with pytest.raises(DatasetError, match=rf"^a.tfrecord, record 35 at byte {begin}: the checksum of its {size} bytes of data is"):
        next(views)


def test_an_address_is_refused() -> None:
    with pytest.raises(ArgumentError, match="is an address, but this command reads local files only"):
        next(first_records("gs://a/b", 1))
    with pytest.raises(ArgumentError, match="is an address, but this command reads local files only"):
        next(first_records("gs://a/b", 1, "audioset"))
