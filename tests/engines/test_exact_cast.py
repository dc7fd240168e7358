"""Values that a delivered dtype does not hold are never delivered as others: for each pair of dtypes, on every engine."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from tests.helpers.foreign_files import example, ints, write
from vlpipe import layouts
from vlpipe.errors import SchemaError
from vlpipe.planning.conversions import can_lose
from vlpipe.storage.schema import FIXED_DTYPES, SEQUENCE_DTYPES, Fixed, Sequence

pytestmark = pytest.mark.usefixtures("quick_graphs")

ENGINES = ("mapped", "graph", "stream")
FLOATS = ("float32", "float16", "float64", "bfloat16")
WIDE = [16_777_217, 2**31 + 5, 2**53 + 1, -(2**40) - 3, 2**63 - 1, -(2**63)]


def extremes(dtype: str) -> list[Any]:
    """Return values of a dtype that others may not hold: its limits, and integers around the powers of 2."""
    if dtype.startswith("float"):
        limits = np.finfo(dtype)
        return [0.0, 1.0, float(limits.max), -float(limits.max), float(limits.smallest_normal), float("inf"), float("nan")]
    info = np.iinfo(dtype)
    near = [sign * 2**power + step for power in range(64) for step in (-1, 0, 1) for sign in (1, -1)]
    return sorted({value for value in near if info.min <= value <= info.max})


def lost_of(values: list[Any], stored: str, delivered: str) -> list[Any]:
    """The values that are no longer there in the delivered dtype, by TensorFlow's conversion and Python's own comparison of numbers."""

    def kept(number: Any, found: float) -> bool:
        if stored.startswith("float"):
            return np.isfinite(found) or not np.isfinite(number)
        return np.isfinite(found) and int(found) == number

    given = np.array(values, stored)
    converted = tf.cast(tf.cast(tf.constant(given), delivered), tf.float64).numpy()
    return [value for value, number, found in zip(values, given.tolist(), converted.tolist(), strict=True) if not kept(number, found)]


@pytest.mark.parametrize("delivered", FLOATS)
@pytest.mark.parametrize("stored", SEQUENCE_DTYPES)
def test_each_value_is_delivered_or_named_in_an_error(tmp_path: Path, stored: str, delivered: str) -> None:
    values = extremes(stored)
    lost = lost_of(values, stored, delivered)
    assert can_lose(stored, delivered) == bool(lost)
    whole = [value for value in values if value not in lost and value == value]
    schema = vlpipe.Schema(x=Sequence((), stored))
    vlpipe.write(tmp_path / "good", [{"x": np.array(part, stored)} for part in (whole, whole[:1])], schema, num_shards=1)
    ((x,),) = vlpipe.make_dataset(tmp_path / "good", dtype=delivered, shuffle=False, batching="pad")
    assert x.dtype == delivered
    if not stored.startswith("float") or delivered == "float64":  # floats are rounded
        assert tf.cast(x[0], tf.float64).numpy().tolist() == [float(np.array(value, stored)) for value in whole]
    for value in lost[:1] + lost[-1:]:
        vlpipe.write(
            tmp_path / "bad", [{"x": np.array(x, stored)} for x in (whole, [whole[0], value])], schema, num_shards=1, overwrite=True
        )
        expected = re.escape(f'"x" has the value {np.array(value, stored).item()!r}, which dtype={delivered!r} does not hold: ')
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            list(vlpipe.make_dataset(tmp_path / "bad", dtype=delivered))
        assert re.search(r"bad-00000-of-00001.tfrecord, record 1 at byte \d+: " + expected, caught.value.message.replace("\\", ""))


@pytest.mark.parametrize(
    ("engine", "stored"),
    [
        *(("mapped", stored) for stored in ("int32", "int64", "int16", "uint8")),
        ("graph", "int64"),
        ("stream", "int64"),
        ("stream", "uint8"),
    ],
)
def test_wide_integers_stay_integers_unless_the_user_names_a_dtype(tmp_path: Path, engine: str, stored: str) -> None:
    info = np.iinfo(stored)
    values = [value for value in (*WIDE, 3, -4, 200) if info.min <= value <= info.max]
    arrays = [np.array(values[:n], stored)[:, None] for n in (len(values), 1, 2)]
    vlpipe.write(tmp_path / "d", [{"x": x, "mel": x.astype("f4") * 0, "label": n} for n, x in enumerate(arrays)], num_shards=1)
    arguments: dict[str, Any] = {"engine": engine, "lengths": True}
    delivered = stored if stored.startswith(("int32", "int64")) else "float32"
    for x, y in vlpipe.make_dataset(tmp_path / "d", features=("x", "mel"), **arguments):
        assert (x["x"].dtype, x["mel"].dtype) == (delivered, tf.float32)
        for row, number in enumerate(y.numpy().tolist()):
            assert x["x"][row, : int(x["x_lengths"][row])].numpy().tolist() == arrays[number].tolist()
            assert not x["x"][row, int(x["x_lengths"][row]) :].numpy().any()
    floating = ({"normalize": "utterance"}, {"augment": vlpipe.SpecAugment(time_width=1, frequency_masks=0)}, {"transform": lambda x: x})
    for more in floating if (engine, stored) == ("mapped", "int64") else ():  # planning decides
        spec = vlpipe.make_dataset(tmp_path / "d", features="x", engine=engine, **more).element_spec[0]
        assert spec.dtype == tf.float32
    assert vlpipe.make_dataset(tmp_path / "d", features="x", engine=engine, dtype="float32").element_spec[0].dtype == tf.float32


WAYS: tuple[dict[str, Any], ...] = ({}, {"batching": "ragged"}, {"pad_to": "boundary"}, {"transform": lambda x: x + 1}, {"crop": 3})


@pytest.mark.parametrize(
    ("engine", "way"),
    [*(("mapped", way) for way in range(5)), *(("graph", way) for way in (0, 1, 3)), *(("stream", way) for way in (0, 2, 4))],
)
def test_the_record_and_the_value_are_named_on_every_engine(tmp_path: Path, engine: str, way: int) -> None:
    arguments = WAYS[way]
    records = [example({"tok": ints(1, 2, *([16_777_217] if n == 2 else []))}) for n in range(4)]
    path = write(tmp_path / "a.tfrecord", records)
    vlpipe.write(tmp_path / "d", [{"x": np.array([[1], [2], *([[16_777_217]] * (n == 2))])} for n in range(4)], num_shards=1)
    layout = layouts.int_list("tok", d=1)
    both: list[tuple[Path, str, dict[str, Any]]] = [(path, "tok", {"layout": layout}), (tmp_path / "d", "x", {})]
    for source, name, more in both if way == 0 else [both[way % 2]]:
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            list(vlpipe.make_dataset(source, engine=engine, dtype="float32", **more, **arguments))
        message = caught.value.message.replace("\\", "")
        assert re.search(
            r"tfrecord, record 2 at byte \d+: \"" + name + r"\" has the value 16777217, which dtype='float32' does not", message
        )
        assert "leave dtype out to get the integers" in message
        if way == 0:
            x = next(iter(vlpipe.make_dataset(source, engine=engine, batching="pad", **more)))[0]
            assert x.dtype == tf.int64
            assert int(tf.reduce_max(x)) == 16_777_217


@pytest.mark.parametrize("engine", ENGINES)
def test_floats_beyond_the_range_are_an_error(tmp_path: Path, engine: str) -> None:
    vlpipe.write(tmp_path / "d", [{"x": np.array([[1 + 2.0**-40, 1e300]])}, {"x": np.ones((3, 2))}], num_shards=1)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"record 0 at byte 0: .*has the value 1e\+300, which dtype=.*float32.*pass dtype="
    ):
        list(vlpipe.make_dataset(tmp_path / "d", engine=engine, lengths=True))
    x = next(iter(vlpipe.make_dataset(tmp_path / "d", engine=engine, dtype="float64", shuffle=False, batching="pad")))[0]
    assert x[0, 0].numpy().tolist() == [1 + 2.0**-40, 1e300]


def test_both_engines_deliver_the_same_bytes_and_resume(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vlpipe.write(tmp_path / "d", [{"x": rng.integers(-(2**62), 2**62, (t, 2)), "label": t} for t in range(1, 30)])
    for more in ({}, {"dtype": "float64", "features": "x"}):
        rows = []
        for engine in ("mapped", "graph"):
            try:
                rows.append(
                    [x.numpy().tobytes() for x, _ in vlpipe.make_dataset(tmp_path / "d", seed=3, engine=engine, batch_size=4, **more)]
                )
            except tf.errors.InvalidArgumentError as error:
                rows.append(["refused" if "float64" in error.message else ""])
        assert rows[0] == rows[1]


def pairs() -> list[tuple[str, str, type]]:
    numpy = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64", "bool")
    return [
        (a, b, kind) for kind, all_of in ((Fixed, FIXED_DTYPES), (Sequence, SEQUENCE_DTYPES)) for a, b in itertools.product(numpy, all_of)
    ]


@pytest.mark.parametrize(("given", "stored", "kind"), pairs())
def test_what_a_schema_stores_is_what_was_given_or_is_refused(given: str, stored: str, kind: type) -> None:
    for value in [True] if given == "bool" else extremes(given):
        array = np.array(value, given) if kind is Fixed else np.array([value], given)
        for passed in (array, array.tolist()) if kind is Fixed else (array, [array[0].item()]):
            try:
                found = kind((), stored).check(passed)
            except ValueError:
                continue
            number, same = np.asarray(found).ravel()[0].item(), array.ravel()[0].item()
            is_python_float = not hasattr(passed, "dtype") and isinstance(same, float)
            assert number == same or same != same or (is_python_float and np.isfinite(number) == np.isfinite(same)), (value, number)
    with pytest.raises(SchemaError):
        Fixed((), "float64")
