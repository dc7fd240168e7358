"""`check_finite` and `verify(finite=True)`: NaN and infinities are named or replaced, on every engine, and never counted as padding."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

import vlpipe
from tests.helpers.foreign_files import example, floats, place, write
from tests.helpers.metadata_files import edit_metadata
from vlpipe import layouts
from vlpipe.cli import main
from vlpipe.errors import ArgumentError

pytestmark = pytest.mark.usefixtures("quick_graphs")

ENGINES = ("mapped", "graph", "stream")
LENGTHS = [3, 7, 1, 4, 9, 2, 5, 0, 8, 6]
BAD, FRAME = 4, 6  # the record with a value that is not finite, and its first frame with one
ARGUMENTS: dict[str, Any] = {"batch_size": 3, "shuffle": False, "ids": True, "length_range": (0, None)}


def sequences(dtype: str = "float32", value: float = np.nan) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    made = [rng.normal(size=(t, 2)).astype(dtype) for t in LENGTHS]
    made[BAD][FRAME, 1] = made[BAD][8, 0] = value
    return made


def written(directory: Path, dtype: str = "float32", value: float = np.nan, **fields: list[Any]) -> Path:
    kinds: dict[str, Any] = {
        "label": vlpipe.Fixed((), "int64"),
        "target": vlpipe.Fixed((3,), "float32"),
        "pitch": vlpipe.Sequence((), "float32", aligned=True),
        "curve": vlpipe.Sequence((), "float64"),
    }
    fields = {"label": list(range(len(LENGTHS))), **fields}
    schema = vlpipe.Schema(features=vlpipe.Sequence((2,), dtype), **{name: kinds[name] for name in fields})
    examples = [
        {"features": frames, **{name: values[number] for name, values in fields.items()}}
        for number, frames in enumerate(sequences(dtype, value))
    ]
    vlpipe.write(directory, examples, schema=schema, num_shards=1)
    return directory


def rows(dataset: tf.data.Dataset) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield the id, the features and the label of each row, with padding."""
    for x, y, *_ in dataset:
        for number, frames, label in zip(x["id"].numpy(), x["features"], y, strict=True):
            yield int(number), frames.numpy(), label.numpy()


def error_of(dataset: tf.data.Dataset) -> str:
    with pytest.raises(tf.errors.OpError) as raised:
        for _ in dataset:
            pass
    return str(raised.value).replace('\\"', '"')  # TensorFlow's Assert escapes quotes


@pytest.mark.parametrize(
    ("engine", "dtype", "delivered"),
    [
        ("mapped", "float16", "float16"),
        ("mapped", "float32", "float32"),
        ("mapped", "float64", "float64"),
        ("graph", "float64", "float16"),
        ("stream", "float16", "bfloat16"),
    ],
)
def test_each_dtype_is_named_or_zeroed(tmp_path: Path, engine: str, dtype: str, delivered: str) -> None:
    source = written(tmp_path / "data", dtype, value=-np.inf)
    arguments = {**ARGUMENTS, "engine": engine, "dtype": delivered}
    shard = next(source.glob("*.tfrecord"))
    expected = place(shard, BAD) + rf': "features" has -inf in frame {FRAME}, expected finite numbers\. Repair the record, or leave it out'
    assert re.search(expected, error_of(vlpipe.make_dataset(source, check_finite="error", **arguments)))
    made = sequences(dtype, -np.inf)
    if engine == "mapped":
        plain = {number: frames for number, frames, _ in rows(vlpipe.make_dataset(source, **arguments))}
        assert np.isinf(plain[BAD].astype("float64")).sum() == 2
    for number, frames, _ in rows(vlpipe.make_dataset(source, check_finite="zero", **arguments)):
        length = LENGTHS[number]
        expected = made[number].astype(frames.dtype)
        np.testing.assert_array_equal(frames[:length], np.where(np.isfinite(made[number]), expected, np.zeros_like(expected)))
        assert not frames[length:].any()


@pytest.mark.parametrize(("engine", "batching"), [("mapped", "bucket"), ("mapped", "ragged"), ("graph", "ragged"), ("stream", "bucket")])
def test_padding_that_is_not_finite_is_neither_refused_nor_zeroed(tmp_path: Path, engine: str, batching: str) -> None:
    source = written(tmp_path / "data", pitch=[np.ones(t, np.float32) for t in LENGTHS])
    arguments = {**ARGUMENTS, "engine": engine, "batching": batching, "label": "pitch", "label_padding": {"pitch": np.nan}}
    arguments |= {"padding_value": -np.inf} if batching == "bucket" else {}
    for number, frames, pitch in rows(vlpipe.make_dataset(source, check_finite="zero", **arguments)):
        length = LENGTHS[number]
        expected = np.nan_to_num(sequences()[number], nan=0)
        np.testing.assert_array_equal(frames[:length], expected)
        assert np.isneginf(frames[length:]).all()
        assert np.isnan(pitch[length:]).all()
        assert (pitch[:length] == 1).all()
    text = error_of(vlpipe.make_dataset(source, check_finite="error", **arguments))
    assert f"record {BAD} at byte" in text
    assert f'"features" has nan in frame {FRAME}' in text


@pytest.mark.parametrize(
    ("engine", "field"), [("mapped", "target"), ("graph", "curve"), ("mapped", "pitch"), ("graph", "pitch"), ("stream", "pitch")]
)
def test_labels_of_floats_are_errors_also_with_zero(tmp_path: Path, engine: str, field: str) -> None:
    shapes = {"target": lambda t: 3, "pitch": lambda t: t, "curve": lambda t: t % 3 + 1}
    values = [np.ones(shapes[field](t), "float64" if field == "curve" else "float32") for t in LENGTHS]
    values[1][1] = np.nan
    source = written(tmp_path / "data", value=0.0, **{field: values})
    where = "at position 1" if field == "target" else "in frame 1"
    for check in ("error", "zero") if engine == "mapped" else ("zero",):
        text = error_of(vlpipe.make_dataset(source, check_finite=check, label=field, engine=engine, **ARGUMENTS))
        assert re.search(rf'record 1 at byte \d+: "{field}" has nan {where}, expected finite numbers', text)
        assert "zero" not in text


@pytest.mark.parametrize("engine", ENGINES)
def test_what_a_transform_makes_is_found_and_said_to_be_made_by_it(tmp_path: Path, engine: str) -> None:
    source = written(tmp_path / "data", value=0.5)
    logarithm = vlpipe.Transform(lambda x: tf.math.log(tf.maximum(x, 0.0) if x.shape[-1] == 2 else x))
    arguments = {**ARGUMENTS, "engine": engine, "transform": logarithm}
    text = error_of(vlpipe.make_dataset(source, check_finite="error", **arguments))
    assert re.search(
        r'"features" has -inf in frame \d as delivered, expected finite numbers: all are as stored, so transform made it', text
    )
    for number, frames, _ in rows(vlpipe.make_dataset(source, check_finite="zero", **arguments)):
        with np.errstate(divide="ignore"):
            expected = np.log(np.maximum(sequences(value=0.5)[number], 0))
        np.testing.assert_allclose(frames[: LENGTHS[number]], np.where(np.isfinite(expected), expected, 0), atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_one_nan_does_not_zero_a_normalised_sequence(tmp_path: Path, engine: str) -> None:
    source = written(tmp_path / "data")
    zeros = [{"features": np.nan_to_num(frames), "label": number} for number, frames in enumerate(sequences())]
    vlpipe.write(tmp_path / "zeros", zeros, num_shards=1)
    arguments = {
        **ARGUMENTS,
        "engine": engine,
        "normalize": "utterance",
        "augment": vlpipe.SpecAugment(time_width=2, frequency_masks=0),
        "seed": 3,
    }
    made = [list(rows(vlpipe.make_dataset(path, check_finite="zero", **arguments))) for path in (source, tmp_path / "zeros")]
    for (number, frames, _), (other, expected, _) in zip(*made, strict=True):
        assert number == other
        np.testing.assert_array_equal(frames, expected)


@pytest.mark.parametrize("engine", ["mapped", "graph"])
def test_of_windows_only_those_with_the_value_are_refused(tmp_path: Path, engine: str) -> None:
    source = written(tmp_path / "data")
    dataset = vlpipe.make_dataset(
        source, check_finite="error", windows=vlpipe.Windows(4, tail="keep"), shuffle=False, engine=engine, length_range=(0, None)
    )
    text = error_of(dataset)
    assert '"features" has nan in frame 2 as delivered; as stored, "features" has nan in frame 6 (2 values are not finite)' in text
    first = vlpipe.make_dataset(source, check_finite="error", crop=6, engine=engine, length_range=(0, None))
    assert sum(len(y) for _, y in first) == len(LENGTHS)


@pytest.mark.parametrize("engine", ENGINES)
def test_several_features_and_third_party_records(tmp_path: Path, engine: str) -> None:
    records = [example({"mel": floats(frames), "other": floats(np.ones((2, 3)))}) for frames in sequences(value=0)]
    records[2] = example({"mel": floats(np.ones((4, 2))), "other": floats([1, 2, 3, 4, np.inf, 6])})
    path = write(tmp_path / "a.tfrecord", records)
    layout = layouts.float_list("mel", "other", d={"mel": 2, "other": 3})
    arguments = {**ARGUMENTS, "engine": engine, "layout": layout, "features": ("mel", "other"), "label": False}
    text = error_of(vlpipe.make_dataset(path, check_finite="error", **arguments))
    assert re.search(place(path, 2) + ': "other" has inf in frame 1, expected', text)
    for x, *_ in vlpipe.make_dataset(path, check_finite="zero", **arguments):
        for number, other in zip(x["id"].numpy(), x["other"].numpy(), strict=True):
            assert other.ravel().tolist() == ([1, 2, 3, 4, 0, 6] if number == 2 else [1.0] * 6)


@pytest.mark.parametrize("engine", ["mapped", "graph"])
def test_skip_leaves_out_what_is_not_finite_as_stored(tmp_path: Path, engine: str) -> None:
    source = written(tmp_path / "data")
    arguments = {**ARGUMENTS, "engine": engine, "on_damage": vlpipe.Skip(most=1), "remainder": "pad"}
    dataset = vlpipe.make_dataset(source, check_finite="error", **arguments)
    seen = [number for x, _, weight in dataset for number in x["id"].numpy()[weight.numpy() > 0]]
    assert sorted(seen) == [number for number in range(len(LENGTHS)) if number != BAD]
    assert vlpipe.callbacks.SkippedRecords(dataset).places == [f"data-00000-of-00001.tfrecord, record {BAD} at byte {_offset(source)}"]
    made = vlpipe.make_dataset(source, check_finite="error", transform=lambda x: x * np.nan, **arguments)
    assert "so transform made it" in error_of(made)  # not damage: each record would be
    zeroed = vlpipe.make_dataset(source, check_finite="zero", **arguments)
    assert sorted(number for x, _, weight in zeroed for number in x["id"].numpy()[weight.numpy() > 0]) == list(range(len(LENGTHS)))


def _offset(source: Path) -> int:
    return int(vlpipe.open(source).index.rows["offset"][BAD])


def test_large_values_are_finite_although_their_sum_is_not(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "data", [{"features": np.full((9, 2), 3e38, np.float32)}], num_shards=1)
    for check in ("error", "zero"):
        (x,) = next(iter(vlpipe.make_dataset(tmp_path / "data", check_finite=check, label=False)))
        assert (x.numpy() == np.float32(3e38)).all()


def test_integers_have_nothing_to_check_and_the_element_stays(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "data", [{"features": np.ones((9, 2), np.int16), "label": 1}] * 4, num_shards=1)
    for arguments in ({}, {"dtype": "int32"}, {"pad_to": "boundary", "remainder": "drop", "batch_size": 2}):
        specs = [vlpipe.make_dataset(tmp_path / "data", check_finite=check, **arguments).element_spec for check in (None, "error", "zero")]
        assert specs[0] == specs[1] == specs[2]


def test_a_state_names_only_what_changes_the_batches(tmp_path: Path) -> None:
    source = written(tmp_path / "data")
    states = [vlpipe.plan(source, seed=1, length_range=(0, None), check_finite=check).state(0, 1) for check in (None, "error", "zero")]
    assert states[0] == states[1]
    assert "check_finite" not in states[0]
    assert states[2] == {**states[0], "check_finite": "zero"}
    with pytest.raises(ArgumentError, match="check_finite is None in the state, 'zero' here"):
        vlpipe.make_dataset(source, seed=1, length_range=(0, None), check_finite="zero", repeat=True, resume=states[0])
    with pytest.raises(ArgumentError, match='check_finite: came as True, expected "error", "zero", or None for no check'):
        vlpipe.plan(source, check_finite=True)


def damaged_of(report: vlpipe.verification.Report) -> list[tuple[Any, ...]]:
    return [(problem.record, problem.kind, problem.found) for problem in report.problems]


def test_verify_names_what_is_not_finite_and_a_selection_leaves_it_out(tmp_path: Path) -> None:
    curves = [np.ones(2) for _ in LENGTHS]
    curves[1][1] = -np.inf
    source = written(tmp_path / "data", curve=curves)
    assert vlpipe.verify(source).ok
    report = vlpipe.verify(source, finite=True)
    expected = [
        (1, "finite", '"curve" has -inf in frame 1 (1 value is not finite)'),
        (BAD, "finite", f'"features" has nan in frame {FRAME} (2 values are not finite)'),
    ]
    assert damaged_of(report) == expected
    assert report.damaged == 2
    assert str(report.problems[1]).endswith(
        "not finite), expected finite numbers. Repair the record, or leave it out: "
        "source.select(without=vlpipe.verify(source, finite=True))."
    )
    kept = vlpipe.open(source).select(without=report)
    assert kept.table()["id"].tolist() == [number for number in range(len(LENGTHS)) if number not in (1, BAD)]
    assert vlpipe.verify(kept, finite=True).damaged == 2  # the files that have its records are read whole
    ran = CliRunner().invoke(main, ["verify", str(source), "--finite"])
    assert ran.exit_code == 1
    assert f'"features" has nan in frame {FRAME}' in ran.output
    assert CliRunner().invoke(main, ["verify", str(source)]).exit_code == 0
    with pytest.raises(ArgumentError, match="finite: came as 'yes', expected True or False"):
        vlpipe.verify(source, finite="yes")  # type: ignore[arg-type]


def test_values_that_are_not_finite_do_not_hide_a_wrong_digest(tmp_path: Path) -> None:
    source = written(tmp_path / "data")
    edit_metadata(source / "vlpipe.json", lambda document: document["shards"][0].update(digest="sha256:" + "0" * 64))
    assert [problem.kind for problem in vlpipe.verify(source, finite=True).problems] == ["finite", "digest"]


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_verify_of_third_party_records(tmp_path: Path, compression: str) -> None:
    records = [example({"mel": floats(frames), "speed": floats([number])}) for number, frames in enumerate(sequences())]
    records[2] = example({"mel": floats(np.ones((4, 2))), "speed": floats([np.inf])})
    path = write(tmp_path / "a.tfrecord", records, compression)
    layout = layouts.float_list("mel", d=2)
    report = vlpipe.verify(path, layout, finite=True)
    assert damaged_of(report) == [
        (2, "finite", '"speed" has inf (1 value is not finite)'),
        (BAD, "finite", f'"mel" has nan in frame {FRAME} (2 values are not finite)'),
    ]
    assert vlpipe.verify(path, layout).ok
    assert not (tmp_path / ".vlpipe-index").exists()


def test_stats_count_what_is_not_finite_stored_and_computed(tmp_path: Path) -> None:
    stored = written(tmp_path / "data")
    path = write(tmp_path / "a.tfrecord", [example({"mel": floats(frames)}) for frames in sequences()])
    for arguments in ([str(stored)], [str(path), "--layout", '{"float_list": {"key": "mel", "d": 2}}', "--compute"]):
        ran = CliRunner().invoke(main, ["stats", *arguments])
        assert ran.exit_code == 0, ran.output
        assert re.search(r"not finite\s+2 numbers, excluded from mean and deviation", ran.output), ran.output
