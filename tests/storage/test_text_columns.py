"""Texts in the index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlpipe
from vlpipe.conversion import convert
from vlpipe.sources.record_set import RecordSet
from vlpipe.storage import text_columns

SCHEMA = vlpipe.Schema(x=vlpipe.Sequence((), "uint8"), speaker=vlpipe.Text(), path=vlpipe.Text())


def written(path: Path, texts: list[tuple[str, str]], **arguments: Any) -> RecordSet:
    records = ({"x": [number % 256], "speaker": speaker, "path": name} for number, (speaker, name) in enumerate(texts))
    vlpipe.write(path, records, SCHEMA, **{"num_shards": 2, "overwrite": True, **arguments})
    return vlpipe.open(path)


@given(texts=st.lists(st.tuples(st.sampled_from(["", "é", "b", "a\n", "🐎"]), st.text(max_size=4)), max_size=12))
def test_the_table_has_the_texts_that_were_written(tmp_path: Path, texts: list[tuple[str, str]]) -> None:
    texts = [(speaker, name.encode("utf-8", "ignore").decode()) for speaker, name in texts]
    source = written(tmp_path / "d", texts)
    table = source.table()
    assert list(zip(table["speaker"].tolist(), table["path"].tolist(), strict=True)) == texts
    for name, position in (("speaker", 0), ("path", 1)):
        assert source.index.texts[name].tolist() == sorted({text[position] for text in texts})
        for value in {text[position] for text in texts}:
            expected = [number for number, text in enumerate(texts) if text[position] == value]
            assert source.select({name: value}).table()["id"].tolist() == expected


def test_a_text_of_too_many_values_has_no_column(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(text_columns, "MAX_VALUES", 5)
    texts = [("ab"[number % 2], f"{number}.wav") for number in range(6)]
    source = written(tmp_path / "d", texts)
    assert list(source.index.texts) == ["speaker"]
    assert source.table()["path"].tolist() == [name for _, name in texts]
    assert source.select({"path": ["4.wav", "1.wav"]}).table()["id"].tolist() == [1, 4]
    assert list(written(tmp_path / "d", texts[:5]).index.texts) == ["speaker", "path"]


def test_the_limit_is_that_of_a_code() -> None:
    codes = text_columns.TextCodes()
    assert [codes.code(b"%d" % number) for number in range(1 << 16)] == list(range(1 << 16))
    assert codes.code(b"7") == 7
    assert len(codes.values() or ()) == 1 << 16
    codes.code(b"one more")
    assert codes.values() is None
    assert codes.code(b"7") == 0


def test_long_lists_are_beside_vlpipe_json(tmp_path: Path) -> None:
    texts = [("a", f"{number:05d}" + "é" * 500) for number in range(100)]
    source = written(tmp_path / "d", texts)
    document = json.loads((tmp_path / "d" / "vlpipe.json").read_text("utf-8"))
    assert "texts" not in document
    assert document["texts_file"]["name"] == "texts.json"
    assert source.table()["path"].tolist() == [name for _, name in texts]
    written(tmp_path / "d", [("b", "c")])
    assert not (tmp_path / "d" / "texts.json").exists()
    assert vlpipe.verify(tmp_path / "d").ok


@pytest.mark.parametrize("workers", [1, 2])
def test_converted_in_any_number_of_processes(tmp_path: Path, workers: int) -> None:
    texts = [(f"s{number % 7}", f"{number * 37 % 100}") for number in range(100)]
    written(tmp_path / "data", texts, num_shards=4)
    convert(tmp_path / "data", tmp_path / "again" / "data", num_shards=4, workers=workers)
    for file in (tmp_path / "data").iterdir():
        assert (tmp_path / "again" / "data" / file.name).read_bytes() == file.read_bytes()


def test_datasets_opened_together_have_one_list(tmp_path: Path) -> None:
    first = [("bob", "1"), ("ann", "2")]
    other = [("cleo", "3"), ("ann", "1"), ("bob", "4")]
    written(tmp_path / "a", first)
    written(tmp_path / "b", other)
    source = vlpipe.open([tmp_path / "a", tmp_path / "b"])
    assert source.index.texts["speaker"].tolist() == ["ann", "bob", "cleo"]
    assert source.table()["speaker"].tolist() == [speaker for speaker, _ in first + other]
    assert source.table()["path"].tolist() == [name for _, name in first + other]
    assert [record["speaker"] for record in source.select({"speaker": ["ann"]})] == ["ann", "ann"]


def test_too_many_values_in_all_together(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(text_columns, "MAX_VALUES", 2)
    written(tmp_path / "a", [("ann", "1"), ("bob", "2"), ("bob", "3")])
    written(tmp_path / "b", [("cleo", "4"), ("ann", "5")])
    written(tmp_path / "c", [("ann", "6")])
    source = vlpipe.open([tmp_path / name for name in "abc"])
    assert not source.index.texts
    assert source.table()["speaker"].tolist() == ["ann", "bob", "bob", "cleo", "ann", "ann"]
    assert list(vlpipe.open([tmp_path / "b", tmp_path / "c"]).index.texts) == ["speaker"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(texts=[]), '"texts" is list, expected an object'),
        (lambda d: d["texts"].update(x=["a"]), "\"texts\" has 'x', which is not a text of the schema"),
        (lambda d: d["texts"].update(path=["a", "a"]), 'the values of the text "path" are not a list of at most 65536 different texts'),
        (lambda d: d["texts"].update(path=[1, 2]), 'the values of the text "path" are not a list of at most'),
        (lambda d: d["texts"].update(path=["1"]), 'a code of the text "path" is beyond its 1 values: the index does not belong'),
        (lambda d: d["texts"].pop("path"), "the schema requires one axis of"),
        (lambda d: d.update(texts_file="x"), "\"texts_file\" is 'x', expected the name texts.json and its digest"),
        (lambda d: d.update(texts_file={"name": "texts.json", "digest": "a"}), r"texts.json: the values of texts cannot be read \(No such"),
    ],
)
def test_metadata_that_do_not_fit(tmp_path: Path, change: Any, message: str) -> None:
    written(tmp_path / "d", [("a", "1"), ("b", "2")])
    document = json.loads((tmp_path / "d" / "vlpipe.json").read_text("utf-8"))
    change(document)
    del document["digest"]
    (tmp_path / "d" / "vlpipe.json").write_text(json.dumps(document), "utf-8")
    with pytest.raises(vlpipe.DatasetError, match=message):
        vlpipe.open(tmp_path / "d")


def test_a_changed_file_of_texts_is_noticed(tmp_path: Path) -> None:
    written(tmp_path / "d", [("a", "x" * 70_000)])
    path = tmp_path / "d" / "texts.json"
    path.write_text(path.read_text("utf-8").replace("xxx", "yyy"), "utf-8")
    with pytest.raises(vlpipe.DatasetError, match=r"its digest is crc32c:.*, vlpipe.json says crc32c:"):
        vlpipe.open(tmp_path / "d")


def test_verify_compares_texts_with_the_index(tmp_path: Path) -> None:
    written(tmp_path / "d", [("a", "1"), ("b", "2")], num_shards=1)
    document = json.loads((tmp_path / "d" / "vlpipe.json").read_text("utf-8"))
    document["texts"]["speaker"] = ["a", "c"]
    del document["digest"]
    (tmp_path / "d" / "vlpipe.json").write_text(json.dumps(document), "utf-8")
    _, problem = vlpipe.verify(tmp_path / "d").problems
    assert (problem.record, problem.kind, problem.found, problem.expected) == (
        1,
        "index",
        "\"speaker\" is 'b'",
        "'c', according to the index",
    )


def test_without_a_text_nothing_changes(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", [{"x": np.ones((2, 1), np.float32)}])
    assert "text" not in (tmp_path / "d" / "vlpipe.json").read_text("utf-8")
