"""Records that are no Examples are called what they are; the sequences that a user's function makes of them are counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from tests.helpers.foreign_files import example, floats, ints, raw, sequence_example, write
from tests.protobuf.test_wire import field
from vlpipe.errors import DatasetError, SchemaError
from vlpipe.layouts import Layout
from vlpipe.protobuf.other_messages import other_message
from vlpipe.protobuf.wire import walk
from vlpipe.sources.records import Records

pytestmark = pytest.mark.usefixtures("quick_graphs")

DOCUMENTS = [example({"score": floats(np.linspace(0, 1, n)), "relevance": ints(n)}) for n in (3, 200)]
QUERY = example({"query": raw("Größe".encode())})
LISTS = [
    b"".join(field(1, document) for document in DOCUMENTS) + field(2, QUERY),
    field(1, DOCUMENTS[0]),
    field(1, example({"word": raw(b"abc")})) + field(2, example({})),
]


@pytest.mark.parametrize("data", LISTS, ids=range(len(LISTS)))  # the order of the features in their bytes differs between processes
def test_a_list_of_examples_is_called_so(tmp_path: Path, data: bytes) -> None:
    path = write(tmp_path / "a.tfrecord", [data] * 3)
    said = r"a.tfrecord, record 0 at byte 0: the record is an ExampleListWithContext, a list of Examples, and not a tf.train.*custom"
    for call in (vlpipe.inspect, vlpipe.make_dataset, vlpipe.build_index):
        with pytest.raises(DatasetError, match=said):
            call(str(path))  # type: ignore[operator]
    assert vlpipe.verify(path).ok


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (field(3, b"abc") + b"\x20\x05", r"3 \(bytes\), 4 \(a number\)"),
        (field(1, field(1, b"")) + b"\x1d1234\x211234abcd", r"1 \(bytes\), 3 \(4 bytes\), 4 \(8 bytes\)"),
        (field(1, field(1, field(1, b"\x01\x02") + field(2, b""))), r"1 \(bytes\)"),
    ],
)
def test_another_protocol_buffer_is_called_so(tmp_path: Path, data: bytes, fields: str) -> None:
    path = write(tmp_path / "a.tfrecord", [data] * 3)
    with pytest.raises(DatasetError, match=rf"the record is another protocol buffer, with the fields {fields}, and not a tf.train.Example"):
        vlpipe.make_dataset(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        example({}),
        example({"x": tf.train.Feature()}),
        example({"a\n": ints(1)}),
        sequence_example({}, {"x": []}),
        sequence_example({}, {"\n": [floats([1])]}),
        example({"x": ints(1)}) + field(9, b"unknown"),
    ],
)
def test_examples_are_still_examples(data: bytes) -> None:
    assert other_message(data, walk(data)) == ""


SAMPLES = [np.random.default_rng(n).normal(size=n).astype("f4") for n in (4, 0, 9, 1)]
CODES = [np.arange(n) for n in (2, 3, 0, 5)]


def parse(data: Any) -> dict[str, Any]:
    spec = {
        "samples": tf.io.FixedLenSequenceFeature([], tf.float32, allow_missing=True),
        "codes": tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True),
    }
    parsed = tf.io.parse_single_example(data, spec)
    return {name: parsed[name] for name in spec}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "a.tfrecord", [example({"samples": floats(x), "codes": ints(*y)}) for x, y in zip(SAMPLES, CODES, strict=True)])


@pytest.mark.parametrize("engine", ["mapped", "graph", "stream"])
@pytest.mark.parametrize("features", [("samples", "codes"), ("codes", "samples")])
def test_several_sequences_of_numbers_are_counted(path: Path, engine: str, features: tuple[str, str]) -> None:
    arguments: dict[str, Any] = {"engine": engine, "ids": True, "lengths": True, "length_range": (0, None), "batch_size": 2}
    seen = 0
    for (x,) in vlpipe.make_dataset(path, layout=Layout.custom(parse), features=features, label=False, **arguments):
        for row, number in enumerate(x["id"].numpy().tolist()):
            for name, known in (("samples", SAMPLES), ("codes", CODES)):
                count = int(x[f"{name}_lengths"][row])
                assert x[name][row, :count].numpy().tolist() == known[number].tolist()
                assert not x[name][row, count:].numpy().any()
            seen += 1
    assert seen == 4
    index = vlpipe.build_index(path, Layout.custom(parse))
    assert index.frames("codes").tolist() == [len(codes) for codes in CODES]
    with Records(index) as records:
        assert records.values(3)["codes"].tolist() == CODES[3].tolist()


def test_a_sequence_that_nobody_counts_is_refused_as_a_feature(path: Path) -> None:
    layout = Layout.custom(parse, lambda data: len(tf.train.Example.FromString(data).features.feature["samples"].float_list.value))
    with pytest.raises(SchemaError, match='features: "codes" is not counted by the layout\'s length_fn. Leave length_fn out, or'):
        vlpipe.make_dataset(path, layout=layout, features=("samples", "codes"), label=False)
    for x, y in vlpipe.make_dataset(path, layout=layout, features="samples", label="codes", length_range=(0, None), ids=True):
        assert [row[: len(CODES[number])].tolist() for row, number in zip(y.numpy(), x["id"].numpy(), strict=True)] == [
            CODES[number].tolist() for number in x["id"].numpy()
        ]
