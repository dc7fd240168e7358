"""`make_dataset(windows=)`: each window once, bit for bit, with the labels of its record and the aligned values of its frames."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from tests.helpers.foreign_files import example, floats, ints
from tests.helpers.foreign_files import write as write_records
from tests.helpers.resuming import hashes_of
from tests.helpers.transforms_numpy import MASK, augmented, draw
from tests.helpers.windows_numpy import jittered, places
from tests.test_dataset import make_records, write
from vlpipe import Crop, SpecAugment, Transform, Windows
from vlpipe.errors import ArgumentError, SchemaError
from vlpipe.layouts import float_list

pytestmark = pytest.mark.usefixtures("quick_graphs")

TAILS = ("shift", "keep", "pad", "drop")
LENGTHS = [0, 1, 4, 5, 6, 9, 10, 11, 23, 40]
SCHEMA = vlpipe.Schema(
    x=vlpipe.Sequence(2), vad=vlpipe.Sequence((), "int32"), label=vlpipe.Fixed((), "int64"), words=vlpipe.Sequence((), "int64")
)


def some_records(lengths: list[int]) -> list[dict[str, Any]]:
    values = np.random.default_rng(len(lengths))
    return [
        {
            "x": np.stack([np.arange(length), values.normal(size=length)], 1).astype(np.float32),
            "vad": values.integers(0, 9, length).astype(np.int32),
            "label": np.int64(number),
            "words": np.arange(number % 3),
        }
        for number, length in enumerate(lengths)
    ]


Row = tuple[int, int, int, bytes]  # id, start, length, the delivered values


def rows_of(dataset: tf.data.Dataset, records: list[dict[str, Any]]) -> Counter[tuple[int, int, int]]:
    """The windows of an epoch as (record, first frame, frames), each compared with its record."""
    found: Counter[tuple[int, int, int]] = Counter()
    for x, y, *weight in dataset:
        real = np.flatnonzero(weight[0].numpy()) if weight else range(len(x["id"]))
        assert {name: value.dtype for name, value in x.items() if name in ("id", "start")} == {"id": tf.int64, "start": tf.int64}
        for row in real:
            number, first, count = (int(x[name][row]) for name in ("id", "start", "lengths"))
            record = records[number]
            frames = x["features"][row].numpy()
            assert np.array_equal(frames[:count], record["x"][first : first + count])
            assert (frames[count:] == -7).all()
            vad = y["vad"][row].numpy()
            assert np.array_equal(vad[:count], record["vad"][first : first + count])
            assert len(vad) == len(frames)
            assert (vad[count:] == -1).all()
            assert int(y["label"][row]) == number
            words = y["words"][row].numpy()
            assert words[: len(record["words"])].tolist() == record["words"].tolist()
            found[number, first, count] += 1
    return found


@pytest.mark.parametrize("engine", ["mapped", "graph"])
@pytest.mark.parametrize("tail", TAILS)
def test_every_window_is_delivered_once(tmp_path: Path, engine: str, tail: str) -> None:
    choose = random.Random(f"{engine} {tail}")
    records = some_records(LENGTHS)
    vlpipe.write(tmp_path / "data", records, SCHEMA, num_shards=2)
    for round_ in range(6 if engine == "mapped" else 1):  # a graph takes a second
        frames, hop = choose.choice([(5, 5), (5, 3), (5, 8), (1, 1), (50 if tail != "drop" else 11, 7)]) if round_ else (5, 3)
        jitter = choose.random() < 0.4
        arguments: dict[str, Any] = {
            "windows": Windows(frames, hop, tail, jitter=jitter),  # type: ignore[arg-type]
            "length_range": choose.choice([(0, None), (1, 12)]),
            "out_of_range": choose.choice(["drop", "truncate"]),
            "batching": choose.choice(["bucket", "pad", "same_length"] + (["ragged"] if tail != "pad" else [])),
            "remainder": choose.choice(["keep", "pad"]),
            "shuffle": choose.random() < 0.7,
            "batch_size": choose.choice([2, 3]),
            "label": ("vad", "label", "words"),
            "engine": engine,
            "seed": choose.randrange(2**40),
        }
        if arguments["batching"] in ("bucket", "pad") and choose.random() < 0.5:
            arguments["pad_to"] = "boundary"
        shortest, longest = arguments["length_range"]
        kept = {
            number: length if longest is None or arguments["out_of_range"] == "drop" else min(length, longest)
            for number, length in enumerate(LENGTHS)
        }
        kept = {number: length for number, length in kept.items() if shortest <= length <= (longest or 99)}
        plan = vlpipe.plan(tmp_path / "data", **arguments)
        dataset = vlpipe.make_dataset(tmp_path / "data", ids=True, lengths=True, padding_value=-7, **arguments)
        left_out = sum(places(length, frames, hop, tail)[1] for length in kept.values())
        assert plan.refused.get("tail", 0) == left_out
        for epoch in range(2):
            expected: Counter[tuple[int, int, int]] = Counter()
            for number, length in kept.items():
                windows = places(length, frames, hop, tail)[0]
                if jitter:
                    windows = jittered(length, frames, hop, tail, arguments["seed"], epoch, number)
                expected.update((number, *window) for window in windows)
            assert rows_of(dataset, records) == expected
            assert plan.windows == plan.records == sum(expected.values()) == plan.total - sum(plan.refused.values())
            assert len(dataset) == plan.steps_per_epoch


def test_with_pad_every_window_has_all_frames_and_lengths_say_the_true_ones(tmp_path: Path) -> None:
    source = write(tmp_path / "data", make_records([3, 12, 25], label="none"), "none")
    ways: tuple[dict[str, Any], ...] = ({}, {"normalize": "utterance"}, {"batching": "same_length"})
    for engine, arguments in (*(("mapped", way) for way in ways), ("graph", ways[1])):
        dataset = vlpipe.make_dataset(source, windows=Windows(10, tail="pad"), lengths=True, batch_size=2, engine=engine, **arguments)
        assert dataset.element_spec[0]["features"].shape.as_list() == [None, 10, 2]
        lengths = [x["lengths"].numpy().tolist() for (x,) in dataset]
        assert sorted(itertools.chain(*lengths)) == [2, 3, 5, 10, 10, 10]
    plan = vlpipe.plan(source, windows=Windows(10, tail="pad"), batch_size=2)
    assert plan.shapes == ((2, 10, 2),)
    assert plan.valid_ratio == 40 / 60
    for tail in ("shift", "drop"):  # all windows have 10 frames here, and the shape says so
        dataset = vlpipe.make_dataset(source, windows=Windows(10, tail=tail), length_range=(10, None), out_of_range="drop")
        assert dataset.element_spec[0].shape.as_list() == [None, 10, 2]
    halved = Transform(lambda x: x[::2], frames=lambda t: (t + 1) // 2)
    for engine in ("mapped", "graph"):
        dataset = vlpipe.make_dataset(source, windows=Windows(9, tail="pad"), transform=halved, lengths=True, engine=engine)
        assert [x["features"].shape[1] for (x,) in dataset] == [5]
        assert sorted(itertools.chain(*(x["lengths"].numpy().tolist() for (x,) in dataset))) == [2, 2, 4, 5, 5, 5]


def test_both_engines_and_every_rank_deliver_the_same_bytes(tmp_path: Path) -> None:
    records = some_records(np.random.default_rng(1).integers(1, 60, 30).tolist())
    vlpipe.write(tmp_path / "data", records, SCHEMA, num_shards=3)
    arguments: dict[str, Any] = {
        "windows": Windows(20, 8, "keep", jitter=True),
        "normalize": "utterance",
        "augment": SpecAugment(time_share=0.5, frequency_width=1),
        "batch_size": 4,
        "label": ("vad", "label"),
        "lengths": True,
        "ids": True,
        "seed": 5,
        "remainder": "pad",
    }
    both = [vlpipe.make_dataset(tmp_path / "data", engine=engine, **arguments) for engine in ("mapped", "graph")]
    epochs = [[hashes_of(dataset, len(dataset)) for dataset in both] for _ in range(2)]
    assert epochs[0][0] == epochs[0][1] != epochs[1][0] == epochs[1][1]
    ranks = [vlpipe.make_dataset(tmp_path / "data", shard=(rank, 2), **(arguments | {"batch_size": 2})) for rank in range(2)]
    whole = vlpipe.make_dataset(tmp_path / "data", **arguments)
    for (x, y, w), (x1, y1, w1), (x2, y2, w2) in zip(whole, *ranks, strict=True):
        for name in ("id", "start", "lengths"):
            assert np.array_equal(x[name], np.concatenate([x1[name], x2[name]]))
        assert np.array_equal(y["label"], np.concatenate([y1["label"], y2["label"]]))
        assert np.array_equal(w, np.concatenate([w1, w2]))


def test_each_window_of_a_record_has_its_own_masks_and_the_first_those_of_the_record(tmp_path: Path) -> None:
    source = write(tmp_path / "data", make_records([30, 30], 6, label="none"), "none")
    frames = [record["features"] for record in make_records([30, 30], 6, label="none")]
    augment = SpecAugment(2, 5, 1.0, 1, 3, fill="zero")
    for engine in ("mapped", "graph"):
        dataset = vlpipe.make_dataset(source, windows=10, augment=augment, seed=9, ids=True, batch_size=2, engine=engine)
        for epoch in range(2):
            for (x,) in dataset:
                for row, (number, start) in enumerate(zip(x["id"].numpy().tolist(), x["start"].numpy().tolist(), strict=True)):
                    expected = augmented(
                        frames[number][start : start + 10],
                        augment,
                        [draw(9, epoch, MASK + k, number + mixed(start)) for k in range(augment.draws)],
                    )
                    assert np.array_equal(x["features"][row], expected)


def mixed(number: int) -> int:
    for shift, multiplier in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        number = (number ^ number >> shift) * multiplier % 2**64
    return number


def test_values_that_are_parsed_or_in_the_index_are_cut_alike(tmp_path: Path) -> None:
    lengths = [3, 17, 25]
    values = [np.random.default_rng(n).normal(size=(n, 2)).astype(np.float32) for n in lengths]
    encoded = [example({"x": floats(x), "vad": ints(*range(len(x))), "label": ints(len(x))}) for x in values]
    source = write_records(tmp_path / "data.tfrecord", encoded)
    for engine, form in (("mapped", "x"), ("mapped", "vad"), ("graph", "vad")):
        arguments: dict[str, Any] = {"features": form, "label": "label", "lengths": True, "ids": True, "engine": engine, "aligned": False}
        layout = float_list("x", d=2, lists=("vad",), label="label")
        dataset = vlpipe.make_dataset(source, layout=layout, windows=Windows(10, 7, "keep"), **arguments)
        found = set()
        for x, y in dataset:
            for row, number in enumerate(x["id"].numpy().tolist()):
                first, count = int(x["start"][row]), int(x["lengths"][row])
                expected = values[number] if form == "x" else np.arange(lengths[number], dtype=np.float32)
                assert np.array_equal(x["features"][row][:count], expected[first : first + count])
                assert int(y[row]) == lengths[number]
                found.add((number, first, count))
        assert found == {(0, 0, 3), (1, 0, 10), (1, 7, 10), (2, 0, 10), (2, 7, 10), (2, 14, 10), (2, 21, 4)}


def test_no_records_and_windows_that_no_record_has(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "empty", [], SCHEMA)
    for tail in TAILS:
        assert vlpipe.plan(tmp_path / "empty", windows=Windows(5, tail=tail), features="x", label=False).windows == 0
    vlpipe.write(tmp_path / "data", some_records([3, 4]), SCHEMA)
    with pytest.raises(ArgumentError, match=r'windows: all 2 records are shorter than a window of 5 frames, and tail="drop" leaves'):
        vlpipe.plan(tmp_path / "data", windows=Windows(5, tail="drop"), features="x", label=False)


def test_refusals(tmp_path: Path) -> None:
    source = write(tmp_path / "data", make_records([30, 12]))
    for arguments, text in (
        ({"windows": "10"}, r"windows: came as '10', expected a number of frames, or a vlpipe.Windows"),
        ({"windows": 10, "crop": 5}, r"windows: Windows\(frames=10, .* limits the frames already; leave crop=5 out"),
        ({"windows": 10, "crop": Crop(5)}, "limits the frames already"),
        ({"windows": 10, "engine": "stream"}, r"windows: the stream engine delivers whole records. Use engine="),
        ({"windows": Windows(10, tail="pad"), "batching": "ragged"}, r'windows: batching="ragged" does not pad, but tail is "pad"'),
    ):
        with pytest.raises(ArgumentError, match=text):
            vlpipe.make_dataset(source, **arguments)  # type: ignore[arg-type]
    vlpipe.write(tmp_path / "start", [{"start": np.ones((3, 2), np.float32), "b": np.ones((3, 2), np.float32)}])
    with pytest.raises(SchemaError, match=r"\['start'\] name fields, and also entries"):
        vlpipe.make_dataset(tmp_path / "start", features=("start", "b"), ids=True, windows=2)


def test_the_plan_says_what_is_delivered(tmp_path: Path) -> None:
    source = write(tmp_path / "data", make_records([30, 12, 5]))
    plan = vlpipe.plan(source, windows=Windows(10, 8, "drop"), batch_size=4)
    assert (plan.windows, plan.refused, plan.total, plan.steps_per_epoch) == (4, {"tail": 3}, 7, 1)
    assert "windows        4 of 7 an epoch" in plan.report()
    assert "3 records, 10 frames every 8" in plan.report()
    states = [vlpipe.plan(source, seed=1, batch_size=4, windows=windows).state(1, 0) for windows in (None, 10)]
    assert "windows" not in states[0]
    assert states[1]["windows"] == "Windows(frames=10, hop=10, tail='shift', jitter=False)"
    for state, windows in zip(states, (10, None), strict=True):
        with pytest.raises(ArgumentError, match=r"windows is (None|\"Windows.*\") in the state, (None|\"Windows.*\") here"):
            vlpipe.make_dataset(source, repeat=True, seed=1, batch_size=4, windows=windows, resume=state)


def test_the_windows_of_seed_3_are_written_down(tmp_path: Path) -> None:
    """A state saved by one version must mean the same in the next: if these change, `ORDER` must change too."""
    source = write(tmp_path / "data", make_records([11, 4, 18], label="none"), "none")
    for engine in ("mapped", "graph"):
        dataset = vlpipe.make_dataset(source, windows=Windows(5, 4, "keep", jitter=True), seed=3, ids=True, batch_size=4, engine=engine)
        found = [[(x["id"].numpy().tolist(), x["start"].numpy().tolist()) for (x,) in dataset] for _ in range(2)]
        assert found == GOLDEN_WINDOWS


# Batch by batch, (ids, first frames): of epoch 0, and of epoch 1.
GOLDEN_WINDOWS: list[list[tuple[list[int], list[int]]]] = [
    [([2, 2, 0, 0], [9, 13, 2, 6]), ([1, 2, 2, 2], [0, 16, 5, 1]), ([0], [8])],
    [([2, 2, 0, 2], [1, 9, 2, 5]), ([0], [6]), ([2, 2, 1, 0], [13, 16, 0, 8])],
]
