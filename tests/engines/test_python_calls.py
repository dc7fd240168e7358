"""A process that stops in the middle of an epoch ends."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from tests.helpers.collecting import collect_garbage
from vlpipe.engines.active_calls import ActiveCalls
from vlpipe.engines.python_calls import keep_alive, wait_at_exit

# The first registered function runs last. Without the wait, one run in three hangs, with calls of less than a millisecond.
SCRIPT = """
import atexit
atexit.register(lambda: print("under way:", sum(running)))
import time
import tensorflow as tf, vlpipe
from vlpipe.engines import mapped_shards
gather, running = mapped_shards.gather, []
def slow(*arguments):
    running.append(1)
    time.sleep(0.3)
    running.append(-1)
    return gather(*arguments)
mapped_shards.gather = slow
batches = iter(vlpipe.make_dataset({source!r}, batch_size=2, repeat=True, seed=1))
next(batches)
time.sleep(0.05)
print("at the end:", sum(running) > 0)
{end}
"""


@pytest.mark.parametrize(("end", "code"), [("", 0), ("raise KeyboardInterrupt", -2), ("raise SystemExit(3)", 3)])
def test_a_script_that_stops_while_the_next_batch_is_made(tmp_path: Path, end: str, code: int) -> None:
    vlpipe.write(tmp_path / "d", [{"features": np.ones((5, 2), "f4"), "label": n} for n in range(20)])
    script = SCRIPT.format(source=str(tmp_path / "d"), end=end)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr[-3000:]
    assert done.stdout.splitlines() == ["at the end: True", "under way: 0"]


class Owner:
    """What a wrapped function works for."""

    factor = 2


def test_the_owner_is_not_kept_alive_and_a_call_without_it_says_so() -> None:
    owner = Owner()
    double = wait_at_exit(lambda owner, value: owner.factor * value, owner)
    assert double(4) == 8
    gone = weakref.ref(owner)
    del owner
    assert gone() is None
    with pytest.raises(RuntimeError, match=r"the dataset was deleted while something still reads it: keep a reference"):
        double(4)


def test_the_owner_lives_as_long_as_the_dataset() -> None:
    owner, dataset, released = Owner(), tf.data.Dataset.range(3), []
    gone = weakref.ref(owner)
    keep_alive(owner, dataset, lambda owner: released.append(owner.factor))
    derived = dataset.map(lambda number: number)
    del owner, dataset
    gc.collect()
    assert gone() is not None
    assert not released
    del derived
    collect_garbage(lambda: gone() is None)
    assert released == [2]


def test_calls_after_the_end_fail_and_those_under_way_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = ActiveCalls()
    monkeypatch.setattr("vlpipe.engines.python_calls.calls", calls)
    owner = Owner()
    double = wait_at_exit(lambda owner, value: owner.factor * value, owner)
    calls.end()  # no call was made: no wait
    calls.ending = False
    assert double(4) == 8
    assert (calls.running, calls.last > 0) == (0, True)
    calls.end()
    with pytest.raises(RuntimeError, match="the process is ending"):
        double(4)
    assert calls.running == 0
    calls.running = 1
    monkeypatch.setattr("vlpipe.engines.active_calls.PATIENCE_SECONDS", 0.05)
    calls.end()  # gives up after PATIENCE_SECONDS


def calls_of_a_thread(wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> int:
    """The most calls that one thread of TensorFlow's pool counts in its Python thread state."""
    here = threading.local()
    counts = []

    def call(number: np.ndarray) -> np.ndarray:
        here.calls = getattr(here, "calls", 0) + 1
        counts.append(here.calls)
        return number

    wrapped = wrap(call)
    dataset = tf.data.Dataset.range(200).map(lambda number: tf.numpy_function(wrapped, [number], tf.int64), num_parallel_calls=2)
    assert list(dataset.as_numpy_iterator()) == list(range(200))
    return max(counts)


def test_a_thread_is_introduced_to_the_interpreter_once() -> None:
    assert calls_of_a_thread(lambda call: call) == 1  # a new thread state for every call
    owner = Owner()
    assert calls_of_a_thread(lambda call: wait_at_exit(lambda owner, number: call(number), owner)) > 10
