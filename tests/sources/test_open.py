"""Datasets at an address: on TensorFlow's in-memory file system, which stands for any other."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from tests.engines.test_engines import digest, ids_of
from tests.test_dataset import make_records, write
from vlpipe.errors import ArgumentError, DatasetError
from vlpipe.files import filesystem

pytestmark = pytest.mark.usefixtures("quick_graphs")
NUMBERS = itertools.count()
IS_SERVED = tuple(map(int, tf.__version__.split(".")[:2])) < (2, 18)  # by tensorflow-io, whose last release is for TensorFlow 2.17
WAY_TO_A_FILE_SYSTEM = "such as tensorflow-io (import tensorflow_io)" if IS_SERVED else "tensorflow-io adds no file systems"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "d", make_records(np.random.default_rng(5).integers(1, 31, 40).tolist()), num_shards=3)


@pytest.fixture
def address(source: Path) -> str:
    address = f"ram://bucket-{next(NUMBERS)}/train"
    tf.io.gfile.makedirs(address)
    for path in source.iterdir():
        with tf.io.gfile.GFile(f"{address}/{path.name}", "wb") as file:
            file.write(path.read_bytes())
    return address


def test_a_dataset_at_an_address_has_the_batches_of_the_local_one(source: Path, address: str) -> None:
    here = vlpipe.make_dataset(source, batch_size=4, seed=1, ids=True)
    there = vlpipe.make_dataset(f"{address}/", batch_size=4, seed=1, ids=True)
    assert digest(here, 2) == digest(there, 2)
    plan = vlpipe.plan(address, batch_size=4, seed=1)
    assert (plan.engine, plan.steps_per_epoch) == ("graph", len(here))
    assert plan.state(1, 2) == vlpipe.plan(source, batch_size=4, seed=1).state(1, 2)
    streamed = ids_of(vlpipe.make_dataset(address, engine="stream", ids=True))
    assert sorted(itertools.chain.from_iterable(streamed)) == list(range(40))
    with pytest.raises(ArgumentError, match='engine="mapped": only local files can be mapped into memory. Use engine="graph"'):
        vlpipe.plan(address, engine="mapped")


def test_what_is_missing_at_an_address_is_named(address: str) -> None:
    with pytest.raises(DatasetError, match=r"ram://nothing/vlpipe.json: cannot be read .*Pass the address of a dataset directory"):
        vlpipe.plan("ram://nothing")
    with pytest.raises(
        DatasetError, match=rf"nosuch://nothing/vlpipe.json: the metadata cannot be read .*{re.escape(WAY_TO_A_FILE_SYSTEM)}"
    ):
        vlpipe.plan("nosuch://nothing")
    shard = next(name for name in tf.io.gfile.listdir(address) if name.endswith("tfrecord"))
    size = tf.io.gfile.stat(f"{address}/{shard}").length
    with tf.io.gfile.GFile(f"{address}/{shard}", "ab") as file:
        file.write(b"more")
    with pytest.raises(DatasetError, match=rf"{shard}: has {size + 4} bytes, expected {size}\. Copy it again"):
        vlpipe.make_dataset(address)
    tf.io.gfile.remove(f"{address}/{shard}")
    with pytest.raises(DatasetError, match=rf"{shard}: the address cannot be read .*, expected a shard of {size} bytes"):
        vlpipe.make_dataset(address)
    with pytest.raises(
        DatasetError, match="addresses are not supported inside a list or glob, and ~ is not expanded; pass a full path or one"
    ):
        vlpipe.plan([address])


@pytest.mark.parametrize("version", ["2.16.2", "2.17.1", "2.18.0", "2.21.0-rc1", "3.0.0"])
def test_tensorflow_io_is_advised_only_where_it_loads(version: str) -> None:
    advice = filesystem._way_to_a_file_system(version)
    assert ("import tensorflow_io" in advice) == (version[:4] in ("2.16", "2.17"))
    assert ("copy the files here, with fsspec" in advice) == (version[:4] not in ("2.16", "2.17"))
