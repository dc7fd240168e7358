"""Ways that take turns, each with caches that hold something else."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from benchmarks import racing


@pytest.mark.parametrize("rounds", [1, 3])
def test_ways_take_turns_with_other_memory_in_the_caches(rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(racing, "fill_caches", lambda: seen.append("filled"))
    times = racing.race({name: lambda name=name: seen.append(name) for name in ("a", "b")}, rounds, lambda text: None)
    assert {name: len(taken) for name, taken in times.items()} == {"a": rounds, "b": rounds}
    order = ["a", "b"] if rounds == 1 else ["a", "b", "b", "a", "a", "b"]
    assert seen == (order if rounds == 1 else [event for name in order for event in ("filled", name)])


def test_short_runs_are_repeated_with_other_memory_in_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    given = iter([0.3, 0.4, 0.5, 1.5])
    monkeypatch.setattr(racing, "fill_caches", lambda: seen.append("filled"))
    monkeypatch.setattr(racing, "seconds", lambda run: run() or next(given))
    assert racing.mean_seconds(lambda: seen.append("run")) == pytest.approx(0.4)
    assert seen == ["run", "filled", "run", "filled", "run"]
    assert racing.mean_seconds(lambda: None) == 1.5
    seen.clear()
    monkeypatch.setattr(racing, "seconds", lambda run: 0.01)
    assert racing.mean_seconds(lambda: None) == pytest.approx(0.01)
    assert len(seen) == 7


@pytest.mark.parametrize("count", range(9))
def test_no_way_has_a_place_or_follows_another_too_often(count: int) -> None:
    orders = list(racing.orders(range(count), count))
    assert all(sorted(order) == list(range(count)) for order in (*orders, *zip(*orders, strict=True)))
    followed = Counter(pair for order in orders for pair in pairwise(order))
    assert not followed or max(followed.values()) == (1 if count % 2 == 0 else 2)
    assert list(racing.orders(range(count), 2 * count)) == 2 * orders


def test_more_memory_is_written_than_the_caches_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(racing, "_largest_cache", lambda: 1 << 20)
    racing._memory.cache_clear()
    try:
        racing.fill_caches()
        racing.fill_caches()
        assert racing._memory().nbytes == 2 << 20
        assert (racing._memory() == 2).all()
    finally:
        racing._memory.cache_clear()
