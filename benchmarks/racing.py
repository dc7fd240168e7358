"""Ways that take turns: what the machine does meanwhile affects all of them alike.

Some processors cache half a gigabyte. There, a way that reads what the way before it has just read is up to a third faster than it is after
a way that reads other memory. Therefore each timed run begins after `fill_caches`, as each batch of a training follows the step of a model.

A way is up to a tenth slower after one that leaves threads behind than after another. Therefore each round has another order.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

_UNKNOWN = 64 << 20  # bytes of the largest cache, where the system does not tell
Way = TypeVar("Way")


def seconds(run: Callable[[], object]) -> float:
    """Return the wall-clock seconds of a call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def speed_ratio(base: Sequence[float], taken: Sequence[float]) -> float:
    """How many times as fast as a base a way is: the median over the rounds, whose seconds these are."""
    return statistics.median(first / own for first, own in zip(base, taken, strict=True))


def iterate(epochs: Iterable[Any]) -> None:
    """Iterate over one epoch, as a training loop without a model does."""
    for _ in epochs:
        pass


def orders(ways: Sequence[Way], rounds: int) -> Iterator[list[Way]]:
    """The order of each round.

    In as many rounds as there are ways, each way has each place once, and follows each other way once (an odd number of ways: at most
    twice): the first order goes from the ends to the middle (0, 1, 5, 2, 4, 3), and each further one is shifted by one (Williams 1949).
    """
    count = len(ways)
    for turn in range(rounds):
        yield [ways[(turn + (place + 1) // 2 * (1 if place % 2 else -1)) % count] for place in range(count)]


def race(
    runs: dict[str, Callable[[], Any]], rounds: int, status: Callable[[str], None], measure: Callable[[Callable[[], Any]], Any] = seconds
) -> dict[str, list[Any]]:
    """Measure each run in every round; a single round only shows that all work, with the caches as they are."""
    times: dict[str, list[Any]] = {name: [] for name in runs}
    for turn, names in enumerate(orders(list(runs), rounds)):
        for name in names:
            status(f"round {turn + 1} of {rounds}, {name}")
            if rounds > 1:
                fill_caches()
            times[name].append(measure(runs[name]))
    return times


def mean_seconds(run: Callable[[], object]) -> float:
    """The mean of as many runs as take a second together, at most eight: one epoch of a tenth of a second alone tells little."""
    taken = [seconds(run)]
    while sum(taken) < 1 and len(taken) < 8:
        fill_caches()
        taken.append(seconds(run))
    return statistics.mean(taken)


def fill_caches() -> None:
    """Write to more memory than the caches of the processor hold."""
    memory = _memory()
    memory += 1


@functools.cache
def _memory() -> np.ndarray:
    return np.zeros(2 * _largest_cache() // 8, np.int64)


def _largest_cache() -> int:
    """Bytes, as Linux has them."""
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size[:-1]) << {"K": 10, "M": 20}[size[-1]] for size in sizes if size[-1] in "KM"), default=_UNKNOWN)
