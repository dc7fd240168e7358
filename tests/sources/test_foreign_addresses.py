"""Third-party TFRecord files at an address, tested on TensorFlow's in-memory file system."""

from __future__ import annotations

import gzip
import itertools
import json
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

import vlpipe
from tests.engines.test_engines import digest
from tests.helpers.foreign_files import example, floats, ints, prepared_directory, read, write
from tests.layouts.test_seqio import FEATURES, INPUTS, LENGTHS, RECORDS, TARGETS
from tests.layouts.test_seqio import cache as cached_task
from tests.sources.test_open import WAY_TO_A_FILE_SYSTEM
from vlpipe import cli
from vlpipe.errors import ArgumentError, DatasetError
from vlpipe.files import compression, filesystem
from vlpipe.sources.foreign import build_index as build
from vlpipe.sources.foreign import cache, index_file

pytestmark = pytest.mark.usefixtures("quick_graphs")

LAYOUT = vlpipe.layouts.float_list("x", d=5, label="label")
NUMBERS = itertools.count()


def record(frames: int, label: int) -> bytes:
    return example({"x": floats(np.arange(5 * frames) + label), "label": ints(label), "n": ints(frames)})


def put(address: str, content: bytes) -> None:
    """Replace a file; the in-memory file system would append to an existing one."""
    if tf.io.gfile.exists(address):
        tf.io.gfile.remove(address)
    with tf.io.gfile.GFile(address, "wb") as file:
        file.write(content)


def upload(directory: Path) -> str:
    """Copy the files of a directory to a new address."""
    address = f"ram://others-{next(NUMBERS)}/data"
    tf.io.gfile.makedirs(address)
    for path in directory.iterdir():
        if path.is_file():
            put(f"{address}/{path.name}", path.read_bytes())
    return address


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four files, one of them empty."""
    for name, count in (("a", 7), ("b", 0), ("c", 11), ("d", 3)):
        write(tmp_path / "d" / f"{name}.tfrecord", [record((3 * k + count) % 8, 10 * k + count) for k in range(count)])
    (tmp_path / "d" / "README").write_text("no records")
    return tmp_path / "d"


@pytest.fixture
def address(source: Path) -> str:
    return upload(source)


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The indexed files, in order."""
    names: list[str] = []

    def recording_extract(path: str, layout: vlpipe.layouts.Layout) -> index_file.Table:
        names.append(path)
        return index_file.extract(path, layout)

    monkeypatch.setattr(build, "extract", recording_extract)
    return names


@pytest.fixture
def transferred(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The number of bytes read from each file."""
    counts: Counter[str] = Counter()
    plain = filesystem._Remote.readinto

    def counted(remote: Any, buffer: Any) -> int:
        count = plain(remote, buffer)
        counts[remote._address] += count
        return count

    monkeypatch.setattr(filesystem._Remote, "readinto", counted)
    return counts


def ways(address: str) -> dict[str, Any]:
    names = ("a", "b", "c", "d")
    return {
        "directory": address,
        "with a slash": f"{address}/",
        "glob": f"{address}/*.tfrecord",
        "list": [f"{address}/{name}.tfrecord" for name in names],
        "list of globs": [f"{address}/[ab].*", f"{address}/[cd].*"],
        "iterator": (f"{address}/{name}.tfrecord" for name in names),
    }


@pytest.mark.parametrize("engine", ["auto", "graph", "stream"])
def test_the_batches_are_those_of_the_local_files(source: Path, address: str, engine: str) -> None:
    arguments: dict[str, Any] = {"layout": LAYOUT, "batch_size": 4, "seed": 3, "lengths": True, "ids": True, "length_range": (0, None)}
    expected = digest(vlpipe.make_dataset(source, engine="graph" if engine == "auto" else engine, **arguments), 2)
    every = list(ways(address).values())
    if engine == "auto":  # how files are named is the same for all engines
        found = [vlpipe.plan(way, **arguments).state(0, 0) for way in every]
        assert found == [vlpipe.plan(source, **arguments).state(0, 0)] * len(every)
        every = [*ways(address).values()][-1:]
    for way in {"auto": every, "graph": every[:1], "stream": every[-1:]}[engine]:
        assert digest(vlpipe.make_dataset(way, engine=engine, **arguments), 2) == expected
    assert digest(vlpipe.make_dataset(source, **arguments), 2) == expected or engine == "stream"  # mapped
    plan = vlpipe.plan(address, engine=engine, **arguments)
    assert plan.engine == ("graph" if engine == "auto" else engine)
    if engine != "stream":
        assert plan.state(1, 2) == vlpipe.plan(source, **arguments).state(1, 2)


def test_the_layout_of_a_single_file_is_detected(source: Path, address: str) -> None:
    with tf.io.gfile.GFile(f"{address}/c.tfrecord", "rb") as file:
        assert file.read() == (source / "c.tfrecord").read_bytes()
    frames, labels, _ = read(f"{address}/c.tfrecord", "graph")
    assert [len(frames[number]) for number in range(11)] == [(3 * k + 11) % 8 for k in range(11)]
    assert labels == {number: 10 * number + 11 for number in range(11)}
    assert vlpipe.plan(iter([f"{address}/c.tfrecord"]), length_range=(0, None)).total == 11
    index = vlpipe.build_index(f"{address}/c.tfrecord")
    assert index.metadata["layout"] == "float_list"
    assert index.shards[0].path == f"{address}/c.tfrecord"
    assert index.where(2) == f"c.tfrecord, record 2 at byte {index.rows['offset'][2]}"
    with pytest.raises(ArgumentError, match='engine="mapped": only local files can be mapped into memory. Use engine="graph"'):
        vlpipe.make_dataset(f"{address}/c.tfrecord", engine="mapped")


def test_paths_and_addresses_together(source: Path, address: str) -> None:
    paths = [str(source / "a.tfrecord"), f"{address}/c.tfrecord"]
    index = vlpipe.build_index(paths, LAYOUT)
    assert [shard.path for shard in index.shards] == paths
    dataset = vlpipe.make_dataset(paths, layout=LAYOUT, length_range=(0, None))
    assert sum(len(y) for _, y in dataset) == len(index) == 18


def test_each_file_is_read_once_to_index_it(
    tmp_path: Path, indexed: list[str], transferred: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem, "BUFFER_BYTES", 4096)
    path = write(tmp_path / "big" / "a.tfrecord", [record(3000, number) for number in range(100)])
    size = path.stat().st_size
    address = f"{upload(path.parent)}/a.tfrecord"
    seen: list[tuple[int, int]] = []
    first = vlpipe.build_index(address, LAYOUT, progress=lambda *done: seen.append(done))
    assert seen == [(0, 1), (1, 1)]
    sampled = int(first.rows["bytes"][:33].sum())
    assert size < transferred[address] < size + sampled + 20 * 4096
    transferred.clear()
    again = vlpipe.build_index(address, LAYOUT)
    assert indexed == [address]
    assert np.array_equal(first.rows, again.rows)
    assert first.fingerprint == again.fingerprint
    # Only head and tail, and the first records, which complete the layout.
    assert transferred[address] < sampled + 20 * 4096 < size / 2
    assert len(list((tmp_path / "cache" / "vlpipe" / "index").glob("*/a.tfrecord-*"))) == 1
    identity = cache.identity(address)
    assert (identity["bytes"], identity["digest"]) == (size, cache.identity(path)["digest"])


def test_a_changed_file_is_indexed_again(address: str, indexed: list[str], tmp_path: Path) -> None:
    pattern = f"{address}/*.tfrecord"
    assert vlpipe.build_index(pattern, LAYOUT).rows["value:label"].tolist()[:2] == [7, 17]
    indexed.clear()
    put(f"{address}/a.tfrecord", filesystem.open_file(f"{address}/d.tfrecord").read())
    assert vlpipe.build_index(pattern, LAYOUT).rows["value:label"].tolist()[:2] == [3, 13]
    assert indexed == [f"{address}/a.tfrecord"]
    content = filesystem.open_file(f"{address}/c.tfrecord").read()
    offset = int(vlpipe.build_index(f"{address}/c.tfrecord", LAYOUT).rows["offset"][1])
    put(f"{address}/c.tfrecord", content[offset:] + content[:offset])  # of the same size
    assert vlpipe.build_index(pattern, LAYOUT).rows["value:label"].tolist()[3:5] == [21, 31]
    assert indexed == [f"{address}/a.tfrecord", f"{address}/c.tfrecord"]
    large = write(tmp_path / "large.tfrecord", [record(900, 1), record(900, 2)]).read_bytes()
    place, layout = f"{address}/large.tfrecord", build.choose_layout([f"{address}/a.tfrecord"], LAYOUT)
    put(place, large)
    build.index_file(place, layout)
    for content, same in ((large, True), (large[:-1] + b"?", False), (b"?" + large[1:], False), (large, True)):
        put(place, content)
        assert (cache.load(place, layout) is not None) == same


def test_a_changed_modification_time_is_detected(address: str, indexed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tf.io.gfile.stat
    time = 0

    def known(path: str) -> SimpleNamespace:
        stat = plain(path)
        return SimpleNamespace(length=stat.length, mtime_nsec=time, is_directory=stat.is_directory)

    monkeypatch.setattr(tf.io.gfile, "stat", known)
    for time in (5, 5, 7):  # noqa: B007
        vlpipe.build_index(f"{address}/a.tfrecord", LAYOUT)
    assert len(indexed) == 2


def test_directories_in_a_bucket_end_with_a_slash(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tf.io.gfile.listdir
    monkeypatch.setattr(tf.io.gfile, "listdir", lambda path: [*plain(path), "old.tfrecords/"])
    assert len(vlpipe.build_index(address, LAYOUT)) == 21


def test_a_file_whose_index_cannot_be_cached_is_indexed_again(
    address: str, indexed: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("in the way")
    for _ in range(2):
        assert len(vlpipe.build_index(f"{address}/a.tfrecord", LAYOUT)) == 7
    assert len(indexed) == 2
    assert "a.tfrecord: the index cannot be cached, neither beside the file nor in the user's cache directory" in caplog.text


def test_a_file_that_changes_or_is_cut_while_it_is_read_is_an_error_that_names_it(
    address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = write(tmp_path / "big.tfrecord", [record(900, number) for number in range(300)])
    content = path.read_bytes()
    place = f"{address}/big.tfrecord"
    layout = build.choose_layout([f"{address}/a.tfrecord"], LAYOUT)

    def indexed_while(meanwhile: bytes, *, copied: bool) -> None:
        """Index the file and replace it when half of it, or all of it, is copied."""

        def extracted(path: str, layout: vlpipe.layouts.Layout) -> index_file.Table:
            plain = filesystem._Remote.readinto

            def slow(remote: Any, buffer: Any) -> int:
                if remote._at > len(content) // 2:
                    put(place, meanwhile)
                    remote._file = tf.io.gfile.GFile(place, "rb")  # in memory, an open file keeps its old content
                return plain(remote, buffer)

            with monkeypatch.context() as patch:
                if not copied:
                    patch.setattr(filesystem._Remote, "readinto", slow)
                table = index_file.extract(path, layout)
            put(place, meanwhile)
            return table

        put(place, content)
        with monkeypatch.context() as patch:
            patch.setattr(build, "extract", extracted)
            build.index_file(place, layout)

    for meanwhile in (content[: len(content) // 3], b""):
        message = rf"^{place}: (cannot be read from byte \d+ on|ends after \d+ bytes, it had {len(content)} when)"
        with pytest.raises(DatasetError, match=message):
            indexed_while(meanwhile, copied=False)
    for meanwhile in (content[:-100], content[:2000] + bytes(9), content + content):
        with pytest.raises(DatasetError, match=rf"^{place}: was changed while it was indexed"):
            indexed_while(meanwhile, copied=True)


def test_a_remote_file_that_ends_too_early_is_an_error(address: str) -> None:
    place = f"{address}/x"
    put(place, bytes(1 << 20))
    with filesystem.open_file(place) as file:
        put(place, bytes(100))
        with pytest.raises(DatasetError, match=rf"{place}: ends after 100 bytes, it had 1048576 when it was opened: it was cut meanwhile"):
            file.read()
    put(place, bytes(1 << 20))
    with filesystem.open_file(place) as file:
        file.seek(1 << 19)
        put(place, bytes(100))
        with pytest.raises(DatasetError, match=rf"{place}: cannot be read from byte 524288 on \(.*end of file.*Try again, or copy"):
            file.read()


@pytest.mark.parametrize("engine", ["graph", "stream"])
def test_a_file_truncated_after_indexing_is_named_when_it_is_read(address: str, engine: str) -> None:
    place = f"{address}/c.tfrecord"
    dataset = vlpipe.make_dataset(place, layout=LAYOUT, engine=engine, batch_size=2, length_range=(0, None))
    index = vlpipe.build_index(place, LAYOUT)
    where, size = index.where(10), int(index.rows["bytes"][10])
    content = filesystem.open_file(place).read()
    put(place, content[:-5])
    problem = {"graph": "TensorFlow cannot read the record. The", "stream": "cannot be read; read 10 of 11 records. The"}[engine]
    # Another batch, or the size of the file, may be tested first.
    other = f"|c.tfrecord: does not have the {len(content)} bytes that were indexed" if engine == "graph" else ""
    with pytest.raises(tf.errors.OpError, match=f"{where}: {problem}{other}"):
        list(dataset)
    with pytest.raises(DatasetError, match=f"{where}: the header announces {size} bytes of data, of which the file has {size - 5}. "):
        vlpipe.make_dataset(place, layout=LAYOUT)


def test_a_full_disk_while_a_file_is_copied(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compression.shutil, "copyfileobj", full)
    with pytest.raises(DatasetError, match=rf"{address}/a.tfrecord: cannot be copied into .* \(No space left on device\). Make room there"):
        vlpipe.build_index(f"{address}/a.tfrecord", LAYOUT)


def test_compressed_files(source: Path, address: str) -> None:
    put(f"{address}/z.tfrecord.gz", gzip.compress((source / "c.tfrecord").read_bytes()))
    frames, labels, _ = read(f"{address}/z.tfrecord.gz", "auto", layout=LAYOUT)
    expected, those, _ = read(source / "c.tfrecord", "graph", layout=LAYOUT)
    assert all(np.array_equal(frames[number], expected[number]) for number in expected)
    assert labels == those
    assert vlpipe.plan(f"{address}/z.tfrecord.gz", layout=LAYOUT, length_range=(0, None)).engine == "stream"
    put(f"{address}/z.tfrecord.gz", gzip.compress((source / "c.tfrecord").read_bytes())[:-20])
    with pytest.raises(DatasetError, match=rf"^{address}/z.tfrecord.gz: the file is damaged or was cut: its GZIP data cannot be"):
        vlpipe.build_index(f"{address}/z.tfrecord.gz", LAYOUT)


def test_sidecars_at_an_address(tmp_path: Path) -> None:
    address = upload(cached_task(tmp_path / "task", {"train": [RECORDS[:4], RECORDS[4:7]], "test": [RECORDS[7:]]}))
    frames, targets, lengths = read(f"{address}/train.tfrecord-*", "graph", features="inputs")
    for number in range(7):
        assert np.array_equal(frames[number], INPUTS[number])
        assert targets[number][: lengths[number]].tolist() == TARGETS[number]
    assert vlpipe.build_index(f"{address}/test*").metadata["layout"] == "seqio"
    with pytest.raises(ArgumentError, match=rf"{address} has the splits \['test', 'train'\], .* {address}/train.tfrecord-\*-of-00002"):
        vlpipe.build_index(address)
    put(f"{address}/stats.test.json", b'{"examples": 4}')
    with pytest.raises(DatasetError, match=rf"{address}: 1 files of the split 'test' hold 3 records, but stats.test.json specifies 4"):
        vlpipe.build_index(f"{address}/test*")
    tensor = {"tensor": {"shape": {"dimensions": ["-1", "5"]}, "dtype": "float32", "encoding": "none"}}
    records = [example({"inputs": floats(values)}) for values in INPUTS]
    address = upload(prepared_directory(tmp_path / "tfds", records, {"inputs": tensor}))
    assert vlpipe.build_index(address).frames("inputs").tolist() == LENGTHS
    assert FEATURES["inputs"]["shape"] == [None, 5]


def test_missing_files_are_named(address: str) -> None:
    missing = f"{address}/nothing.tfrecord"
    for source in (missing, [f"{address}/a.tfrecord", missing]):
        with pytest.raises(DatasetError, match=rf"^{missing}: cannot be read \(.*\). Pass TFRecord files, a glob, or a directory"):
            vlpipe.build_index(source, LAYOUT)
    with pytest.raises(DatasetError, match=rf"^{missing}: cannot be read \("):
        vlpipe.plan([f"{address}/a.tfrecord", missing])
    with pytest.raises(DatasetError, match=rf"{missing}/vlpipe.json: cannot be read"):
        vlpipe.plan(missing)
    with pytest.raises(DatasetError, match=rf"^{address}/\*.gz: the glob matches no file. Check the pattern and the access rights"):
        vlpipe.plan(f"{address}/*.gz")
    way = re.escape(WAY_TO_A_FILE_SYSTEM)
    with pytest.raises(DatasetError, match=rf"^nosuch://b/\*: the glob cannot be expanded \(.*{way}.*\). Pass the paths of its files"):
        vlpipe.plan("nosuch://b/*")
    with pytest.raises(DatasetError, match=rf"^nosuch://b/x: cannot be read \(.*{way}.*\). Pass TFRecord files"):
        vlpipe.plan("nosuch://b/x", layout=LAYOUT)
    tf.io.gfile.makedirs(f"{address}/empty")
    with pytest.raises(DatasetError, match=rf"^{address}/empty: has no file with .tfrecord in its name"):
        vlpipe.build_index(f"{address}/empty")
    with pytest.raises(DatasetError, match=rf"^{address}/empty/vlpipe.json: cannot be read"):
        vlpipe.plan(f"{address}/empty")
    with pytest.raises(ArgumentError, match=rf"source: {address}/a.tfrecord or another file is named twice"):
        vlpipe.build_index([f"{address}/a.tfrecord", address], LAYOUT)
    with pytest.raises(DatasetError, match=rf"^{missing}: cannot be indexed \(.*\), expected a TFRecord file"):
        build.index_file(missing, LAYOUT)


def test_a_directory_that_cannot_be_listed(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(directory: str) -> list[str]:
        raise tf.errors.PermissionDeniedError(None, None, f"no access to {directory}")

    monkeypatch.setattr(tf.io.gfile, "listdir", denied)
    with pytest.raises(DatasetError, match=rf"^{address}: cannot be listed \(no access to {address}\). Pass the paths of its files"):
        vlpipe.plan(address, layout=LAYOUT)
    assert len(vlpipe.build_index(f"{address}/a.tfrecord", LAYOUT)) == 7  # the sidecars are skipped


def test_own_and_third_party_files_cannot_be_read_together(source: Path, address: str, tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "own", [{"x": np.ones((2, 3), np.float32)}])
    own = upload(tmp_path / "own")
    for mixed in ([own, address], [f"{address}/a.tfrecord", own], [f"{own}/*.tfrecord", f"{address}/*.tfrecord"]):
        with pytest.raises(ArgumentError, match=rf"source: vlpipe wrote {own}\S*, but not {address}\S*; they cannot be read together"):
            vlpipe.plan(mixed)
    with pytest.raises(
        ArgumentError, match=r"source: vlpipe wrote .*/own, but not .*/a.tfrecord; they cannot be read together. Read them separately"
    ):
        vlpipe.plan([tmp_path / "own", source / "a.tfrecord"])
    assert vlpipe.plan(own).total == 1
    with pytest.raises(DatasetError, match="addresses are not supported inside a list or glob, and ~ is not expanded"):
        vlpipe.plan([own])
    with pytest.raises(DatasetError, match=r"/\*.tfrecord/vlpipe.json: cannot be read .*Pass the address of a dataset directory"):
        vlpipe.plan(f"{own}/*.tfrecord")


def test_the_command_line(address: str) -> None:
    run = CliRunner().invoke
    report = json.loads(run(cli.main, ["inspect", f"{address}/*.tfrecord", "--json"]).stdout)
    assert (report["files"], report["layout"], report["records_read"]) == (4, "float_list", 21)
    assert report["bytes"] == sum(tf.io.gfile.stat(path).length for path in tf.io.gfile.glob(f"{address}/*.tfrecord"))
    arguments = ["index", f"{address}/*.tfrecord", "--layout", '{"float_list": {"key": "x", "d": 5}}', "--workers", "2"]
    assert "4 files, 21 records" in run(cli.main, arguments).stdout


def test_a_custom_layout(source: Path, address: str) -> None:
    def parse(data: tf.Tensor) -> tf.Tensor:
        spec = {"x": tf.io.FixedLenSequenceFeature([5], tf.float32, allow_missing=True)}
        return tf.ensure_shape(tf.io.parse_single_example(data, spec)["x"], [None, 5])

    layout = vlpipe.layouts.Layout.custom(parse)
    arguments: dict[str, Any] = {"layout": layout, "seed": 1, "length_range": (0, None), "engine": "graph"}
    assert digest(vlpipe.make_dataset(address, **arguments)) == digest(vlpipe.make_dataset(source, **arguments))
