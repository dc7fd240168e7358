"""Which field is the label when nobody names one: only a field with the name of a label, or the only one that nothing speaks against."""

from __future__ import annotations

import re

import numpy as np

LABELS = ("label", "labels", "class", "target", "targets", "y")  # in the order of preference
# Words of names. A name with a word of a label is that of a label, unless a word says that it measures or counts something.
_OF_LABELS = {"label", "labels", "class", "classes", "target", "targets", "category", "categories"}
_MEASURES = """
num n nb count counts length lengths len size sizes frames samples rate sr hz hertz fps offset duration seconds secs ms start end begin stop
from to time times timestamp timestamps date width height channels dim dims shape hop step version seed shard rank
"""
_IDS = "id ids idx index indices key keys uid uuid guid number no row record position path file filename name hash checksum"
_OF_MEASURES, _OF_IDS = (set(words.split()) for words in (_MEASURES, _IDS))
_FEW = 3  # this many records, or different lengths, are evidence


def is_label_name(name: str) -> bool:
    """Whether a field has the name of a label, such as "label", "class_id" or "image/class/label"."""
    words = _words(name)
    return name in LABELS or (bool(words & _OF_LABELS) and not words & _OF_MEASURES)


def is_bookkeeping_name(name: str) -> bool:
    """Whether a field has the name of a length, a rate, a time or a number of the record."""
    return not is_label_name(name) and bool(_words(name) & (_OF_MEASURES | _OF_IDS))


def is_no_label(values: np.ndarray, lengths: list[np.ndarray]) -> bool:
    """Whether the values themselves show that they are no label: they are constant, count up, or are the lengths of a sequence.

    Args:
        values: `[records, ...]`, in the order in which they were written.
        lengths: int64 `[records]`, of each sequence.
    """
    if len(values) < _FEW:
        return False
    if bool((values == values[:1]).all()):
        return True
    return values.ndim == 1 and (counts_up(values) or any(_is_proportional(values.astype(np.float64), frames) for frames in lengths))


def counts_up(values: np.ndarray) -> bool:
    """Whether integers grow by the same step from record to record."""
    if len(values) < _FEW or values.ndim > 1 or values.dtype.kind not in "iu":
        return False
    steps = np.diff(values.astype(np.float64))
    return bool(steps[0] > 0 and (steps == steps[0]).all())


def _is_proportional(numbers: np.ndarray, frames: np.ndarray) -> bool:
    """Whether the numbers are the lengths, in frames or in another unit."""
    if len(np.unique(frames)) < _FEW:
        return False
    longest = int(np.argmax(frames))
    return bool(np.allclose(numbers, frames * (numbers[longest] / frames[longest]), rtol=1e-5, atol=0))


def _words(name: str) -> set[str]:
    """The words of a name, in lower case: "numFrames" and "num_frames" are two."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+|(?<=[A-Za-z])(?=[0-9])", " ", name)
    return {word.lower() for word in apart.split()}
