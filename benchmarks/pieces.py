"""What pieces cost: windows of long recordings and a mix, against whole records of the length of a window, with the same frames.

`benchmarks.throughput` runs it, and adds its figures to those of the ways.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.racing import iterate, race, speed_ratio

WINDOW, DIMENSIONS, BATCH_SIZE = 300, 80, 32
PER_RECORDING = 5  # windows in a recording


def write(directory: Path, windows: int) -> tuple[Path, Path]:
    """Write the same frames twice: `windows` records of one window each, and a fifth as many recordings of five each."""
    import vlpipe

    def records(count: int, frames: int) -> Iterator[dict[str, Any]]:
        random = np.random.default_rng(0)
        return ({"features": random.normal(size=(frames, DIMENSIONS)).astype(np.float32), "label": n % 10} for n in range(count))

    whole, long = directory / "whole", directory / "long"
    vlpipe.write(whole, records(windows, WINDOW), num_shards=4, overwrite=True)
    vlpipe.write(long, records(windows // PER_RECORDING, WINDOW * PER_RECORDING), num_shards=4, overwrite=True)
    return whole, long


def measure(directory: Path, windows: int, rounds: int) -> dict[str, Any]:
    """The figures of whole records, of windows end to end, of windows that overlap by half, and of a mix of records."""
    import vlpipe

    whole, long = write(directory, windows)
    arguments = {"batch_size": BATCH_SIZE, "seed": 1}
    source = vlpipe.open(whole)
    half = len(source) // 2
    mix = vlpipe.mix([(source.select(rows=range(half)), 2), (source.select(rows=range(half, 2 * half)), 1)], records=windows)
    datasets = {
        "whole records": vlpipe.make_dataset(whole, **arguments),
        "windows": vlpipe.make_dataset(long, windows=WINDOW, **arguments),
        "overlapping windows": vlpipe.make_dataset(long, windows=vlpipe.Windows(WINDOW, WINDOW // 2), **arguments),
        "mix, two to one": vlpipe.make_dataset(mix, **arguments),
    }
    delivered = {name: sum(len(x) for x, _ in dataset.as_numpy_iterator()) for name, dataset in datasets.items()}
    if delivered["whole records"] != delivered["windows"]:
        raise SystemExit(f"throughput: not the same frames: {delivered}")
    times = race({name: (lambda dataset=dataset: iterate(dataset)) for name, dataset in datasets.items()}, rounds, lambda text: None)
    base = times["whole records"]
    return {
        name: {
            "frames_per_second": delivered[name] * WINDOW / statistics.median(taken),
            "ratio": speed_ratio(base, taken) * delivered[name] / windows,
            "seconds": taken,
        }
        for name, taken in times.items()
    }
