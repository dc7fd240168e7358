"""Write datasets: the bytes of format version 1, and that a dataset is complete or absent whatever happens."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlpipe
from tests.helpers.forks import in_memory
from vlpipe.errors import ArgumentError, DatasetError, DatasetExistsError, SchemaError, VlpipeError
from vlpipe.files.tfrecord import read_frames
from vlpipe.sources.native import open_source
from vlpipe.storage.schema import Fixed, Schema, Sequence, Text

SCHEMA = Schema(features=Sequence(2, "float32"), label=Fixed())


def record(length: int, label: int = 0) -> dict[str, Any]:
    return {"features": np.full((length, 2), label, np.float32), "label": label}


def contents(directory: Path) -> dict[str, bytes]:
    """Every file under a directory."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def listing(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


# ---- golden bytes ----------------------------------------------------------------------------------------------------------------

# The files were made, once, by: python -c "from tests.storage.test_writer import write_golden; write_golden('tests/golden/dataset-v1')"
GOLDEN = Path(__file__).parents[1] / "golden" / "dataset-v1"
GOLDEN_SCHEMA = Schema(
    features=Sequence(3, "float32"),
    label=Fixed((), "int64"),
    tags=Fixed(4, "float32"),
    image=Sequence((2, 2), "uint8"),
    words=Sequence((), "int16"),
    text=Text(),
    wide=Fixed(20, "int32"),
)
GOLDEN_RECORDS: list[dict[str, Any]] = [
    {
        "features": np.arange(15, dtype=np.float32).reshape(5, 3) / 4 - 1,
        "label": 3,
        "tags": np.array([0, 1, 0.1, -2.5], np.float32),
        "image": np.arange(8, dtype=np.uint8).reshape(2, 2, 2),
        "words": np.array([-300, 7, 300], np.int16),
        "text": "žluťoučký kůň 🐎",
        "wide": np.arange(20, dtype=np.int32) * 1000,
    },
    {
        "features": np.empty((0, 3), np.float32),
        "label": -1,
        "tags": np.zeros(4, np.float32),
        "image": np.empty((0, 2, 2), np.uint8),
        "words": np.empty(0, np.int16),
        "text": "",
        "wide": np.full(20, -(2**31), np.int32),
    },
    {
        "features": np.array([[np.nan, np.inf, -0.0], [1e-40, 3.4e38, 1]], np.float32),
        "label": 2**63 - 1,
        "tags": np.array([np.nan, np.inf, 1, 1], np.float32),
        "image": np.full((1, 2, 2), 255, np.uint8),
        "words": np.arange(200, dtype=np.int16),
        "text": "third\n",
        "wide": np.full(20, 2**31 - 1, np.int32),
    },
]


def write_golden(target: str | Path) -> None:
    # The name of the directory is in the names of the shards.
    with vlpipe.Writer(target, GOLDEN_SCHEMA, num_shards=3) as writer:
        writer.metadata.update(classes=["a", "ä", "あ"], sample_rate=16000)
        for values in GOLDEN_RECORDS:
            writer.write(values)


def test_the_bytes_of_format_version_1(tmp_path: Path) -> None:
    write_golden(tmp_path / "dataset-v1")
    written, golden = contents(tmp_path / "dataset-v1"), contents(GOLDEN)
    assert list(written) == list(golden)
    for name, content in golden.items():
        assert written[name] == content, f"{name} differs: a new layout needs a new format version"


def test_the_golden_dataset_opens() -> None:
    index = open_source(GOLDEN)
    assert index.schema == GOLDEN_SCHEMA
    assert index.frames("features").tolist() == [5, 0, 2]
    assert index.frames("words").tolist() == [3, 0, 200]
    assert index.rows["value:label"].tolist() == [3, -1, 2**63 - 1]
    assert index.metadata == {"classes": ["a", "ä", "あ"], "sample_rate": 16000}
    for row, values in zip(index.rows, GOLDEN_RECORDS, strict=True):
        data = Path(index.shards[row["shard"]].path).read_bytes()[int(row["offset"]) + 12 :][: int(row["bytes"])]
        for suffix, name in (("", "features"), (":image", "image"), (":words", "words")):
            start = int(row[f"start{suffix}"])
            assert data[start : start + values[name].nbytes] == values[name].tobytes()
        assert values["text"].encode() in data


def test_a_dataset_without_text_columns_opens() -> None:
    """As vlpipe wrote datasets before texts had columns: texts are read from the records."""
    source = vlpipe.open(GOLDEN.with_name("dataset-v1-without-texts"))
    assert not source.index.texts
    texts = [values["text"] for values in GOLDEN_RECORDS]
    assert source.table()["text"].tolist() == vlpipe.open(GOLDEN).table()["text"].tolist() == texts
    assert source.select({"text": texts[0]}).table()["id"].tolist() == [0]


def test_the_metadata_of_the_golden_dataset() -> None:
    document = json.loads((GOLDEN / "vlpipe.json").read_text("utf-8"))
    keys = ["format", "version", "schema", "records", "shards", "index", "statistics", "lengths", "texts", "metadata", "digest"]
    assert list(document) == keys
    assert document["texts"] == {"text": ["", "third\n", "žluťoučký kůň 🐎"]}
    assert (document["format"], document["version"], document["records"]) == ("vlpipe", 1, 3)
    assert [shard["name"] for shard in document["shards"]] == [f"dataset-v1-{number:05d}-of-00003.tfrecord" for number in range(3)]
    for shard in document["shards"]:
        content = (GOLDEN / shard["name"]).read_bytes()
        assert shard["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
        assert shard["bytes"] == len(content)
        assert shard["records"] == sum(1 for _ in read_frames(GOLDEN / shard["name"]))
    assert document["lengths"] == {
        "features": [[0, 1], [2, 1], [5, 1]],
        "image": [[0, 1], [1, 1], [2, 1]],
        "words": [[0, 1], [3, 1], [200, 1]],
    }


# ---- content -------------------------------------------------------------------------------------------------------------


def all_records(directory: Path) -> list[bytes]:
    return [frame.data for shard in sorted(directory.glob("*.tfrecord")) for frame in read_frames(shard)]


@given(st.lists(st.integers(0, 5), max_size=9), st.integers(1, 12))
def test_every_record_is_in_one_shard(tmp_path: Path, lengths: list[int], num_shards: int) -> None:
    # The cases include fewer records than shards, one record, and none.
    vlpipe.write(tmp_path / "d", (record(n, number) for number, n in enumerate(lengths)), SCHEMA, num_shards=num_shards, overwrite=True)
    assert len(list((tmp_path / "d").glob("*.tfrecord"))) == num_shards
    assert len(set(all_records(tmp_path / "d"))) == len(lengths)
    assert sorted(open_source(tmp_path / "d").frames("features").tolist()) == sorted(lengths)


def test_the_order_of_writing_is_the_order_of_the_index(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", [record(1, number) for number in range(50)], num_shards=4)
    assert open_source(tmp_path / "d").rows["value:label"].tolist() == list(range(50))


def test_a_shard_is_a_fair_sample(tmp_path: Path) -> None:
    # Sorted input, as from folders of classes: each shard still holds some of each part.
    vlpipe.write(tmp_path / "d", [record(1, number) for number in range(400)], num_shards=4)
    rows = open_source(tmp_path / "d").rows
    table = np.histogram2d(rows["shard"], rows["value:label"] // 100, bins=(4, 4))[0]
    assert table.sum() == 400
    assert table.min() >= 10  # 25 expected; a multinomial falls below 10 once in some thousand


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    for parent in ("a", "b"):
        vlpipe.write(tmp_path / parent / "d", [record(n, n) for n in range(20)], num_shards=3)
    assert contents(tmp_path / "a" / "d") == contents(tmp_path / "b" / "d")


def test_shards_larger_than_the_buffer(tmp_path: Path) -> None:
    big = [np.random.default_rng(number).standard_normal((3000, 50)).astype(np.float32) for number in range(6)]  # 600 kB each
    vlpipe.write(tmp_path / "d", ({"x": x} for x in big), num_shards=2)
    index = open_source(tmp_path / "d")
    for row, x in zip(index.rows, big, strict=True):
        content = Path(index.shards[row["shard"]].path).read_bytes()
        start = int(row["offset"]) + 12 + int(row["start"])
        assert content[start : start + x.nbytes] == x.tobytes()


def test_thousands_of_records(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", (record(n % 7, n) for n in range(3000)), num_shards=2)  # more than one buffer of rows
    assert open_source(tmp_path / "d").rows["value:label"].tolist() == list(range(3000))


def test_statistics_and_lengths_are_those_of_the_frames(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frames = [(random.standard_normal((int(length), 4)) * 3 + 7).astype(np.float32) for length in random.integers(0, 30, 40)]
    frames[0][:, 1] = np.nan
    vlpipe.write(tmp_path / "d", ({"x": x} for x in frames))
    document = json.loads((tmp_path / "d" / "vlpipe.json").read_text())
    whole = np.concatenate(frames).astype(np.float64)
    np.testing.assert_allclose(document["statistics"]["x"]["mean"], np.nanmean(whole, axis=0), rtol=1e-12)
    np.testing.assert_allclose(document["statistics"]["x"]["variance"], np.nanvar(whole, axis=0), rtol=1e-12)
    assert document["statistics"]["x"]["count"] == np.isfinite(whole).sum(axis=0).tolist()
    assert document["statistics"]["x"]["not_finite"] == len(frames[0])
    assert dict(document["lengths"]["x"]) == {length: [len(x) for x in frames].count(length) for length in {len(x) for x in frames}}


def test_numbers_beyond_the_range_of_their_squares_are_written(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", [{"x": np.array([[1e300], [-1e300]])}])
    assert json.loads((tmp_path / "d" / "vlpipe.json").read_text())["statistics"]["x"]["variance"] == [None]
    assert len(open_source(tmp_path / "d")) == 1


def test_no_records_with_a_schema(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", [], SCHEMA, num_shards=3)
    index = open_source(tmp_path / "d")
    assert len(index) == 0
    assert [shard.bytes for shard in index.shards] == [0, 0, 0]


def test_no_records_without_a_schema(tmp_path: Path) -> None:
    with pytest.raises(
        SchemaError, match=r"d: no record was written, so the schema is unknown\. Pass schema=\.\.\. to write an empty dataset\."
    ):
        vlpipe.write(tmp_path / "d", [])
    assert listing(tmp_path) == []


def test_the_schema_follows_from_the_first_record(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", [{"x": np.ones((2, 3), np.int16), "y": 1, "t": "a"}])
    assert open_source(tmp_path / "d").schema == Schema(x=Sequence(3, "int16"), y=Fixed(), t=Text())


@pytest.mark.parametrize("name", ["with space", "ünï漢字", "glob[ab]*?", "#%20", "-d"])
def test_any_name_of_a_target(tmp_path: Path, name: str) -> None:
    for _ in range(2):
        vlpipe.write(tmp_path / name, [record(1)], num_shards=2, overwrite=True)
    assert len(open_source(tmp_path / name)) == 1
    assert listing(tmp_path) == [name]


def test_a_relative_target_stays_where_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with vlpipe.Writer("d") as writer:
        writer.write(record(1))
        monkeypatch.chdir("elsewhere")
    assert listing(tmp_path) == ["d", "elsewhere"]


# ---- refusals --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schema": {"x": 1}}, "schema: came as dict, expected a vlpipe.Schema or None"),
        ({"schema": Sequence(3)}, "schema: came as Sequence"),
        *[
            ({"num_shards": bad}, "num_shards: came as .*, expected an integer from 1 to 100000")
            for bad in (0, -1, 100_001, 1.0, "4", True, None)
        ],
        *[({"path": bad}, "path: came as .*, expected the directory to make") for bad in (None, 3, b"d", "/", "nul\0", "\ud800", ["d"])],
    ],
)
def test_arguments_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError, match=f"^{message}"):
        vlpipe.Writer(**{"path": "d", **arguments})
    assert listing(tmp_path) == []


def test_a_record_that_does_not_fit_is_named_and_nothing_committed(tmp_path: Path) -> None:
    records = [record(1), record(2), {"features": np.ones((1, 2)), "label": 0}]
    with pytest.raises(SchemaError, match=r'd, record 2: "features" has dtype float64, the schema has a Sequence of float32; convert it'):
        vlpipe.write(tmp_path / "d", records, num_shards=2)
    assert listing(tmp_path) == []


def test_a_suppressed_refusal_still_prevents_the_commit(tmp_path: Path) -> None:
    with pytest.raises(VlpipeError) as caught, vlpipe.Writer(tmp_path / "d", SCHEMA) as writer:  # noqa: PT012
        writer.write(record(1))
        with pytest.raises(SchemaError):
            writer.write({"features": None, "label": 0})
        with pytest.raises(SchemaError):
            writer.write({})
        writer.write(record(2))
    text = str(caught.value)
    assert text.startswith(f'{tmp_path / "d"}: not committed, because a record was not written: {tmp_path / "d"}, record 1: "features" has')
    assert text.endswith("To leave records out, test them with Schema.check before you write them.")
    assert listing(tmp_path) == []


def test_a_suppressed_interrupt_prevents_the_commit_too(tmp_path: Path) -> None:
    class Interrupting:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            raise KeyboardInterrupt

    with pytest.raises(VlpipeError, match="a record was not written: KeyboardInterrupt"), vlpipe.Writer(tmp_path / "d", SCHEMA) as writer:  # noqa: PT012
        with pytest.raises(KeyboardInterrupt):
            writer.write({"features": Interrupting(), "label": 0})
        writer.write(record(1))
    assert listing(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("old", [False, True])
def test_an_exception_in_the_block_leaves_the_target_as_it_was(tmp_path: Path, error: type[BaseException], old: bool) -> None:
    if old:
        vlpipe.write(tmp_path / "d", [record(9, 9)])
    before = contents(tmp_path)

    def records() -> Iterator[dict[str, Any]]:
        yield record(1)
        raise error("stop")

    with pytest.raises(error, match="stop"):
        vlpipe.write(tmp_path / "d", records(), overwrite=True)
    assert contents(tmp_path) == before
    assert listing(tmp_path) == ["d"] * old


def test_a_closed_writer_takes_no_records(tmp_path: Path) -> None:
    with vlpipe.Writer(tmp_path / "d") as writer:
        writer.write(record(1))
    writer.close()
    writer.abort()
    with pytest.raises(VlpipeError, match=r"d: this writer is closed; open another one\."):
        writer.write(record(1))
    assert len(open_source(tmp_path / "d")) == 1


def test_a_record_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlpipe.storage.shard_writer.MAX_RECORD_BYTES", 1000)
    with pytest.raises(
        SchemaError, match=r"d, record 1: takes \d{4} bytes, a TFRecord Example can hold 1000\. Cut it into shorter records\."
    ):
        vlpipe.write(tmp_path / "d", [record(1), record(200)])
    assert listing(tmp_path) == []


@pytest.mark.parametrize(
    "metadata",
    [{"a": np.float32(1)}, {"a": math.nan}, {"a": {1, 2}}, {"a": "\ud800"}, {(1, 2): 3}, {"a": b"x"}],
    ids=["numpy", "NaN", "set", "lone surrogate", "tuple as key", "bytes"],
)
def test_metadata_that_json_cannot_express(tmp_path: Path, metadata: dict[Any, Any]) -> None:
    writer = vlpipe.Writer(tmp_path / "d")
    writer.metadata.update(metadata)
    writer.write(record(1))
    with pytest.raises(ArgumentError, match=r"d: Writer\.metadata holds a value that JSON cannot express \("):
        writer.close()
    assert listing(tmp_path) == []


def test_metadata_that_are_not_a_dict(tmp_path: Path) -> None:
    writer = vlpipe.Writer(tmp_path / "d")
    writer.metadata = ["a"]  # type: ignore[assignment]
    writer.write(record(1))
    with pytest.raises(ArgumentError, match=r"d: Writer\.metadata is list, expected a dict"):
        writer.close()
    assert listing(tmp_path) == []


# ---- a target that exists --------------------------------------------------------------------------------------------------------


def test_a_dataset_is_replaced_only_on_request(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", [record(1)], num_shards=5)
    with pytest.raises(DatasetExistsError, match=r"d: exists already\. Pass overwrite=True"):
        vlpipe.write(tmp_path / "d", [record(2)])
    vlpipe.write(tmp_path / "d", [record(2), record(3)], num_shards=2, overwrite=True)
    assert open_source(tmp_path / "d").frames("features").tolist() == [2, 3]
    assert listing(tmp_path / "d") == ["d-00000-of-00002.tfrecord", "d-00001-of-00002.tfrecord", "index.npy", "vlpipe.json"]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (["thesis.txt"], "it holds no vlpipe.json and so is not a vlpipe dataset"),
        (["a.tfrecord", "index.npy"], "it holds no vlpipe.json"),
        (["vlpipe.json"], "its vlpipe.json is not one that vlpipe wrote"),
        (["d/notes.txt"], r"it also holds \['notes.txt'\], which vlpipe did not write"),
        (["d/mine.tfrecord"], r"it also holds \['mine.tfrecord'\]"),
        (["d/.hidden"], r"it also holds \['.hidden'\]"),
        (["d/mine-00000-of-00001.tfrecord/photo.jpg"], r"it also holds \['mine-00000-of-00001.tfrecord'\]"),
        ([f"d/{letter}" for letter in "gfedcba"], r"it also holds \['a', 'b', 'c', 'd', 'e'\]"),
    ],
)
def test_a_users_files_are_never_removed(tmp_path: Path, files: list[str], reason: str) -> None:
    target = tmp_path / "target"
    if files[0].startswith("d/"):  # beside a dataset
        vlpipe.write(target, [record(1)])
    for file in files:
        path = target / file.removeprefix("d/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious")
    before = contents(tmp_path)
    with pytest.raises(DatasetExistsError, match=f"target: not replaced, because {reason}.*Choose another target, or remove it yourself"):
        vlpipe.write(target, [record(2)], overwrite=True)
    assert contents(tmp_path) == before


def test_a_damaged_dataset_can_be_replaced(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", [record(1)])
    os.truncate(tmp_path / "d" / "vlpipe.json", 40)
    vlpipe.write(tmp_path / "d", [record(2)], overwrite=True)
    assert open_source(tmp_path / "d").frames("features").tolist() == [2]


def test_a_reader_of_the_old_dataset_is_not_disturbed(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", [record(n, n) for n in range(9)])
    index = open_source(tmp_path / "d")
    vlpipe.write(tmp_path / "d", [record(2)], overwrite=True)
    assert index.rows["value:label"].tolist() == list(range(9))  # mapped from a file that is already unlinked


# ---- errors of the system ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["while records come", "at the end"])
def test_a_full_disk_commits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    vlpipe.write(tmp_path / "d", [record(9)])
    before = contents(tmp_path)

    def full(path: Path) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    if when == "while records come":
        monkeypatch.setattr("vlpipe.storage.shard_writer._BUFFER_BYTES", 10)
    monkeypatch.setattr("vlpipe.storage.shard_writer.open_to_append", full)
    with pytest.raises(DatasetError, match=r"d: cannot be written \(No space left on device\); nothing is committed\. Make room for it"):
        vlpipe.write(tmp_path / "d", [record(1), record(2)], overwrite=True)
    monkeypatch.undo()
    assert contents(tmp_path) == before
    assert listing(tmp_path) == ["d"]


def test_a_really_full_disk(tmp_path: Path) -> None:
    # The kernel refuses a file of more than 64 KiB: the closest to a full disk that needs no separate disk.
    code = (
        "import numpy as np, resource, signal, sys, vlpipe\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "try: vlpipe.write(sys.argv[1], ({'x': np.ones((1000, 4), np.float32)} for _ in range(200)), num_shards=1)\n"
        "except vlpipe.DatasetError as error: print(error)\n"
    )
    output = subprocess.run([sys.executable, "-c", code, str(tmp_path / "d")], capture_output=True, text=True, check=True).stdout
    assert "d: cannot be written (File too large); nothing is committed" in output
    assert listing(tmp_path) == []


# ---- two processes, and kills ----------------------------------------------------------------------------------------------------


def test_the_second_process_fails_at_once_and_names_the_first(tmp_path: Path) -> None:
    with vlpipe.Writer(tmp_path / "d") as writer:
        writer.write(record(1))
        code = f"import vlpipe; vlpipe.Writer({str(tmp_path / 'd')!r}, overwrite=True)"
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert second.returncode == 1
        assert f"DatasetExistsError: {tmp_path / 'd'}: is being written by process {os.getpid()} on " in second.stderr
    assert len(open_source(tmp_path / "d")) == 1


# Reads lines of JSON (target, where to die) and forks for each a child that writes the new dataset and is killed there: a fork takes
# milliseconds, a new Python a third of a second. `after` kills by the clock, from outside; `line` at the n-th line of our code that
# runs, so that no step of the commit is left out however short it is.
DRIVER = """
import json, os, signal, sys, time
import numpy as np
from vlpipe.storage.writer import Writer
from vlpipe.files import atomic_directory

def write(target):
    with Writer(target, num_shards=3, overwrite=True) as writer:
        for n in range(int(sys.argv[1])):
            writer.write({"x": np.full((n % 5 + 100, 40), n, np.float32), "y": n})

def die_at(line, code_files):
    seen = 0
    def trace(frame, event, argument):
        nonlocal seen
        if frame.f_code.co_filename not in code_files:
            return None
        if event == "line":
            seen += 1
            if seen == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)
    return lambda: seen

for text in sys.stdin:
    order = json.loads(text)
    read_end, write_end = os.pipe()
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        lines = die_at(order["line"], {atomic_directory.__file__}) if order.get("line") is not None else lambda: 0
        write(order["target"])
        sys.settrace(None)
        os.write(write_end, str(lines()).encode())
        os._exit(0)
    if order.get("after") is not None:
        time.sleep(order["after"])
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    os.close(write_end)
    lines = os.read(read_end, 100)
    os.close(read_end)
    print(json.dumps({"killed": os.WIFSIGNALED(status), "lines": int(lines or 0), "seconds": time.perf_counter() - started}), flush=True)
"""


class Killer:
    """The driver above, and the checks after each kill."""

    def __init__(self, directory: Path, records: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(records)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.parent = directory / "data"
        self.target = self.parent / "train"
        self.seen = {"absent": 0, "old": 0, "new": 0}
        vlpipe.write(self.target, [{"x": np.zeros((n, 40), np.float32), "y": -n} for n in range(5)], num_shards=2)
        self.old = contents(self.target)
        shutil.rmtree(self.target)
        self.duration = self.write()["seconds"]
        self.new = contents(self.target)

    def write(self, **where: float) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"target": str(self.target), **where}), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def prepare(self, old: bool) -> None:
        shutil.rmtree(self.parent)
        self.parent.mkdir()
        if old:
            self.target.mkdir()
            for name, content in self.old.items():
                (self.target / name).write_bytes(content)

    def kill(self, old: bool, **where: float) -> None:
        self.prepare(old)
        killed = self.write(**where)["killed"]
        files = contents(self.target) if self.target.exists() else {}
        state = "absent" if not self.target.exists() else "old" if files == self.old else "new" if files == self.new else "partial"
        assert state in (("old", "new") if old else ("absent", "new")), f"killed at {where}: {state}, {list(files)}"
        assert killed or state == "new"
        self.seen[state] += 1
        # The next writer removes the leftovers and writes its dataset.
        assert not self.write()["killed"]
        assert contents(self.target) == self.new
        assert listing(self.parent) == ["train"]


@pytest.fixture
def killer(request: pytest.FixtureRequest) -> Iterator[Killer]:
    with in_memory() as directory:
        killer = Killer(directory, records=request.param)
        yield killer
        killer.process.communicate()


BOTH = pytest.mark.parametrize("old", [False, True], ids=["new target", "over an old dataset"])


@BOTH
@pytest.mark.parametrize("killer", [20], indirect=True)
def test_killed_at_fifty_points_spread_over_a_write(killer: Killer, old: bool) -> None:
    for point in range(50):
        killer.kill(old, after=killer.duration * 1.1 * point / 49)
    assert killer.seen["old" if old else "absent"] >= 10, "the kills came too late to test anything"


@BOTH
@pytest.mark.parametrize("killer", [3], indirect=True)
def test_killed_at_each_line_of_the_commit(killer: Killer, old: bool) -> None:
    killer.prepare(old)
    lines = killer.write(line=10**9)["lines"]  # beyond the last line: it survives, and counts the lines
    assert lines > 40
    for line in range(1, lines + 1):
        killer.kill(old, line=line)
    assert killer.seen["new"] > 2
    assert killer.seen["old" if old else "absent"] > 20
