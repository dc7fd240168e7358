"""Compressed files: their content, and the records in them."""

from __future__ import annotations

import gzip
import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from tests.helpers.foreign_files import cases, read, write
from vlpipe.errors import ArgumentError, DatasetError
from vlpipe.files.compression import COMPRESSIONS, compression_of, uncompressed

pytestmark = pytest.mark.usefixtures("quick_graphs")

CASES = cases()
COMPRESSED = COMPRESSIONS[1:]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("records", [[], [b""], [b"abc", b""], [random.Random(1).randbytes(3 << 20), bytes(5 << 20)]], ids=len)
def test_files_that_tensorflow_compressed(tmp_path: Path, records: list[bytes], compression: str) -> None:
    plain, path = write(tmp_path / "plain", records), write(tmp_path / "a", records, compression)
    assert compression_of(path) == (compression if path.stat().st_size else "")
    with uncompressed(path, compression_of(path)) as file:
        assert file.read() == plain.read_bytes()
        file.seek(2)
        assert file.read(3) == plain.read_bytes()[2:5]


def test_a_length_that_looks_like_gzip_is_a_length(tmp_path: Path) -> None:
    assert compression_of(write(tmp_path / "a", [bytes(0x088B1F)])) == ""
    assert compression_of(write(tmp_path / "b", [bytes(0x9C78)])) == ""


def test_several_gzip_files_one_after_another(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(gzip.compress(b"one") + gzip.compress(b"") + gzip.compress(b"two"))
    with uncompressed(tmp_path / "a", "GZIP") as file:
        assert file.read() == b"onetwo"


@pytest.mark.parametrize("compression", COMPRESSED)
def test_each_cut_and_each_flipped_byte(tmp_path: Path, compression: str) -> None:
    content = write(tmp_path / "whole", [b"some records", b"of text"], compression).read_bytes()
    path = tmp_path / "a.tfrecord"
    for size in range(4, len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(DatasetError, match=rf"a.tfrecord: the file is damaged or was cut: its {compression} data cannot"):
            uncompressed(path, compression)
    with pytest.raises(DatasetError, match="it ends too early"):
        uncompressed(path, compression)
    with uncompressed(tmp_path / "whole", compression) as file:
        whole = file.read()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        try:
            with uncompressed(path, compression) as file:
                assert file.read() == whole  # the bit is in the time in the GZIP header
        except DatasetError:
            pass


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a", [b"x"], "ZLIB")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(DatasetError, match=r"a: cannot be uncompressed into .*nowhere \(No such file or directory\). Make room there"):
        uncompressed(path, "ZLIB")
    with pytest.raises(DatasetError, match="b: cannot be read .*, expected a TFRecord file"):
        compression_of(tmp_path / "b")


@pytest.mark.parametrize("name", CASES)
def test_records_of_every_layout(tmp_path: Path, name: str) -> None:
    case, compression = CASES[name], COMPRESSED[list(CASES).index(name) % len(COMPRESSED)]
    write(tmp_path / "a.tfrecord.gz", case.records[:9], compression)
    write(tmp_path / "b.tfrecord", case.records[9:])  # only some of the files are compressed
    arguments = {"layout": case.layout, "features": case.key}
    plan = vlpipe.plan(tmp_path, length_range=(0, None), **arguments)
    assert (plan.engine, plan.records) == ("stream", len(case.records))
    assert plan.index.frames(case.key).tolist() == [len(frames) for frames in case.frames]
    if list(CASES).index(name) % 4:
        return  # tests/layouts/test_layouts.py streams each layout
    frames, _, _ = read(tmp_path, "auto", **arguments)
    assert sorted(frames) == list(range(len(case.records)))
    for number, expected in enumerate(case.frames):
        assert np.array_equal(frames[number], expected.astype("f4"))


def test_arguments_that_compressed_files_refuse(tmp_path: Path) -> None:
    write(tmp_path / "a.tfrecord", CASES["audioset"].records, "GZIP")
    for engine in ("mapped", "graph"):
        with pytest.raises(
            ArgumentError, match=f"engine='{engine}': this engine cannot start reading in the middle of a compressed file. Leave engine out"
        ):
            vlpipe.plan(tmp_path, engine=engine)
    with pytest.raises(
        ArgumentError, match=r"resume: the stream engine .* The files are compressed, .*: uncompress or convert them \(vlpipe convert\)"
    ):
        vlpipe.plan(tmp_path, repeat=True, seed=1, resume={})


def test_a_compressed_file_that_loses_its_end_after_indexing(tmp_path: Path) -> None:
    case = CASES["length"]
    path = write(tmp_path / "a.tfrecord", case.records, "GZIP")
    whole = path.read_bytes()
    where = vlpipe.plan(path, length_range=(0, None)).index.where(20)
    assert where.startswith("a.tfrecord, record 20 at byte ")
    dataset = vlpipe.make_dataset(path, length_range=(0, None))
    assert sum(int(tf.shape(x)[0]) for x, _ in dataset) == len(case.records)
    # Valid and of the same size, but with fewer records: only their number differs.
    fewer = write(tmp_path / "b", case.records[:-3], "GZIP").read_bytes()
    path.write_bytes(fewer + gzip.compress(b"")[: len(whole) - len(fewer)].ljust(len(whole) - len(fewer), b"\0"))
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{where}: cannot be read; read 20 of 23 records"):
        list(dataset)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_file_that_is_replaced_after_indexing(tmp_path: Path, compression: str) -> None:
    """The new file has as many records; the stream engine reads them in order and takes their layout from the index."""
    case = CASES["length"]
    path = write(tmp_path / "a.tfrecord", case.records, compression)
    dataset = vlpipe.make_dataset(path, layout=case.layout, engine="stream", shuffle=False, length_range=(0, None))
    list(dataset)
    where = vlpipe.plan(path, layout=case.layout, length_range=(0, None)).index.where(3)
    assert where.startswith("a.tfrecord, record 3 at byte ")
    # Without compression, lengths are compared before TensorFlow reads the file.
    lengths = f"announces {len(case.records[4])} bytes of data, but {len(case.records[3])} were indexed"
    found = "the checksum of its .* bytes of data is .*, the index says" if compression else lengths
    write(path, case.records[:3] + case.records[4:] + case.records[3:4], compression)
    with pytest.raises(tf.errors.OpError, match=f"{where}: {found}"):
        list(dataset)


def test_sizes_are_compared_without_checksums(tmp_path: Path) -> None:
    case = CASES["length"]
    path = write(tmp_path / "a.tfrecord", case.records, "GZIP")
    dataset = vlpipe.make_dataset(path, layout=case.layout, engine="stream", shuffle=False, length_range=(0, None), verify="never")
    write(path, case.records[:3] + case.records[4:] + case.records[3:4], "GZIP")
    sizes = f"has {len(case.records[4])} bytes of data, but {len(case.records[3])} were indexed"
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"a.tfrecord, record 3 at byte .*: {sizes}. The"):
        list(dataset)


@pytest.mark.parametrize("members", [1, 2])
def test_of_other_content_nothing_is_written(tmp_path: Path, members: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 MB of gzip would become 1 GB in the temporary directory, before its first 12 bytes are looked at."""
    written: list[int] = []

    class Target(io.BytesIO):
        def writelines(self, blocks: Any) -> None:
            for block in blocks:
                written.append(len(block))

    monkeypatch.setattr("vlpipe.files.compression.tempfile.TemporaryFile", Target)
    path = tmp_path / "a.tfrecord.gz"
    path.write_bytes(gzip.compress(b"") * (members - 1) + gzip.compress(bytes(64 << 20)))
    with pytest.raises(DatasetError, match=r"a\.tfrecord\.gz: its uncompressed content has no record at byte 0, but a wrong checksum"):
        vlpipe.plan(path, layout=vlpipe.layouts.float_list("x", d=4))
    assert written == []
    (problem,) = vlpipe.verify(path).problems
    assert problem.found == "it cannot be read (its uncompressed GZIP content does not begin with a record)"
    assert written == []
