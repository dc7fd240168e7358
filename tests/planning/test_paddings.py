"""Which paddings are accepted, for which names and dtypes, and what is said of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlpipe
from vlpipe.errors import ArgumentError
from vlpipe.planning.options import Options
from vlpipe.planning.paddings import Paddings, fitting
from vlpipe.planning.selection import select
from vlpipe.storage.schema import Fixed, Schema, Sequence, Text

SCHEMA = Schema(
    mel=Sequence(2),
    voiced=Sequence((), "uint8"),
    words=Sequence((), "uint8"),
    pitch=Sequence((), "float16"),
    number=Fixed((), "int8"),
    text=Text(),
)
ALL: dict[str, Any] = {"features": ("mel", "voiced"), "label": ("words", "pitch", "number", "text")}


def paddings_of(**arguments: Any) -> dict[str, Any]:
    return dict(select(SCHEMA, Options.of(**ALL | arguments)).paddings.values)


def test_the_defaults() -> None:
    expected = {"x:mel": 0.0, "x:voiced": 0.0, "y:words": -1, "y:pitch": -1.0, "y:number": 0, "y:text": ""}  # a Fixed is never padded
    assert paddings_of() == expected


def test_each_field_has_its_own_padding() -> None:
    paddings = paddings_of(padding_value={"mel": -13.8}, label_padding={"pitch": 0, "number": -7})
    assert paddings == {"x:mel": -13.8, "x:voiced": 0.0, "y:words": -1, "y:pitch": 0.0, "y:number": -7, "y:text": ""}
    assert paddings_of(padding_value=-13.8, label_padding=255) == paddings | {
        "x:voiced": -13.8,
        "y:words": 255,  # delivered as int64
        "y:pitch": 255.0,
        "y:number": 0,
    }


def test_the_options_do_not_change_with_the_users_dict() -> None:
    given = {"mel": -1.0}
    options = Options.of(padding_value=given)
    given["mel"] = 5.0
    assert options.padding_value == {"mel": -1.0}
    assert Options.of(padding_value={"mel": np.float32(-1.5)}, label_padding={"words": np.int64(3)}).label_padding == {"words": 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_padding": 100_000}, 'label_padding: is 100000, which "pitch" of dtype float16 cannot hold. Pass another value, such as'),
        ({"label_padding": {"pitch": -1e6}}, 'label_padding: is -1000000.0, which "pitch" of dtype float16 cannot hold'),
        ({"label_padding": {"words": 0.5}}, 'label_padding: is 0.5, which "words" of dtype int64 cannot hold'),
        ({"label_padding": {"words": float("nan")}}, 'label_padding: is nan, which "words" of dtype int64 cannot hold'),
        ({"label_padding": {"words": True}}, 'label_padding: is True, which "words" of dtype int64 cannot hold'),
        ({"label_padding": {"words": 2**63}}, 'label_padding: is 9223372036854775808, which "words" of dtype int64 cannot hold'),
        ({"label_padding": {"number": 128}}, 'label_padding: is 128, which "number" of dtype int8 cannot hold'),
        ({"label_padding": {"text": 0}}, 'label_padding: is 0, which "text" of dtype string cannot hold. Leave the name out: texts'),
        (
            {"label_padding": {"word": 0, "mel": 0}},
            r"label_padding: names \['word', 'mel'\], but the labels that are delivered are \['words', 'pitch', 'number', 'text'\]",
        ),
        ({"label": False, "label_padding": {"words": 0}}, r"names \['words'\], but the labels that are delivered are \[\]"),
        (
            {"padding_value": {"pitch": 0}},
            r"padding_value: names \['pitch'\], but the features that are delivered are \['mel', 'voiced'\]. Name only these",
        ),
        ({"padding_value": {"mel": "0"}}, r"padding_value\['mel'\]: came as '0', expected an integer or a float"),
        ({"padding_value": {"mel": 1e39}}, r"padding_value\['mel'\]: came as 1e\+39, which dtype='float32' cannot hold"),
        ({"padding_value": {"mel": True}}, r"padding_value\['mel'\]: came as True, which dtype='float32' cannot hold"),
        (
            {"padding_value": {1: 0}},
            r"padding_value: came with the names \[1\], expected the names of features, such as \{\"feature\": 0\}",
        ),
        ({"padding_value": True}, "padding_value: came as True, expected a number, or numbers by the name of the feature"),
        ({"label_padding": {"words": None}}, r"label_padding\['words'\]: came as None, expected an integer or a float"),
        ({"label_padding": {None: 0}}, r"label_padding: came with the names \[None\], expected the names of labels"),
    ],
)
def test_paddings_that_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        paddings_of(**arguments)


@pytest.mark.parametrize("engine", ["mapped", "graph", "stream"])
def test_refused_before_the_first_batch(tmp_path: Path, engine: Any) -> None:
    vlpipe.write(tmp_path / "d", [{"x": np.ones((t, 2), "f4"), "y": np.ones(t, "f2")} for t in (1, 3)])
    for call in (vlpipe.plan, vlpipe.make_dataset):
        with pytest.raises(ArgumentError, match='label_padding: is 70000, which "y" of dtype float16 cannot hold'):
            call(tmp_path / "d", features="x", label="y", engine=engine, label_padding=70_000)  # type: ignore[operator]


def test_paddings_are_not_in_a_resume_state(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", [{"x": np.ones((t, 2), "f4"), "y": np.ones(t, "i4")} for t in (1, 3)])
    plain = vlpipe.plan(tmp_path / "d", features="x", label="y", seed=1).state(1, 0)
    state = vlpipe.plan(tmp_path / "d", features="x", label="y", seed=1, padding_value={"x": -3}, label_padding={"y": 0}).state(1, 0)
    assert state == plain


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (3.4e38, "bfloat16", None),  # float32 holds it, bfloat16 would make it infinite
        (3.38e38, "bfloat16", 3.38e38),
        (3.4e38, "float32", 3.4e38),
        (2**64 - 1, "uint64", 2**64 - 1),
        (2**53 + 1, "int64", 2**53 + 1),
        (1.0, "int8", 1),
        (float("inf"), "int64", None),
        (float("-inf"), "complex64", float("-inf")),
        (1e39, "complex64", None),
        (True, "bool", 1),
        (1, "bool", 1),
        (-1, "bool", None),
        (True, "float32", None),
        (0, "qint8", None),
    ],
)
def test_what_a_dtype_holds(value: Any, dtype: str, expected: Any) -> None:
    held = fitting(value, dtype)
    assert held == expected
    assert type(held) is type(expected)


def test_a_text_is_not_a_number() -> None:
    paddings = Paddings({"y:text": "", "y:words": -1})
    assert (paddings.of("y:text"), paddings.number("y:words"), paddings.of("n:y:words")) == ("", -1, 0)
    with pytest.raises(TypeError, match="is padded with '', not with a number"):
        paddings.number("y:text")
