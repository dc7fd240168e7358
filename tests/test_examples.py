"""The examples of the docstrings, run: those that need no data of a reader's own."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import vlpipe


@pytest.mark.parametrize(
    "room",
    [
        "vlpipe.builders",
        "vlpipe.audio.features",
        "vlpipe.layouts.base",
        "vlpipe.layouts.published",
        "vlpipe.sources.foreign.build_index",
        "vlpipe.storage.schema",
    ],
)
def test_the_examples_give_what_they_say(room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(room)
    runner = doctest.DocTestRunner()
    space = {"vlpipe": vlpipe, "np": np, "tf": tf, **vars(module)}
    examples = [example for example in doctest.DocTestFinder().find(module, globs=space) if example.examples]
    assert examples
    for example in examples:
        runner.run(example)
    assert runner.summarize(verbose=False).failed == 0
