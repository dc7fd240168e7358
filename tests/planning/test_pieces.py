"""Pieces, and the numbers from which their random numbers are drawn."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from vlpipe.engines import splitmix_graph
from vlpipe.planning import splitmix
from vlpipe.planning.pieces import Pieces

part = st.tuples(st.integers(0, 2**40), st.integers(0, 2**31), st.integers(0, 2**20))  # id, first frame, copy


@given(st.lists(part, min_size=1, max_size=20))
def test_numbers_are_the_id_plus_a_mix_of_first_frame_and_copy_in_numpy_and_in_the_graph(parts: list[tuple[int, int, int]]) -> None:
    ids, firsts, copies = (np.array(column, np.int64) for column in zip(*parts, strict=True))
    pieces = Pieces(ids * 0, ids * 0, firsts, copies)
    expected = [(number + splitmix.mix(first + copy * 2**32)) % 2**64 for number, first, copy in parts]
    assert pieces.numbers(ids, splitmix.part_numbers).view(np.uint64).tolist() == expected
    in_graph = pieces.map(tf.constant).numbers(tf.constant(ids), splitmix_graph.part_numbers)
    assert in_graph.numpy().view(np.uint64).tolist() == expected
    assert pieces.copy_numbers(ids, splitmix.part_numbers).view(np.uint64).tolist() == [
        (number + splitmix.mix(copy * 2**32)) % 2**64 for number, _, copy in parts
    ]


def test_frame_0_of_copy_0_has_the_number_of_its_record() -> None:
    ids = np.array([5, 7])
    zeros = np.zeros(2, np.int64)
    for firsts in (None, zeros):
        for copies in (None, zeros):
            pieces = Pieces(ids, ids, firsts, copies)
            assert pieces.numbers(ids, splitmix.part_numbers).tolist() == pieces.copy_numbers(ids, splitmix.part_numbers).tolist() == [5, 7]


def test_pieces_are_taken_as_int64() -> None:
    pieces = Pieces(np.array([3, 4, 5], np.int32), np.array([1, 2, 3], np.uint8), firsts=np.array([9, 8, 7], np.int16))
    taken = pieces.take(np.array([2, 0]))
    assert (taken.rows.tolist(), taken.frames.tolist(), taken.firsts.tolist(), taken.copies) == ([5, 3], [3, 1], [7, 9], None)
    assert {column.dtype for column in (taken.rows, taken.frames, taken.firsts)} == {np.dtype(np.int64)}
    assert len(pieces) == 3
