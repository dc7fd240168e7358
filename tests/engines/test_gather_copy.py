"""Copies of memory segments, with the system call and without it, compared with a plain concatenation; and unmapped memory."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlpipe
from vlpipe.engines import gather_copy as room
from vlpipe.engines.gather_copy import address, gather

SOURCE = np.random.default_rng(0).integers(0, 256, 100_000).astype(np.uint8)


@pytest.fixture(params=["system call", "one by one", "little by little"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The system call; a system without it; a call that copies less than requested."""
    use(request.param, monkeypatch.setattr)
    return request.param


def use(way: str, setattr: Callable[[Any, str, Any], None]) -> None:
    if way == "one by one":
        setattr(room, "_system_call", lambda: None)
    if way == "little by little":

        def copy(target: int, pieces: np.ndarray, asked: int) -> int:
            left = 777
            for source, size in pieces.tolist():
                room.ctypes.memmove(target, source, min(size, left))
                target, left = target + size, left - min(size, left)
            return 777 - left

        setattr(room, "_system_call", lambda: copy)


PIECES = st.lists(st.tuples(st.integers(0, len(SOURCE) - 3000), st.integers(0, 3000)))


@pytest.mark.parametrize("way", ["system call", "one by one", "little by little"])
@given(asked=PIECES)
def test_pieces_of_any_size_and_number(way: str, asked: list[tuple[int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        use(way, patch.setattr)
        check(asked)


def check(asked: list[tuple[int, int]]) -> None:
    expected = b"".join(SOURCE[begin : begin + size].tobytes() for begin, size in asked)
    around = np.full(len(expected) + 18, 7, np.uint8)
    target = around[9:-9]
    pieces = np.array([(address(SOURCE) + begin, size) for begin, size in asked], np.int64).reshape(-1, 2)
    assert gather(target, pieces) == len(expected)
    assert target.tobytes() == expected
    assert (around[:9] == 7).all()
    assert (around[-9:] == 7).all()


@pytest.mark.parametrize("number", [1, 1023, 1024, 1025, 5000])
def test_more_pieces_than_one_call_takes(way: str, number: int) -> None:
    check([(start * 11, start % 20) for start in range(number)])


def test_linux_has_the_call() -> None:
    assert (room._system_call() is not None) == sys.platform.startswith("linux")


def test_a_system_that_forbids_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forbidden:
        def __call__(self, *arguments: Any) -> int:
            return -1

    monkeypatch.setattr(room.ctypes, "CDLL", lambda *arguments, **options: SimpleNamespace(process_vm_writev=Forbidden()))
    assert room._system_call.__wrapped__() is None
    monkeypatch.setattr(room.ctypes, "CDLL", lambda *arguments, **options: object())
    assert room._system_call.__wrapped__() is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system call is Linux's")
def test_what_is_beyond_the_end_of_a_cut_file_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3 * mmap.PAGESIZE)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        source = np.frombuffer(mapped, np.uint8)
        os.truncate(path, mmap.PAGESIZE)
        target = np.zeros(3 * mmap.PAGESIZE, np.uint8)
        pieces = np.array([[address(source) + page * mmap.PAGESIZE, mmap.PAGESIZE] for page in range(3)])
        assert gather(target, pieces) == mmap.PAGESIZE
        assert gather(target[mmap.PAGESIZE :], pieces[1:]) == 0
        del source


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system call is Linux's")
def test_a_shard_that_is_cut_while_it_is_mapped_is_an_error(tmp_path: Path) -> None:
    """In a separate process, because a failure would end it with SIGBUS."""
    vlpipe.write(tmp_path / "d", [{"features": np.ones((50, 80), "f4"), "label": n} for n in range(200)], num_shards=1)
    shard = next((tmp_path / "d").glob("*.tfrecord"))
    script = f"""
import pathlib, os
import tensorflow as tf, vlpipe
shard = pathlib.Path({str(shard)!r})
whole = shard.read_bytes()
for verify in ("never", "first", "always"):
    shard.write_bytes(whole)
    batches = iter(vlpipe.make_dataset({str(tmp_path / "d")!r}, batch_size=4, verify=verify))
    next(batches)
    os.truncate(shard, 4096)
    try:
        for _ in batches:
            pass
    except tf.errors.OpError as error:
        print(error.message.partition("\\n")[0])
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count(f"{shard}: has 4096 bytes, expected") == 3
    assert done.stdout.count("with 200 records: the file was cut after it was written") == 3


def test_the_same_batches_without_the_call(tmp_path: Path, way: str) -> None:
    records = [{"features": np.random.default_rng(n).random((n % 50, 3), "f4"), "label": list(range(n % 3))} for n in range(60)]
    schema = vlpipe.Schema(features=vlpipe.Sequence(3), label=vlpipe.Sequence((), "int64"))
    vlpipe.write(tmp_path / "d", records, schema)
    seen = 0
    for batching in ("bucket", "ragged"):
        for dtype in ("float32", "float64"):
            for x, y in vlpipe.make_dataset(
                tmp_path / "d", batching=batching, dtype=dtype, ids=True, lengths=True, length_range=(0, None), padding_value=-3.5
            ):
                features = x["features"].to_tensor(-3.5) if batching == "ragged" else x["features"]
                for row, (record, length) in enumerate(zip(x["id"].numpy(), x["lengths"].numpy(), strict=True)):
                    expected = records[int(record)]
                    assert length == len(expected["features"])  # type: ignore[arg-type]
                    np.testing.assert_array_equal(features[row][:length], expected["features"])
                    assert (features[row][length:].numpy() == -3.5).all()
                    assert y[row].numpy().tolist()[: len(expected["label"])] == expected["label"]  # type: ignore[arg-type]
                    seen += 1
    assert seen == 240
