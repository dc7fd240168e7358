"""Single records as NumPy values, native and third-party."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import vlpipe
from tests.helpers.foreign_files import cases, write
from vlpipe.errors import DatasetError
from vlpipe.sources.open import open_anywhere
from vlpipe.sources.records import Records

CASES = cases()


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", CASES)
def test_every_value_of_third_party_records(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    index = open_anywhere(write(tmp_path / "a.tfrecord", case.records), case.layout)
    label = index.foreign.label if index.foreign else None
    with Records(index) as records:
        for row, frames in enumerate(case.frames):
            values = records.values(row)
            assert list(values) == list(index.schema.fields) == list(records.schema.fields)
            np.testing.assert_array_equal(values[case.key], frames, strict=True)
            assert list(records.values(row, [case.key])) == [case.key]
            expected = case.labels[row].encode() if isinstance(case.labels[row], str) else case.labels[row]
            assert np.array_equal(values[label or ""], expected)


def test_every_value_of_native_records(tmp_path: Path) -> None:
    written = [{"x": np.full((t, 3), t, np.float16), "label": t, "name": "é" * t} for t in (4, 0, 2)]
    vlpipe.write(tmp_path / "d", written, num_shards=2)
    with Records(open_anywhere(tmp_path / "d")) as records:
        for row in (2, 0, 1):
            values = records.values(row)
            np.testing.assert_array_equal(values["x"], written[row]["x"], strict=True)
            assert list(records.values(row, ["label"])) == ["label"]
            assert (values["label"], values["name"]) == (written[row]["label"], str(written[row]["name"]).encode())


def test_a_record_that_was_changed_is_named(tmp_path: Path) -> None:
    case = CASES["length"]
    path = write(tmp_path / "a.tfrecord", case.records)
    index = open_anywhere(path, case.layout)
    content = bytearray(path.read_bytes())
    content[int(index.rows["offset"][5]) + 20] ^= 1
    path.write_bytes(content)
    with Records(index) as records:
        records.values(4)
        with pytest.raises(DatasetError, match=rf"a\.tfrecord, record 5 at byte {index.rows['offset'][5]}: the checksum of its"):
            records.values(5)
