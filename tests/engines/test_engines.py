"""The mapped and the graph engine with one plan: the same bytes at any parallelism, also in checkpoints, strategies and tf.data service."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from tests.test_dataset import make_records, write
from vlpipe.files.tfrecord import footer_of, header_of, masked_crc
from vlpipe.sources.native import open_source

pytestmark = pytest.mark.usefixtures("quick_graphs")

ENGINES = ("mapped", "graph")
CASES: dict[str, dict[str, Any]] = {
    "bucket": {},
    "boundary": {"pad_to": "boundary", "remainder": "pad", "buckets": 3, "padding_value": -2.5},
    "budget": {"frames_per_batch": 60, "remainder": "drop"},
    "pad": {"batching": "pad", "remainder": "drop"},
    "ragged": {"batching": "ragged", "remainder": "pad"},
    "same_length": {"batching": "same_length"},
    "truncate": {"length_range": (3, 12), "out_of_range": "truncate"},
    "bfloat16": {"dtype": "bfloat16", "padding_value": float("nan")},
    "still": {"shuffle": False},
    "rank": {"shard": (1, 2), "remainder": "pad"},
    "none": {"label": False},
    "crop": {"crop": vlpipe.Crop(9, random=True)},
    "prepared": {
        "length_range": (2, 25),
        "out_of_range": "truncate",
        "crop": vlpipe.Crop(20, random=True),
        "transform": vlpipe.Transform(lambda x: tf.concat([x[1::2], x[1::2] * x[1::2]], 1), frames=lambda t: t // 2),
        "normalize": "utterance",
        "augment": vlpipe.SpecAugment(frequency_width=2, time_share=0.5),
        "pad_to": "boundary",
        "buckets": 3,
        "remainder": "pad",
        "padding_value": -2.5,
    },
}


KINDS = ("scalar", "sequence", "text")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """70 records of 1 to 30 frames in 3 shards, with each kind of label."""
    folder, lengths = tmp_path_factory.mktemp("data"), np.random.default_rng(5).integers(1, 31, 70).tolist()
    return {kind: write(folder / kind, make_records(lengths, label=kind), kind, num_shards=3) for kind in KINDS}


def digest(dataset: tf.data.Dataset, epochs: int = 1) -> str:
    """SHA-256 of the bytes, dtypes and shapes of all delivered tensors, in order."""
    digest = hashlib.sha256()
    for _ in range(epochs):
        for element in dataset:
            for tensor in tf.nest.flatten(element, expand_composites=True):
                array = tensor.numpy()
                content = repr(array.tolist()).encode() if array.dtype == object else array.tobytes()
                digest.update(f"{array.dtype} {array.shape}".encode() + content)
    return digest.hexdigest()


@pytest.mark.parametrize("case", CASES)
def test_both_deliver_the_same_bytes_whatever_the_parallelism(sources: dict[str, Path], case: str) -> None:
    """Each case with one kind of label, the first with all: the kinds only differ in how a batch is parsed."""
    number = list(CASES).index(case)
    for kind in KINDS if case == "bucket" else [KINDS[number % len(KINDS)]]:
        check_same_bytes(sources[kind], {"batch_size": 4, "seed": 9, "lengths": True, "ids": True, **CASES[case]}, calls=(1, 4)[number % 2])


def check_same_bytes(source: Path, arguments: dict[str, Any], calls: int) -> None:
    datasets = [
        vlpipe.make_dataset(source, engine=engine, num_parallel_calls=parallel, verify=verify, **arguments)
        for engine, parallel, verify in (("mapped", 1, "always"), ("mapped", 4, "never"), ("graph", calls, "first"))
    ]
    assert len({digest(dataset, epochs=2) for dataset in datasets}) == 1
    # All element specs equal the first one.
    assert all(dataset.element_spec == datasets[0].element_spec for dataset in datasets)
    assert {len(dataset) for dataset in datasets} == {vlpipe.plan(source, **arguments).steps_per_epoch}


def test_the_bytes_are_the_same_in_every_version(tmp_path: Path) -> None:
    """The digest is a constant, which both environments must reproduce."""
    records = [{"features": np.arange(n * 2, dtype=np.float32).reshape(n, 2) + n, "label": n} for n in [3, 9, 1, 4, 4, 12, 7, 5] * 4]
    vlpipe.write(tmp_path / "d", records, num_shards=2)
    for engine in ENGINES:
        assert digest(vlpipe.make_dataset(tmp_path / "d", batch_size=3, seed=2, ids=True, engine=engine), 3)[:16] == GOLDEN


@pytest.mark.parametrize("case", [case for case in CASES if "ragged" not in case])
def test_the_forecast_of_the_first_epoch_is_exact(plain: Path, case: str) -> None:
    arguments: dict[str, Any] = {"batch_size": 4, "seed": 9, **CASES[case]}
    ranks = range(arguments.get("shard", (0, 1))[1])
    plan = vlpipe.plan(plain, **arguments)
    valid = delivered = 0
    for rank in ranks:
        for x, *rest in vlpipe.make_dataset(plain, lengths=True, **{**arguments, "shard": (rank, len(ranks))}):
            counts = rest[1].numpy() > 0 if len(rest) > 1 else np.ones(len(x["lengths"]), bool)
            valid += int(x["lengths"].numpy()[counts].sum())
            delivered += x["features"].shape[0] * x["features"].shape[1]
            assert np.prod(x["features"].shape) * x["features"].dtype.size <= plan.peak_batch_bytes
    assert plan.valid_ratio == pytest.approx(valid / delivered, abs=1e-12)


GOLDEN = "ce2e544883293354"


def test_several_features_each_with_its_own_lengths(tmp_path: Path) -> None:
    schema = vlpipe.Schema(a=vlpipe.Sequence(3, "int16"), b=vlpipe.Sequence((2, 2)), big=vlpipe.Fixed((40,), "float32"), t=vlpipe.Text())
    random = np.random.default_rng(0)
    records = [
        {
            "a": random.integers(-9, 9, (n, 3)).astype("i2"),
            "b": random.normal(size=(17 - n, 2, 2)).astype("f4"),
            "big": random.normal(size=40).astype("f4"),
            "t": f"{n}é",
        }
        for n in range(1, 17)
    ]
    vlpipe.write(tmp_path / "d", records, schema, num_shards=2)
    arguments: dict[str, Any] = {"features": ("a", "b"), "label": ("big", "t"), "lengths": True, "ids": True, "batch_size": 3, "seed": 1}
    digests = set()
    for engine in ENGINES:
        dataset = vlpipe.make_dataset(tmp_path / "d", engine=engine, **arguments)
        digests.add(digest(dataset))
        for x, y in dataset:
            for row, number in enumerate(x["id"].numpy()):
                record = records[number]
                for name in ("a", "b"):
                    frames = int(x[f"{name}_lengths"][row])
                    assert np.array_equal(x[name][row, :frames], record[name])
                    assert not x[name][row, frames:].numpy().any()
                assert np.array_equal(y["big"][row], record["big"])
                assert y["t"][row].numpy().decode() == record["t"]
    assert len(digests) == 1


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_damaged_record_has_the_same_number_in_both_engines_when_others_are_dropped(tmp_path: Path, shuffle: bool) -> None:
    """The number counts all records of the file, including those that `length_range` drops."""
    source = write(tmp_path / "d", make_records([9, 1, 2, 8, 1, 7, 2, 6, 5, 9]), num_shards=1)
    (shard,) = source.glob("*.tfrecord")
    offsets = open_source(source).rows["offset"].tolist()
    damaged = sorted(offsets)[5]
    assert make_records([9, 1, 2, 8, 1, 7, 2, 6, 5, 9])[offsets.index(damaged)]["features"].shape[0] >= 5  # it is delivered
    content = bytearray(shard.read_bytes())
    content[damaged + 20] ^= 1
    shard.write_bytes(content)
    where = f"{shard.name}, record 5 at byte {damaged}: "
    for engine, problem in (("mapped", "the checksum of its"), ("graph", "TensorFlow cannot read the record")):
        arguments: dict[str, Any] = {"length_range": (5, None), "out_of_range": "drop", "shuffle": shuffle, "seed": 1}
        assert vlpipe.plan(source, **arguments).refused == {"too_short": 4}
        with pytest.raises(tf.errors.OpError) as caught:
            list(vlpipe.make_dataset(source, engine=engine, **arguments))
        assert where + problem in str(caught.value.message)


def test_a_longer_last_record_is_detected_by_the_graph_engine(tmp_path: Path) -> None:
    """It is intact, and begins where the index says."""
    source = write(tmp_path / "d", make_records([3, 4, 5]), num_shards=1)
    dataset = vlpipe.make_dataset(source, engine="graph", batch_size=1, shuffle=False)
    index = open_source(source)
    last = int(index.by_shard()[-1])
    shard, begin, end = Path(index.shards[0].path), int(index.rows["offset"][last]), index.shards[0].bytes
    content = shard.read_bytes()
    data = content[begin + 12 : end - 4] + b"\0"
    shard.write_bytes(content[:begin] + header_of(len(data)) + data + footer_of(masked_crc(data)))
    message = f"{shard.name}: does not have the {end} bytes that were indexed. The file is damaged, or was changed or replaced"
    with pytest.raises(tf.errors.OpError, match=message):
        list(dataset)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lengths = np.random.default_rng(6).integers(1, 31, 70).tolist()
    return write(tmp_path_factory.mktemp("data") / "plain", make_records(lengths), num_shards=3)


def ids_of(dataset: Any) -> list[list[int]]:
    return [x["id"].numpy().tolist() for x, *_ in dataset]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("repeat", [False, True])
def test_a_checkpoint_of_an_iterator_is_small_and_restores_the_epoch(plain: Path, tmp_path: Path, engine: str, repeat: bool) -> None:
    def dataset() -> tf.data.Dataset:
        return vlpipe.make_dataset(plain, batch_size=4, seed=5, ids=True, engine=engine, repeat=repeat)

    one = dataset()
    steps = vlpipe.plan(plain, batch_size=4, seed=5).steps_per_epoch
    if repeat:
        iterator = iter(one.take(5 * steps))
        skipped = 2 * steps + 3
    else:
        list(one), list(one)
        iterator = iter(one)
        skipped = 3
    for _ in range(skipped):
        next(iterator)
    path = tf.train.Checkpoint(iterator=iterator).save(str(tmp_path / "checkpoint"))
    assert sum(file.stat().st_size for file in tmp_path.glob("checkpoint-1*")) < 64 << 10
    expected = ids_of(iterator), ids_of(one.take(2))
    other = dataset()  # as in a new process
    iterator = iter(other.take(5 * steps) if repeat else other)
    tf.train.Checkpoint(iterator=iterator).restore(path).assert_consumed()
    assert ids_of(iterator) == expected[0]
    assert ids_of(other.take(2)) == expected[1]


@pytest.mark.parametrize(
    ("engine", "kept"),  # what counts the epochs is the same code in all engines
    [
        *(("mapped", kept) for kept in ("cache in a file", "cache in memory", "snapshot")),
        ("graph", "snapshot"),
        ("stream", "cache in a file"),
    ],
)
def test_an_epoch_can_be_cached(plain: Path, tmp_path: Path, engine: str, kept: str) -> None:
    dataset = vlpipe.make_dataset(plain, batch_size=4, seed=5, ids=True, engine=engine)
    expected = ids_of(vlpipe.make_dataset(plain, batch_size=4, seed=5, ids=True, engine=engine))
    path = str(tmp_path / "kept")
    caching = {"cache in a file": lambda: dataset.cache(path), "cache in memory": dataset.cache, "snapshot": lambda: dataset.snapshot(path)}
    cached = caching[kept]()
    assert ids_of(cached) == ids_of(cached) == expected


def test_a_distribution_strategy_sees_every_record_once(plain: Path) -> None:
    script = f"""
import numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import keras, vlpipe
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
for engine in {ENGINES!r}:
    dataset = vlpipe.make_dataset({str(plain)!r}, batch_size=4, seed=1, ids=True, engine=engine)
    assert dataset.options().experimental_distribute.auto_shard_policy == tf.data.experimental.AutoShardPolicy.OFF
    seen = []
    for x, y in strategy.experimental_distribute_dataset(dataset):
        for part in strategy.experimental_local_results(x["id"]):
            seen += part.numpy().tolist()
    assert sorted(seen) == list(range(70)), sorted(seen)
with strategy.scope():
    inputs = keras.Input((None, 2))
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.GlobalMaxPooling1D()(keras.layers.Conv1D(3, 3, padding="same")(inputs))))
    model.compile("sgd", "mse")
class Count(keras.callbacks.Callback):
    steps = 0
    def on_train_batch_end(self, batch, logs=None):
        Count.steps += 1
for engine in {ENGINES!r}:
    model.fit(vlpipe.make_dataset({str(plain)!r}, batch_size=4, seed=1, engine=engine), epochs=2, verbose=0, callbacks=[Count()])
assert Count.steps == 4 * len(dataset), Count.steps
print("every record once")
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=200, env=_environment())
    assert "every record once" in done.stdout, done.stderr[-3000:]


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "KERAS_BACKEND": "tensorflow"}


# A server of TensorFlow stops with the interpreter lock, and waits for threads that may need it: the process ends without stopping any.
SERVICE = """
import os, sys, traceback
import tensorflow as tf
import vlpipe

service = tf.data.experimental.service

def ids_of(dataset):
    return [tuple(x["id"].numpy().tolist()) for x, *_ in dataset]

def started(workers):
    dispatcher = service.DispatchServer()
    config = service.WorkerConfig(dispatcher_address=dispatcher.target.split("://")[1])
    return dispatcher, [service.WorkerServer(config) for _ in range(workers)]

def check_parallel_epochs(plain):
    dispatcher, workers = started(1)
    dataset = vlpipe.make_dataset(plain, batch_size=4, seed=1, ids=True, engine="graph", repeat=True)
    dataset = dataset.take(2 * vlpipe.plan(plain, batch_size=4, seed=1).steps_per_epoch)
    assert ids_of(dataset.apply(service.distribute("parallel_epochs", dispatcher.target))) == ids_of(dataset)
    return dispatcher, workers

def check_dynamic_sharding(plain):
    dispatcher, workers = started(2)
    arguments = {"batch_size": 7, "seed": 1, "ids": True}
    steps, endless = vlpipe.plan(plain, batch_size=7, seed=1).steps_per_epoch, vlpipe.make_dataset(plain, repeat=True, **arguments)
    served = ids_of(endless.apply(service.distribute("distributed_epoch", dispatcher.target)).take(3 * steps))
    assert len(set(served)) == len(served) == 3 * steps, "a batch came from both workers"
    assert set(served) <= set(ids_of(endless.take(12 * steps)))
    single = vlpipe.make_dataset(plain, **arguments)
    try:
        ids_of(single.apply(service.distribute("distributed_epoch", dispatcher.target)))
    except tf.errors.FailedPreconditionError as error:  # as README.md says
        assert "Input dataset was expected to contain" in str(error), error
    else:
        raise AssertionError("a dataset of one epoch was distributed")
    return dispatcher, workers

try:
    servers = [check(sys.argv[1]) for check in (check_parallel_epochs, check_dynamic_sharding)]
except BaseException:
    traceback.print_exc()
    os._exit(1)
os._exit(0)
"""


def test_in_a_tf_data_service_epochs_are_whole(plain: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", SERVICE, str(plain)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=_environment())
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_saved_dataset_has_the_same_batches(plain: Path, tmp_path: Path, engine: str) -> None:
    dataset = vlpipe.make_dataset(plain, batch_size=4, seed=1, ids=True, engine=engine, repeat=True).take(10)
    dataset.save(str(tmp_path / "saved"))
    assert ids_of(tf.data.Dataset.load(str(tmp_path / "saved"))) == ids_of(dataset)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_iterator_that_is_left_in_the_middle_ends_at_once(plain: Path, engine: str) -> None:
    dataset = vlpipe.make_dataset(plain, batch_size=2, seed=1, engine=engine, repeat=True)
    taken = []
    for _ in range(5):
        iterator = iter(dataset)
        next(iterator)
        start = time.perf_counter()
        del iterator
        taken.append(time.perf_counter() - start)
    assert min(taken) < 0.2  # with autotuning it takes 0.4 s and more


def test_eight_ranks_have_every_record_and_one_shape_a_step(plain: Path) -> None:
    arguments: dict[str, Any] = {"batch_size": 2, "seed": 1, "ids": True, "pad_to": "boundary", "buckets": 3}
    for remainder in ("pad", "drop"):
        ranks = [vlpipe.make_dataset(plain, shard=(rank, 8), remainder=remainder, **arguments) for rank in range(8)]
        assert len({len(rank) for rank in ranks}) == 1
        seen: Counter[int] = Counter()
        for parts in zip(*ranks, strict=True):
            assert len({part[0]["features"].shape.as_list()[1] for part in parts}) == 1
            for x, _, *weight in parts:
                kept = weight[0].numpy() > 0 if weight else np.ones(2, bool)
                seen.update(x["id"].numpy()[kept].tolist())
        assert set(seen.values()) == {1}
        plan = vlpipe.plan(plain, remainder=remainder, shard=(0, 8), **{k: v for k, v in arguments.items() if k != "ids"})
        assert len(seen) == plan.records == 70 - plan.refused.get("remainder", 0)
        if remainder == "pad":  # eight graphs would take seconds
            both = [vlpipe.make_dataset(plain, shard=(5, 8), remainder=remainder, engine=engine, **arguments) for engine in ENGINES]
            assert digest(both[0]) == digest(both[1])
