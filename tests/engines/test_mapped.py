"""The mapped and graph engines on files that change: never wrong frames, always the record's place; and constant memory."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from tests.engines.test_stream import cuts_and_flips, framed, share_of
from vlpipe.engines import mapped, mapped_shards
from vlpipe.engines.batch_reader import BLOCK_STEPS, BatchReader
from vlpipe.planning.make_plan import make_plan
from vlpipe.planning.options import Options
from vlpipe.sources.native import open_source

pytestmark = pytest.mark.usefixtures("quick_graphs")

ENGINES = ("mapped", "graph")
BATCHINGS = ("bucket", "pad", "ragged", "same_length")


def make(path: Path, scale: float = 1) -> Path:
    """Five records of 1 to 3 frames in one shard."""
    records = [{"features": np.full((1 + number % 3, 2), number * scale, np.float32), "label": number} for number in range(5)]
    vlpipe.write(path, records, num_shards=1)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make(tmp_path / "data")


@pytest.fixture
def shard(source: Path) -> Path:
    return next(source.glob("*.tfrecord"))


def read(dataset: tf.data.Dataset) -> list[float]:
    """The first value of each record, which equals its label, in the order of the labels."""
    found = []
    for x, y in dataset:
        x = x.to_tensor() if isinstance(x, tf.RaggedTensor) else x
        found += zip(y.numpy().tolist(), x[:, 0, 0].numpy().tolist(), strict=True)
    return [value for _, value in sorted(found)]


def failure(dataset: tf.data.Dataset) -> str:
    with pytest.raises(tf.errors.OpError) as caught:
        read(dataset)
    return str(caught.value.message).replace("\\", "")


@pytest.mark.parametrize(("engine", "batching"), [*(("mapped", batching) for batching in BATCHINGS), ("graph", "bucket")])
def test_each_cut_and_each_flipped_byte_is_reported_with_the_place(source: Path, shard: Path, engine: str, batching: str) -> None:
    index = open_source(source)
    last = int(index.by_shard()[-1])
    row = index.rows[last]
    whole = shard.read_bytes()
    dataset = vlpipe.make_dataset(source, engine=engine, batching=batching, batch_size=2)
    assert read(dataset) == [0, 1, 2, 3, 4]
    damages = share_of(cuts_and_flips(shard, row), batching)
    for damage, content in damages if engine == "mapped" else itertools.islice(damages, 0, None, 2):  # the graph is made anew for each
        if engine == "mapped" and damage.startswith("flipped"):
            position = int(damage.split()[-1]) - int(row["offset"])
            if not 12 <= position < 12 + int(row["bytes"]):
                continue  # the framing, which this engine does not read: it compares the checksum in the index
        replace(shard, content)
        message = failure(dataset)
        if engine == "mapped" and damage.startswith("cut"):
            sizes = f"has {len(content)} bytes, expected {len(whole)} with 5 records"
            assert f"{shard}: {sizes}: the file was cut after it was written. Restore it from a copy" in message, damage
        elif engine == "mapped":
            assert f"{index.where(last)}: the checksum of its {row['bytes']} bytes of data is" in message, damage
            assert f", the index says {row['checksum']:08x}. The file is damaged, or was changed or replaced" in message, damage
        else:
            found = "TensorFlow cannot read the record. The file is damaged, or was changed"
            size = f"{shard.name}: does not have the {len(whole)} bytes that were indexed. The file is damaged"  # of another batch's record
            assert f"{index.where(last)}: {found}" in message or (damage.startswith("cut") and size in message), damage
    replace(shard, whole)
    assert read(dataset) == [0, 1, 2, 3, 4]


def replace(path: Path, content: bytes) -> None:
    """Replace a file in one step."""
    path.with_suffix(".new").write_bytes(content)
    os.replace(path.with_suffix(".new"), path)


def test_bytes_that_change_in_place_are_found(source: Path, shard: Path) -> None:
    """Also where the file keeps its size and its time, so that nothing but the bytes tells."""
    dataset = vlpipe.make_dataset(source, batch_size=2, verify="always")
    assert read(dataset) == [0, 1, 2, 3, 4]
    index, before = open_source(source), shard.stat()
    position = int(index.rows["offset"][0]) + 20
    with shard.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert f"{index.where(0)}: the checksum of its" in failure(dataset)


@pytest.mark.parametrize("engine", ENGINES)
def test_another_file_in_the_place_of_the_shard_is_found(source: Path, shard: Path, tmp_path: Path, engine: str) -> None:
    index = open_source(source)
    # Record 0 contains zeros in both files.
    wrong = [f"{index.where(row)}: the checksum of its {index.rows['bytes'][row]} bytes of data is" for row in range(1, 5)]
    ends = [row for row in index.by_shard()[[0, -1]].tolist() if row]
    other = next(make(tmp_path / "other", scale=-1).glob("*.tfrecord"))
    assert other.stat().st_size == shard.stat().st_size  # the same lengths, undamaged: only the checksums in the index differ
    for way in ("written", "renamed"):
        dataset = vlpipe.make_dataset(source, engine=engine)
        if engine == "mapped":
            assert read(dataset) == [0, 1, 2, 3, 4]
        good = shard.read_bytes()
        if way == "written":
            with shard.open("r+b") as file:
                file.write(other.read_bytes())
        else:
            shutil.copy(other, tmp_path / "copy")
            os.replace(tmp_path / "copy", shard)
        if engine == "mapped":
            message = failure(dataset)
            assert any(place in message for place in wrong)
            assert "or was changed or replaced" in failure(vlpipe.make_dataset(source))
        else:
            with pytest.raises(vlpipe.DatasetError, match=wrong[ends[0] - 1]):
                vlpipe.make_dataset(source, engine=engine)
        replace(shard, good)


def test_touched_files_are_tested_again_and_served(source: Path, shard: Path) -> None:
    dataset = vlpipe.make_dataset(source)
    assert read(dataset) == [0, 1, 2, 3, 4]
    os.utime(shard)
    assert read(dataset) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_shard_that_vanishes_is_an_error_and_no_endless_loop(source: Path, shard: Path, engine: str) -> None:
    dataset = vlpipe.make_dataset(source, engine=engine)
    os.rename(shard, shard.with_suffix(".away"))
    assert shard.name in failure(dataset)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_shard_that_grew_is_an_error(source: Path, shard: Path, engine: str) -> None:
    dataset = vlpipe.make_dataset(source, engine=engine)
    with shard.open("ab") as file:
        file.write(framed(b""))
    assert shard.name in failure(dataset)


def test_a_shard_that_changes_its_size_while_it_is_opened(source: Path, shard: Path) -> None:
    mapped_files = mapped_shards.Shards(open_source(source), "first")
    size = shard.stat().st_size
    with shard.open("ab") as file:
        file.write(b"more")
    sizes = f"has {size + 4} bytes, expected {size} with 5 records"
    with pytest.raises(vlpipe.DatasetError, match=f"{shard}: {sizes}: the file changed while it was read. Restore"):
        mapped_files.segments(*np.array([[0], [0], [1]]))


def test_an_index_that_changes_while_it_is_read(source: Path, shard: Path) -> None:
    files = mapped_shards.Shards(open_source(source), "never")
    size = shard.stat().st_size
    for begin, length in ((size - 1, 2), (-1, 1), (0, -1), (2**62, 1)):
        expected = rf"{shard}: the index names the bytes {begin} to {begin + length} of its {size}: the index was changed"
        with pytest.raises(vlpipe.DatasetError, match=expected):
            files.segments(*np.array([[0, 0], [0, begin], [1, length]]))


def test_a_disk_that_fails(source: Path, shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_shards, "gather", lambda target, segments: 4)
    files = mapped_shards.Shards(open_source(source), "never")
    with pytest.raises(vlpipe.DatasetError, match=rf"{shard}: bytes 9 to 12 cannot be read: the file was cut meanwhile, or its disk fails"):
        files.copy(np.empty(7, np.uint8), files.segments(*np.array([[0, 0], [0, 9], [4, 3]])))


def test_verify_says_when_checksums_are_tested(source: Path, shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tested: list[int] = []
    real = mapped_shards.masked_crc
    monkeypatch.setattr(mapped_shards, "masked_crc", lambda data: tested.append(1) or real(data))
    for verify, expected in (("never", 0), ("first", 5), ("always", 15)):
        tested.clear()
        dataset = vlpipe.make_dataset(source, verify=verify)
        for _ in range(3):
            assert read(dataset) == [0, 1, 2, 3, 4]
        assert len(tested) == expected, verify


def test_no_more_files_are_open_than_the_system_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [{"features": np.full((1, 2), number, np.float32), "label": number} for number in range(40)]
    vlpipe.write(tmp_path / "d", records, num_shards=40)
    plan = make_plan(open_source(tmp_path / "d"), Options.of(batch_size=8, seed=1))
    reader = mapped._BatchReader(plan)
    monkeypatch.setattr(reader._shards, "_max_maps", 3)
    for number in range(2 * plan.steps_per_epoch):
        x, y = reader(np.int64(number))
        assert x[:, 0, 0].tolist() == y.tolist()
        assert len(reader._shards._maps) <= 3


def test_batches_are_handed_over_without_a_copy_and_their_memory_comes_back(source: Path) -> None:
    plan = make_plan(open_source(source), Options.of(batch_size=2, seed=1))
    reader = mapped._BatchReader(plan)
    addresses: set[int] = set()

    def call(number: np.ndarray) -> list[np.ndarray]:
        arrays = reader(number)
        addresses.add(arrays[0].ctypes.data)
        return arrays

    dataset = tf.data.Dataset.range(30).map(lambda number: tf.numpy_function(call, [number], [tf.float32, tf.int64]))
    for x, _ in dataset:
        assert np.asarray(memoryview(x)).ctypes.data in addresses
    assert len(addresses) < 30  # some of the 30 batches reused the memory of another


def test_memory_stays_flat_over_epochs(tmp_path: Path) -> None:
    """30 epochs of 64 batches of 1.3 MB: after the first ten epochs, memory grows by less than 1 MiB an epoch."""
    script = f"""
import os, resource
import numpy as np, vlpipe
records = ({{"features": np.ones((t, 80), np.float32), "label": t}} for t in np.random.default_rng(0).integers(50, 250, 512))
vlpipe.write({str(tmp_path / "d")!r}, records)
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
dataset = vlpipe.make_dataset({str(tmp_path / "d")!r}, batch_size=8, seed=1)
sizes = []
for epoch in range(30):
    for x, y in dataset:
        pass
    sizes.append(resident())
print((sizes[-1] - sizes[9]) / 20 / 2**20)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert float(done.stdout.split()[-1]) < 1.0


def test_the_key_decides_about_length_and_other_fields_may_have_no_frames(tmp_path: Path) -> None:
    schema = vlpipe.Schema(features=vlpipe.Sequence(2), label=vlpipe.Sequence((), "int32"))
    records: list[dict[str, Any]] = [{"features": np.ones((n, 2), "f4"), "label": []} for n in (3, 1)]
    vlpipe.write(tmp_path / "d", records, schema)
    for engine in ENGINES:
        ((x, y),) = list(vlpipe.make_dataset(tmp_path / "d", engine=engine, lengths=True))
        assert y.shape == (2, 0)
        assert x["label_lengths"].numpy().tolist() == [0, 0]


@pytest.mark.parametrize("engine", ENGINES)
def test_records_without_frames(tmp_path: Path, engine: str) -> None:
    vlpipe.write(tmp_path / "d", [{"features": np.ones((0, 2), "f4"), "label": n} for n in range(3)])
    for batching in BATCHINGS if engine == "mapped" else ("bucket", "ragged"):
        ((x, y),) = list(vlpipe.make_dataset(tmp_path / "d", engine=engine, batching=batching, length_range=(0, None)))
        assert (x.to_tensor(shape=[3, None, 2]) if batching == "ragged" else x).shape == (3, 0, 2)
        assert sorted(y.numpy()) == [0, 1, 2]


def test_a_dataset_that_is_gone_leaves_no_files_and_no_memory(source: Path) -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(5):
        dataset = vlpipe.make_dataset(source, batch_size=2)
        iterator = iter(dataset)
        next(iterator)
        del dataset  # the iterator still needs it
        assert len(list(iterator)) == 2
        del iterator
        gc.collect()
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_a_shard_that_cannot_be_opened_says_what_to_do(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = mapped_shards.Shards(open_source(source), "never")

    def too_many(*arguments: Any) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(mapped_shards, "open_regular", too_many)
    with pytest.raises(
        vlpipe.DatasetError,
        match=r"cannot be opened \(Too many open files\). All shards of a batch are open at once: if .* raise it \(ulimit -n\)",
    ):
        files.segments(*np.array([[0], [0], [1]]))


def test_shards_that_vanish_in_the_middle_end_the_graph_engine(tmp_path: Path) -> None:
    """In a separate process, because a failure would never end."""
    lengths = np.random.default_rng(0).integers(1, 41, 600).tolist()
    vlpipe.write(tmp_path / "d", [{"features": np.ones((t, 8), "f4"), "label": n} for n, t in enumerate(lengths)], num_shards=16)
    index = open_source(tmp_path / "d")
    script = f"""
import os, pathlib
import tensorflow as tf, vlpipe
batches = iter(vlpipe.make_dataset({str(tmp_path / "d")!r}, engine="graph", batch_size=32, repeat=True, seed=1))
for _ in range(5):
    next(batches)
for shard in sorted(pathlib.Path({str(tmp_path / "d")!r}).glob("*.tfrecord"), reverse=True):
    os.remove(shard)
try:
    for _ in batches:
        pass
except tf.errors.OpError as error:
    print(error.message)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=60)
    places = [f"{index.where(row)}: TensorFlow cannot read the record" for row in range(600)]
    assert ".tfrecord; No such file" in done.stdout or any(place in done.stdout for place in places), done.stderr[-3000:]


def test_an_index_that_is_overwritten_meanwhile_changes_nothing(source: Path) -> None:
    dataset = vlpipe.make_dataset(source, batch_size=2)
    assert read(dataset) == [0, 1, 2, 3, 4]
    os.truncate(source / "index.npy", 10)
    assert read(dataset) == [0, 1, 2, 3, 4]


MANY_DATASETS = """
import gc, os, statistics, sys
import tensorflow as tf, vlpipe
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # half of the time of a graph
gc.freeze()
for engine in ("mapped", "graph"):
    memory = []
    steps = 14 if engine == "mapped" else 7
    for _ in range(3 * steps):
        dataset = vlpipe.make_dataset(sys.argv[1], engine=engine, batch_size=64, seed=1)
        iterator = iter(dataset)
        next(iterator)
        del dataset, iterator
        gc.collect()
        with open("/proc/self/statm") as statm:
            memory.append(int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    # The median: the system may have taken back memory in between.
    print((statistics.median(memory[2 * steps :]) - statistics.median(memory[steps : 2 * steps])) / steps)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="the memory of the process is read from /proc")
def test_datasets_that_are_gone_leave_no_index_behind(tmp_path: Path) -> None:
    """An index of 640 KB: 14 or 7 more datasets take less memory than one in three of their indexes."""
    vlpipe.write(tmp_path / "d", ({"features": np.ones((1, 1), "f4"), "label": n % 7} for n in range(20_000)))
    script = [sys.executable, "-W", "ignore", "-c", MANY_DATASETS, str(tmp_path / "d")]
    # The C library then returns what is freed; by itself it keeps up to 60 MB, as chance has it.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(script, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    mapped, graph = map(float, done.stdout.split())
    assert mapped < 200_000
    assert graph < 200_000


def test_the_next_block_is_looked_up_before_calls_need_it(tmp_path: Path) -> None:
    source = tmp_path / "data"
    vlpipe.write(source, [{"features": np.zeros((1, 1), np.float32)} for _ in range(3 * BLOCK_STEPS)])
    reader = BatchReader(make_plan(open_source(source), Options(batch_size=1, label=False)))
    blocks = [len(reader._blocks) for number in range(3 * BLOCK_STEPS) if reader(number)]
    half = BLOCK_STEPS // 2
    assert blocks == [1] * half + [2] * BLOCK_STEPS + [3] * (BLOCK_STEPS + half)
