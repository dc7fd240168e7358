"""Datasets that number their classes differently, opened together: every label keeps its name, in each engine and command."""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlpipe
from tests.helpers.metadata_files import write_signed
from vlpipe.conversion import convert
from vlpipe.errors import ArgumentError, SchemaError
from vlpipe.inspection.head import first_records
from vlpipe.inspection.summary import summarize
from vlpipe.sources.records import Records
from vlpipe.storage.index import Renumbered, digest_of_rows
from vlpipe.storage.metadata import open_directory

pytestmark = pytest.mark.usefixtures("quick_graphs")

TRAIN, VALIDATION = ["one", "three", "two", "zero"], ["three", "two", "zero", "four"]
COMMON = [*TRAIN, "four"]
NUMBERS = itertools.count()
SCHEMA = vlpipe.Schema(features=vlpipe.Sequence(2), label=vlpipe.Fixed((), "int64"))


def write(
    path: Path, classes: Any, said: list[Any], schema: vlpipe.Schema | None = SCHEMA, label: str = "label", shards: int = 2, **metadata: Any
) -> Path:
    """A dataset whose features say which record it is, and whose label is the number of what was `said`, or that number itself."""
    with vlpipe.Writer(path, schema, num_shards=shards) as writer:
        writer.metadata |= metadata if classes is None else {"classes": classes, **metadata}
        for number, word in enumerate(said):
            value = classes.index(word) if isinstance(word, str) else word
            writer.write({"features": np.full((5 + number % 7, 2), number, np.float32), label: value})
    return path


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    return [
        write(tmp_path / "train", TRAIN, [TRAIN[number % 4] for number in range(30)]),
        write(tmp_path / "validation", VALIDATION, [VALIDATION[number % 4] for number in range(17)]),
    ]


# By id, in the order of writing: the reference.
SAID = [TRAIN[number % 4] for number in range(30)] + [VALIDATION[number % 4] for number in range(17)]


def delivered(source: Any, **arguments: Any) -> dict[int, int]:
    """The label of each record by its id."""
    labels = {}
    for x, y in vlpipe.make_dataset(source, ids=True, batch_size=8, seed=3, **arguments).as_numpy_iterator():
        labels |= dict(zip(x["id"].tolist(), y.tolist(), strict=True))
    return labels


@pytest.mark.parametrize(
    ("engine", "batching"),
    [("mapped", "bucket"), ("mapped", "ragged"), ("graph", "pad"), ("stream", "bucket")],
)
def test_every_engine_delivers_the_numbers_of_the_first_source(sources: list[Path], engine: str, batching: str) -> None:
    labels = delivered(sources, engine=engine, batching=batching)
    assert [COMMON[labels[row]] for row in range(47)] == SAID
    if engine != "mapped":
        return
    reverse = delivered(sources[::-1], engine=engine, batching=batching)
    names = [*VALIDATION, "one"]
    assert [names[reverse[row]] for row in range(47)] == SAID[30:] + SAID[:30]


def test_the_first_two_engines_deliver_the_same_bytes(sources: list[Path]) -> None:
    def elements(engine: str) -> list[bytes]:
        dataset = vlpipe.make_dataset(sources, engine=engine, batch_size=8, seed=1)
        return [part.tobytes() + str(part.dtype).encode() for element in dataset.as_numpy_iterator() for part in element]

    assert elements("mapped") == elements("graph")


@given(data=st.data())
def test_any_class_lists_are_mapped_by_name(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp(f"d{next(NUMBERS)}")
    some = st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=5, unique=True)
    lists = data.draw(st.lists(some, min_size=2, max_size=4))
    said = [data.draw(st.lists(st.sampled_from(classes), max_size=5)) for classes in lists]
    dtype = data.draw(st.sampled_from(["int64", "uint8", "int16"]))
    schema = vlpipe.Schema(features=vlpipe.Sequence(2), label=vlpipe.Fixed((), dtype))
    paths = [write(folder / str(number), *pair, schema) for number, pair in enumerate(zip(lists, said, strict=True))]
    names = []
    for classes in lists:
        names += [name for name in classes if name not in names]
    index = vlpipe.plan(paths, label=False).index
    assert index.rows.dtype["value:label"] == np.dtype(dtype)
    assert [names[number] for number in index.rows["value:label"]] == list(itertools.chain(*said))
    if any(classes != lists[0] for classes in lists):
        assert index.metadata["classes"] == names
    with Records(index) as records:
        assert [names[int(records.values(row)["label"])] for row in range(len(index))] == list(itertools.chain(*said))
    assert vlpipe.verify(paths).ok


def test_commands_of_several_sources_have_the_common_numbers(sources: list[Path], tmp_path: Path) -> None:
    counts = {name: SAID.count(name) for name in COMMON}
    assert vlpipe.class_weights(sources) == pytest.approx({COMMON.index(name): 47 / 5 / count for name, count in counts.items()})
    summary = summarize(sources).labels["label"].classes
    assert {entry.name: entry.records for entry in summary} == counts
    assert [COMMON[int(view.fields["label"].first[0])] for view in first_records(sources, 99)] == SAID
    assert vlpipe.verify(sources).ok


@pytest.mark.parametrize("workers", [1, 2])
def test_a_conversion_writes_the_common_numbers_and_names(sources: list[Path], tmp_path: Path, workers: int) -> None:
    convert(sources, tmp_path / "all", workers=workers)
    index = open_directory(tmp_path / "all")
    assert index.metadata["classes"] == COMMON
    assert [COMMON[number] for number in index.rows["value:label"]] == SAID
    assert vlpipe.verify(tmp_path / "all").ok
    assert delivered(tmp_path / "all", engine="stream") == delivered(sources, engine="mapped")


def test_the_fingerprint_and_resume_states_cover_the_numbers(sources: list[Path], tmp_path: Path) -> None:
    """The same records under the same file names, with class lists that give other numbers: another run."""
    same = write(tmp_path / "other" / "validation", TRAIN, [(number % 4) for number in range(17)])
    index, other = (vlpipe.plan([sources[0], path], label=False).index for path in (sources[1], same))
    assert index.fingerprint != other.fingerprint
    state = vlpipe.plan(sources, seed=1, batch_size=8).state(1, 2)
    vlpipe.make_dataset(sources, seed=1, batch_size=8, repeat=True, resume=state)
    with pytest.raises(ArgumentError, match="the state belongs to another run: data is"):
        vlpipe.make_dataset([sources[0], same], seed=1, batch_size=8, repeat=True, resume=state)
    with pytest.raises(ArgumentError, match="the state belongs to another run: data is"):
        vlpipe.make_dataset(sources[::-1], seed=1, batch_size=8, repeat=True, resume=state)


def test_datasets_that_agree_are_opened_as_before(sources: list[Path], tmp_path: Path) -> None:
    more = write(tmp_path / "more", TRAIN, ["zero"] * 3)
    index = vlpipe.plan([sources[0], more], label=False).index
    assert (index.renumbered, index.metadata["classes"]) == (None, TRAIN)
    assert vlpipe.plan(sources[1], label=False).index.renumbered is None
    shard = sorted(sources[1].glob("*.tfrecord"))[0]  # some shards of a dataset
    labels = delivered([sources[0], shard], engine="stream")
    assert all(COMMON[label] == SAID[row] for row, label in labels.items())
    assert len(labels) < 47


def test_the_mapping_is_logged(sources: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "vlpipe"):
        vlpipe.plan(sources)
    said = f"{sources[1]}: its classes are numbered as in {sources[0]} (only {sources[0]} has one; only {sources[1]} has four)"
    assert said in caplog.messages
    caplog.clear()
    with caplog.at_level(logging.INFO, "vlpipe"):
        vlpipe.plan(sources[0])
    assert not caplog.messages


def test_verify_compares_records_with_what_was_written(sources: list[Path]) -> None:
    """A record whose label differs from its row is found in the mapped dataset too, with the numbers that were written."""
    path = sources[1] / "vlpipe.json"
    rows = np.load(sources[1] / "index.npy")
    rows["value:label"][4] = 1  # "three" became "two"
    np.save(sources[1] / "index.npy", rows)
    document = json.loads(path.read_text("utf-8"))
    document["index"]["digest"] = digest_of_rows(rows)
    write_signed(path, document)
    (alone,), (together,) = vlpipe.verify(sources[1]).problems, vlpipe.verify(sources).problems
    assert (together.found, together.expected) == (alone.found, alone.expected) == ('"label" is 0', "1, according to the index")
    assert Renumbered("label", (np.array([2, 0]),)).written(0, 2) == 0


def test_the_label_is_the_one_that_the_metadata_name(tmp_path: Path) -> None:
    schema = vlpipe.Schema(features=vlpipe.Sequence(2), bird=vlpipe.Fixed((), "int32"))
    paths = [write(tmp_path / "a", ["x", "y"], ["y"], schema, "bird"), write(tmp_path / "b", ["y", "x"], ["y", "x"], schema, "bird")]
    for engine in ("mapped", "graph", "stream"):
        assert delivered(paths, engine=engine) == {0: 1, 1: 1, 2: 0}
    many = vlpipe.Schema(features=vlpipe.Sequence(2), **{name: vlpipe.Fixed((), "int32") for name in ("bird", "label")})
    for path, classes in ((tmp_path / "c", ["x", "y"]), (tmp_path / "d", ["y", "x"])):
        with vlpipe.Writer(path, many) as writer:
            writer.metadata = {"classes": classes, "label": "bird"}
            writer.write({"features": np.ones((2, 2), np.float32), "bird": 0, "label": 7})
    assert delivered([tmp_path / "c", tmp_path / "d"]) == {0: 0, 1: 1}
    assert [entry.name for entry in summarize([tmp_path / "c", tmp_path / "d"]).labels["bird"].classes] == ["x", "y"]


def test_a_dataset_without_records_needs_no_names(sources: list[Path], tmp_path: Path) -> None:
    empty = write(tmp_path / "empty", None, [])
    for paths in ([empty, *sources], [*sources, empty]):
        labels = delivered(paths, engine="stream")
        assert [COMMON[labels[row]] for row in range(47)] == SAID
        assert vlpipe.verify(paths).ok


def test_fields_without_numbers_need_no_classes(tmp_path: Path) -> None:
    schema = vlpipe.Schema(features=vlpipe.Sequence(2), label=vlpipe.Text())
    for name, metadata in (("a", {"classes": ["x"]}), ("b", {}), ("c", {"classes": ["y"]})):
        with vlpipe.Writer(tmp_path / name, schema) as writer:
            writer.metadata = metadata
            writer.write({"features": np.ones((2, 2), np.float32), "label": "x"})
    index = vlpipe.plan([tmp_path / name for name in "abc"]).index
    assert (len(index), index.metadata) == (3, {})


# What cannot be mapped is refused, by every command.


def refused(paths: list[Path], match: str, target: Path) -> None:
    for command in (vlpipe.make_dataset, vlpipe.plan, vlpipe.verify, vlpipe.class_weights, summarize, lambda path: convert(path, target)):
        with pytest.raises(SchemaError, match=match):
            command(paths)
    assert not target.exists()


def test_names_in_only_some_of_the_datasets_are_refused(sources: list[Path], tmp_path: Path) -> None:
    bare = write(tmp_path / "bare", None, [0, 1])
    match = r"train has names for its classes \(one, three, two, zero\), .*bare has none: the same number may stand for different classes"
    refused([sources[0], bare], match, tmp_path / "out")
    refused([bare, sources[0]], match, tmp_path / "out")
    refused([sources[0], bare], "Write the datasets again with the same class list", tmp_path / "out")


@pytest.mark.parametrize("classes", [{"0": "a"}, 3, ["a", "a"], [1, 2]])
def test_classes_that_are_no_list_of_names_are_refused_where_they_differ(tmp_path: Path, classes: Any) -> None:
    one, two = write(tmp_path / "one", classes, [0, 1]), write(tmp_path / "two", ["a", "b"], [0, 1])
    refused([one, two], "is not a list of different names, so their labels cannot be mapped", tmp_path / "out")
    refused([two, one], "is not a list of different names, so their labels cannot be mapped", tmp_path / "out")
    assert len(delivered([one, write(tmp_path / "three", classes, [1])])) == 3


@pytest.mark.parametrize("wrong", [-1, 2, 99])
def test_a_number_without_a_name_cannot_be_mapped(tmp_path: Path, wrong: int) -> None:
    paths = [write(tmp_path / "a", ["x", "y"], [0, 1, wrong], shards=1), write(tmp_path / "b", ["y"], [0])]
    match = rf'a-00000-of-00001.tfrecord, record 2 at byte \d+: "label" is {wrong}, but .*/a names only the classes 0 to 1'
    refused(paths, match, tmp_path / "out")


def test_more_classes_than_the_dtype_can_number_are_refused(tmp_path: Path) -> None:
    schema = vlpipe.Schema(features=vlpipe.Sequence(2), label=vlpipe.Fixed((), "int8"))
    lists = [[f"{letter}{number}" for number in range(100)] for letter in "ab"]
    paths = [write(tmp_path / classes[0], classes, [classes[0]], schema) for classes in lists]
    refused(paths, 'together the datasets have 200 classes, more than "label" of int8 can number', tmp_path / "out")


@pytest.mark.parametrize(("field", "value"), [(vlpipe.Sequence((), "int32"), [1, 0]), (vlpipe.Fixed((2,), "float32"), np.ones(2, "f4"))])
def test_lists_and_vectors_of_classes_are_refused(tmp_path: Path, field: Any, value: Any) -> None:
    schema = vlpipe.Schema(features=vlpipe.Sequence(2), label=field)
    paths = [write(tmp_path / "a", ["x", "y"], [value], schema), write(tmp_path / "b", ["y", "x"], [value], schema)]
    match = r"the classes of .*a and .*b differ \(the same names in another order\), and only the numbers of one scalar integer label"
    with pytest.raises(SchemaError, match=match):
        vlpipe.make_dataset(paths)
