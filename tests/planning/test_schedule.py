"""The order of an epoch, compared with the published SplitMix64 and with batches cut one record at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.planning.test_make_plan import plan_of
from vlpipe.planning.schedule import BatchSpans, Schedule, cut
from vlpipe.planning.splitmix import hashes, mix

MASK = 2**64 - 1
COUNTS = st.lists(st.integers(0, 12), min_size=1, max_size=6)


def splitmix64(state: int) -> Iterator[int]:
    """The generator of Vigna's public-domain splitmix64.c."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        yield z ^ (z >> 31)


def test_the_numbers_are_those_of_splitmix64() -> None:
    generator = splitmix64(1234567)
    assert [next(generator) for _ in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**62), st.integers(1, 2))
def test_hashes_are_splitmix64_started_from_seed_epoch_and_purpose(seed: int, epoch: int, purpose: int) -> None:
    generator = splitmix64(mix(mix(mix(seed) + epoch) + purpose))
    assert hashes(seed, epoch, purpose, 5).tolist() == [next(generator) for _ in range(5)]


def one_by_one(records: list[int], sizes: list[int], drop: bool, carry: bool) -> list[tuple[list[int], int]]:
    """Batches as (positions, bucket), cut one at a time."""
    bucket_of = [bucket for bucket, count in enumerate(records) for _ in range(count)]
    batches: list[tuple[list[int], int]] = []
    if carry:  # from the longest sequence down, across buckets
        left = list(range(len(bucket_of)))
        while left:
            bucket = bucket_of[left[-1]]
            batches.insert(0, (left[-sizes[bucket] :], bucket))
            left = left[: -sizes[bucket]]
    else:
        for bucket, size in enumerate(sizes):
            mine = [position for position, own in enumerate(bucket_of) if own == bucket]
            batches += [(mine[first : first + size], bucket) for first in range(0, len(mine), size)]
    return [(rows, bucket) for rows, bucket in batches if len(rows) == sizes[bucket] or not drop]


@given(COUNTS, st.data(), st.booleans(), st.booleans())
def test_cuts_are_what_cutting_one_by_one_gives(records: list[int], data: st.DataObject, drop: bool, carry: bool) -> None:
    sizes = [data.draw(st.integers(1, 5)) for _ in records]
    cuts = cut(records, sizes, drop=drop, carry=carry)
    found = [
        (list(range(start, start + count)), bucket) for start, count, _, bucket in zip(*(column.tolist() for column in cuts), strict=True)
    ]
    assert found == one_by_one(records, sizes, drop, carry)
    assert cuts.sizes.tolist() == [sizes[bucket] for bucket in cuts.buckets]
    if carry:
        assert np.count_nonzero(cuts.counts < cuts.sizes) <= 1


def schedule_of(bucket_of: list[int], sizes: list[int], **arguments: object) -> Schedule:
    records = np.bincount(bucket_of, minlength=len(sizes)).tolist() if bucket_of else [0] * len(sizes)
    cuts = cut(records, sizes, drop=False, carry=True)
    return Schedule(np.array(bucket_of, np.uint8), cuts, **{"seed": 1, "complete": False, **arguments})  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 4), max_size=60), st.integers(0, 2**63 - 1), st.integers(0, 2**40))
def test_records_are_sorted_by_bucket_and_each_is_there_once(bucket_of: list[int], seed: int, epoch: int) -> None:
    schedule = schedule_of(bucket_of, [3] * 5, seed=seed)
    order = schedule.slots_in_order(epoch)
    assert sorted(order.tolist()) == list(range(len(bucket_of)))
    assert [bucket_of[record] for record in order] == sorted(bucket_of)
    assert sorted(schedule.batches_in_order(epoch).tolist()) == list(range(schedule.steps))


def test_the_order_of_seed_1_is_written_down() -> None:
    """A state saved by one version must mean the same in the next: if this order changes, ORDER must change too."""
    schedule = schedule_of([0, 1] * 6, [3, 4])
    assert schedule.slots_in_order(0).tolist() == GOLDEN_RECORDS
    assert schedule.batches_in_order(7).tolist() == GOLDEN_BATCHES


GOLDEN_RECORDS = [0, 4, 6, 8, 2, 10, 7, 5, 3, 9, 1, 11]
GOLDEN_BATCHES = [1, 2, 3, 0]


def test_orders_are_uniform() -> None:
    """Every record is equally often first, and every order of three equally frequent (chi-square, 6 records, 3,000 epochs)."""
    schedule = schedule_of([0] * 6, [6])
    firsts = Counter(int(schedule.slots_in_order(epoch)[0]) for epoch in range(3000))
    assert sum((firsts[record] - 500) ** 2 / 500 for record in range(6)) < 20.5  # p = 0.001
    orders = Counter(tuple(schedule.slots_in_order(epoch)[:3].tolist()) for epoch in range(3000))
    assert len(orders) == 120
    assert sum((count - 25) ** 2 / 25 for count in orders.values()) < 172  # p = 0.001, 119 degrees of freedom


@pytest.mark.parametrize("world", [1, 2, 8])
@pytest.mark.parametrize("remainder", ["drop", "pad"])
@pytest.mark.parametrize("batching", ["bucket", "pad", "same_length"])
def test_ranks_share_every_step_and_together_have_every_record(world: int, remainder: str, batching: str) -> None:
    lengths = np.random.default_rng(world).integers(1, 40, 700)
    plans = [plan_of(lengths, seed=3, shard=(rank, world), remainder=remainder, batching=batching, batch_size=4) for rank in range(world)]
    (steps,) = {plan.steps_per_epoch for plan in plans}
    for epoch in range(2):
        seen: Counter[int] = Counter()
        for step in range(steps):
            batches = [plan.schedule.batch(epoch, step) for plan in plans]
            assert len({batch.bucket for batch in batches}) == 1
            assert len({len(batch.pieces) for batch in batches}) == 1
            for batch in batches:
                assert 0 <= batch.real <= len(batch.pieces) == 4
                seen.update(batch.pieces[: batch.real].tolist())
        assert set(seen.values()) <= {1}
        assert len(seen) == plans[0].records == len(lengths) - plans[0].refused.get("remainder", 0)
        if remainder == "pad":
            assert len(seen) == len(lengths)


def test_few_records_for_many_ranks() -> None:
    plans = [plan_of([5, 3, 9], seed=1, shard=(rank, 8), remainder="pad", batch_size=2) for rank in range(8)]
    batches = [plan.schedule.batch(0, 0) for plan in plans]
    assert [batch.real for batch in batches] == [2, 1, 0, 0, 0, 0, 0, 0]
    assert sorted(np.concatenate([batch.pieces[: batch.real] for batch in batches])) == [0, 1, 2]
    assert plan_of([5, 3, 9], shard=(3, 8), remainder="drop", batch_size=2).refused == {"remainder": 3}


def test_two_that_share_a_batch_seldom_do_so_again() -> None:
    """With the default buckets, at most half of the pairs that share a batch share one again in the next epoch."""
    random = np.random.default_rng(0)
    for count, batch_size in ((2500, 32), (300, 32), (20000, 128)):
        plan = plan_of(random.lognormal(5, 0.8, count).astype(int) + 1, batch_size=batch_size, seed=0)
        batch_of = []
        for epoch in range(2):
            found = np.empty(count, int)
            for step in range(plan.steps_per_epoch):
                found[plan.schedule.batch(epoch, step).pieces] = step
            batch_of.append(found)
        together = Counter(zip(*batch_of, strict=True))
        before = Counter(batch_of[0].tolist())
        assert sum(n * (n - 1) for n in together.values()) <= 0.5 * sum(n * (n - 1) for n in before.values())


def test_boundaries_with_drop_or_pad_make_exactly_so_many_shapes() -> None:
    lengths = np.random.default_rng(0).lognormal(5, 0.8, 3000).astype(int) + 1
    for remainder in ("drop", "pad"):
        for arguments in ({"batch_size": 16}, {"frames_per_batch": 4000}):
            plan = plan_of(lengths, pad_to="boundary", remainder=remainder, buckets=8, seed=1, **arguments)
            assert len(plan.shapes) == 8
            for epoch in range(3):
                batches = [plan.schedule.batch(epoch, step) for step in range(plan.steps_per_epoch)]
                assert {(len(batch.pieces), plan.boundaries[batch.bucket], 3) for batch in batches} == set(plan.shapes)


def test_without_a_shuffle_a_batch_comes_when_it_is_full() -> None:
    schedule = schedule_of([0, 1, 1, 0, 1, 0, 0], [2, 3], seed=None)
    batches = [schedule.batch(5, step).pieces.tolist() for step in range(schedule.steps)]
    assert batches == [[0, 3], [1, 2, 4], [5, 6]]


def test_no_records_have_no_steps() -> None:
    schedule = schedule_of([], [2, 3])
    assert schedule.steps == 0
    assert schedule.slots_in_order(0).tolist() == schedule.batches_in_order(0).tolist() == []
    assert isinstance(cut([], [], drop=False, carry=True), BatchSpans)
