"""`Schema` and its fields: values are accepted unchanged or refused with their name, never converted silently."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.numpy_reference import equal
from vlpipe.errors import SchemaError
from vlpipe.storage.schema import FIXED_DTYPES, SEQUENCE_DTYPES, Fixed, Schema, Sequence, Text

BIG_ENDIAN = np.arange(6, dtype=">f4").reshape(3, 2)


class Tensor:
    """An array of another library (TensorFlow, PyTorch, JAX), whose dtype must not be converted silently."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.dtype = array.dtype

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.array if dtype is None else self.array.astype(dtype)


# ---- fields ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Sequence, Fixed])
@pytest.mark.parametrize(("shape", "expected"), [(80, (80,)), ((80,), (80,)), ((), ()), ([2, 3], (2, 3)), (np.int64(4), (4,))])
def test_a_shape_is_kept_as_a_tuple(kind: Any, shape: Any, expected: tuple[int, ...]) -> None:
    assert kind(shape).shape == kind(shape).dimensions == expected


@pytest.mark.parametrize("kind", [Sequence, Fixed])
@pytest.mark.parametrize("shape", [0, -1, True, (2, 0), (2, True), 80.0, (80.0,), None, (None, 80), "80", {"a": 1}, object()])
def test_an_invalid_shape_is_refused(kind: Any, shape: Any) -> None:
    with pytest.raises(SchemaError, match=rf"^{kind.__name__}: shape is .*, expected an integer >= 1 or a tuple of them"):
        kind(shape)


@pytest.mark.parametrize("kind", [Sequence, Fixed])
@pytest.mark.parametrize("shape", [2**31, 10**30, (2**20, 2**20), (2**32, 2**32), (1,) * 33])
def test_a_shape_that_no_record_can_hold_is_refused(kind: Any, shape: Any) -> None:
    with pytest.raises(SchemaError, match=rf"^{kind.__name__}: shape is .*, expected at most 30 axes and 2147483647 bytes"):
        kind(shape)


@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype("float32"), "f4", ">f4", "<f4"])
def test_a_dtype_is_kept_by_its_name(dtype: Any) -> None:
    assert Sequence(80, dtype).dtype == Fixed((), dtype).dtype == "float32"


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        *[
            (kind, dtype)
            for kind in (Sequence, Fixed)
            for dtype in ("bool", "str", "complex64", "uint64", "float33", object, None, {}, "f4,f4")
        ],
        (Sequence, [("a", "f4")]),
        (Fixed, {"names": 1}),
        (Fixed, "float64"),
        (Fixed, float),
    ],
)
def test_a_dtype_that_is_not_stored_is_refused(kind: Any, dtype: Any) -> None:
    with pytest.raises(SchemaError, match=rf"^{kind.__name__}: dtype is .*, expected one of "):
        kind((), dtype)


@pytest.mark.parametrize(
    ("field", "size"),
    [(Sequence(80, "float32"), 320), (Sequence((), "int16"), 2), (Sequence((3, 4), "uint8"), 12), (Sequence(1, "float64"), 8)],
)
def test_frame_bytes(field: Sequence, size: int) -> None:
    assert field.frame_bytes == size


# ---- values of a sequence --------------------------------------------------------------------------------------------------------

SEQUENCE_ACCEPTED: dict[str, tuple[Sequence, Any, np.ndarray]] = {
    "array": (Sequence(2), np.ones((3, 2), np.float32), np.ones((3, 2), "<f4")),
    "no frames": (Sequence(2), np.empty((0, 2), np.float32), np.empty((0, 2), "<f4")),
    "big-endian array": (Sequence(2), BIG_ENDIAN, np.arange(6, dtype="<f4").reshape(3, 2)),
    "every second frame": (Sequence(2), np.arange(12, dtype=np.float32).reshape(6, 2)[::2], np.array([[0, 1], [4, 5], [8, 9]], "<f4")),
    "Fortran order": (
        Sequence(2),
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(3, 2)),
        np.arange(6, dtype="<f4").reshape(3, 2),
    ),
    "read-only": (Sequence((), "uint8"), np.frombuffer(b"abc", np.uint8), np.array([97, 98, 99], "u1")),
    "not finite": (Sequence(), np.array([np.nan, np.inf, -0.0], np.float32), np.array([np.nan, np.inf, -0.0], "<f4")),
    "list of floats": (Sequence(2), [[0.5, 1.0]], np.array([[0.5, 1.0]], "<f4")),
    "list of ints, exact as floats": (Sequence(2), [[1, 2], [3, 4]], np.array([[1, 2], [3, 4]], "<f4")),
    "list of ints": (Sequence((), "int16"), [-32768, 32767], np.array([-32768, 32767], "<i2")),
    "tuple": (Sequence((), "int64"), (2**62,), np.array([2**62], "<i8")),
    "empty list": (Sequence((), "int32"), [], np.empty(0, "<i4")),
    "infinity in a list": (Sequence((), "float16"), [np.inf, 1.0], np.array([np.inf, 1.0], "<f2")),
    "array of another library": (Sequence(2), Tensor(np.ones((3, 2), np.float32)), np.ones((3, 2), "<f4")),
    "image frames": (Sequence((2, 2), "uint8"), np.zeros((4, 2, 2), np.uint8), np.zeros((4, 2, 2), "u1")),
}


@pytest.mark.parametrize(("field", "value", "expected"), SEQUENCE_ACCEPTED.values(), ids=SEQUENCE_ACCEPTED)
def test_a_sequence_accepts(field: Sequence, value: Any, expected: np.ndarray) -> None:
    stored = field.check(value)
    assert equal(stored, expected)
    assert stored.dtype.str == expected.dtype.str
    assert stored.flags.c_contiguous


SEQUENCE_REFUSED: dict[str, tuple[Sequence, Any, str]] = {
    "wrong dtype": (
        Sequence(2),
        np.ones((3, 2), np.float64),
        r'dtype float64, the schema has a Sequence of float32; convert it with .astype\("float32"\)',
    ),
    "wider integers": (Sequence((), "int32"), np.array([1], np.int64), "dtype int64, the schema has a Sequence of int32"),
    "wrong d": (Sequence(2), np.ones((3, 4), np.float32), r"shape \[3, 4\], the schema has a Sequence \[T, 2\]"),
    "transposed": (Sequence(2), np.ones((2, 3), np.float32), r"shape \[2, 3\], the schema has a Sequence \[T, 2\]"),
    "too many axes": (Sequence(2), np.ones((1, 3, 2), np.float32), r"shape \[1, 3, 2\], the schema has a Sequence \[T, 2\]"),
    "too few axes": (Sequence(2), np.ones(3, np.float32), r"shape \[3\], the schema has a Sequence \[T, 2\]"),
    "no frames of wrong d": (Sequence(2), np.empty((0, 3), np.float32), r"shape \[0, 3\], the schema has a Sequence \[T, 2\]"),
    "array without axes": (Sequence(), np.float32(1), r"shape \[\], the schema has a Sequence \[T\]"),
    "number": (Sequence(), 1.5, r"shape \[\], the schema has a Sequence \[T\]"),
    "object array": (Sequence(), np.array([1.0, None], object), "dtype object, the schema has a Sequence of float32"),
    "strings": (Sequence(), ["a", "b"], "dtype str"),
    "string": (Sequence(), "abc", "dtype str"),
    "bytes": (Sequence((), "uint8"), b"abc", "dtype bytes"),
    "bools": (Sequence((), "uint8"), np.array([True]), "dtype bool, the schema has a Sequence of uint8"),
    "list of bools": (Sequence((), "uint8"), [True, False], "dtype bool, the schema has a Sequence of uint8"),
    "None": (Sequence(), None, "dtype object"),
    "list with None": (Sequence(), [1.0, None], "dtype object"),
    "dict": (Sequence(), {"a": 1}, "dtype object"),
    "generator": (Sequence(), (number for number in (1, 2)), "dtype object"),
    "complex": (Sequence(), np.ones(2, np.complex64), "dtype complex64"),
    "dates": (Sequence((), "int64"), np.array(["2020-01-01"], "datetime64[D]"), "dtype datetime64"),
    "records": (Sequence(), np.zeros(2, [("a", "f4")]), "dtype void"),
    "jagged list": (
        Sequence(2),
        [[1.0, 2.0], [3.0]],
        r"list \[\[1.0, 2.0\], \[3.0\]\], which is not an array; the schema has a Sequence \[T, 2\]",
    ),
    "masked array": (Sequence(), np.ma.masked_array(np.ones(2, np.float32), [True, False]), r"a masked array.*\.filled\("),
    "floats in a list for integers": (Sequence((), "int32"), [1.0, 2.0], "dtype float64, the schema has a Sequence of int32"),
    "integer too big": (Sequence((), "uint8"), [1, 256], "the value 256, which uint8 cannot hold"),
    "integer too small": (Sequence((), "uint8"), [1, -1], "the value -1, which uint8 cannot hold"),
    "integer beyond int64": (Sequence((), "int64"), [2**63], f"the value {2**63}, which int64 cannot hold"),
    "integer beyond uint64": (Sequence((), "int64"), [2**70], "dtype object|cannot hold"),
    "integer that float32 would round": (Sequence(), [2**24 + 1], "dtype int64, the schema has a Sequence of float32"),
    "integer beyond float16": (Sequence((), "float16"), [70000], "dtype int64, the schema has a Sequence of float16"),
    "float beyond float32": (Sequence(), [1.0, 1e300], r"the value 1e\+300, which is beyond the range of float32"),
    "negative float beyond float16": (Sequence((), "float16"), [-1e6], r"the value -1000000.0, which is beyond the range of float16"),
    "float64 array of another library": (Sequence(2), Tensor(np.ones((3, 2))), "dtype float64, the schema has a Sequence of float32"),
}


@pytest.mark.parametrize(("field", "value", "message"), SEQUENCE_REFUSED.values(), ids=SEQUENCE_REFUSED)
def test_a_sequence_refuses(field: Sequence, value: Any, message: str) -> None:
    schema = Schema(x=field)
    with pytest.raises(SchemaError, match=rf'^data/train, record 17: "x" has (?:{message})'):
        schema.check({"x": value}, "data/train, record 17")


@given(st.sampled_from(SEQUENCE_DTYPES), st.sampled_from(SEQUENCE_DTYPES))
def test_a_sequence_takes_exactly_its_dtype(declared: str, actual_dtype: str) -> None:
    value = np.arange(3).astype(actual_dtype)
    if declared == actual_dtype:
        assert equal(Sequence((), declared).check(value), value)
    else:
        with pytest.raises(ValueError, match=f"dtype {actual_dtype}, the schema has a Sequence of {declared}"):
            Sequence((), declared).check(value)


# ---- values of a fixed field -----------------------------------------------------------------------------------------------------

FIXED_ACCEPTED: dict[str, tuple[Fixed, Any, np.ndarray]] = {
    "int": (Fixed(), 3, np.array(3)),
    "numpy integer": (Fixed((), "uint8"), np.int64(255), np.array(255, np.uint8)),
    "extremes": (Fixed(2), [-(2**63), 2**63 - 1], np.array([-(2**63), 2**63 - 1])),
    "narrower array": (Fixed(2), np.array([1, -2], np.int8), np.array([1, -2])),
    "big-endian array": (Fixed(2), np.array([1, -2], ">i8"), np.array([1, -2])),
    "float": (Fixed((), "float32"), 0.1, np.array(0.1, np.float32)),
    "numpy float64": (Fixed((), "float32"), np.float64(0.1), np.array(0.1, np.float32)),
    "int for a float": (Fixed((), "float32"), 3, np.array(3, np.float32)),
    "NaN": (Fixed((), "float32"), float("nan"), np.array(np.nan, np.float32)),
    "matrix": (Fixed((2, 2), "float32"), np.eye(2, dtype=np.float32).T[::-1], np.array([[0, 1], [1, 0]], np.float32)),
    "half floats": (Fixed(2, "float16"), np.array([0.5, 65504], np.float16), np.array([0.5, 65504], np.float16)),
    "array without axes": (Fixed(), np.array(7), np.array(7)),
}


@pytest.mark.parametrize(("field", "value", "expected"), FIXED_ACCEPTED.values(), ids=FIXED_ACCEPTED)
def test_a_fixed_field_accepts(field: Fixed, value: Any, expected: np.ndarray) -> None:
    assert equal(field.check(value), expected)


FIXED_REFUSED: dict[str, tuple[Fixed, Any, str]] = {
    "float for an integer": (Fixed(), 3.0, "dtype float64, the schema has a Fixed of int64"),
    "NaN for an integer": (Fixed(), float("nan"), "dtype float64, the schema has a Fixed of int64"),
    "bool": (Fixed(), True, "bool True, the schema has a Fixed of int64; pass a number or an array of numbers"),
    "numpy bool": (Fixed(), np.bool_(True), r"bool_? (np\.)?True\S*, the schema has a Fixed of int64; pass a number"),
    "array of bools": (Fixed(2), np.array([True, False]), r"an array of bool \[2\], the schema has a Fixed of int64"),
    "None": (Fixed(), None, "NoneType None, the schema has a Fixed of int64"),
    "string": (Fixed(), "3", "str '3', the schema has a Fixed of int64"),
    "long string": (Fixed(), "3" * 99, r"str '3+\.\.\., the schema"),
    "bytes": (Fixed(), b"3", "bytes b'3', the schema has a Fixed of int64"),
    "complex": (Fixed((), "float32"), 1j, "complex 1j, the schema has a Fixed of float32"),
    "integer beyond int64": (Fixed(), 2**63, f"the value {2**63}, which int64 cannot hold"),
    "integer beyond uint64": (Fixed(), 2**70, f"int {2**70}, the schema has a Fixed of int64"),
    "integer too big": (Fixed((), "int8"), 128, "the value 128, which int8 cannot hold"),
    "integer too small": (Fixed((), "uint16"), -1, "the value -1, which uint16 cannot hold"),
    "integer that float32 would round": (Fixed((), "float32"), 2**24 + 1, "dtype int64, the schema has a Fixed of float32"),
    "integer that overflows float16": (Fixed((), "float16"), 2**40, "dtype int64, the schema has a Fixed of float16"),
    "greatest int64 for float32": (Fixed((), "float32"), 2**63 - 1, "dtype int64, the schema has a Fixed of float32"),
    "float beyond float32": (Fixed((), "float32"), 1e300, r"the value 1e\+300, which is beyond the range of float32"),
    "wider array": (Fixed(2, "int32"), np.array([1, 2]), "dtype int64, the schema has a Fixed of int32"),
    "float64 array": (Fixed(2, "float32"), np.ones(2), "dtype float64, the schema has a Fixed of float32"),
    "integer array for floats": (Fixed(2, "float32"), np.ones(2, np.int8), "dtype int8, the schema has a Fixed of float32"),
    "scalar for a vector": (Fixed(2), 1, r"shape \[\], the schema has a Fixed \[2\]"),
    "vector for a scalar": (Fixed(), [1], r"shape \[1\], the schema has a Fixed \[\]"),
    "wrong length": (Fixed(2), [1, 2, 3], r"shape \[3\], the schema has a Fixed \[2\]"),
    "empty list": (Fixed(2), [], r"shape \[0\], the schema has a Fixed \[2\]"),
    "jagged list": (Fixed((2, 2)), [[1, 2], [3]], r"list \[\[1, 2\], \[3\]\], which is not an array; the schema has a Fixed \[2, 2\]"),
    "masked array": (Fixed(2), np.ma.masked_array([1, 2], [True, False]), "a masked array, whose mask would be lost"),
    "float64 array of another library": (Fixed(2, "float32"), Tensor(np.ones(2)), "dtype float64, the schema has a Fixed of float32"),
}


@pytest.mark.parametrize(("field", "value", "message"), FIXED_REFUSED.values(), ids=FIXED_REFUSED)
def test_a_fixed_field_refuses(field: Fixed, value: Any, message: str) -> None:
    schema = Schema(x=Sequence(), label=field)
    with pytest.raises(SchemaError, match=rf'^record: "label" has {message}'):
        schema.check({"x": [1.0], "label": value})


@given(st.sampled_from([name for name in FIXED_DTYPES if "int" in name]), st.integers(-(2**65), 2**65))
def test_an_integer_is_stored_exactly_or_refused(dtype: str, number: int) -> None:
    limits = np.iinfo(dtype)
    if limits.min <= number <= limits.max:
        assert int(Fixed((), dtype).check(number)) == number
    else:
        with pytest.raises(ValueError, match="the schema has|cannot hold"):
            Fixed((), dtype).check(number)


@given(st.sampled_from(["float16", "float32"]), st.integers(-(2**63), 2**64 - 1))
def test_an_integer_for_a_float_is_stored_exactly_or_refused(dtype: str, number: int) -> None:
    try:
        stored = Fixed((), dtype).check(number)
    except ValueError:
        with np.errstate(over="ignore"):
            rounded = float(np.array(float(number), np.float64).astype(dtype))
        assert not np.isfinite(rounded) or int(rounded) != number
    else:
        assert int(stored) == number


# ---- texts -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "a", "naïve é 漢字 🎧", "\0", "line\nline", np.str_("numpy")])
def test_a_text_is_stored_in_utf8(text: str) -> None:
    assert Text().check(text) == str(text).encode()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"bytes", "bytes b'bytes', expected a str"),
        (None, "NoneType None, expected a str"),
        (3, "int 3, expected a str"),
        (["a"], r"list \['a'\], expected a str"),
        (np.array("a"), r"an array of str\d+ \[\], expected a str"),
        ("a\ud800b", r"a text that UTF-8 cannot express \(surrogates not allowed at character 1\)"),
    ],
)
def test_a_text_refuses(value: Any, message: str) -> None:
    with pytest.raises(SchemaError, match=f'^record: "t" has {message}'):
        Schema(x=Sequence(), t=Text()).check({"x": [1.0], "t": value})


# ---- the schema ------------------------------------------------------------------------------------------------------------------

EVERY_KIND = Schema(
    features=Sequence((2, 3), "int16"), label=Fixed((), "int64"), vector=Fixed(4, "float16"), words=Sequence((), "int32"), text=Text()
)


def test_a_schema_goes_through_json() -> None:
    again = Schema.from_json(EVERY_KIND.to_json())
    assert again == EVERY_KIND
    assert hash(again) == hash(EVERY_KIND)
    assert list(again.fields) == list(EVERY_KIND.fields)
    assert EVERY_KIND.to_json()["features"] == {"kind": "sequence", "shape": [2, 3], "dtype": "int16"}
    assert EVERY_KIND.to_json()["text"] == {"kind": "text"}


def test_the_order_of_fields_is_part_of_a_schema() -> None:
    assert Schema(a=Sequence(), b=Text()) != Schema(b=Text(), a=Sequence())
    assert Schema(a=Sequence()) != "Schema"


def test_the_repr_of_a_schema_makes_it() -> None:
    assert eval(repr(EVERY_KIND)) == EVERY_KIND


def test_the_fields_cannot_be_changed_from_outside() -> None:
    EVERY_KIND.fields.clear()
    assert list(EVERY_KIND.fields) == ["features", "label", "vector", "words", "text"]
    assert list(EVERY_KIND.sequences) == ["features", "words"]


@pytest.mark.parametrize("name", ["self", "cls", "fields", "naïve", "with space", "a:b", "漢字"])
def test_a_field_may_have_any_printable_name(name: str) -> None:
    schema = Schema(**{name: Sequence()})
    assert Schema.from_json(schema.to_json()) == schema
    assert list(Schema.infer({name: np.ones(2)}).fields) == [name]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, r"no field of \[\] is a vlpipe.Sequence"),
        ({"label": Fixed()}, r"no field of \['label'\] is a vlpipe.Sequence; a record needs at least one"),
        ({"x": "float32"}, "\"x\" is str 'float32', expected a vlpipe.Sequence, vlpipe.Fixed or vlpipe.Text"),
        ({"x": Sequence}, '"x" is type .*, expected a vlpipe.Sequence'),
        ({"": Sequence()}, "the name '' is empty or not printable"),
        ({"a\nb": Sequence()}, r"the name 'a\\nb' is empty or not printable"),
        ({"\ud800": Sequence()}, "the name .* is empty or not printable"),
    ],
)
def test_a_schema_refuses(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaError, match=f"^Schema: {message}"):
        Schema(**fields)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([1, 2], r"came as list \[1, 2\], expected a dict with the fields \['label', 'x'\]"),
        (None, "came as NoneType None, expected a dict"),
        ({"x": [1.0]}, r"lacks \['label'\]; the schema has \['x', 'label'\]. Write exactly these fields."),
        ({"x": [1.0], "label": 1, "speaker": "a", 3: 4}, r"has unknown \['speaker', '3'\]; the schema has"),
        ({"x": [1.0], "lable": 1}, r"lacks \['label'\] and has unknown \['lable'\]"),
    ],
)
def test_a_record_must_have_exactly_the_fields(record: Any, message: str) -> None:
    with pytest.raises(SchemaError, match=f"^record: {message}"):
        Schema(x=Sequence(), label=Fixed()).check(record)


def test_values_come_in_the_order_of_the_schema() -> None:
    values = Schema(x=Sequence(), label=Fixed(), t=Text()).check({"t": "é", "label": 1, "x": [1.0]})
    assert list(values) == ["x", "label", "t"]
    assert values["t"] == "é".encode()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], r"schema: found list \[\], expected an object of fields"),
        ("x", "schema: found str 'x'"),
        ({"x": None}, '"x" is None, expected an object with "kind" one of sequence, fixed, text'),
        ({"x": {"kind": "ragged"}}, 'expected an object with "kind" one of'),
        ({"x": {"kind": ["sequence"]}}, 'expected an object with "kind" one of'),
        ({"x": {"kind": "sequence"}}, r'expected "shape" \(a list\) and "dtype" for a sequence or fixed field'),
        ({"x": {"kind": "sequence", "shape": 80, "dtype": "float32"}}, r'expected "shape" \(a list\)'),
        ({"x": {"kind": "sequence", "shape": [80], "dtype": "float32", "unit": "dB"}}, r'expected "shape" \(a list\)'),
        ({"x": {"kind": "text", "dtype": "float32"}}, 'expected "shape"'),
        ({"x": {"kind": "sequence", "shape": [80], "dtype": {"names": []}}}, "Sequence: dtype is"),
        ({"x": {"kind": "sequence", "shape": [80], "dtype": None}}, "Sequence: dtype is"),
        ({"x": {"kind": "sequence", "shape": ["80"], "dtype": "float32"}}, "Sequence: shape is"),
        ({"x": {"kind": "sequence", "shape": [1e3], "dtype": "float32"}}, "Sequence: shape is"),
        ({"x": {"kind": "sequence", "shape": [10**40], "dtype": "float32"}}, "Sequence: shape is"),
        ({"x": {"kind": "text"}}, "Schema: no field of"),
        ({}, "Schema: no field of"),
    ],
)
def test_other_documents_are_refused(document: Any, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        Schema.from_json(document)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (np.ones((3, 80), np.float32), Sequence(80, "float32")),
        (np.ones((3, 2, 2), np.uint8), Sequence((2, 2), "uint8")),
        (np.ones(3, np.int16), Sequence((), "int16")),
        (np.empty((0, 5), np.float32), Sequence(5, "float32")),
        ([1, 2, 3], Sequence((), "int64")),
        ([[0.5, 1.5]], Sequence(2, "float64")),
        (3, Fixed((), "int64")),
        (np.uint8(3), Fixed((), "int64")),
        (0.5, Fixed((), "float32")),
        (np.float16(0.5), Fixed((), "float32")),
        (np.array(4), Fixed((), "int64")),
        ("text", Text()),
    ],
)
def test_a_field_is_inferred_from_a_value(value: Any, field: Any) -> None:
    schema = Schema.infer({"x": np.ones(1, np.float32), "it": value})
    assert schema.fields["it"] == field
    schema.check({"x": np.ones(1, np.float32), "it": value})


@pytest.mark.parametrize(
    "value", [None, True, [], b"bytes", {"a": 1}, [None], [True], 1j, [[1, 2], [3]], np.array([None]), 2**70, object()]
)
def test_no_field_is_inferred_from_other_values(value: Any) -> None:
    with pytest.raises(SchemaError, match=r'^first record: "it" is .*; no field can be inferred from it. Pass schema=vlpipe.Schema\(...\)'):
        Schema.infer({"x": np.ones(1, np.float32), "it": value})


@pytest.mark.parametrize("dtype", ["uint32", "uint64", "bool", "complex64"])
def test_an_array_of_a_dtype_that_is_not_stored_is_refused(dtype: str) -> None:
    with pytest.raises(SchemaError, match=rf'^(Sequence: dtype is|first record: "x" is an array of) .?{dtype}'):
        Schema.infer({"x": np.ones((2, 2), dtype)})


def test_the_first_record_must_be_a_dict() -> None:
    with pytest.raises(SchemaError, match=r"^first record: came as tuple \(1, 2\), expected a dict of field names and values"):
        Schema.infer((1, 2))  # type: ignore[arg-type]


def test_a_text_that_is_no_str_is_refused() -> None:
    schema = Schema(x=Sequence(), text=Text())
    with pytest.raises(SchemaError, match=r"expected a str \(the schema has a Text\)"):
        schema.check({"x": np.zeros(2, np.float32), "text": 3}, "here")
