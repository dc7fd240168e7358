"""Feature lists of integers: varints, a fixed number in each step. They are decoded for the index, for a batch and for one record alike."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vlpipe.protobuf import vectorized, wire
from vlpipe.protobuf.vectorized import INT64_LIST, Spans
from vlpipe.protobuf.wire import KINDS, Feature, walk


class IntegerLists(NamedTuple):
    """The integers of a feature list in each record.

    Attributes:
        values: int64, all values, one record after another.
        steps: int64 `[records]`, the number of steps of each record.
        problems: by record, why its steps are not of this kind.
    """

    values: np.ndarray
    steps: np.ndarray
    problems: dict[int, str]


def decode_lists(data: np.ndarray, lists: Spans, per_step: int | None) -> IntegerLists:
    """Decode the FeatureList of each record; a record without one has no steps.

    Args:
        data: uint8, the file.
        lists: the FeatureList of each record.
        per_step: the expected number of integers in a step; None: any.
    """
    records, payloads = vectorized.steps(data, lists)
    values, counts, endless = vectorized.packed_integers(data, payloads.begins, payloads.ends)
    usual = ~payloads.irregular & (payloads.tags == INT64_LIST)
    if endless.any() or not usual.all() or (per_step is not None and (counts != per_step).any()):
        return _one_by_one(data, lists, per_step)
    return IntegerLists(values, np.bincount(records, minlength=len(lists.begins)).astype(np.int64), {})


def in_records(records: list[bytes], key: str) -> IntegerLists:
    """Decode a feature list of some serialized records that match the layout; a record without it has no steps."""
    data = np.frombuffer(b"".join(records), np.uint8)
    ends = np.cumsum([len(record) for record in records], dtype=np.int64)
    begins = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    lists = vectorized.entries(data, vectorized.messages(data, begins, ends)[1], [key])[key]
    for row in np.flatnonzero(lists.irregular).tolist():
        first, last = walk(records[row]).spans.get(key, (-1 - begins[row],) * 2)
        lists.begins[row], lists.ends[row] = begins[row] + first, begins[row] + last
    return decode_lists(data, lists, None)


def _one_by_one(data: np.ndarray, lists: Spans, per_step: int | None) -> IntegerLists:
    """The same, one record after another: some of them have an unusual encoding, or do not fit."""
    parts: list[np.ndarray] = []
    steps: list[int] = []
    problems: dict[int, str] = {}
    for record, (begin, end) in enumerate(zip(lists.begins.tolist(), lists.ends.tolist(), strict=True)):
        content = data[begin:end].tobytes() if begin >= 0 else b""
        features = wire.feature_list(content)
        problem = next((text for number, feature in enumerate(features) if (text := _misfit(number, feature, per_step))), "")
        if problem:
            problems[record] = problem
        integers = [vectorized.integers(content, feature) for feature in features if feature.kind == "int64"]
        parts.append(np.concatenate([np.zeros(0, np.int64), *integers]))
        steps.append(len(features))
    return IntegerLists(np.concatenate([np.zeros(0, np.int64), *parts]), np.array(steps, np.int64), problems)


def _misfit(number: int, feature: Feature, per_step: int | None) -> str:
    if feature.kind != KINDS[3]:
        return f"step {number} has values of kind {feature.kind or 'empty'}, expected int64"
    return "" if per_step in (None, feature.count) else f"step {number} has {feature.count} integers, expected {per_step}"
