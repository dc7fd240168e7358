"""The label that nobody names: never a length, a rate, a time, a counter or a constant; and constants are no evidence for a length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlpipe
from tests.helpers.foreign_files import example, floats, ints, write
from vlpipe.errors import SchemaError
from vlpipe.layouts import float_list
from vlpipe.layouts.label_evidence import is_bookkeeping_name, is_label_name, is_no_label

pytestmark = pytest.mark.usefixtures("quick_graphs")

RECORDS = 40
RANDOM = np.random.default_rng(4)
LENGTHS = RANDOM.integers(3, 30, RECORDS).tolist()
CLASSES = RANDOM.integers(0, 5, RECORDS).tolist()
NO_LABELS: dict[str, Any] = {
    "num_frames": LENGTHS,
    "sample_rate": [16000] * RECORDS,
    "start_time": RANDOM.random(RECORDS).tolist(),
    "length": CLASSES,
    "id": CLASSES,
    "constant": [3] * RECORDS,
    "half": [1.5] * RECORDS,
    "counter": list(range(7, 7 + RECORDS)),
    "steps": [10 * n for n in LENGTHS],
    "extent": [n * 0.01 for n in LENGTHS],
}


def native(path: Path, **fields: list[Any]) -> Path:
    records = ({"x": np.full((t, 2), t, "f4"), **{key: values[n] for key, values in fields.items()}} for n, t in enumerate(LENGTHS))
    vlpipe.write(path / "d", records, num_shards=2)
    return path / "d"


def foreign(path: Path, **fields: list[Any]) -> Path:
    def feature(value: Any) -> Any:
        return ints(value) if isinstance(value, int) else floats([value])

    records = [
        example({"x": floats(np.full(10 * t, t)), "n": ints(t), **{key: feature(values[k]) for key, values in fields.items()}})
        for k, t in enumerate(LENGTHS)
    ]
    return write(path / "a.tfrecord", records)


SOURCES = pytest.mark.parametrize("make", [native, foreign])


@SOURCES
@pytest.mark.parametrize("name", NO_LABELS)
def test_what_cannot_be_a_label_is_never_taken(tmp_path: Path, name: str, make: Any) -> None:
    alone = vlpipe.make_dataset(make(tmp_path / "alone", **{name: NO_LABELS[name]}))
    assert len(alone.element_spec) == 1
    beside = make(tmp_path / "beside", **{name: NO_LABELS[name]}, word=CLASSES)
    assert vlpipe.plan(beside).selection.labels == ("word",)
    ((x, y),) = vlpipe.make_dataset(beside, shuffle=False, batching="pad", batch_size=RECORDS)
    assert sorted(y.numpy().tolist()) == sorted(CLASSES)
    assert x.shape[0] == RECORDS
    if name in vlpipe.plan(beside).index.schema.fields:  # a key that is the length of the frames is none
        assert vlpipe.plan(beside, label=name).selection.labels == (name,)


def test_each_file_may_count_its_records(tmp_path: Path) -> None:
    records = [example({"x": floats(np.ones(10 * t)), "place": ints(n % 20)}) for n, t in enumerate(LENGTHS)]
    paths = [write(tmp_path / name, part) for name, part in (("a.tfrecord", records[:20]), ("b.tfrecord", records[20:]))]
    assert not vlpipe.plan(paths, layout=float_list("x", d=10)).selection.labels


@SOURCES
def test_only_a_name_of_a_label_decides_between_several(tmp_path: Path, make: Any) -> None:
    other = [4 - number for number in CLASSES]
    both = make(tmp_path / "both", word=CLASSES, speaker=other)
    with pytest.raises(
        SchemaError,
        match=r"label: the candidates are \['(word|speaker)', '(word|speaker)'\].*Name one: label='.*', or label=False for none",
    ):
        vlpipe.make_dataset(both)
    assert len(vlpipe.make_dataset(both, label=False).element_spec) == 1
    for name in ("label", "class_id", "target", "y"):
        named = make(tmp_path / name, word=CLASSES, speaker=other, **{name: [0] * RECORDS})  # the name is enough
        assert vlpipe.plan(named).selection.labels == (name,)


@pytest.mark.parametrize("name", ["label", "Labels", "class_id", "image/class/label", "targetClass", "y", "targets"])
def test_names_of_labels(name: str) -> None:
    assert is_label_name(name) == (name != "")
    assert not is_bookkeeping_name(name)


@pytest.mark.parametrize(
    "name",
    ["id", "utterance_id", "numFrames", "num_labels", "label_length", "sampling_rate", "start", "T_frames", "startTime", "index0", "n"],
)
def test_names_of_bookkeeping(name: str) -> None:
    assert not is_label_name(name)
    assert is_bookkeeping_name(name)


@pytest.mark.parametrize("name", ["word", "speaker", "digit", "pos_y", "emotion", "validity", "mean", "idiom"])
def test_other_names_say_nothing(name: str) -> None:
    assert not is_label_name(name)
    assert not is_bookkeeping_name(name)


def test_values_that_are_no_label() -> None:
    lengths = np.array([3, 9, 4, 4])
    for values in ([1, 1, 1, 1], [5, 6, 7, 8], [0, 10, 20, 30], [3, 9, 4, 4], [6, 18, 8, 8], [0.3, 0.9, 0.4, 0.4], [[1, 2]] * 4):
        assert is_no_label(np.array(values), [lengths])
    for values in ([1, 1, 1, 2], [8, 7, 6, 5], [5, 6, 7, 9], [0.5, 1.0, 1.5, 2.0], [3, 9, 4, 5], [[1, 2]] * 3 + [[1, 3]]):
        assert not is_no_label(np.array(values), [lengths])
    assert not is_no_label(np.array([2, 2]), [lengths[:2]])  # too few to say
    assert not is_no_label(np.array([3, 4, 3, 4]), [np.array([3, 4, 3, 4])])  # two lengths may agree by chance
    assert is_no_label(np.array([0, 4, 8]), [np.array([0, 2, 4])])


def test_a_constant_is_no_evidence_for_a_length(tmp_path: Path) -> None:
    """Every value of `x` is a multiple of 4, so 4 divides each count."""
    records = [example({"x": floats(np.ones(400)), "na": ints(4), "label": ints(n % 3)}) for n in range(20)]
    shown = vlpipe.inspect(str(write(tmp_path / "a.tfrecord", records)))
    assert shown.layout is None
    assert [candidate.call.partition("layout=")[2] for candidate in shown.candidates] == [
        "vlpipe.layouts.float_list('x', d=..., label='label'))"
    ]


def test_the_frame_size_stays_a_candidate_beside_an_uncertain_length(tmp_path: Path) -> None:
    records = [example({"x": floats(np.ones(12 * t)), "n": ints(t * 4)}) for t in (1, 2)]  # two lengths may agree by chance
    calls = [candidate.call for candidate in vlpipe.inspect(str(write(tmp_path / "a.tfrecord", records))).candidates]
    assert any("length='n'" in call for call in calls)
    assert any("d=..." in call for call in calls)
    with pytest.raises(SchemaError, match=r"float_list\('x', d=\.\.\."):
        vlpipe.make_dataset(tmp_path / "a.tfrecord")


def test_the_weights_of_classes_are_of_the_same_label(tmp_path: Path) -> None:
    source = native(tmp_path, num_frames=LENGTHS, sample_rate=[16000] * RECORDS, word=CLASSES)
    assert vlpipe.class_weights(source) == vlpipe.class_weights(source, "word")
    files = foreign(tmp_path, word=CLASSES, num_frames=LENGTHS)
    assert vlpipe.plan(files, layout=float_list("x", d=10)).selection.labels == ("word",)
