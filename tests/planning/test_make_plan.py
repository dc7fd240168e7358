"""`plan`, compared with a reference that cuts the epoch into batches one record at a time."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vlpipe
from vlpipe.errors import ArgumentError, DatasetError, SchemaError
from vlpipe.planning.make_plan import make_plan
from vlpipe.planning.options import Options
from vlpipe.planning.plan import Plan
from vlpipe.storage.index import Index, Shard, row_dtype
from vlpipe.storage.schema import Fixed, Schema, Sequence

SCHEMA = Schema(features=Sequence(3, "int16"), label=Fixed())
LENGTHS = st.lists(st.integers(0, 40), max_size=40)


def index_of(lengths: list[int] | np.ndarray, schema: Schema = SCHEMA) -> Index:
    """An index of records of these lengths, without files: a plan needs none."""
    rows = np.zeros(len(lengths), row_dtype(schema))
    rows["frames"] = lengths
    rows["offset"] = np.arange(len(lengths)) * 100
    shard = Shard("nowhere/a-00000-of-00001.tfrecord", 100 * len(lengths), len(lengths), "sha256:")
    return Index(schema, (shard,), rows, np.arange(len(lengths), dtype=np.int64))


def plan_of(lengths: list[int] | np.ndarray, schema: Schema = SCHEMA, **arguments: Any) -> Plan:
    return make_plan(index_of(lengths, schema), Options.of(**arguments))


# ---- the reference ---------------------------------------------------------------------------------------------------------------


@dataclass
class Epoch:
    """One epoch: its batches as (rows, padded frames of each row, true lengths), and the records that it refuses."""

    batches: list[tuple[int, int, list[int]]]
    refused: dict[str, int]
    truncated: int


def epoch_of(lengths: list[int], options: Options, boundaries: tuple[int, ...]) -> Epoch:
    shortest, longest = options.length_range
    refused = {"too_short": 0, "too_long": 0, "remainder": 0}
    truncated = 0
    waiting: dict[int, list[int]] = {}
    batches = []

    def emit(upper: int) -> None:
        batch = waiting.pop(upper)
        rows = size_of(upper) if options.remainder == "pad" else len(batch)
        batches.append((rows, upper if options.pad_to == "boundary" else max(batch), batch))

    def size_of(upper: int) -> int:
        cap = options.batch_size or (32 if options.frames_per_batch is None else 10**9)
        return cap if options.frames_per_batch is None else min(cap, max(1, options.frames_per_batch // max(1, upper)))

    def cut_from_the_longest() -> None:
        """Full batches from the longest sequences down; the last one, of the shortest sequences, may be short."""
        left = [(upper, length) for upper in sorted(waiting) for length in waiting[upper]]
        waiting.clear()
        while left:
            upper = left[-1][0]
            waiting[upper] = [length for _, length in left[-size_of(upper) :]]
            left = left[: -size_of(upper)]
            if len(waiting[upper]) == size_of(upper):
                emit(upper)

    def cut_each() -> None:
        for upper in sorted(waiting):
            queue = waiting.pop(upper)
            while len(queue) >= size_of(upper):
                waiting[upper], queue = queue[: size_of(upper)], queue[size_of(upper) :]
                emit(upper)
            if queue:
                waiting[upper] = queue

    for length in lengths:
        if length < shortest:
            refused["too_short"] += 1
            continue
        if longest is not None and length > longest:
            if options.out_of_range == "drop":
                refused["too_long"] += 1
                continue
            truncated += 1
            length = longest
        upper = length if options.batching == "same_length" else next(boundary for boundary in boundaries if length <= boundary)
        waiting.setdefault(upper, []).append(length)
        if options.engine == "stream" and len(waiting[upper]) == size_of(upper):
            emit(upper)
    if options.engine != "stream":
        cut_from_the_longest() if options.batching == "bucket" else cut_each()
    for upper in sorted(waiting):
        if options.remainder == "drop":
            refused["remainder"] += len(waiting[upper])
        else:
            emit(upper)
    return Epoch(batches, {reason: count for reason, count in refused.items() if count}, truncated)


@st.composite
def arguments(draw: st.DrawFn) -> dict[str, Any]:
    batching = draw(st.sampled_from(["bucket", "pad", "ragged", "same_length"]))
    chosen = {
        "batching": batching,
        "batch_size": draw(st.none() | st.integers(1, 8)),
        "frames_per_batch": draw(st.none() | st.integers(1, 200)),
        "remainder": draw(st.sampled_from(["keep", "drop", "pad"])),
        "length_range": (draw(st.integers(0, 5)), draw(st.none() | st.integers(5, 45))),
        "out_of_range": draw(st.sampled_from(["drop", "truncate"])),
        "dtype": draw(st.sampled_from(["float32", "bfloat16", "int16", "float64"])),
        "shuffle": False,
        "engine": draw(st.sampled_from(["mapped", "graph", "stream"])),
    }
    if batching == "bucket":
        chosen["buckets"] = draw(
            st.none() | st.integers(1, 5) | st.lists(st.integers(1, 50), min_size=1, max_size=4, unique=True).map(sorted)
        )
    if batching in ("bucket", "pad"):
        chosen["pad_to"] = draw(st.sampled_from(["longest", "boundary"]))
    return chosen


@settings(max_examples=300)
@given(LENGTHS, arguments())
def test_a_plan_is_what_cutting_the_epoch_gives(lengths: list[int], chosen: dict[str, Any]) -> None:
    plan = plan_of(lengths, **chosen)
    epoch = epoch_of(lengths, plan.options, plan.boundaries)
    assert plan.total == len(lengths)
    assert plan.refused == epoch.refused
    assert plan.truncated == epoch.truncated
    assert plan.records == sum(len(batch) for _, _, batch in epoch.batches) == plan.total - sum(plan.refused.values())
    assert plan.steps_per_epoch == len(epoch.batches)
    static = plan.options.pad_to == "boundary" or plan.options.batching == "same_length"
    assert set(plan.shapes) == {(rows, frames if static else None, 3) for rows, frames, _ in epoch.batches}
    assert len(set(plan.shapes)) == len(plan.shapes)
    # Padding depends on the order: both use the order of the files, since shuffle is off.
    valid = sum(sum(batch) for _, _, batch in epoch.batches)
    delivered = valid if plan.options.batching == "ragged" else sum(rows * frames for rows, frames, _ in epoch.batches)
    assert plan.valid_ratio == pytest.approx(valid / delivered if delivered else 1.0)
    itemsize = {"float32": 4, "bfloat16": 2, "int16": 2, "float64": 8}[plan.options.dtype]
    assert plan.peak_batch_bytes >= max((rows * frames * 3 * itemsize for rows, frames, _ in epoch.batches), default=0)


@given(LENGTHS, arguments())
def test_buckets_are_consistent(lengths: list[int], chosen: dict[str, Any]) -> None:
    plan = plan_of(lengths, **chosen)
    assert list(plan.boundaries) == sorted(set(plan.boundaries))
    assert plan.batch_sizes == tuple(plan.options.batch_size_for(upper) for upper in plan.boundaries)
    assert sum(bucket.records for bucket in plan.buckets) == len(plan.frames)
    frames = plan.frames
    for below, bucket in zip((-1, *plan.boundaries), plan.buckets, strict=False):
        assert bucket.records == np.count_nonzero((frames > below) & (frames <= bucket.upper))
    if plan.options.frames_per_batch is not None and plan.options.batching != "ragged":
        assert plan.over_budget == np.count_nonzero(frames > plan.options.frames_per_batch)
    else:
        assert plan.over_budget == 0


@given(LENGTHS.filter(bool), st.sampled_from(["bucket", "pad", "ragged", "same_length"]))
def test_without_shuffle_or_with_it_the_counts_are_the_same(lengths: list[int], batching: str) -> None:
    shuffled, still = (
        plan_of(lengths, batching=batching, length_range=(0, None), batch_size=4, shuffle=shuffle) for shuffle in (True, False)
    )
    assert shuffled.steps_per_epoch == still.steps_per_epoch
    assert shuffled.shapes == still.shapes
    assert 0 <= shuffled.valid_ratio <= 1
    if batching in ("ragged", "same_length"):
        assert shuffled.valid_ratio == still.valid_ratio == 1


def test_the_same_source_gives_the_same_plan() -> None:
    lengths = np.random.default_rng(0).integers(1, 500, 2000)
    first, second = plan_of(lengths), plan_of(lengths)
    assert (first.buckets, first.valid_ratio) == (second.buckets, second.valid_ratio)


# ---- boundaries ------------------------------------------------------------------------------------------------------------------


def test_given_boundaries_are_kept_and_reach_to_the_longest() -> None:
    assert plan_of([3, 7, 20], buckets=[5, 10, 30]).boundaries == (5, 10, 30)
    assert plan_of([3, 7, 20], buckets=[5, 10]).boundaries == (5, 10, 20)
    assert plan_of([3, 7, 20], buckets=[5, 10], length_range=(1, 9), out_of_range="truncate").boundaries == (5, 10)


def test_by_default_there_are_as_many_buckets_as_their_batches_fill() -> None:
    lengths = np.arange(1, 5001)
    assert len(plan_of(lengths[:10]).boundaries) == 1
    assert len(plan_of(lengths, pad_to="longest").boundaries) == 64
    assert len(plan_of(lengths, pad_to="boundary").boundaries) == 8
    assert len(plan_of(lengths, engine="stream").boundaries) == 16
    assert 1 < len(plan_of(lengths[:600]).boundaries) < 16


@given(st.lists(st.integers(1, 12), min_size=1, max_size=24), st.integers(1, 3), st.integers(1, 4), st.sampled_from(["keep", "pad"]))
def test_no_boundaries_pad_less_in_whole_batches(lengths: list[int], buckets: int, batch_size: int, remainder: str) -> None:
    """Compared with every choice of boundaries that gives every bucket a full batch. ("drop" also depends on what is left out.)"""
    arguments: dict[str, Any] = {"batch_size": batch_size, "remainder": remainder, "pad_to": "boundary"}
    *lower, longest = sorted(set(lengths))
    choices = itertools.chain.from_iterable(itertools.combinations(lower, count) for count in range(buckets))
    plans = [plan_of(lengths, buckets=[*choice, longest], **arguments) for choice in choices]
    full = [plan for plan in plans if all(batch_size in bucket.rows for bucket in plan.buckets)]
    best = max((plan.valid_ratio for plan in full), default=0.0)
    assert plan_of(lengths, buckets=buckets, **arguments).valid_ratio >= best - 1e-12


def test_more_buckets_pad_less() -> None:
    lengths = np.random.default_rng(0).lognormal(5, 0.7, 5000).astype(int) + 1
    ratios = [plan_of(lengths, buckets=buckets, pad_to="boundary").valid_ratio for buckets in (1, 2, 4, 8, 16)]
    assert ratios == sorted(ratios)
    assert ratios[0] < 0.3
    assert ratios[-1] > 0.89
    assert plan_of(lengths, batching="pad").valid_ratio < plan_of(lengths).valid_ratio


def test_the_peak_is_that_of_the_largest_batch() -> None:
    schema = Schema(a=Sequence(3, "int16"), b=Sequence((2, 2), "uint8"))
    plan = plan_of([10, 10, 10, 4], schema, batching="pad", batch_size=3, features="a")
    assert plan.peak_batch_bytes == 3 * 10 * 3 * 4  # float32, whatever dtype is stored
    assert plan_of([10, 10, 10, 4], batching="pad", batch_size=3, dtype="float64").peak_batch_bytes == 3 * 10 * 3 * 8
    assert plan_of([10], batching="pad", batch_size=3).peak_batch_bytes == 1 * 10 * 3 * 4
    assert plan_of([10], batching="pad", batch_size=3, remainder="pad").peak_batch_bytes == 3 * 10 * 3 * 4
    both = index_of([10, 10, 4], schema)
    both.rows["frames:b"] = [1, 9, 2]
    plan = make_plan(both, Options.of(batching="pad", batch_size=2, features=("a", "b")))
    assert plan.peak_batch_bytes == 2 * (10 * 3 + 9 * 4) * 4


def test_no_records_have_no_batches() -> None:
    for batching in ("bucket", "pad", "ragged", "same_length"):
        plan = plan_of([], batching=batching)
        assert (plan.steps_per_epoch, plan.records, plan.shapes, plan.peak_batch_bytes, plan.valid_ratio) == (0, 0, (), 0, 1.0)
        assert totals_of(plan)["records"] == "0 of 0 an epoch"
        assert totals_of(plan)["refused"] == "none"
        assert totals_of(plan)["steps"] == "0 an epoch, remainder: keep"
        assert totals_of(plan)["valid frames"] == "100.0% (the rest is padding)"
        assert bucket_rows_of(plan) == []


def totals_of(plan: Plan) -> dict[str, str]:
    """The rows of the first table of the report, by name."""
    return dict(re.split(" {2,}", line, maxsplit=1) for line in plan.report().split("\n\n")[0].splitlines())


def bucket_rows_of(plan: Plan) -> list[list[int]]:
    """The rows of the second table of the report, without its headings."""
    headings, *rows = plan.report().split("\n\n")[1].splitlines()
    assert headings.split("  ") == ["frames up to", "batch size", "records", "steps"]
    return [[int(number.replace(",", "")) for number in row.split()] for row in rows]


@pytest.mark.parametrize("scale", [1, 500])
def test_the_report_has_the_figures_of_the_plan(scale: int) -> None:
    lengths = [3, 9, 9, 20, 41, 0, 7] * scale + [2]
    arguments: dict[str, Any] = {"batch_size": 2, "buckets": [5, 10, 40], "remainder": "drop", "frames_per_batch": 14}
    wide = Schema(features=Sequence(50_000), label=Fixed())
    plan = plan_of(lengths, wide, length_range=(1, 40), out_of_range="truncate", crop=15, shard=(1, 2), **arguments)
    assert totals_of(plan) == {
        "batching": "bucket, padded to the longest of the batch",
        "engine": "mapped",
        "records": f"{plan.records:,} of {7 * scale + 1:,} an epoch",
        "refused": f"{scale:,} too short, 1 remainder",
        "over the budget": f"{2 * scale:,} records of more than 14 frames, alone in their batch",
        "cropped": f"{2 * scale:,} to 15 frames",
        "truncated": f"{scale:,} to 40 frames",
        "steps": f"{plan.steps_per_epoch:,} an epoch of each of 2 ranks, remainder: drop",
        "valid frames": f"{100 * plan.valid_ratio:.1f}% (the rest is padding)",
        "largest batch": "2.9 MiB of features",  # one record of 15 frames of 50,000 float32
    }
    assert bucket_rows_of(plan) == [[bucket.upper, bucket.batch_size, bucket.records, bucket.steps] for bucket in plan.buckets]
    assert [bucket.records for bucket in plan.buckets] == [scale + 1, 3 * scale, 2 * scale]


# ---- refusals --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "length_range", "message"),
    [
        (
            [3, 0, 0],
            (1, None),
            r'record 1 at byte 100: "features" has 0 frames, expected at least 1 \(2 of 3 records are outside length_range=\(1, None\)\)',
        ),
        (
            [3, 9, 2],
            (3, 8),
            r'record 1 at byte 100: "features" has 9 frames, expected 3 to 8 \(2 of 3 records are outside length_range=\(3, 8\)\)',
        ),
        ([8, 3, 2], (3, 8), r'record 2 at byte 200: "features" has 2 frames'),
    ],
)
def test_a_record_out_of_range_is_named(lengths: list[int], length_range: tuple[int, int | None], message: str) -> None:
    with pytest.raises(
        ArgumentError, match=f'^a-00000-of-00001.tfrecord, {message}.*Pass out_of_range="drop" or "truncate", or a wider length_range'
    ):
        plan_of(lengths, length_range=length_range)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"resume": {"epoch": 1}, "repeat": True, "seed": 1, "engine": "stream"},
            'resume: the stream engine cannot start in the middle of a run. Use engine="mapped" or',
        ),
        (
            {"shard": (0, 2), "remainder": "pad", "engine": "stream"},
            r"shard=\(0, 2\): the stream engine cannot keep ranks in step. Use engine",
        ),
    ],
)
def test_what_this_version_cannot_do(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{message}"):
        plan_of([1, 2], **arguments)


def test_what_is_wrong_with_the_arguments_or_the_source_is_told(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match='the schema has no field "x"'):
        plan_of([1], features="x")
    with pytest.raises(DatasetError, match="not found"):
        vlpipe.plan(tmp_path / "nothing")
    vlpipe.write(tmp_path / "d", [{"x": np.ones((1, 2), np.float32)}])
    with pytest.raises(ArgumentError, match="unknown argument batchsize"):
        vlpipe.plan(tmp_path / "d", batchsize=1)


def test_the_plan_of_files(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", [{"x": np.ones((n, 2), np.float32), "y": n} for n in (5, 3, 5, 9)], num_shards=2)
    plan = vlpipe.plan(tmp_path / "d", batching="same_length", batch_size=2)
    assert (plan.total, plan.records, plan.steps_per_epoch) == (4, 4, 3)
    assert plan.shapes == ((1, 3, 2), (2, 5, 2), (1, 9, 2))
    assert plan.selection.labels == ("y",)
    json.dumps(
        [plan.refused, plan.boundaries, plan.batch_sizes, plan.steps_per_epoch, plan.records, plan.valid_ratio, plan.peak_batch_bytes]
    )
