"""Small files whose reading could take very long: records of nothing but keys, or of empty frames."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlpipe
from tests.attacks.records import field, floats, texts, write
from vlpipe.protobuf import wire

EMPTY = b"\x0a\0"


def of_frames(frames: bytes) -> bytes:
    """A SequenceExample with one feature list."""
    return field(2, field(1, field(1, b"k"), field(2, frames)))


CASES = {
    "1 MB of empty frames": [of_frames(EMPTY * 500_000)],
    "records of keys": [b"".join(field(1, field(1, field(1, b"%d" % key))) for key in range(60_000))] * 20,
}


@pytest.mark.parametrize("name", CASES)
def test_a_small_file_is_looked_at_quickly(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.tfrecord", CASES[name])
    started = time.process_time()
    with pytest.raises(vlpipe.VlpipeError):
        vlpipe.plan(path)
    assert time.process_time() - started < 6


frames = st.lists(
    st.one_of(
        st.integers(1, 4).map(lambda count: EMPTY * count),
        st.lists(st.sampled_from([b"", EMPTY * 2, EMPTY * 5, b"abc"]), max_size=3).map(lambda values: field(1, texts(*values))),
        st.integers(0, 3).map(lambda count: field(1, floats(np.zeros(count)))),
        st.just(field(3, EMPTY * 2)),  # an unknown field
    ),
    max_size=12,
).map(b"".join)


@given(frames)
def test_runs_of_empty_frames_are_read_as_any_others(content: bytes) -> None:
    message = wire.walk(of_frames(content))
    begin, end = message.spans["k"]
    data = of_frames(content)
    assert message.lists["k"] == [wire._feature(data, *frame) for frame in wire._messages(data, begin, end)]
