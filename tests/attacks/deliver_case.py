"""What the engines deliver of a case: opened after the change, or before it, so that the files change under an open dataset.

Every child loads TensorFlow for itself: a forked process cannot use that of its parent.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import vlpipe
from tests.attacks.open_case import MAX_BYTES, MTIME, Files, Outcome, Target, TryAll, answer, case, limit_memory, must_be_the_same, put

Row = tuple[bytes, ...]
ENGINES = ("mapped", "graph", "stream")
KNOWN = "changed while open"  # graph: other frames of the same number, under a right checksum, with the same label (see `verify`)


def try_engine(engine: str) -> TryAll:
    """What a child does with the cases: deliver them with an engine."""
    return functools.partial(_deliver_all, engine)


def _deliver_all(engine: str, kind: str, target: Target, seeds: range, directory: Path) -> Iterator[Outcome | None]:
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # three quarters of the time of a tiny epoch
    put(directory / "case", target.files)
    truth = sorted(_delivered(_dataset(directory / "case", target, engine)))
    allowed = set(truth)
    limit_memory(2 * MAX_BYTES)
    yield None
    for seed in seeds:
        done, files, _ = case(kind, target, seed)
        late = random.Random(f"late-{kind}-{seed}").choice(["", "in place", "replaced"])
        shutil.rmtree(directory / "cache", ignore_errors=True)
        put(directory / "case", target.files if late else files)
        rows: list[Row] = []

        def same(late: str = late, files: Files = files, rows: list[Row] = rows) -> bool:
            dataset = _dataset(directory / "case", target, engine)
            if late == "in place":
                _change_in_place(directory / "case", files)
            elif late:
                put(directory / "case", files)
            try:
                rows.extend(_delivered(dataset))
            except tf.errors.OpError as error:
                raise vlpipe.VlpipeError(error.message.partition("\n")[0]) from error  # then comes TensorFlow's stack
            return sorted(rows) == truth

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome = answer(same)
        # Of a file that changed after it was opened, nothing but what was indexed may come, before an error either.
        others = set(rows) - allowed
        strict = bool(late) or must_be_the_same(target, done)
        if strict and late and engine == "graph" and others and {_outline(row) for row in others} <= {_outline(row) for row in truth}:
            outcome = outcome._replace(kind=KNOWN)
        elif strict and (others or outcome.kind == "different"):
            outcome = outcome._replace(kind="wrong", text=f"{late or 'before'}: {len(rows)} rows, {len(others)} of them other")
        yield outcome


def _dataset(directory: Path, target: Target, engine: str) -> Any:
    source, arguments = (directory, {}) if target.layout is None else (directory / "a.tfrecord", {"layout": target.layout})
    return vlpipe.make_dataset(source, engine=engine, batch_size=4, shuffle=False, lengths=True, **arguments)


def _delivered(dataset: Any) -> Iterator[Row]:
    """The frames and the label of each row, without padding."""
    for x, *rest in dataset.as_numpy_iterator():
        for row, length in enumerate(x["lengths"]):
            yield (x["features"][row, :length].tobytes(), *(part[row].tobytes() for part in rest))


def _outline(row: Row) -> tuple[Any, ...]:
    return (len(row[0]), *row[1:])


def _change_in_place(directory: Path, files: Files) -> None:
    """As a program that writes into open files: the inode, and here also the time, stay the same."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and str(path.relative_to(directory)) not in files:
            path.unlink()
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if path.exists() else "wb") as file:
            file.truncate(len(content))
            file.write(content)
        os.utime(path, ns=(MTIME, MTIME))
