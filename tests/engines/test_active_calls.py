"""Garbage is collected beside the calls from TensorFlow's threads, never in one of them."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import tensorflow as tf

import vlpipe
from vlpipe.engines import active_calls
from vlpipe.engines.active_calls import ActiveCalls


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[ActiveCalls]:
    """Calls of which nothing else knows, while those of other tests leave the collector alone."""
    active_calls.calls.end()
    active_calls.calls.begin_anew()
    monkeypatch.setattr(active_calls, "IDLE_SECONDS", 0.1)
    monkeypatch.setattr(active_calls, "PERIOD_SECONDS", 0.01)
    assert gc.isenabled()
    calls = ActiveCalls()
    yield calls
    calls.end()
    gc.enable()


def wait(until: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Circle:
    """Garbage that only the collector finds."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self.tell, self.itself = tell, self

    def __del__(self) -> None:
        self.tell()


def test_in_a_call_another_thread_collects(calls: ActiveCalls) -> None:
    threads: list[str] = []
    with calls:
        assert not gc.isenabled()
        Circle(lambda: threads.append(threading.current_thread().name))
        kept: list[list[int]] = []
        wait(lambda: bool(kept.append([0]) or threads))
        with calls:
            assert not gc.isenabled()
    assert threads == ["vlpipe-garbage"]
    assert not gc.isenabled()  # TensorFlow formats the traceback of a call that failed
    wait(gc.isenabled)
    with calls:  # from the beginning
        assert not gc.isenabled()
    wait(gc.isenabled)


def test_a_collector_that_the_user_disabled_stays_disabled(calls: ActiveCalls) -> None:
    gc.disable()
    with calls:
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "vlpipe-garbage"]
    gc.enable()
    with calls:
        gc.enable()
        with calls:
            assert not gc.isenabled()
        assert len([thread for thread in threading.enumerate() if thread.name == "vlpipe-garbage"]) == 1
    wait(gc.isenabled)


def test_all_objects_are_looked_through_when_they_have_grown_by_a_quarter(monkeypatch: pytest.MonkeyPatch) -> None:
    collected: list[int] = []
    monkeypatch.setattr(active_calls.gc, "collect", lambda generation=2: collected.append(generation))
    monkeypatch.setattr(active_calls.gc, "get_threshold", lambda: thresholds)
    monkeypatch.setattr(active_calls.gc, "get_count", lambda: counts)
    monkeypatch.setattr(active_calls.sys, "getallocatedblocks", lambda: blocks)
    monkeypatch.setattr(active_calls.time, "monotonic", lambda: now)
    collection, now, blocks = active_calls._Collection(), 1.0, 100
    thresholds, counts = (700, 10, 10), (700, 11, 11)
    collection.collect_due()
    thresholds, counts = (0, 10, 10), (701, 11, 11)
    collection.collect_due()
    assert collected == []
    thresholds, counts = (700, 10, 10), (701, 10, 10)
    collection.collect_due()
    counts = (701, 11, 10)
    collection.collect_due()
    assert collected == [0, 1]
    counts = (701, 11, 11)
    collection.collect_due()
    blocks = 124
    collection.collect_due()
    blocks = 125
    collection.collect_due()
    assert collected == [0, 1, 2, 1, 2]
    collection, blocks = active_calls._Collection(), 0  # there is no count of them: whenever the oldest generation is due
    collection.collect_due()
    collection.collect_due()
    assert collected == [0, 1, 2, 1, 2, 2, 2]


def test_a_collection_does_not_disturb_the_tuples_that_tensorflow_makes() -> None:
    collection, over = active_calls._Collection(), threading.Event()

    def collect() -> None:
        while not over.is_set():
            collection._blocks = 0  # all objects are looked through
            gc.collect(1)
            kept = [set() for _ in range(9)]  # more than the threshold
            collection.collect_due()
            del kept

    collector, tensor = threading.Thread(target=collect), tf.zeros([2, 3, 4])
    thresholds = gc.get_threshold()
    gc.disable()
    gc.set_threshold(1, 0, 0)
    collector.start()
    try:
        end = time.monotonic() + 2
        while time.monotonic() < end:
            assert [tensor._shape_tuple() for _ in range(100)] == [(2, 3, 4)] * 100  # TensorFlow 2.21 releases the interpreter lock in it
    finally:
        over.set()
        collector.join()
        gc.set_threshold(*thresholds)
        gc.enable()


def test_a_child_collects_for_itself(calls: ActiveCalls) -> None:
    os.register_at_fork(after_in_child=calls.begin_anew)
    with calls:
        child = os.fork()
        if not child:
            os._exit(not gc.isenabled() or calls.running)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_process_that_is_forked_in_a_collection_collects(calls: ActiveCalls) -> None:
    begun, kept, seen = threading.Event(), [], []

    def slow() -> None:
        begun.set()
        time.sleep(0.5)

    with calls:
        Circle(slow)
        wait(lambda: bool(kept.append([0]) or begun.is_set()))
        child = os.fork()
        if not child:
            Circle(lambda: seen.append(0))
            gc.collect()
            os._exit(not seen)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


GARBAGE = """
import gc, sys, time, weakref
import tensorflow as tf, vlpipe
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
thresholds = gc.get_threshold()
for _ in range(30):
    dataset = vlpipe.make_dataset(sys.argv[1], batch_size=100, seed=1, repeat=True)
    iterator = iter(dataset)
    next(iterator)
    circle = [iterator]
    circle.append(circle)
    gone = weakref.ref(iterator)
    del dataset, iterator, circle
    gc.set_threshold(3, 2, 2)  # a collection is due in every call
    time.sleep(0.05)
    gc.set_threshold(*thresholds)
    deadline = time.monotonic() + 5
    while gone() is not None and time.monotonic() < deadline:
        gc.collect()
    if gone() is not None:
        print("an iterator waits for itself")
        break
else:
    print("good")
sys.stdout.flush()
import os
os._exit(0)  # a collection that waits would not let the process end
"""


def test_an_iterator_that_is_garbage_while_it_reads_ahead_is_deleted(tmp_path: object) -> None:
    """A collection in a thread that makes its next batch would delete it: the destructor waits for the call, and the call for it."""
    vlpipe.write(f"{tmp_path}/d", [{"features": [[float(n)] * 16] * (n % 150 + 1), "label": n} for n in range(2000)])
    command = [sys.executable, "-W", "ignore", "-c", GARBAGE, f"{tmp_path}/d"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split("\n")[0] == "good", done.stderr[-3000:]
