"""What the peers of benchmarks/peers.py share: data that are written once, batches of similar length, one padded tensor per batch.

Imports neither TensorFlow nor PyTorch: worker processes import this module again, and should load only what they use.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

MEGABATCH = 64  # batches that are sorted by length together; 50 to 100 are usual


def once(directory: Path, write: Callable[[Path], None]) -> Path:
    """Return a directory, after writing it if it does not exist; an interrupted write starts again."""
    if not directory.exists():
        unfinished = directory.with_name(f"{directory.name}-unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        write(unfinished)
        unfinished.rename(directory)
    return directory


class LengthGrouped:
    """Samples row numbers in batches of similar length: shuffle, sort groups of `MEGABATCH` batches by length, cut, shuffle batches."""

    def __init__(self, lengths: np.ndarray, batch_size: int) -> None:
        self.lengths, self.batch_size = lengths, batch_size
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(len(self.lengths) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        self.epoch += 1
        return iter(self.batches(self.epoch))

    def batches(self, epoch: int) -> list[list[int]]:
        """Return the batches of an epoch."""
        random = np.random.default_rng(epoch)
        rows = random.permutation(len(self.lengths))
        size = MEGABATCH * self.batch_size
        groups = [rows[start : start + size] for start in range(0, len(rows), size)]
        rows = np.concatenate([group[np.argsort(self.lengths[group], kind="stable")] for group in groups])
        batches = [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
        return [batches[number].tolist() for number in random.permutation(len(batches))]


def fill(out: np.ndarray, sequences: list[memoryview]) -> None:
    """Copy the bytes of each sequence into its row of `out` [B, T, d] and zero the rest; memoryviews take half the time of arrays."""
    target = memoryview(out.reshape(-1).view(np.uint8))
    room = out.nbytes // len(out)
    zeros = bytes(room)
    start = 0
    for sequence in sequences:
        size = len(sequence)
        target[start : start + size] = sequence
        target[start + size : start + room] = zeros[size:]
        start += room


def torch_batch(sequences: list[memoryview], d: int, labels: Any) -> tuple[Any, Any, Any]:
    """Return one padded tensor, lengths and labels as tensors."""
    import torch

    lengths = np.array([len(sequence) for sequence in sequences]) // (4 * d)
    shape = (len(sequences), int(lengths.max()), d)
    if torch.utils.data.get_worker_info() is None:
        features = torch.empty(shape)
    else:  # directly in shared memory, as torch's default_collate does: sending it then takes no copy
        storage = torch.empty(0)._typed_storage()._new_shared(math.prod(shape))
        features = torch.empty(0).new(storage).view(shape)
    fill(features.numpy(), sequences)
    return features, torch.from_numpy(lengths), torch.as_tensor(labels)


def torch_loader(dataset: Any, sampler: Any, workers: int) -> Any:
    """Return a DataLoader of whole batches with persistent workers. They are not forked: TensorFlow may have threads here (`--quick`)."""
    from torch.utils.data import DataLoader

    processes = {"num_workers": workers, "persistent_workers": True, "multiprocessing_context": "forkserver"} if workers else {}
    return DataLoader(dataset, sampler=sampler, batch_size=None, **processes)
