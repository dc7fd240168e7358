"""Aligned sequences: labels and further features that go frame by frame with the key feature, in all engines, against NumPy.

A case is a record under random arguments. `VLPIPE_SWEEP=75` makes more than 10,000 of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from tests.helpers.foreign_files import example, floats, ints
from tests.helpers.foreign_files import write as write_records
from vlpipe.layouts import Frames, Layout, float_list

pytestmark = pytest.mark.usefixtures("quick_graphs")

ROUNDS = 12 * int(os.environ.get("VLPIPE_SWEEP", "1"))
ENGINES = ("mapped", "graph", "stream")
SHAPES: dict[str, tuple[int, ...]] = {"words": (), "x": (2,), "vad": (), "mask": (2,), "pitch": (3,)}  # of a frame; not aligned: words
Records = list[dict[str, np.ndarray]]


def pick(random: np.random.Generator, values: Any) -> Any:
    return values[int(random.integers(len(values)))]


def some_records(random: np.random.Generator, names: list[str], dtypes: dict[str, str]) -> Records:
    """Records of 0 to 15 frames. The first value of a frame of x is its number, which tells what a crop has kept."""
    records = []
    for number in range(pick(random, (1, 3, 20, 30))):
        frames = 3 if number == 0 else int(random.integers(0, 16))
        lengths = dict.fromkeys(names, frames) | {"words": (frames + 1) % 5}
        record = {name: random.integers(0, 100, (lengths[name], *SHAPES[name])).astype(dtypes[name]) for name in names}
        record["x"][:, 0] = np.arange(frames)
        records.append(record)
    return records


# ---- sources --------------------------------------------------------------------------------------------------------------------


def native(random: np.random.Generator, path: Path) -> tuple[Any, Records, dict[str, Any]]:
    dtypes = {name: pick(random, ("float32", "float16", "uint8", "int16", "int64")) for name in SHAPES}
    names = random.permutation(list(SHAPES)).tolist()
    declared = random.random() < 0.3
    schema = {name: vlpipe.Sequence(SHAPES[name], dtypes[name], aligned=declared and name in ("vad", "mask", "pitch")) for name in names}
    records = some_records(random, names, dtypes)
    vlpipe.write(path / "data", records, vlpipe.Schema(**schema), num_shards=2)
    return path / "data", records, {}


def third_party(random: np.random.Generator, path: Path, layout: Layout, names: list[str]) -> tuple[Any, Records, dict[str, Any]]:
    integers = {"vad": "int64", "words": "int64"}
    records = some_records(random, names, dict.fromkeys(names, "float32") | integers)
    encoded = [
        example({name: ints(*value.tolist()) if name in integers else floats(value) for name, value in record.items()})
        for record in records
    ]
    return write_records(path / "data.tfrecord", encoded), records, {"layout": layout}


def lists(random: np.random.Generator, path: Path) -> tuple[Any, Records, dict[str, Any]]:
    return third_party(random, path, float_list("x", d=2, lists=("vad", "words")), ["x", "vad", "words"])


def parsed(random: np.random.Generator, path: Path) -> tuple[Any, Records, dict[str, Any]]:
    entries = (
        Frames("x", "floats", (2,), packed=bool(random.random() < 0.5)),
        Frames("mask", "floats", (2,)),
        Frames("pitch", "floats", (3,), packed=False),
    )
    return third_party(random, path, Layout("parsed", entries), ["x", "mask", "pitch"])


def custom(random: np.random.Generator, path: Path) -> tuple[Any, Records, dict[str, Any]]:
    def parse(data: tf.Tensor) -> dict[str, tf.Tensor]:
        dtypes = {"x": tf.float32, "vad": tf.int64, "pitch": tf.float32, "words": tf.int64}
        read = tf.io.parse_single_example(data, {key: tf.io.FixedLenSequenceFeature([], dtype, True) for key, dtype in dtypes.items()})
        return {name: tf.reshape(value, [-1, *SHAPES[name]]) for name, value in read.items()}

    return third_party(random, path, Layout.custom(parse), ["x", "vad", "pitch", "words"])


SOURCES: tuple[Callable[..., Any], ...] = (native, native, native, lists, parsed, custom)


# ---- the reference --------------------------------------------------------------------------------------------------------------


def halved(values: Any) -> Any:
    return values[1::2]


def check_row(record: dict[str, np.ndarray], row: dict[str, np.ndarray], uppers: dict[str, int], given: dict[str, Any]) -> None:
    """Compare a row of a batch, unpadded where it is ragged, with the record."""
    kept = len(record["x"])
    if given.get("out_of_range") == "truncate":
        kept = min(kept, given["length_range"][1])
    crop = given.get("crop") or vlpipe.Crop(99)
    first, kept = 0, min(kept, crop.frames)
    step = 2 if given.get("transform") == HALVED else 1
    if crop.random and kept // step:
        first = int(row["x"][0, 0]) - (step - 1)
    for name, values in row.items():
        expected = record[name] if name == "words" else record[name][first : first + kept][step - 1 :: step]
        padding = given["padding_value" if name in given["features"] else "label_padding"]
        assert len(values) == uppers.get(name, len(expected)), name
        assert np.array_equal(values[: len(expected)], expected), name
        assert (values[len(expected) :] == padding).all(), name


HALVED = vlpipe.Transform(halved, frames=lambda t: t // 2, aligned=halved)
SAME = vlpipe.Transform(tf.identity)


def some_arguments(random: np.random.Generator, names: list[str]) -> dict[str, Any]:
    others = [name for name in names if name != "x"]
    features = ("x", *(name for name in others if SHAPES[name] and random.random() < 0.4))
    batching = pick(random, ("bucket", "bucket", "pad", "ragged", "same_length"))
    given: dict[str, Any] = {"features": features, "label": tuple(name for name in others if name not in features) or False}
    given |= {"batching": batching, "batch_size": int(random.integers(1, 6)), "seed": int(random.integers(100))}
    given |= {"length_range": (0, None), "lengths": True, "ids": True, "padding_value": 77, "label_padding": -3}
    if batching == "bucket":
        given["buckets"] = [2, 5, 20]
    if batching in ("bucket", "pad") and random.random() < 0.5:
        given["pad_to"] = "boundary"
    if random.random() < 0.6:
        given["crop"] = vlpipe.Crop(int(random.integers(1, 14)), random=bool(random.random() < 0.7))
    if random.random() < 0.4:
        given |= {"out_of_range": "truncate", "length_range": (0, int(random.integers(1, 14)))}
    if random.random() < 0.5:
        given["transform"] = pick(random, (HALVED, SAME))
    return given | {"remainder": pick(random, ("keep", "pad"))}


def rows_of(batch: Any, given: dict[str, Any]) -> dict[int, dict[str, np.ndarray]]:
    """The rows of a batch by id, each with its parts; a row is compared with what `lengths=True` says of it."""
    x, y = batch[0], (batch[1:] or ({},))[0] or {}
    parts = {name: x[name] for name in given["features"]} | y
    rows = {}
    for number, row in enumerate(x["id"].numpy().tolist()):
        rows[row] = {name: part[number].numpy() for name, part in parts.items()}
        lengths = {name: int(x[f"{name}_lengths"][number]) for name in parts}
        assert {lengths[name] for name in parts if name != "words"} == {lengths["x"]}
    return rows


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_no_frame_drifts(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    make = pick(random, SOURCES)
    source, records, given = make(random, tmp_path)
    given |= some_arguments(random, list(records[0]))
    if make is custom or random.random() < 0.3:  # the index does not know the lengths of labels that a function returns
        given["aligned"] = tuple(name for name in ("vad", "mask", "pitch") if name in records[0])
    delivered = {}
    for engine in ENGINES:
        plan = vlpipe.plan(source, engine=engine, **given)
        rows: dict[int, dict[str, np.ndarray]] = {}
        for batch in vlpipe.make_dataset(source, engine=engine, **given):
            of_batch = rows_of(batch, given)
            longest = int(max(batch[0]["x_lengths"]))
            upper = next(upper for upper in plan.boundaries if longest <= upper) if "pad_to" in given else longest
            uppers = dict.fromkeys(records[0], upper) | {"words": max(len(records[row].get("words", ())) for row in of_batch)}
            for row, parts in of_batch.items():
                check_row(records[row], parts, {"words": uppers["words"]} if given["batching"] == "ragged" else uppers, given)
            rows |= of_batch
        assert sorted(rows) == list(range(len(records)))
        delivered[engine] = rows
    for engine in ENGINES[1:]:
        for row, parts in delivered["mapped"].items():
            for name, values in parts.items():
                kept = min(len(values), len(delivered[engine][row][name]))  # the stream engine pads to other neighbours
                assert np.array_equal(values[:kept], delivered[engine][row][name][:kept])
