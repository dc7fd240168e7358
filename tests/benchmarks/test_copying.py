"""The bare copies of the throughput benchmark copy the frames that the dataset has."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from benchmarks import workloads
from benchmarks.copying import CopyFloor, CopyOnEveryCore, Frames
from benchmarks.pipelines import Task

WORKLOAD = workloads.events(21)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return Task.of(WORKLOAD.write_native(tmp_path), tmp_path / "none", 4)


@pytest.mark.parametrize("way", ["numpy", "memoryview"])
def test_the_last_batch_is_in_the_buffer(task: Task, way: str) -> None:
    frames = Frames.of(task)
    floor = CopyFloor(frames)
    getattr(floor, way)()
    batch = frames.batches[-1]
    records = list(WORKLOAD.records())
    longest = int(task.lengths[batch].max())
    padded = np.zeros((len(batch), longest, task.d), np.float32)
    for row, record in enumerate(batch):
        padded[row, : task.lengths[record]] = records[record][0]
    np.testing.assert_array_equal(floor._buffer[: padded.nbytes], padded.reshape(-1).view(np.uint8))


def test_processes_share_the_batches(task: Task) -> None:
    frames = Frames.of(task)
    assert sorted(np.concatenate(frames.batches)) == list(range(21))
    parts = [batch for number in range(7) for batch in frames.part(number, 7).batches]
    assert sorted(np.concatenate(parts)) == list(range(21))
    with CopyOnEveryCore(frames) as copy:
        copy()
        copy()
    assert not multiprocessing.active_children()
