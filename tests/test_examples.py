"""The examples of all docstrings, run: each in an empty folder, with `vlpipe`, `np`, `tf`, `keras` and the names of its module."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import vlpipe

PACKAGE = Path(vlpipe.__file__).parent
ROOMS = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>>" in path.read_text("utf-8")
]


@pytest.mark.parametrize("room", ROOMS)
def test_the_examples_give_what_they_say(room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(room)
    runner = doctest.DocTestRunner()
    space = {"vlpipe": vlpipe, "np": np, "tf": tf, "keras": keras, **vars(module)}
    examples = [example for example in doctest.DocTestFinder().find(module, globs=space) if example.examples]
    assert examples
    for number, example in enumerate(examples):
        (tmp_path / str(number)).mkdir()
        monkeypatch.chdir(tmp_path / str(number))
        runner.run(example)
    assert runner.summarize(verbose=False).failed == 0
