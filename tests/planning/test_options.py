"""The arguments of `make_dataset` and `plan`: values they accept and refuse, error messages, and the fields they select."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlpipe
from vlpipe import make_dataset
from vlpipe.errors import ArgumentError, SchemaError
from vlpipe.planning.argument_types import Arguments
from vlpipe.planning.damage import Skip
from vlpipe.planning.options import Options, default_parallelism
from vlpipe.planning.selection import select
from vlpipe.storage.schema import Fixed, Schema, Sequence, Text
from vlpipe.transforms.augment import SpecAugment
from vlpipe.transforms.crop import Crop
from vlpipe.transforms.transform import Transform
from vlpipe.transforms.windows import Windows

GOOD: dict[str, list[Any]] = {
    "batching": ["bucket", "pad", "ragged", "same_length"],
    "batch_size": [None, 1, 32, np.int64(7)],
    "frames_per_batch": [None, 1, 100_000, np.int32(7)],
    "multiple_of": [1, 2, np.int64(8)],
    "buckets": [None, 1, 8, np.int64(3)],
    "pad_to": ["longest", "boundary"],
    "remainder": ["keep", "drop", "pad"],
    "shapes": ["any", "static"],
    "out_of_range": ["error", "drop", "truncate"],
    "shuffle": [True, False, np.bool_(True)],
    "seed": [None, 0, 2**63 - 1],
    "repeat": [True, False],
    "features": [None, "features", ("a", "b")],
    "label": [None, False, "label", ("a", "b")],
    "aligned": [None, False, "vad", ("vad", "pitch")],
    "lengths": [True, False],
    "ids": [True, False],
    "label_padding": [-1, 0, 255, -(2**63), {}, {"words": -1, "pitch": 0.5}],
    "padding_value": [0.0, -80.0, float("nan"), float("-inf"), {}, {"mel": -13.8, "voiced": 0}],
    "class_weight": [None, "balanced", {0: 1.0, 7: 0.5}, {"a": "balanced", "b": {1: 2.0}}],
    "dtype": ["float32", "float16", "float64", "bfloat16", "uint8", "int64"],
    "engine": ["auto", "mapped", "graph", "stream"],
    "verify": ["first", "always", "never"],
    "on_damage": ["error", Skip(), Skip(most=0)],
    "check_finite": [None, "error", "zero"],
    "num_parallel_calls": [None, 1, 64],
    "length_range": [(1, None), (0, 0), (5, 5), (2, 100)],
    "shard": [(0, 1)],
    "resume": [None],
    "layout": [None],
    "label_classes": [None, ["a", "b"], {"word": "classes.txt"}],
    "crop": [None, Crop(1), Crop(300, random=True)],
    "windows": [None, Windows(1), Windows(300, 150, tail="pad", jitter=True)],
    "transform": [None, Transform(abs), Transform(abs, frames=abs)],
    "normalize": [None, "utterance", "global"],
    "augment": [None, (SpecAugment(),), (SpecAugment(fill="zero"),)],
}

CHOICE, NUMBER, FLAG = r"expected one of '", "expected an integer >= ", "expected True or False"
NAMES = "expected the name of a field or a tuple of different names"
BAD: dict[str, tuple[str, list[Any]]] = {
    "batching": (CHOICE, ["buckets", "", None, 3, ["bucket"], True]),
    "pad_to": (CHOICE, ["max", None, 64]),
    "remainder": (CHOICE, ["discard", True, None]),
    "shapes": (CHOICE, ["few", None, 8]),
    "out_of_range": (CHOICE, ["ignore", None]),
    "engine": (CHOICE, ["fast", None]),
    "verify": (CHOICE, ["yes", True]),
    "on_damage": (r'expected "error" or a vlpipe.Skip\(most=...\)', ["skip", None, 10, Skip, {"most": 3}]),
    "check_finite": ('expected "error", "zero", or None', [True, "skip", 0, ["error"]]),
    "dtype": (CHOICE, ["float31", np.float32, None, "string", "bool", "complex64"]),
    "batch_size": (NUMBER + "1", [0, -1, 1.0, "32", True, [32], 2**63, float("nan")]),
    "frames_per_batch": (NUMBER + "1", [0, -1, 1e5, "100", False]),
    "multiple_of": (NUMBER + "1", [0, -1, 2.0, "2", True, 2**24 + 1]),
    "class_weight": ('expected "balanced", weights by class', [3, "auto", {}, [1.0, 2.0], True]),
    "num_parallel_calls": (NUMBER + "1", [0, -1, 2.0, True]),
    "seed": (NUMBER + "0", [-1, 1.5, "1", True, 2**63]),
    "label_padding": (NUMBER, [0.5, None, "0", False, -(2**63) - 1, 2**63]),
    **{flag: (FLAG, [None, 1, 0, "yes", []]) for flag in ("shuffle", "repeat", "lengths", "ids")},
    "padding_value": ("expected an integer or a float|expected a number|which dtype", ["0", None, True, [0.0], 1j, np.array([1.0])]),
    "buckets": (
        "expected a number of buckets, or a list|expected an integer >= 1|expected ascending upper lengths",
        [0, -3, 2.5, "8", True, [], [0, 10], [10, 10], [20, 10], [1.5], ["a"], [None], b"ab", np.array([[1, 2]])],
    ),
    "length_range": (
        r"expected \(shortest, longest\), such as|expected shortest <= longest|expected an integer >= 0",
        [None, 5, (1,), (1, 2, 3), (5, 4), (-1, None), (1.0, None), (1, "9"), (True, None), "ab"],
    ),
    "shard": (
        r"expected \(rank, world\), such as|expected a rank from 0 to|expected an integer",
        [None, 0, (0,), (1, 1), (2, 2), (-1, 2), (0, 0), (0.0, 1)],
    ),
    "features": (NAMES, [3, True, False, [], (), ("a", "a"), ("a", 1), {"a"}]),
    "label": (NAMES, [3, True, [], (), ("a", "a"), ("a", None)]),
    "aligned": (NAMES, [3, True, [], (), ("a", "a"), {"vad"}]),
    "crop": (NUMBER + "1", [0, -1, 1.5, "300", True, (1, 2), Crop]),
    "windows": ("expected a number of frames, or a vlpipe.Windows", [0, -1, 1.5, "300", True, (1, 2), Windows]),
    "transform": (r"expected a function of one sequence x \[T, d\]", [3, "abs", True, ()]),
    "normalize": ("expected one of None, 'utterance', 'global'", ["batch", True, 0, ["global"], [], ""]),
    "augment": (r"expected one of vlpipe.Gain\(...\), .*, a list of these, or None", [True, {}, "mean"]),
}


def test_the_tables_name_every_option() -> None:
    fields = {field.name for field in dataclasses.fields(Options)}
    assert set(GOOD) == fields
    assert set(BAD) == fields - {"resume", "layout", "label_classes"}  # checked when the source is opened, or by the engines


def test_options_arguments_and_make_dataset_have_the_same_names_in_the_same_order() -> None:
    parameters = inspect.signature(make_dataset).parameters.values()
    keywords = [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    assert [field.name for field in dataclasses.fields(Options)] == keywords
    assert list(Arguments.__annotations__) == keywords


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in GOOD.items() for value in values])
def test_good_values(name: str, value: Any) -> None:
    option = getattr(Options.of(**{name: value}), name)
    assert option == value or (value != value and option != option)


@pytest.mark.parametrize(
    ("name", "value", "message"), [(name, value, message) for name, (message, values) in BAD.items() for value in values]
)
def test_bad_values(name: str, value: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=rf"^{name}(\[\d\])?: came as .*({message})"):
        Options.of(**{name: value})


def test_the_bad_value_is_shown() -> None:
    with pytest.raises(ArgumentError, match=r"^batch_size: came as '32', expected an integer >= 1, at most 16777216\.$"):
        Options.of(batch_size="32")
    with pytest.raises(ArgumentError, match=r"^pad_to: came as 'max', expected one of 'longest', 'boundary'\.$"):
        Options.of(pad_to="max")


@pytest.mark.parametrize("value", [[100, 200], (100, 200), np.array([100, 200]), range(100, 201, 100), iter([100, 200])])
def test_boundaries_become_a_tuple_of_ints(value: Any) -> None:
    options = Options.of(buckets=value)
    assert options.buckets == (100, 200)
    assert all(type(boundary) is int for boundary in options.buckets)


def test_what_is_kept_is_plain() -> None:
    options = Options.of(batch_size=np.int64(7), length_range=[None, np.int32(5)], shard=[0, 1], features=["a", "b"], padding_value=-1)
    assert (options.length_range, options.shard, options.features) == ((0, 5), (0, 1), ("a", "b"))
    assert [type(value) for value in (options.batch_size, options.length_range[1], options.padding_value)] == [int, int, float]


def test_the_options_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options().batch_size = 3  # type: ignore[misc]


def test_an_unknown_name_is_answered_with_the_list() -> None:
    said = r"^unknown argument batchsize \(did you mean 'batch_size' or 'batching'\?\), zzz; the arguments are batching, batch_size, "
    with pytest.raises(ArgumentError, match=said):
        Options.of(batchsize=3, zzz=1)


def test_a_misspelt_name_is_a_type_error_of_make_dataset_that_has_the_right_one() -> None:
    said = r"^make_dataset\(\) got an unexpected keyword argument 'bach_size' \(did you mean 'batch_size'"
    with pytest.raises(TypeError, match=said):
        make_dataset("nothing", seed=1, bach_size=8)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"^make_dataset\(\) got an unexpected keyword argument 'zzz'$"):
        make_dataset("nothing", zzz=8)  # type: ignore[call-arg]
    for function in (vlpipe.plan, vlpipe.batches):
        with pytest.raises(ArgumentError, match=r"^unknown argument bach_size \(did you mean 'batch_size'"):
            function("nothing", bach_size=8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *[
            (
                {"batching": batching, "buckets": 4},
                f"buckets: only batching=\"bucket\" has buckets, but batching is '{batching}'. Leave buckets out",
            )
            for batching in ("pad", "ragged", "same_length")
        ],
        *[
            ({"batching": batching, "pad_to": "boundary"}, f"pad_to=\"boundary\": batching='{batching}' does not pad")
            for batching in ("ragged", "same_length")
        ],
        (
            {"shard": (1, 4)},
            r'shard=\(1, 4\): with remainder="keep" the ranks would have different numbers of steps. Use remainder="pad"',
        ),
        ({"resume": {"epoch": 1}}, "resume: needs repeat=True, an endless run"),
        ({"resume": {"epoch": 1}, "repeat": True}, r"resume: needs the seed of the run that it continues. Pass seed="),
        ({"repeat": 1}, "repeat: came as 1, expected True or False"),
        ({"length_range": (5, 4)}, r"length_range: came as \(5, 4\), expected shortest <= longest"),
        ({"padding_value": "0"}, "padding_value: came as '0', expected an integer or a float"),
        ({"dtype": "uint8", "padding_value": -1}, "padding_value: came as -1, which dtype='uint8' cannot hold"),
        ({"dtype": "int16", "padding_value": 0.5}, "padding_value: came as 0.5, which dtype='int16' cannot hold"),
        ({"dtype": "int64", "padding_value": float("nan")}, "padding_value: came as nan, which dtype='int64' cannot hold"),
        ({"dtype": "int64", "padding_value": float("inf")}, "padding_value: came as inf, which dtype='int64' cannot hold"),
    ],
)
def test_options_that_exclude_each_other(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{message}"):
        Options.of(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [{"shard": (1, 4), "remainder": "pad"}, {"resume": {}, "repeat": True, "seed": 1}, {"resume": {}, "repeat": True, "shuffle": False}],
)
def test_options_that_go_together(arguments: dict[str, Any]) -> None:
    options = Options.of(**arguments)
    assert {name: getattr(options, name) for name in arguments} == arguments


@given(st.none() | st.integers(1, 100), st.none() | st.integers(1, 10_000), st.integers(0, 3000))
def test_the_batch_size_keeps_both_limits(batch_size: int | None, budget: int | None, frames: int) -> None:
    size = Options.of(batch_size=batch_size, frames_per_batch=budget).batch_size_for(frames)
    if budget is None:
        assert size == (32 if batch_size is None else batch_size)
        return
    # One more sequence would exceed a limit; a single sequence is allowed to.
    assert size == 1 or (size * frames <= budget and (batch_size is None or size <= batch_size))
    assert size == batch_size or (size + 1) * max(frames, 1) > budget


def test_parallelism() -> None:
    assert default_parallelism(Options.of(num_parallel_calls=3)) == 3
    assert 1 <= default_parallelism(Options()) <= 8


# ---- which fields ----------------------------------------------------------------------------------------------------------------

SPEECH = Schema(features=Sequence(80), label=Fixed(), words=Sequence((), "int32"), speaker=Text())
TWO = Schema(audio=Sequence(4), video=Sequence((2, 2), "uint8"), a=Fixed(), b=Fixed())
NUMBERS = Schema(wave=Sequence((), "int16"))

SELECTED: list[tuple[Schema, dict[str, Any], tuple[Any, ...]]] = [
    (SPEECH, {}, (("features",), ("label",), True, True)),
    (SPEECH, {"label": "words"}, (("features",), ("words",), True, True)),
    (SPEECH, {"label": "speaker"}, (("features",), ("speaker",), True, True)),
    (SPEECH, {"label": False}, (("features",), (), True, False)),
    (SPEECH, {"label": ("label", "words")}, (("features",), ("label", "words"), True, False)),
    (SPEECH, {"features": ("features", "words")}, (("features", "words"), ("label",), False, True)),
    (SPEECH, {"features": "words"}, (("words",), ("label",), True, True)),
    (TWO, {"features": "video", "label": "b"}, (("video",), ("b",), True, True)),
    (TWO, {"features": ("video", "audio"), "label": ("b", "a")}, (("video", "audio"), ("b", "a"), False, False)),
    (NUMBERS, {}, (("wave",), (), True, False)),
    (Schema(x=Sequence(3), y=Sequence((), "int32")), {}, (("x",), ("y",), True, True)),
    (Schema(x=Sequence(3), y=Text()), {}, (("x",), (), True, False)),
    (Schema(label=Sequence(3), y=Fixed()), {}, (("label",), ("y",), True, True)),
    (Schema(a=Fixed(), label=Fixed(), x=Sequence(3)), {}, (("x",), ("label",), True, True)),
    (Schema(a=Sequence(3), features=Sequence(3)), {}, (("features",), (), True, False)),
]


@pytest.mark.parametrize(("schema", "arguments", "expected"), SELECTED)
def test_the_fields_that_are_chosen(schema: Schema, arguments: dict[str, Any], expected: tuple[Any, ...]) -> None:
    selection = select(schema, Options.of(**arguments))
    assert (selection.features, selection.labels, selection.single_feature, selection.single_label) == expected
    assert selection.key == expected[0][0]


@pytest.mark.parametrize(
    ("schema", "arguments", "message"),
    [
        (
            SPEECH,
            {"features": "spectrum"},
            r"features: the schema has no field \"spectrum\"; its fields are \['features', 'label', 'words', 'speaker'\]",
        ),
        (SPEECH, {"label": "lable"}, 'label: the schema has no field "lable"'),
        (SPEECH, {"features": ""}, 'features: the schema has no field ""'),
        (SPEECH, {"features": "label"}, r'features: "label" is Fixed\(.*\), expected a Sequence; deliver it as label="label"'),
        (SPEECH, {"features": "speaker"}, r'features: "speaker" is Text\(\), expected a Sequence'),
        (SPEECH, {"label": "features"}, r"label: \['features'\] is also among the features. Name each field once"),
        (TWO, {}, r"features: the candidates are \['audio', 'video'\], the schema is Schema\(.*Name one: features='audio'"),
        (TWO, {"features": "video"}, r"label: the candidates are \['a', 'b'\].*Name one: label='a'"),
        (TWO, {"features": "audio"}, r"label: the candidates are \['a', 'b'\].*Name one: label='a'"),
        (
            SPEECH,
            {"dtype": "int16"},
            "dtype='int16': \"features\" is stored as float32, which would change. Use a wider dtype, or a float",
        ),
        (NUMBERS, {"dtype": "uint16"}, "dtype='uint16': \"wave\" is stored as int16"),
        (
            Schema(a=Sequence(1), a_lengths=Sequence(1)),
            {"features": ("a", "a_lengths"), "lengths": True},
            r"features: \['a_lengths'\] name fields, and also entries that",
        ),
        (
            Schema(a=Sequence(1), id=Sequence(1)),
            {"features": ("a", "id"), "ids": True},
            r"features: \['id'\] name fields, and also entries that",
        ),
    ],
)
def test_fields_that_cannot_be_chosen(schema: Schema, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaError, match=f"^{message}"):
        select(schema, Options.of(**arguments))


@pytest.mark.parametrize("stored", ["uint8", "int16", "float16", "float32", "int64"])
@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "float16", "float32", "bfloat16"])
def test_integers_are_delivered_only_where_nothing_changes(stored: str, dtype: str) -> None:
    options = Options.of(dtype=dtype)
    integer = dtype in ("uint8", "int32", "int64")
    fits = not integer or (
        np.dtype(stored).kind in "iu" and np.iinfo(stored).min >= np.iinfo(dtype).min and np.iinfo(stored).max <= np.iinfo(dtype).max
    )
    if fits:
        select(Schema(x=Sequence(1, stored)), options)
    else:
        with pytest.raises(SchemaError, match=f'"x" is stored as {stored}'):
            select(Schema(x=Sequence(1, stored)), options)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(10**400, "float32"), (1e300, "float32"), (1e5, "float16"), (1e300, "bfloat16"), (0.5, "int16"), (-1, "uint8"), (2**63, "int64")],
)
def test_a_padding_that_the_dtype_cannot_hold(value: float, dtype: str) -> None:
    with pytest.raises(ArgumentError, match=f"padding_value: came as .*, which dtype='{dtype}' cannot hold"):
        Options.of(padding_value=value, dtype=dtype)


@pytest.mark.parametrize(
    ("value", "dtype"), [(2**53 + 1, "int64"), (float("nan"), "float16"), (float("-inf"), "float32"), (np.float32(1.5), "float32")]
)
def test_a_padding_is_kept_exactly(value: float, dtype: str) -> None:
    padding = Options.of(padding_value=value, dtype=dtype).padding_value
    assert padding == value or (np.isnan(padding) and np.isnan(value))
    assert isinstance(padding, int if dtype == "int64" else float)


def test_a_label_whose_name_is_part_of_the_features_name() -> None:
    assert select(Schema(audio=Sequence(4), a=Fixed()), Options()).labels == ("a",)
