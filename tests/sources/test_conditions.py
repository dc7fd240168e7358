"""Conditions of `select` and of --where: values that do not exist, quotes, functions."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlpipe
from vlpipe.sources.conditions import in_words, parse
from vlpipe.sources.record_set import RecordSet

SPEAKERS = ("ann", "a,b", "", 'say "hi"', "bob")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> RecordSet:
    path = tmp_path_factory.mktemp("conditions") / "d"
    examples = (
        {"x": np.full((n + 1, 2), n, np.float32), "label": n % 3, "year": 2000 + n % 4, "speaker": SPEAKERS[n % 5]} for n in range(40)
    )
    with vlpipe.Writer(path) as writer:
        writer.metadata = {"classes": ["cat", "dog", "eel", "fox"], "label": "label"}
        for example in examples:
            writer.write(example)
    return vlpipe.open(path)


def ids(source: RecordSet) -> list[int]:
    return source.table()["id"].tolist()


@pytest.mark.parametrize(
    ("condition", "speakers"),
    [
        ('speaker="a,b",ann', {"a,b", "ann"}),
        ('speaker=""', {""}),
        ('speaker=ann,""', {"ann", ""}),
        ("speaker=ann,", {"ann", ""}),
        ('speaker="say ""hi"""', {'say "hi"'}),
        ('speaker!="a,b",""', {"ann", "bob", 'say "hi"'}),
        ("speaker=ann,bob", {"ann", "bob"}),
    ],
)
def test_quotes_are_those_of_csv(source: RecordSet, condition: str, speakers: set[str]) -> None:
    expected = [n for n in range(40) if SPEAKERS[n % 5] in speakers]
    assert ids(source.select(parse(condition))) == expected


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"speaker": ["ann", "bbo"]}, r"""where: "speaker" has no 'bbo' \(did you mean 'bob'\?\); it has , a,b, ann, bob, say"""),
        ({"label": [0, 99]}, 'where: "label" has no 99; it has 0, 1, 2, 3. Leave out what is not there'),
        ({"label": ["cat", "dgo"]}, r"where: \"label\" has no class dgo \(did you mean 'dog'\?\); its classes are cat"),
        ({"label": 1.5}, 'where: "label" has no 1.5'),
        ({"year": np.array([2001, 2020])}, 'where: "year" has no .*2020.*; it has 2000, 2001, 2002, 2003'),
        ({"label": 3}, "matches no record of the source"),  # the class exists
        (lambda table: table["yaer"] > 3, "where: 'yaer' is not a column of the source; its columns are id, frames, label, year, speaker"),
    ],
)
def test_values_and_columns_that_do_not_exist(source: RecordSet, where: Any, message: str) -> None:
    with pytest.raises(vlpipe.ArgumentError, match=message):
        source.select(where)


def test_a_list_may_have_what_another_selection_has(source: RecordSet) -> None:
    """Records of a sample need not have every speaker, class or year of the dataset."""
    few = source.select(rows=[0, 1, 3])
    assert ids(few.select({"speaker": ["ann", "bob"], "year": [2000, 2002], "label": [0, 1, 3]})) == [0]
    assert ids(source.select({"year": range(2002, 2050), "label": range(9)})) == [n for n in range(40) if n % 4 > 1]
    assert ids(source.select({"frames": [3, 99], "id": [2, 77]})) == [2]  # only texts, classes and other stored integers are checked
    assert ids(source.select({})) == list(range(40))
    assert ids(source.select({}, rows=[4])) == [4]
    assert (in_words({}, rows=[4]), in_words({"year": (2000, None)})) == ("rows", "year>=2000")


def test_errors_of_a_function_are_its_own(source: RecordSet) -> None:
    with pytest.raises(KeyError, match="mine"):
        source.select(lambda table: {}["mine"])
    assert len(source.select(lambda table: table["frames"] > 3 if table.get("nothing") is None else None)) == 37


def test_texts_that_are_not_in_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr("vlpipe.storage.text_columns.MAX_VALUES", 2)
    vlpipe.write(tmp_path / "d", [{"x": np.ones((2, 1), np.float32), "key": f"k{n}"} for n in range(9)])
    source = vlpipe.open(tmp_path / "d")
    assert "key" not in source.index.texts
    with pytest.raises(vlpipe.ArgumentError, match=r"""where: "key" has no 'k11' \(did you mean 'k1'"""):
        source.select({"key": ["k2", "k11"]})
    with caplog.at_level(logging.WARNING, "vlpipe"):
        assert ids(source.select(rows=[1, 2]).select({"key": ["k1", "k7"]})) == [1]
    assert 'where: "key" has no k7 in this selection' in caplog.text
