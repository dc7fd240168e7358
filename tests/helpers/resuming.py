"""A program for `test_resume`: it reads the names of files of cases, resumes each case, and prints the hashes of the batches after it."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

import numpy as np
import tensorflow as tf

import vlpipe


def hashes_of(dataset: tf.data.Dataset, count: int) -> list[str]:
    """The SHA-256 of each of the first `count` batches."""
    hashes = []
    for element in dataset.take(count):
        parts = [tensor.numpy() for tensor in tf.nest.flatten(element, expand_composites=True)]
        hashes.append(
            hashlib.sha256(b"".join(str(part.shape).encode() + np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()
        )
    return hashes


def with_windows(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments, with windows that JSON has as the list of their values."""
    windows = arguments.get("windows")
    return {**arguments, "windows": vlpipe.Windows(*windows)} if isinstance(windows, list) else arguments


def main(path: str) -> None:
    """Print a JSON list with the list of hashes of each case."""
    with open(path) as file:
        cases: list[dict[str, Any]] = json.load(file)
    results = []
    for case in cases:
        dataset = vlpipe.make_dataset(case["source"], repeat=True, ids=True, resume=case["state"], **with_windows(case["arguments"]))
        results.append(hashes_of(dataset, case["count"]))
    print(json.dumps(results), flush=True)


if __name__ == "__main__":
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    for line in sys.stdin:
        main(line.rstrip("\n"))
