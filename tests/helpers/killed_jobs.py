"""What `tests/files/test_kills.py` runs in children that are killed: nothing here may load TensorFlow, or the forks become slow."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

import vlpipe
from tests.attacks.records import example, floats, ints
from tests.attacks.records import write as write_tfrecord
from vlpipe import layouts
from vlpipe.conversion import convert
from vlpipe.files import atomic_directory, atomic_file
from vlpipe.files.atomic_directory import AtomicDirectory, os_errors_as_dataset_errors
from vlpipe.sources.compute_statistics import with_statistics

LAYOUT = layouts.float_list("x", d=3, label="label")


def write_dataset(folder: Path) -> None:
    records = [{"x": np.full((n + 1, 3), n, np.float32), "label": n} for n in range(6)]
    vlpipe.write(folder / "it", records, num_shards=1, overwrite=True)


def write_directory(folder: Path) -> None:
    """As `callbacks.Backup` saves."""
    directory = AtomicDirectory(folder / "it", overwrite=True, replaceable=lambda _: None)
    try:
        with os_errors_as_dataset_errors("it"):
            (directory.path / "state.json").write_text("new")
            (directory.path / "weights").write_bytes(bytes(100_000))
        directory.commit()
    finally:
        directory.abort()


def convert_file(folder: Path) -> None:
    convert(folder / "a.tfrecord", folder / "it", layout=LAYOUT, num_shards=1, workers=1, overwrite=True)


def index_file(folder: Path) -> None:
    vlpipe.build_index(folder / "a.tfrecord", LAYOUT)


def compute(folder: Path) -> None:
    with_statistics(vlpipe.build_index(folder / "a.tfrecord", LAYOUT), workers=1)


class Weights:
    """In the place of a Keras model: a forked process must not run TensorFlow."""

    def __init__(self, value: int) -> None:
        self.value = value

    def save_weights(self, path: Path) -> None:
        path.write_bytes(bytes([self.value]) * 1000)


def backup(folder: Path) -> Any:
    from vlpipe.callbacks import Backup

    return Backup(folder / "backup", vlpipe.plan(folder / "it", batch_size=1, seed=1), save_every=1)


def save_backup(folder: Path, value: int = 1) -> None:
    """Save after as many batches as `value`, which is also what the weights are made of."""
    callback = backup(folder)
    callback.set_model(Weights(value))
    callback._trained = value
    callback.save()


def save_second_backup(folder: Path) -> None:
    save_backup(folder, 2)


WRITERS = {"Writer": write_dataset, "AtomicDirectory": write_directory, "convert": convert_file}
CACHES = {"build_index": index_file, "statistics": compute}
JOBS = {**WRITERS, **CACHES, "backup": save_second_backup}


def contents(directory: Path) -> dict[str, str] | None:
    """The digests of the files of a directory; None without one."""
    if not directory.exists():
        return None
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


def prepare(folder: Path, old: bool) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write_tfrecord(folder / "a.tfrecord", [example({"x": floats(np.arange(3 * n)), "label": ints(n)}) for n in range(1, 6)])
    os.utime(folder / "a.tfrecord", ns=(10**18, 10**18))
    if old:
        vlpipe.write(folder / "it", [{"x": np.zeros((2, 3), np.float32), "label": 7}], num_shards=1)


# What a child calls; the arguments came as JSON.


def run(name: str, folder: str, exchange: bool = True) -> None:
    if not exchange:
        atomic_directory._exchange = lambda *_: False
    JOBS[name](Path(folder))


def run_checked(name: str, folder: str, exchange: bool, after: dict[str, str]) -> None:
    """Run; an error after the commit must say that the new dataset is there."""
    try:
        run(name, folder, exchange)
    except vlpipe.VlpipeError as error:
        if contents(Path(folder) / "it") == after and "is complete and in its place" not in str(error):
            raise RuntimeError("it says that nothing is committed") from error
        raise


def fail(folder: str) -> None:
    AtomicDirectory(Path(folder) / "it", overwrite=True, replaceable=lambda _: None).abort()


def read_text(path: str) -> None:
    Path(path).read_text()


def list_folder(path: str) -> None:
    os.listdir(path)


def warm() -> None:
    """Run every job once, so that no child imports a module, which reads files too. In the place of Keras is a class that does no work."""

    class Callback:
        def set_model(self, model: Any) -> None:
            self.model = model

    sys.modules["keras"] = ModuleType("keras")
    sys.modules["keras"].callbacks = SimpleNamespace(Callback=Callback)  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path) / "folder"
        for job in JOBS.values():
            prepare(folder, old=True)
            job(folder)
    atomic_file._cleared.clear()
    assert "tensorflow" not in sys.modules
