"""The threads of `vlpipe.batches`: they end with their iterator, whatever happens; memory, positions, and damaged records."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlpipe
from tests.helpers.collecting import collect_garbage
from vlpipe.errors import ArgumentError
from vlpipe.numpy_batches.ahead import Ahead


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ahead") / "data"
    random = np.random.default_rng(0)
    vlpipe.write(path, [{"features": random.normal(size=(t, 4)).astype(np.float32), "label": t} for t in random.integers(1, 60, 120)])
    return path


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "vlpipe-batches"]


def wait_for_the_end() -> None:
    deadline = time.monotonic() + 10
    while threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads() == []


def break_out(batches: Any) -> None:
    for _ in batches:
        assert threads()
        break


def fail_inside(batches: Any) -> None:
    def loop() -> None:
        for _ in batches:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()


def take_all(batches: Any) -> None:
    assert len(list(batches)) == len(batches)


def collect(batches: Any) -> None:
    iterator = iter(batches)
    next(iterator)
    circle: list[Any] = [iterator]
    circle.append(circle)
    gone = weakref.ref(iterator)
    del iterator, circle
    collect_garbage(lambda: gone() is None)


def close(batches: Any) -> None:
    iterator = iter(batches)
    next(iterator)
    iterator.close()
    assert next(iterator, None) is None


def interrupt(batches: Any) -> None:
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()

    def loop() -> None:
        for _ in batches:
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        loop()
    timer.join()


@pytest.mark.parametrize("way", [break_out, fail_inside, take_all, collect, close, interrupt])
def test_threads_end_with_their_iterator(source: Path, way: Callable[[Any], None]) -> None:
    way(vlpipe.batches(source, batch_size=4, seed=1))
    wait_for_the_end()


def test_an_interrupt_while_waiting_leaves_the_iterator_usable() -> None:
    released = threading.Event()

    def slow(number: int) -> int:
        released.wait(20)
        return number

    ahead = Ahead(slow, range(5), 2, 4)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        next(ahead)
    released.set()
    assert list(ahead) == [0, 1, 2, 3, 4]
    timer.join()


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_order_and_errors(ahead: int) -> None:
    def make(number: int) -> int:
        time.sleep(0.003 * (number % 3))
        if number == 13:
            raise ValueError("thirteen")
        return number

    assert list(Ahead(make, range(12), 3, ahead)) == list(range(12))
    assert list(Ahead(make, range(0), 3, ahead)) == []
    iterator = Ahead(make, range(10, 20), 3, ahead)
    assert [next(iterator) for _ in range(3)] == [10, 11, 12]
    with pytest.raises(ValueError, match="thirteen"):
        next(iterator)
    assert list(iterator) == []
    wait_for_the_end()


def test_no_more_batches_than_asked_for_are_made() -> None:
    made: list[int] = []
    iterator = Ahead(lambda number: made.append(number) or number, range(100), 2, 3)
    for expected in range(20):
        assert next(iterator) == expected
        time.sleep(0.002)
        assert max(made) <= expected + 3
    iterator.close()


def test_a_child_that_is_forked_in_an_epoch_goes_on(source: Path) -> None:
    script = f"""
import os, sys, warnings, vlpipe
warnings.simplefilter("ignore")  # newer Pythons warn of forks beside threads
batches = vlpipe.batches({str(source)!r}, batch_size=4, seed=1, ids=True)
whole = [x["id"].tolist() for x, _ in vlpipe.batches({str(source)!r}, batch_size=4, seed=1, ids=True)]
for turn in range(20):
    iterator = iter(vlpipe.batches({str(source)!r}, batch_size=4, seed=1, ids=True))
    begun = [next(iterator)[0]["id"].tolist() for _ in range(turn)]
    child = os.fork()
    rest = [x["id"].tolist() for x, _ in iterator]
    good = begun + rest == whole and len(list(vlpipe.batches({str(source)!r}, seed=1))) == 4
    if not child:
        os._exit(not good)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 and good, turn
print("done")
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (run.stdout, run.stderr) == ("done\n", "")


def test_a_process_ends_in_the_middle_of_an_epoch(source: Path) -> None:
    script = f"""
import vlpipe
iterators = [iter(vlpipe.batches({str(source)!r}, batch_size=1, repeat=True, seed=1)) for _ in range(3)]
for iterator in iterators:
    next(iterator)
print("end")
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, "end\n", "")


def test_a_batch_that_is_kept_stays_as_it_is(source: Path) -> None:
    batches = vlpipe.batches(source, batch_size=4, seed=1, shuffle=False)
    kept = [x[:1] for x, _ in batches]  # views
    copies = [x.copy() for x in kept]
    addresses = [x.ctypes.data for x, _ in batches]
    for _ in range(3):
        for x, _ in batches:
            x[...] = -1  # the arrays belong to the loop
    assert all(np.array_equal(one, other) for one, other in zip(kept, copies, strict=True))
    assert len(set(addresses)) < len(addresses)  # those that nobody keeps are used again


def test_arrays_belong_to_the_loop(source: Path) -> None:
    endless = vlpipe.batches(source, batch_size=50, seed=1, repeat=True, lengths=True, ids=True, remainder="pad")
    taken: list[list[Any]] = [[], []]
    for found in taken:
        for _, (x, y, weight) in zip(range(3), endless, strict=False):
            found.append([array.tolist() for array in (*x.values(), y, weight)])
            for array in (*x.values(), y, weight):
                array[...] = 77
    assert taken[0] == taken[1]


def test_epochs_positions_and_resuming(source: Path) -> None:
    arguments: dict[str, Any] = {"batch_size": 8, "seed": 4, "ids": True}

    def ids(batches: Iterator[Any], count: int = 10**9) -> list[list[int]]:
        return [x["id"].tolist() for _, (x, _) in zip(range(count), batches, strict=False)]

    batches = vlpipe.batches(source, **arguments)
    epochs = [ids(iter(batches)) for _ in range(3)]
    assert len(batches) == 15
    assert epochs[0] != epochs[1]
    endless = vlpipe.batches(source, repeat=True, **arguments)
    iterator = iter(endless)
    assert ids(iterator, 20) == [*epochs[0], *epochs[1][:5]]
    assert iterator.position == (1, 5)
    assert iterator.state() == endless.plan.state(1, 5)
    resumed = vlpipe.batches(source, repeat=True, resume=iterator.state(), **arguments)
    for _ in range(2):  # every iterator over an endless run starts at the same position
        assert ids(iter(resumed), 20) == [*epochs[1][5:], *epochs[2][:10]]
    assert iter(resumed).position == (1, 5)
    assert batches.batch(2, 7)[0]["id"].tolist() == epochs[2][7]
    unused = iter(batches)
    assert ids(iter(batches)) == ids(iter(vlpipe.batches(source, repeat=True, resume=batches.plan.state(3, 0), **arguments)), 15)
    del unused
    assert repr(batches) == "<vlpipe.batches: 15 an epoch, of 120 records>"
    with pytest.raises(TypeError, match=r"batches: with repeat=True there is no end, so no length"):
        len(endless)
    with pytest.raises(ArgumentError, match="batch: came as 15"):
        batches.batch(0, 15)


def test_damaged_records_are_errors_or_left_out(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "data", [{"features": np.full((5, 2), n, np.float32), "label": n} for n in range(12)], num_shards=1)
    shard = next((tmp_path / "data").glob("*.tfrecord"))
    content = bytearray(shard.read_bytes())
    content[content.find(np.full((5, 2), 7, np.float32).tobytes()) + 9] ^= 1
    shard.write_bytes(content)
    with pytest.raises(vlpipe.DatasetError, match=rf"{shard.name}.*record 7"):
        list(vlpipe.batches(tmp_path / "data", batch_size=4, seed=1))
    skipping = vlpipe.batches(tmp_path / "data", batch_size=4, seed=1, on_damage=vlpipe.Skip())
    assert sorted(y for _, labels in skipping for y in labels.tolist()) == [*range(7), *range(8, 12)]
    assert len(skipping.vlpipe_skipped.places) == 1
    wait_for_the_end()
