"""`convert` makes the same bytes as `Writer` from the same records, and `make_dataset` delivers the same values from both."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from tests.helpers.foreign_files import cases, example, floats, ints, place, prepared_directory, raw, read, write
from tests.storage.test_writer import contents, listing
from vlpipe import layouts, processes
from vlpipe.conversion import convert
from vlpipe.errors import ArgumentError, DatasetError, DatasetExistsError, SchemaError, VlpipeError
from vlpipe.layouts.registry import from_json, to_json
from vlpipe.sources.open import open_anywhere
from vlpipe.sources.records import Records
from vlpipe.storage.metadata import open_directory

pytestmark = pytest.mark.usefixtures("quick_graphs")

CASES = cases()
LAYOUT = layouts.float_list("x", d=3, label="label")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def values_of(source: Any, layout: Any = None) -> list[dict[str, Any]]:
    index = open_anywhere(source, layout)
    with Records(index) as records:
        return [records.values(row) for row in range(len(index))]


def write_serially(target: Path, source: Any, layout: Any, num_shards: int) -> None:
    """Write the same records with `Writer`."""
    index = open_anywhere(source, layout)
    with vlpipe.Writer(target, Records(index).schema, num_shards=num_shards) as writer:
        writer.metadata = index.metadata | ({} if index.label is None else {"label": index.label})
        for values in values_of(source, layout):
            writer.write({name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()})


def assert_same(found: Any, expected: Any) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        if isinstance(value, bytes):
            assert found[name] == value
        else:
            np.testing.assert_array_equal(found[name], value, strict=True)
            assert found[name].tobytes() == value.tobytes()


def record(frames: int, label: int = 1, **more: Any) -> bytes:
    return example({"x": floats(np.full(3 * frames, label)), "label": ints(label), **more})


# ---- the same records ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*CASES, "multi-hot"])
def test_records_of_third_party_files_keep_their_values(tmp_path: Path, name: str) -> None:
    case = CASES["youtube8m" if name == "multi-hot" else name]
    layout = layouts.youtube8m(classes=1000) if name == "multi-hot" else case.layout
    files = [write(tmp_path / f"{part}.tfrecord", case.records[part::2]) for part in (0, 1)]
    made = convert(files, tmp_path / "d", layout=layout, num_shards=3)
    order = [*range(0, 23, 2), *range(1, 23, 2)]
    expected, found = values_of(files, layout), values_of(tmp_path / "d")
    for row, number in enumerate(order):
        np.testing.assert_array_equal(found[row][case.key], case.frames[number], strict=True)
        assert_same(found[row], expected[row])
    rate = {"sample_rate": 8000} if layout.name == "encoded_audio" else {}
    assert open_directory(tmp_path / "d").metadata == {"layout": layout.name, "label": made.label} | rate
    there, here = (
        read(source, "mapped", features=case.key, **more) for source, more in ((files, {"layout": layout}), (tmp_path / "d", {}))
    )
    for row in range(23):
        assert here[0][row].tobytes() == there[0][row].tobytes()
        np.testing.assert_array_equal(here[1][row], there[1][row], strict=True)
    assert here[2] == there[2]
    if name != "multi-hot":
        label = [here[1][row][: here[2][row]].tolist() if here[2] else here[1][row].tolist() for row in range(23)]
        assert label == [np.asarray(case.labels[number]).tolist() for number in order]


@pytest.mark.parametrize("compression", ["GZIP", "ZLIB"])
@pytest.mark.parametrize("workers", [1, 2])
def test_compressed_files(tmp_path: Path, compression: str, workers: int) -> None:
    case = CASES["audioset"]
    plain = [write(tmp_path / f"{part}.tfrecord", case.records[part::2]) for part in (0, 1)]
    packed = [write(tmp_path / "packed" / f"{part}.tfrecord.gz", case.records[part::2], compression) for part in (0, 1)]
    convert(plain, tmp_path / "d", num_shards=3)
    convert(packed, tmp_path / "packed" / "d", num_shards=3, workers=workers)
    assert contents(tmp_path / "d") == contents(tmp_path / "packed" / "d")


def test_a_layout_with_a_function_of_the_user(tmp_path: Path) -> None:
    def parse(data: tf.Tensor) -> dict[str, tf.Tensor]:
        x = tf.reshape(tf.io.decode_raw(data, tf.float32), [-1, 2])
        count = tf.shape(x)[0]
        return {"x": x, "label": count, "name": tf.strings.as_string(count), "units": tf.range(count)}

    frames = [np.arange(2 * t, dtype="f4").reshape(t, 2) for t in (3, 0, 5, 1)]
    path = write(tmp_path / "a.tfrecord", [x.tobytes() for x in frames])
    assert convert(path, tmp_path / "d", layout=layouts.Layout.custom(parse), num_shards=2, workers=2).workers == 1
    for values, x in zip(values_of(tmp_path / "d"), frames, strict=True):
        np.testing.assert_array_equal(values["x"], x, strict=True)
        assert (values["label"], values["name"], values["units"].tolist()) == (len(x), str(len(x)).encode(), list(range(len(x))))


def test_the_graph_engine_delivers_the_label_too(tmp_path: Path) -> None:
    case = CASES["audioset"]
    convert(write(tmp_path / "a.tfrecord", case.records), tmp_path / "d", layout=case.layout)
    frames, labels, lengths = read(tmp_path / "d", "graph")
    assert all(np.array_equal(frames[row], case.frames[row]) for row in range(23))
    assert [labels[row][: lengths[row]].tolist() for row in range(23)] == case.labels


def test_a_directory_that_tensorflow_datasets_prepared(tmp_path: Path) -> None:
    features = {
        "speech": {
            "pythonClassName": "tensorflow_datasets.core.features.tensor_feature.Tensor",
            "tensor": {"shape": {"dimensions": ["-1", "2"]}, "dtype": "float32", "encoding": "none"},
        },
        "word": {"pythonClassName": "tensorflow_datasets.core.features.class_label_feature.ClassLabel", "classLabel": {"numClasses": "9"}},
    }
    examples = [example({"speech": floats(np.full(2 * t, t)), "word": ints(t)}) for t in range(1, 8)]
    source = prepared_directory(tmp_path / "p", examples, features, {"train": [3, 4]})
    made = convert(source, tmp_path / "d")
    assert (made.records, made.label, made.files) == (7, "word", (2, 16))
    ((x, y),) = vlpipe.make_dataset(tmp_path / "d", batching="pad", shuffle=False, lengths=True)
    order = sorted(range(7), key=lambda row: int(y[row]))
    assert [int(x["lengths"][row]) for row in order] == [int(y[row]) for row in order] == list(range(1, 8))


def test_a_vlpipe_dataset_with_another_number_of_shards(tmp_path: Path) -> None:
    for part in "ab":
        with vlpipe.Writer(tmp_path / part, num_shards=3) as writer:
            writer.metadata |= {"classes": ["ä", "b"], "part": part}
            for t in range(20):
                values = np.frombuffer(np.random.default_rng(t).bytes(t * 12), "f4").reshape(t, 3)  # with NaNs of all kinds
                writer.write({"x": values, "y": t % 2, "z": np.arange(t % 3), "name": "é" * t + part})
    made = convert(tmp_path / "a", tmp_path / "c" / "a", num_shards=7)
    assert (made.records, made.frames, made.layout, made.files) == (20, {"x": 190, "z": 19}, None, (3, 7))
    for found, expected in zip(values_of(tmp_path / "c" / "a"), values_of(tmp_path / "a"), strict=True):
        assert_same(found, expected)
    assert open_directory(tmp_path / "c" / "a").metadata == {"classes": ["ä", "b"], "part": "a"}
    convert(tmp_path / "c" / "a", tmp_path / "back" / "a", num_shards=3)
    assert contents(tmp_path / "back" / "a") == contents(tmp_path / "a")
    convert([tmp_path / "a", *sorted((tmp_path / "b").glob("*-00001-*"))], tmp_path / "both")
    both, names = open_directory(tmp_path / "both"), [bytes(values["name"]).decode()[-1] for values in values_of(tmp_path / "both")]
    assert both.metadata == {"classes": ["ä", "b"]}
    assert "".join(names) == "a" * 20 + "b" * (len(both) - 20)
    assert 20 < len(both) < 40


def test_a_label_in_the_metadata_is_the_label(tmp_path: Path) -> None:
    for label in ("b", "x", "gone", ["b"], None):
        with vlpipe.Writer(tmp_path / "d", overwrite=True) as writer:
            writer.metadata["label"] = label
            writer.write({"x": np.ones((2, 3), np.float32), "a": 1, "b": 2})
        assert open_directory(tmp_path / "d").label == (label if label in ("b", "x") else None)
        if label == "b":
            assert vlpipe.plan(tmp_path / "d").selection.labels == ("b",)
            assert vlpipe.plan(tmp_path / "d", label="a").selection.labels == ("a",)
        else:
            with pytest.raises(SchemaError, match=r"label: the candidates are \['a', 'b'\]"):
                vlpipe.plan(tmp_path / "d")


# ---- the same bytes --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path: Path) -> list[Path]:
    """Two files of thousands of records; the values of one shard are more than its buffer."""
    random = np.random.default_rng(0)
    lengths = [0, 2000, 30_000, *random.integers(0, 50, 5000).tolist()]
    records = [
        example({"x": floats(random.normal(size=3 * t)), "label": ints(t), "tags": ints(*range(t % 4)), "name": raw(f"é{t}".encode())})
        for t in lengths
    ]
    return [write(tmp_path / "source" / f"{part}.tfrecord", records[part::2]) for part in (0, 1)]


def test_any_number_of_processes_makes_the_bytes_of_the_writer(tmp_path: Path, many: list[Path]) -> None:
    write_serially(tmp_path / "serial" / "d", many, LAYOUT, num_shards=5)
    expected = contents(tmp_path / "serial" / "d")
    for count in (1, 2, 3, 9):
        made = convert(many, tmp_path / str(count) / "d", layout=LAYOUT, num_shards=5, workers=count)
        assert made.workers == min(count, 5)
        assert contents(tmp_path / str(count) / "d") == expected
    assert made.bytes == (sum(path.stat().st_size for path in many), sum(len(data) for name, data in expected.items() if "-of-" in name))


@pytest.mark.parametrize("count", [1, 2])
def test_progress_is_the_sum_of_all_processes(tmp_path: Path, many: list[Path], count: int) -> None:
    total = int(open_anywhere(many, LAYOUT).rows["bytes"].sum())
    seen: list[tuple[int, int]] = []
    convert(many, tmp_path / "d", layout=LAYOUT, workers=count, progress=lambda done, of: seen.append((done, of)))
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)
    assert {of for _, of in seen} == {total}
    assert len(set(seen)) > 2
    assert count == 1 or seen[-2] == (total, total)  # the sum of both


@pytest.mark.parametrize("count", [1, 3])
def test_odd_sources(tmp_path: Path, count: int) -> None:
    empty = write(tmp_path / "empty.tfrecord", [])
    one = write(tmp_path / "one.tfrecord", [record(2, 5)])
    none = write(tmp_path / "none.tfrecord", [record(0, 6), record(0, 7)])
    for name, files, records in (("one", [one], 1), ("beside", [empty, one], 1), ("none", [none], 2), ("all", [none, empty, one], 3)):
        made = convert(files, tmp_path / name, layout=LAYOUT, workers=count)
        write_serially(tmp_path / "serial" / name, files, LAYOUT, 16)
        assert contents(tmp_path / name) == contents(tmp_path / "serial" / name)
        assert len(open_directory(tmp_path / name)) == made.records == records
    vlpipe.write(tmp_path / "nothing", [], vlpipe.Schema(x=vlpipe.Sequence(2)))
    assert convert(tmp_path / "nothing", tmp_path / "still" / "nothing", workers=count).records == 0
    assert contents(tmp_path / "still" / "nothing") == contents(tmp_path / "nothing")


def test_little_work_starts_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "a.tfrecord", [record(1)] * 50)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert convert(source, tmp_path / "d", layout=LAYOUT).workers == 1
    monkeypatch.setattr("vlpipe.processes.MIN_BYTES_FOR_PROCESSES", 50 * (1 << 14))
    assert convert(source, tmp_path / "e", layout=LAYOUT).workers == 2


def test_a_layout_is_the_same_after_json() -> None:
    for layout in (*(case.layout for case in CASES.values()), LAYOUT.only("a", "b"), LAYOUT.only()):
        again = from_json(json.loads(json.dumps(to_json(layout))))
        assert again == layout
        assert hash(again) == hash(layout)


# ---- refusals -------------------------------------------------------------------------------------------------------------


def test_arguments_that_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "a.tfrecord", [record(1)])
    with pytest.raises(ArgumentError, match="source: gs://b/train is an address, and only local files are converted. Copy them"):
        convert("gs://b/train", tmp_path / "d")
    for bad in (0, -1, 1.0, True, "2"):
        with pytest.raises(ArgumentError, match="workers: came as .*, expected an integer >= 1, or None to let vlpipe choose"):
            convert(source, tmp_path / "d", layout=LAYOUT, workers=bad)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="num_shards: came as 0"):
        convert(source, tmp_path / "d", layout=LAYOUT, num_shards=0)
    with pytest.raises(ArgumentError, match="layout: came as 'nothing'"):
        convert(source, tmp_path / "d", layout="nothing")
    with pytest.raises(DatasetError, match="gone: not found"):
        convert(tmp_path / "gone", tmp_path / "d")
    assert listing(tmp_path) == ["a.tfrecord"]


def test_a_source_in_the_target_is_refused(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", [{"x": np.ones((2, 3), np.float32)}], num_shards=1)
    vlpipe.write(tmp_path / "d2", [{"x": np.ones((2, 3), np.float32)}])
    (tmp_path / "link").symlink_to(tmp_path / "d")
    before = contents(tmp_path)
    for source in (tmp_path / "d", [tmp_path / "d2", tmp_path / "link"], tmp_path / "d" / "d-00000-of-00001.tfrecord"):
        with pytest.raises(ArgumentError, match="d-00000-of-00001.tfrecord lies in the target .*d, which would replace it. Choose another"):
            convert(source, tmp_path / "d", overwrite=True)
        with pytest.raises(DatasetExistsError, match="d: exists already"):
            convert(source, tmp_path / "link")
    assert contents(tmp_path) == before
    (tmp_path / "linked").mkdir()
    for path in (tmp_path / "d").iterdir():
        (tmp_path / "linked" / path.name).symlink_to(path)
    with pytest.raises(ArgumentError, match="linked/d-00000-of-00001.tfrecord lies in the target"):
        convert(tmp_path / "linked", tmp_path / "d", overwrite=True)
    convert(tmp_path / "d", tmp_path / "d3")  # a target whose name is only a prefix
    convert(tmp_path / "d3", tmp_path / "d", overwrite=True)
    assert listing(tmp_path) == ["d", "d2", "d3", "link", "linked"]


@pytest.mark.parametrize("count", [1, 2])
def test_a_text_that_is_not_utf8_is_named_with_a_way_out(tmp_path: Path, count: int) -> None:
    good, bad = ({"name": raw(b"n"), "speaker": raw(speaker), "age": ints(3)} for speaker in (b"s", b"caf\xe9!"))
    source = write(tmp_path / "a.tfrecord", [record(1, **good)] * 40 + [record(2, **bad), record(1, **bad)])
    offset = int(open_anywhere(source, LAYOUT).rows["offset"][40])
    with pytest.raises(SchemaError) as caught:
        convert(source, tmp_path / "d", layout=LAYOUT, workers=count)
    problem, _, rest = str(caught.value).partition(" Leave it out with layout=vlpipe.layouts.float_list(...).only(")
    assert problem == (
        f'a.tfrecord, record 40 at byte {offset}: "speaker" is not UTF-8 at its byte 3 (invalid continuation byte); '
        "a vlpipe dataset stores texts in UTF-8."
    )
    assert rest in ("'age', 'name').", "'name', 'age').")  # in the order of the record
    assert not (tmp_path / "d").exists()
    convert(source, tmp_path / "d", layout=LAYOUT.only("age", "name"), workers=count)
    assert set(open_directory(tmp_path / "d").schema.fields) == {"x", "label", "age", "name"}
    with pytest.raises(SchemaError, match=r'"speaker" is not UTF-8 .* It is the label: pass a layout with another label, or without one\.'):
        convert(source, tmp_path / "e", layout=layouts.float_list("x", d=3, label="speaker"), workers=count)


def test_a_key_that_is_not_a_valid_name_is_refused_or_left_out(tmp_path: Path) -> None:
    source = write(tmp_path / "a.tfrecord", [record(1, **{"\x1b[2J": ints(1), "漢 字:": ints(4)})] * 3)
    with pytest.raises(SchemaError, match=r"'\\x1b\[2J': its name is empty or not printable\. .*\.only\('漢 字:'\)"):
        convert(source, tmp_path / "d", layout=LAYOUT)
    convert(source, tmp_path / "d", layout=LAYOUT.only("漢 字:"))
    assert [list(values) for values in values_of(tmp_path / "d")] == [["x", "label", "漢 字:"]] * 3
    assert open_directory(tmp_path / "d").rows["value:漢 字:"].tolist() == [4, 4, 4]


def test_a_record_that_becomes_too_large_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "a.tfrecord", [record(1), record(300)])
    monkeypatch.setattr("vlpipe.storage.shard_writer.MAX_RECORD_BYTES", 3000)
    with pytest.raises(SchemaError, match=rf"^{place(source, 1)}: takes \d+ bytes, a TFRecord Example can hold 3000"):
        convert(source, tmp_path / "d", layout=LAYOUT)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_damaged_record_is_named_and_nothing_committed(tmp_path: Path, many: list[Path], count: int, old: bool) -> None:
    rows = open_anywhere(many, LAYOUT).rows
    content = bytearray(many[1].read_bytes())
    for row in (3000, 3001, 4999):  # in several parts
        content[int(rows["offset"][row]) + 12 + int(rows["bytes"][row]) // 2] ^= 4
    many[1].write_bytes(content)
    if old:
        vlpipe.write(tmp_path / "d", [{"x": np.ones((2, 3), np.float32)}])
    before = contents(tmp_path / "d")
    number = 3000 - int((rows["shard"] == 0).sum())
    with pytest.raises(DatasetError, match=rf"^1.tfrecord, record {number} at byte {rows['offset'][3000]}: the checksum of its"):
        convert(many, tmp_path / "d", layout=LAYOUT, workers=count, overwrite=old)
    assert contents(tmp_path / "d") == before
    assert listing(tmp_path) == ["d"] * old + ["source"]


# ---- the target ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
def test_the_old_dataset_stays_until_the_new_one_is_complete_and_the_target_is_locked(tmp_path: Path, many: list[Path], count: int) -> None:
    vlpipe.write(tmp_path / "d", [{"x": np.ones((2, 3), np.float32)}])
    before = contents(tmp_path / "d")
    looked = []

    def look(done: int, total: int) -> None:
        if done < total:
            assert contents(tmp_path / "d") == before
            with pytest.raises(DatasetExistsError, match=f"d: is being written by process {os.getpid()} on "):
                convert(many, tmp_path / "d", layout=LAYOUT, overwrite=True)
            looked.append(done)

    with pytest.raises(DatasetExistsError, match="d: exists already"):
        convert(many, tmp_path / "d", layout=LAYOUT)
    convert(many, tmp_path / "d", layout=LAYOUT, workers=count, overwrite=True, progress=look)
    assert looked
    assert len(open_directory(tmp_path / "d")) == 5003
    assert listing(tmp_path) == ["d", "source"]


@pytest.mark.parametrize("count", [1, 2])
def test_an_exception_in_between_leaves_nothing(tmp_path: Path, many: list[Path], count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    started, start = [], processes.start
    monkeypatch.setattr(processes, "start", lambda *arguments: started.append(start(*arguments)) or started[-1])

    def stop(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(many, tmp_path / "d", layout=LAYOUT, workers=count, progress=stop)
    assert listing(tmp_path) == ["source"]
    assert len(started) == (0 if count == 1 else 2)
    assert all(process.returncode is not None for process in started)
    assert count == 1 or any(process.returncode == -signal.SIGKILL for process in started)  # killed, not waited for


def test_processes_that_cannot_be_started(tmp_path: Path, many: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: str) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(processes, "start", fails)
    with pytest.raises(VlpipeError, match=r"a worker process cannot be started \(Resource temporarily unavailable\). Try workers=1"):
        convert(many, tmp_path / "d", layout=LAYOUT, workers=2)
    assert listing(tmp_path) == ["source"]


def test_a_source_that_changes_during_the_conversion(tmp_path: Path, many: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    started = processes.start

    def changed_before(*arguments: str) -> Any:
        write(many[0], [record(1)] * 40)
        return started(*arguments)

    monkeypatch.setattr(processes, "start", changed_before)
    with pytest.raises(DatasetError, match=r"0.tfrecord: was changed while it was converted. Convert it again when it is complete"):
        convert(many, tmp_path / "d", layout=LAYOUT, workers=2)
    assert listing(tmp_path) == ["source"]


def test_the_metadata_are_json(tmp_path: Path) -> None:
    convert(write(tmp_path / "a.tfrecord", [record(1)]), tmp_path / "d", layout=layouts.float_list("x", d=3))
    assert json.loads((tmp_path / "d" / "vlpipe.json").read_text())["metadata"] == {"layout": "float_list"}


def test_that_no_sample_rate_is_written_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, rate in {"a": 8000, "b": 16000, "d": None}.items():
        with vlpipe.Writer(tmp_path / name, vlpipe.Schema(x=vlpipe.Sequence((1,), "int16"))) as writer:
            writer.metadata = {} if rate is None else {"sample_rate": rate}
            writer.write({"x": np.ones((4, 1), np.int16)})
    told = {}
    for names in ("a", "aa", "ab", "ad", "dd"):
        caplog.clear()
        for number in (1, 2)[: len(names)]:
            shutil.copytree(tmp_path / names[number - 1], tmp_path / f"{names}-{number}")
        sources = [tmp_path / f"{names}-{number}" for number in (1, 2)[: len(names)]]
        vlpipe.convert(sources, tmp_path / names.upper(), workers=1)
        told[names] = vlpipe.open(tmp_path / names.upper()).metadata.get("sample_rate"), caplog.messages
    said = "/{}: is written without a sample rate, because not all of its sources have the same ({} Hz): nothing can then check it."
    assert {names: rate for names, (rate, _) in told.items()} == {"a": 8000, "aa": 8000, "ab": None, "ad": None, "dd": None}
    assert [names for names, (_, lines) in told.items() if lines] == ["ab", "ad"]
    assert said.format("AB", "8000 and 16000") in told["ab"][1][0]
    assert said.format("AD", "8000") in told["ad"][1][0]
