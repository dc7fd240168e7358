"""Every padded value is the one that the rules say: random elements and records on the builders and the engines, against NumPy.

`VLPIPE_SWEEP=56` makes 2,000 cases instead of 36.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from tests.helpers.foreign_files import example, floats, ints
from tests.helpers.foreign_files import write as write_records
from vlpipe import builders
from vlpipe.layouts import Frames, Layout, float_list

pytestmark = pytest.mark.usefixtures("quick_graphs")

CASES = 12 * int(os.environ.get("VLPIPE_SWEEP", "1"))  # of each of three tests
BATCHINGS = ("bucket", "pad", "ragged", "same_length")
GREATEST = {"float16": 65504.0, "bfloat16": 3.3895313892515355e38, "float32": 3.4028234663852886e38, "complex64": 3.4028234663852886e38}
VALUES: list[Any] = [0, -1, 7, 255, 256, 2**40, -7.5, 0.5, -0.0, 1e5, 3.4e38, 1e39, np.nan, np.inf, -np.inf, True, False, np.int16(-3)]


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of an element, or a field: how it is named and padded, and its value in each record."""

    name: str
    kind: str  # "feature", "label" or "weight"
    dtype: str
    values: list[np.ndarray]
    varies: bool


def can_hold(value: Any, dtype: str) -> bool:
    """Whether a dtype holds a number; written separately from the library."""
    if dtype == "string":
        return False
    if dtype == "bool":
        return value in (0, 1)
    if isinstance(value, bool):
        return False
    if dtype.startswith(("float", "bfloat", "complex")):
        return not np.isfinite(value) or abs(value) <= GREATEST.get(dtype, np.inf)
    limits = np.iinfo(dtype)
    return bool(np.isfinite(value)) and int(value) == value and int(value) in range(int(limits.min), int(limits.max) + 1)


def rule(piece: Piece, given: dict[str, Any]) -> tuple[str, Any]:
    """The option that pads a part, and the value."""
    nothing = "" if piece.dtype == "string" else 0
    if piece.kind == "weight":
        return "", nothing
    option = "padding_value" if piece.kind == "feature" else "label_padding"
    value = given.get(option, 0 if piece.kind == "feature" else -1)
    if isinstance(value, dict):
        if piece.name in value:
            return option, value[piece.name]
        value = 0 if piece.kind == "feature" else -1
    return option, nothing if piece.dtype in ("string", "bool") or not piece.varies else value


def refused(pieces: list[Piece], given: dict[str, Any]) -> list[tuple[str, ...]]:
    """For each padding that its dtype cannot hold: the option, the name, the value and the dtype."""
    chosen = [(piece, *rule(piece, given)) for piece in pieces]
    wrong = [(piece, option, value) for piece, option, value in chosen if option and value != "" and not can_hold(value, piece.dtype)]
    return [
        (option, piece.name, repr(value.item() if isinstance(value, np.generic) else value), piece.dtype) for piece, option, value in wrong
    ]


def check(piece: Piece, rows: list[int], batch: Any, value: Any, frames: int | None = None) -> None:
    """Compare a part of a batch with the records `rows`, padded with `value` to the longest of them, or to `frames`."""
    if isinstance(batch, tf.RaggedTensor):
        batch, value = batch.to_tensor(), "" if piece.dtype == "string" else 0
    delivered, values = np.asarray(batch), [piece.values[row] for row in rows]
    longest = [frames or max(map(len, values))] if piece.varies else []
    shape = (len(rows), *longest, *values[0].shape[len(longest) :])
    dtype = object if piece.dtype == "string" else tf.as_dtype(piece.dtype).as_numpy_dtype
    expected = np.full(shape, value.encode() if isinstance(value, str) else value, dtype)
    for number, entry in enumerate(values):
        expected[(number, slice(len(entry))) if piece.varies else (number,)] = entry
    assert (delivered.shape, delivered.dtype) == (expected.shape, expected.dtype), piece.name
    same = (delivered == expected) | ((delivered != delivered) & (expected != expected))
    assert same.all(), (piece.name, piece.dtype, value, delivered[~same][:3])
    if piece.dtype.startswith(("float", "bfloat")):
        signed = ~np.isnan(expected)
        assert np.array_equal(np.signbit(delivered)[signed], np.signbit(expected)[signed]), piece.name


def some_padding(random: np.random.Generator, pieces: list[Piece], default: Any, scalars: list[Any]) -> Any:
    """A scalar, or a dict of some of the names; mostly values that the dtypes hold."""
    if random.random() < 0.3:
        fit = [value for value in scalars if all(can_hold(value, piece.dtype) for piece in pieces)] or [default]
        return default if random.random() < 0.3 else pick(random, fit if random.random() < 0.8 else scalars)
    chosen = [piece for piece in pieces if random.random() < 0.7]
    fits = {piece.name: [value for value in VALUES if can_hold(value, piece.dtype)] for piece in chosen}
    careful = random.random() < 0.85
    return {piece.name: pick(random, fits[piece.name] if careful else VALUES) for piece in chosen if fits[piece.name]}


def pick(random: np.random.Generator, values: Any) -> Any:
    return values[int(random.integers(len(values)))]


def some_paddings(random: np.random.Generator, pieces: list[Piece]) -> dict[str, Any]:
    features = [piece for piece in pieces if piece.kind == "feature"]
    labels = [piece for piece in pieces if piece.kind == "label"]
    scalars = [value for value in VALUES if not isinstance(value, bool)]
    return {
        "padding_value": some_padding(random, features, 0.0, scalars),
        "label_padding": some_padding(random, labels, -1, [value for value in scalars if isinstance(value, (int, np.integer))]),
    }


def refuses(wrong: list[tuple[str, ...]], make: Callable[[], Any]) -> bool:
    """Whether the arguments have to be refused; then they are, by one of the wrong values."""
    if not wrong:
        return False
    with pytest.raises(vlpipe.ArgumentError) as raised:
        make()
    message = str(raised.value)
    assert "cannot hold" in message
    assert any(all(word in message for word in words) for words in wrong), (message, wrong)
    return True


# ---- builders -------------------------------------------------------------------------------------------------------------------

DTYPES = [*GREATEST, "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool", "string"]
X: list[Any] = ["features", {"b": "b", "a": "a", "F": "F"}]  # names; one that ends with F has the same length in every record
LABELS: list[Any] = ["label", {"v": "v", "u": "u", "F": "F"}, ({"p": "0/p"}, ("1/0", {"F": "1/1/F"}))]
WEIGHTS: list[Any] = ["sample_weight", {"v": "sample_weight/v", "u": "sample_weight/u"}]
KEYS = ("features", "b")


def some_piece(random: np.random.Generator, name: str, kind: str, lengths: list[int]) -> Piece:
    dtype, shape, varies = pick(random, DTYPES), pick(random, [(), (2,)]), not name.endswith("F")
    values = [random.integers(0, 2, (*((length,) if varies else ()), *shape)) for length in lengths]
    if dtype == "string":
        return Piece(name, kind, dtype, [np.where(value, b"yes", b"no").astype(object) for value in values], varies)
    return Piece(name, kind, dtype, [np.asarray(value).astype(tf.as_dtype(dtype).as_numpy_dtype) for value in values], varies)


def some_element(random: np.random.Generator, key: list[int]) -> tuple[Any, ...]:
    """The structure of an element, with a `Piece` for each part; the key feature has the lengths `key`."""

    def pieces(structure: Any, kind: str) -> Any:
        def piece(name: str) -> Piece:
            return some_piece(random, name, kind, key if name in KEYS else random.integers(0, 5, len(key)).tolist())

        return arranged(structure, str, piece)

    element = (pieces(pick(random, X), "feature"),)
    if random.random() < 0.85:
        element += (pieces(pick(random, LABELS), "label"),)
        if random.random() < 0.7:
            element += (pieces(pick(random, WEIGHTS), "weight"),)
            if random.random() < 0.3:
                element += (pieces("part 4", "label"),)
    return element


def arranged(structure: Any, leaf: type, value: Callable[[Any], Any]) -> Any:
    """A structure with the value of each leaf in its place."""
    if isinstance(structure, leaf):
        return value(structure)
    if isinstance(structure, dict):
        return {key: arranged(part, leaf, value) for key, part in structure.items()}
    return tuple(arranged(part, leaf, value) for part in structure)


def pairs(element: Any, batch: Any) -> list[tuple[Piece, Any]]:
    """Each piece with its part of a batch."""
    if isinstance(element, Piece):
        return [(element, batch)]
    keys = list(element) if isinstance(element, dict) else range(len(element))
    return [pair for key in keys for pair in pairs(element[key], batch[key])]


@pytest.mark.parametrize("seed", range(CASES))
def test_the_builders(seed: int) -> None:
    random = np.random.default_rng(seed)
    key = [int(length) for length in random.permutation(7)]  # different lengths, which tell the rows
    element = some_element(random, key)
    pieces = [piece for piece, _ in pairs(element, element)]
    records = [arranged(element, Piece, lambda piece, number=number: piece.values[number]) for number in range(len(key))]

    def spec(piece: Piece) -> tf.TensorSpec:
        return tf.TensorSpec([None, *piece.values[0].shape[1:]] if piece.varies else piece.values[0].shape, piece.dtype)

    dataset = tf.data.Dataset.from_generator(lambda: iter(records), output_signature=arranged(element, Piece, spec))
    batching, boundary = pick(random, BATCHINGS), random.random() < 0.5
    arguments = some_paddings(random, pieces) | {"batch_size": int(random.integers(1, 5)), "lengths": True}
    if batching == "ragged":
        del arguments["padding_value"]
    if batching == "bucket":
        arguments |= {"buckets": [3, 9], "pad_to": "boundary" if boundary else "longest"}
    build = getattr(builders, batching)
    if refuses(refused(pieces, arguments), lambda: build(dataset, **arguments)):
        return
    seen = []
    for x, *rest in build(dataset, **arguments):
        lengths = x["lengths" if "lengths" in x else "b_lengths"].numpy().tolist()
        rows = [key.index(length) for length in lengths]
        upper = 3 if max(lengths) <= 3 else 9
        for piece, batch in pairs(element, (x.get("features", x), *rest)):
            to_boundary = batching == "bucket" and boundary and piece.name in KEYS
            check(piece, rows, batch, rule(piece, arguments)[1], upper if to_boundary else None)
        seen += rows
    assert sorted(seen) == list(range(len(key)))


# ---- make_dataset -----------------------------------------------------------------------------------------------------------------

STORED = ("float32", "float16", "float64", "uint8", "int8", "int16", "uint16", "int32", "int64")
FIXED = ("int64", "int32", "int8", "uint16", "float32", "float16")
ENGINES = ("mapped", "mapped", "mapped", "graph", "stream")  # a graph takes a second


def some_fields(random: np.random.Generator) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The schema of a native dataset, and the values of each field."""
    count = int(random.integers(1, 9))
    fields: dict[str, Any] = {}
    for name in ("x", "slow", "words", "pitch", "many")[: int(random.integers(1, 6))]:
        fields[name] = vlpipe.Sequence(pick(random, [(), (2,), (2, 3)]), pick(random, STORED))
    fields |= {"class": vlpipe.Fixed(pick(random, [(), (3,)]), pick(random, FIXED)), "text": vlpipe.Text()}
    values: dict[str, list[Any]] = {name: [] for name in fields}
    for number in range(count):
        for name, field in fields.items():
            if isinstance(field, vlpipe.Text):
                values[name].append(f"no. {number}")
            else:
                shape = (int(random.integers(0, 7)),) * isinstance(field, vlpipe.Sequence) + field.dimensions
                values[name].append(random.integers(0, 100, shape).astype(field.dtype))
    return fields, values


def delivered_pieces(
    fields: dict[str, Any], values: dict[str, list[Any]], features: tuple[str, ...], labels: tuple[str, ...], dtype: str
) -> list[Piece]:
    """The selected fields, in the dtypes in which they are delivered."""
    pieces = [Piece(name, "feature", dtype, values[name], True) for name in features]
    for name in labels:
        field = fields[name]
        if isinstance(field, vlpipe.Text):
            texts = [np.asarray(value.encode(), object) for value in values[name]]
            pieces.append(Piece(name, "label", "string", texts, False))
            continue
        varies = isinstance(field, vlpipe.Sequence)
        integers = varies and np.dtype(field.dtype).kind in "iu"
        pieces.append(Piece(name, "label", "int64" if integers else field.dtype, values[name], varies))
    return pieces


def check_dataset(random: np.random.Generator, source: Any, pieces: list[Piece], dtype: str, **arguments: Any) -> None:
    """Compare every batch of `make_dataset`, with random arguments, with the records."""
    features = tuple(piece.name for piece in pieces if piece.kind == "feature")
    labels = tuple(piece.name for piece in pieces if piece.kind == "label")
    paddings = some_paddings(random, pieces)
    batching = pick(random, BATCHINGS)
    arguments |= paddings | {"features": features, "label": labels or False, "dtype": dtype, "batching": batching, "seed": 1}
    arguments |= {"batch_size": int(random.integers(1, 5)), "lengths": True, "ids": True, "length_range": (0, None)}
    arguments["aligned"] = False  # few records may have equal lengths by chance
    arguments["engine"] = engine = pick(random, ENGINES)
    boundary = batching in ("bucket", "pad") and random.random() < 0.5
    if boundary:
        arguments["pad_to"] = "boundary"
    if random.random() < 0.3:
        arguments["transform"] = vlpipe.Transform(tf.identity, frames=lambda t: t)  # the frames are then padded in the graph
    if batching == "bucket":
        arguments["buckets"] = [3, 9]
    wrong = refused(pieces, arguments)
    if not isinstance(paddings["padding_value"], dict):  # refused before a name is known
        wrong = [words if words[0] == "label_padding" else (words[0], *words[2:]) for words in wrong]
    if refuses(wrong, lambda: vlpipe.plan(source, **arguments)):
        assert refuses(wrong, lambda: vlpipe.make_dataset(source, **arguments))
        return
    uppers = vlpipe.plan(source, **arguments).boundaries
    seen = []
    for x, *rest in vlpipe.make_dataset(source, **arguments):
        rows, longest = x["id"].numpy().tolist(), int(x[f"{features[0]}_lengths"].numpy().max())
        upper = next((upper for upper in uppers if longest <= upper), longest)
        for piece in pieces:
            batch = x[piece.name] if piece.kind == "feature" else rest[0][piece.name]
            frames = upper
            if piece.varies and piece is not pieces[0]:  # the longest that the bucket may have
                frames = max(len(value) for value, key in zip(piece.values, pieces[0].values, strict=True) if len(key) <= upper)
            check(piece, rows, batch, rule(piece, arguments)[1], frames if boundary else None)
        seen += rows
    assert sorted(seen) == list(range(len(pieces[0].values))), engine


@pytest.mark.parametrize("seed", range(CASES))
def test_make_dataset(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    fields, values = some_fields(random)
    records = [dict(zip(values, entries, strict=True)) for entries in zip(*values.values(), strict=True)]
    vlpipe.write(tmp_path / "data", records, vlpipe.Schema(**fields), num_shards=2)
    sequences = [name for name, field in fields.items() if isinstance(field, vlpipe.Sequence)]
    order = random.permutation(sequences).tolist()
    features = order[: int(random.integers(1, len(order) + 1))]
    labels = [name for name in fields if name not in features and random.random() < 0.7]
    safe = [dtype for dtype in STORED if all(np.can_cast(fields[name].dtype, dtype, "safe") for name in features)]
    dtype = pick(random, ["float32", "float16", "float64", "bfloat16", *safe])
    check_dataset(random, tmp_path / "data", delivered_pieces(fields, values, tuple(features), tuple(labels), dtype), dtype)


def parse(data: tf.Tensor) -> dict[str, tf.Tensor]:
    keys = {"x": tf.float32, "slow": tf.float32, "words": tf.int64, "pitch": tf.float32}
    read = tf.io.parse_single_example(data, {key: tf.io.FixedLenSequenceFeature([], dtype, True) for key, dtype in keys.items()})
    return {
        "x": tf.reshape(read["x"], [-1, 2]),
        "slow": tf.reshape(read["slow"], [-1, 1]),
        "words": tf.cast(read["words"], tf.int16),
        "pitch": tf.cast(read["pitch"], tf.float16),
    }


THIRD_PARTY: dict[str, tuple[Any, dict[str, Any]]] = {  # the layout, and the fields that it makes besides x
    "lists": (lambda: float_list("x", d=2, lists=("words",)), {"words": vlpipe.Sequence((), "int64")}),
    "custom": (
        lambda: Layout.custom(parse),
        {"slow": vlpipe.Sequence(1), "words": vlpipe.Sequence((), "int16"), "pitch": vlpipe.Sequence((), "float16")},
    ),
    "parsed": (
        lambda: Layout(
            "parsed",
            (
                Frames("x", "floats", (2,)),
                Frames("slow", "floats", (1,), packed=False),
                Frames("words", "integers", (1,), dtype="int32"),
                Frames("pitch", "floats", (1,)),
            ),
        ),
        {"slow": vlpipe.Sequence(1), "words": vlpipe.Sequence(1, "int32"), "pitch": vlpipe.Sequence(1)},
    ),
}


@pytest.mark.parametrize("seed", range(CASES))
def test_third_party_files(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    layout, others = THIRD_PARTY[pick(random, list(THIRD_PARTY))]
    fields = {"x": vlpipe.Sequence(2), **others}
    values: dict[str, list[Any]] = {
        name: [random.integers(0, 100, (int(random.integers(1, 7)), *field.dimensions)).astype(field.dtype) for _ in range(6)]
        for name, field in fields.items()
    }
    make = {"words": lambda value: ints(*value.ravel().tolist())}
    records = [example({name: make.get(name, floats)(entries[number]) for name, entries in values.items()}) for number in range(6)]
    path = write_records(tmp_path / "data.tfrecord", records)
    rest = [name for name in others if random.random() < 0.8]
    features = ("x", *(name for name in rest if fields[name].dimensions and random.random() < 0.3))
    labels = tuple(name for name in rest if name not in features)
    dtype = pick(random, ["float32", "float64", "float16"])
    check_dataset(random, path, delivered_pieces(fields, values, features, labels, dtype), dtype, layout=layout())
