"""Iterators of `vlpipe.batches` that several threads share, or that one closes or an interrupt stops while a batch is made."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlpipe
from vlpipe.errors import ArgumentError
from vlpipe.numpy_batches.ahead import Ahead


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shared") / "data"
    vlpipe.write(path, ({"features": np.ones((1, 2), np.float32), "label": n} for n in range(200)), num_shards=1)
    return path


def in_threads(work: Any, count: int = 8) -> list[BaseException]:
    """Run the work in threads, of which each must end; the errors that they met."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    return errors


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_threads_that_share_an_iterator_get_each_batch_once(source: Path, prefetch: int) -> None:
    batches = vlpipe.batches(source, batch_size=2, seed=1, prefetch=prefetch)
    for _ in range(5):
        iterator, found = iter(batches), list[int]()
        assert in_threads(lambda iterator=iterator, found=found: [found.extend(y.tolist()) for _, y in iterator]) == []
        assert sorted(found) == list(range(200))
    assert iterator.position == (5, 0)  # the threads drew one epoch


def test_keras_may_ask_from_several_threads(source: Path) -> None:
    pytest.importorskip("keras")
    batches = vlpipe.batches(source, batch_size=2, seed=1)
    data, numbers, lock, found = batches.as_py_dataset(), iter(range(200)), threading.Lock(), dict[int, list[int]]()

    def work() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            found[number] = data[number % 100][1].tolist()

    assert in_threads(work, 1) == []
    numbers = iter(range(100))
    found.clear()
    assert in_threads(work) == []
    assert found == {number: batches.batch(2, number)[1].tolist() for number in range(100)}


def test_processes_of_keras_are_refused(source: Path) -> None:
    pytest.importorskip("keras")
    data = vlpipe.batches(source, batch_size=2, seed=1).as_py_dataset()
    data.use_multiprocessing = True
    with pytest.raises(ArgumentError, match=r"^as_py_dataset: came with use_multiprocessing=True, expected False: threads"):
        data[0]


def test_a_thread_that_waits_ends_when_another_closes() -> None:
    begun, released = threading.Event(), threading.Event()

    def slow(number: int) -> int:
        begun.set()
        released.wait(20)
        return number

    iterator = Ahead(slow, range(9), 1, 4)
    closer = threading.Timer(0.1, lambda: (begun.wait(20), time.sleep(0.1), iterator.close(), released.set()))
    closer.start()
    assert in_threads(lambda: list(iterator), 3) == []
    closer.join()
    assert list(iterator) == []


@pytest.mark.parametrize("ahead", [0, 2])
def test_an_interrupt_loses_no_batch(ahead: int) -> None:
    def make(number: int) -> int:
        if number == 3 and not interrupted:
            interrupted.append(number)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
        return number

    interrupted: list[int] = []
    iterator, found = Ahead(make, range(8), 1, ahead), list[int]()
    while len(found) < 8:
        with contextlib.suppress(KeyboardInterrupt):
            found.append(next(iterator))
            time.sleep(0.01)
    assert (found, interrupted, iterator.taken) == (list(range(8)), [3], 8)
