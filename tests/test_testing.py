"""`vlpipe.testing`: the assertions pass what is right, and fail for what is planted."""

import doctest

import numpy as np
import pytest

import vlpipe
import vlpipe.testing
from vlpipe.errors import ArgumentError

ARGUMENTS = {"batch_size": 2, "seed": 3, "crop": vlpipe.Crop(3)}


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng(0)
    vlpipe.write(tmp_path / "data", ({"features": rng.normal(size=(n, 2)).astype("float32"), "label": n} for n in (3, 9, 4, 7, 5)))
    return tmp_path / "data"


def of(source, **others):
    return lambda state: vlpipe.make_dataset(source, repeat=True, resume=state, **{**ARGUMENTS, **others})


def test_a_dataset_resumes(source):
    plan = vlpipe.plan(source, repeat=True, **ARGUMENTS)
    vlpipe.testing.assert_resumes(of(source), plan, epochs=2)
    ragged = {"batching": "ragged"}
    vlpipe.testing.assert_resumes(of(source, **ragged), vlpipe.plan(source, repeat=True, **ARGUMENTS, **ragged))


def test_what_does_not_resume_is_found(source):
    plan = vlpipe.plan(source, repeat=True, **ARGUMENTS)
    forgotten = lambda state: of(source)(None)  # noqa: E731
    with pytest.raises(AssertionError, match="resumed at batch 1 of epoch 0, batch 0 after it has another array"):
        vlpipe.testing.assert_resumes(forgotten, plan)
    ends = lambda state: of(source)(state).take(-1 if state is None else 1)  # noqa: E731
    with pytest.raises(AssertionError, match="resumed at batch 0 of epoch 0, batch 1 after it is missing. Pass repeat=True"):
        vlpipe.testing.assert_resumes(ends, plan)


def test_arguments_are_checked(source):
    for name in ("epochs", "batches"):
        with pytest.raises(ArgumentError, match=name):
            vlpipe.testing.assert_resumes(of(source), vlpipe.plan(source, repeat=True, **ARGUMENTS), **{name: 0})


def test_one_implementation():
    assert vlpipe.testing.assert_padding_invariant is vlpipe.layers.assert_padding_invariant


def test_the_example_runs():
    result = doctest.testmod(vlpipe.testing, globs={})
    assert result.attempted > 0
    assert result.failed == 0
