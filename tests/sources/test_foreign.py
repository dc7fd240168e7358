"""The index of third-party files: cached, checked, replaced when stale; and damage, reported with file, record and byte."""

from __future__ import annotations

import errno
import gzip
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from tests.helpers.foreign_files import audio_file, cases, example, floats, ints, loose_example, place, raw, read, sequence_example, write
from tests.protobuf.test_wire import entry, field
from vlpipe import layouts
from vlpipe.errors import ArgumentError, DatasetError, SchemaError
from vlpipe.files import tfrecord
from vlpipe.files.tfrecord import Scan, header_of, masked_crc, read_frames, scan
from vlpipe.sources.foreign import build_index as build
from vlpipe.sources.foreign import cache, find_files, index_file
from vlpipe.sources.records import Records
from vlpipe.storage.example import varint

pytestmark = pytest.mark.usefixtures("quick_graphs")

LAYOUT = layouts.float_list("x", d=3, label="label")


def record(frames: int, label: int = 1) -> bytes:
    return example({"x": floats(np.full(3 * frames, label)), "label": ints(label), "tags": ints(*range(label))})


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Four files with 1, 2, 3 and 4 records."""
    return [write(tmp_path / f"{n}.tfrecord", [record(k + 1, n) for k in range(n)]) for n in (1, 2, 3, 4)]


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the indexed files, in order."""
    names: list[str] = []

    def recording_extract(path: str, layout: layouts.Layout) -> index_file.Table:
        names.append(os.path.basename(path))
        return index_file.extract(path, layout)

    monkeypatch.setattr(build, "extract", recording_extract)
    return names


def test_a_file_is_indexed_once_and_the_cached_index_is_the_same(files: list[Path], indexed: list[str]) -> None:
    seen: list[tuple[int, int]] = []
    first = vlpipe.build_index(files, LAYOUT, progress=lambda *done: seen.append(done))
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    again = vlpipe.build_index(files, LAYOUT)
    assert indexed == [path.name for path in files]
    assert np.array_equal(first.rows, again.rows)
    assert first.fingerprint == again.fingerprint
    assert first.frames("x").tolist() == [1, 1, 2, 1, 2, 3, 1, 2, 3, 4]
    assert first.rows["value:label"].tolist() == [1, 2, 2, 3, 3, 3, 4, 4, 4, 4]
    assert first.where(4) == f"3.tfrecord, record 1 at byte {first.rows['offset'][4]}"
    assert [shard.bytes for shard in first.shards] == [path.stat().st_size for path in files]
    assert first.rows["checksum"].tolist() == [frame.checksum for path in files for frame in read_frames(path)]
    starts = first.rows["start:tags"].astype(int)
    assert [first.lists["tags"][at : at + n].tolist() for at, n in zip(starts, first.rows["frames:tags"], strict=True)] == [
        list(range(n)) for n in first.rows["value:label"]
    ]
    other = vlpipe.build_index(files, layouts.float_list("x", d=1, label="label"))  # an index of another layout, beside the first
    assert other.frames("x").tolist() == [3 * n for n in first.frames("x")]
    assert len(list((files[0].parent / cache.DIRECTORY).iterdir())) == 8


def test_only_changed_files_are_indexed_again(files: list[Path], indexed: list[str]) -> None:
    vlpipe.build_index(files, LAYOUT)
    indexed.clear()
    content = files[1].read_bytes()
    write(files[1], [record(5, 2)] * 2)
    assert vlpipe.build_index(files, LAYOUT).frames("x").tolist()[:3] == [1, 5, 5]
    files[1].write_bytes(content)
    assert vlpipe.build_index(files, LAYOUT).frames("x").tolist()[:3] == [1, 1, 2]
    os.utime(files[2], ns=(1, 1))
    before = files[3].stat()
    write(files[3], [example({"x": floats(np.ones(3 * k + 3)), "label": ints(9), "tags": ints(*range(4))}) for k in range(4)])
    assert files[3].stat().st_size == before.st_size
    os.utime(files[3], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert vlpipe.build_index(files, LAYOUT).rows["value:label"].tolist()[-4:] == [9] * 4
    assert indexed == [files[1].name, files[1].name, files[2].name, files[3].name]


def test_an_index_that_is_damaged_or_invalid_is_replaced(files: list[Path], indexed: list[str]) -> None:
    good = vlpipe.build_index(files[3], LAYOUT)
    indexed.clear()
    (cached,) = (files[3].parent / cache.DIRECTORY).iterdir()
    content = cached.read_bytes()
    damages = [b"", content[:-1], content[:100], b"{}\n", b"[" * 100_000, content.replace(b'"version": 1', b'"version": 2')]
    damages += [content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :] for at in range(0, len(content), 37)]
    for damage in damages:
        cached.write_bytes(damage)
        assert np.array_equal(vlpipe.build_index(files[3], LAYOUT).rows, good.rows)
    assert len(indexed) == len(damages)
    layout = build.choose_layout([str(files[3])], LAYOUT)
    table = index_file.extract(files[3], layout)
    identity = cache.identity(files[3])
    for name, value in (
        ("frames", 999),
        ("start", 999),
        ("frames:tags", 99),
        ("start:tags", 1 << 40),
        ("start:tags", (1 << 64) - 1),
        ("offset", 7),
        ("bytes", 1),
    ):
        rows = table.rows.copy()
        rows[name][2] = value
        assert cache.save(str(files[3]), layout, index_file.Table(rows, table.lists), identity)
        assert cache.load(str(files[3]), layout) is None
    assert cache.save(str(files[3]), layout, index_file.Table(table.rows, {"tags": table.lists["tags"].astype(np.int32)}), identity)
    assert cache.load(str(files[3]), layout) is None


def test_an_invalid_index_of_feature_lists_is_replaced(tmp_path: Path) -> None:
    """The header of each frame is read with it and must be inside the record too; classes must be in range."""
    path = write(tmp_path / "a.tfrecord", cases()["audioset"].records)
    layout = build.choose_layout([str(path)], layouts.audioset(classes=527))
    table, identity = index_file.extract(path, layout), cache.identity(path)
    longest = int(table.rows["frames"].argmax())
    assert cache.save(str(path), layout, table, identity)
    assert cache.load(str(path), layout) is not None
    for name, value in (("frames", table.rows["bytes"][longest] // 128), ("start", 3)):
        rows = table.rows.copy()
        rows[name][longest] = value
        assert cache.save(str(path), layout, index_file.Table(rows, table.lists), identity)
        assert cache.load(str(path), layout) is None
    for wrong in (-1, 527):
        assert cache.save(str(path), layout, index_file.Table(table.rows, {"labels": np.full_like(table.lists["labels"], wrong)}), identity)
        assert cache.load(str(path), layout) is None


def test_the_user_cache_is_used_if_the_directory_is_not_writable(
    files: list[Path], indexed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / cache.DIRECTORY).write_text("in the way")
    vlpipe.build_index(files, LAYOUT)
    vlpipe.build_index(files, LAYOUT)
    assert len(indexed) == 4
    assert len(list((tmp_path / "cache" / "vlpipe" / "index").glob("*/*"))) == 4
    monkeypatch.setenv("XDG_CACHE_HOME", str(files[0]))
    assert len(vlpipe.build_index(files, LAYOUT)) == 10
    assert len(indexed) == 8
    assert "1.tfrecord: the index cannot be cached, neither beside the file nor in the user's cache directory" in caplog.text


@pytest.mark.parametrize("workers", [1, 2])
def test_indexing_resumes_after_the_last_complete_file(files: list[Path], indexed: list[str], workers: int) -> None:
    write(files[2], [record(1, 3)] * 40)  # more than the sample that completes the layout
    content = files[2].read_bytes()
    files[2].write_bytes(content[:-1])
    begin = 39 * len(content) // 40
    with pytest.raises(
        DatasetError, match=f"^3.tfrecord, record 39 at byte {begin}: the header announces 58 bytes of data, the file has 57 left"
    ):
        vlpipe.build_index(files, LAYOUT, workers=workers)
    files[2].write_bytes(content)
    seen: list[int] = []
    assert len(vlpipe.build_index(files, LAYOUT, workers=workers, progress=lambda done, _: seen.append(done))) == 47
    assert seen[0] in ((2,) if workers == 1 else (2, 3))
    assert seen[-1] == 4
    if workers == 1:
        assert indexed == ["1.tfrecord", "2.tfrecord", "3.tfrecord", "3.tfrecord", "4.tfrecord"]
    else:
        assert set(indexed) <= {"3.tfrecord"}  # perhaps the only file left; other processes indexed the rest


def test_a_file_that_changes_while_it_is_indexed_is_refused(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(path: str, layout: layouts.Layout) -> index_file.Table:
        table = index_file.extract(path, layout)
        os.utime(path, ns=(5, 5))
        return table

    monkeypatch.setattr(build, "extract", slow)
    with pytest.raises(DatasetError, match="1.tfrecord: was changed while it was indexed. Index the file again"):
        vlpipe.build_index(files[0], LAYOUT)


def test_a_file_that_cannot_be_mapped_into_memory(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network file systems."""

    def mmap(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr("mmap.mmap", mmap)
    with pytest.raises(DatasetError, match=r"4\.tfrecord: cannot be mapped into memory \(.*No such device\), expected a TFRecord file"):
        index_file.extract(str(files[3]), LAYOUT)


def test_sources(files: list[Path], tmp_path: Path) -> None:
    assert len(vlpipe.build_index(tmp_path, LAYOUT)) == len(vlpipe.build_index(str(tmp_path / "*.tfrecord"), LAYOUT)) == 10
    with pytest.raises(ArgumentError, match=r"source: .*1.tfrecord or another file is named twice; name each file once"):
        vlpipe.build_index([files[0], tmp_path], LAYOUT)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="empty: has no file with .tfrecord in its name"):
        vlpipe.build_index(tmp_path / "empty", LAYOUT)
    with pytest.raises(DatasetError, match=r"empty: has no vlpipe.json"):
        vlpipe.plan(tmp_path / "empty")
    nothing = write(tmp_path / "nothing.tfrecord", [])
    assert len(vlpipe.build_index([files[3], nothing], LAYOUT)) == 4
    with pytest.raises(DatasetError, match=r"nothing.tfrecord: none of 1 files holds a record"):
        vlpipe.build_index(nothing, LAYOUT)
    assert find_files.is_foreign(tmp_path)
    vlpipe.write(tmp_path / "own", [{"x": np.ones((2, 3), np.float32)}])
    assert not find_files.is_foreign(tmp_path / "own")
    own = vlpipe.build_index(tmp_path / "own", layouts.raw_bytes("x", dtype="float32", d=3))
    assert own.frames("x").tolist() == [2]
    with pytest.raises(DatasetError, match=r"gone.tfrecord: cannot be indexed \(No such file or directory\), expected a TFRecord file"):
        build.index_file(str(tmp_path / "gone.tfrecord"), LAYOUT)
    with pytest.raises(DatasetError, match=r"own: cannot be read .*expected a TFRecord file"):
        index_file.extract(tmp_path / "own", LAYOUT)


@pytest.mark.parametrize(("engine", "problem"), [("mapped", "the checksum of its"), ("graph", "TensorFlow cannot read the record")])
def test_damaged_data_are_detected_at_the_first_read(files: list[Path], engine: str, problem: str) -> None:
    write(files[3], [record(2)] * 40)
    row = vlpipe.build_index(files[3], LAYOUT).rows[35]  # beyond the sample that completes the layout
    content = bytearray(files[3].read_bytes())
    content[int(row["offset"]) + 12 + int(row["start"])] ^= 1
    files[3].write_bytes(content)
    dataset = vlpipe.make_dataset(files[3], layout=LAYOUT, engine=engine, batch_size=2)
    with pytest.raises(tf.errors.OpError, match=rf"4.tfrecord, record 35 at byte {row['offset']}: {problem}"):
        list(dataset)


def test_each_flipped_byte_is_an_error_that_names_the_record_or_changes_its_checksum(files: list[Path]) -> None:
    index = vlpipe.build_index(files[3], LAYOUT)
    layout = build.choose_layout([str(files[3])], LAYOUT)
    row = index.rows[2]
    content = files[3].read_bytes()
    begin, size = int(row["offset"]), int(row["bytes"])
    where = f"4.tfrecord, record 2 at byte {begin}: "
    misfits = 0
    for at in range(begin, begin + size + 16):
        damaged = bytearray(content)
        damaged[at] ^= 0x10
        files[3].write_bytes(damaged)
        checksum, message = attempt(files[3], layout)
        actual = masked_crc(bytes(damaged[begin + 12 : begin + 12 + size]))
        if at < begin + 12:
            assert message.startswith(f"{where}the checksum of its length does not match. The file is damaged or was cut: restore it")
        elif message:  # the data do not match the layout
            problem = f"the checksum of its {size} bytes of data is {actual:08x}, but the file specifies {row['checksum']:08x}; the file"
            assert message == f"{where}{problem} is damaged. Restore it from a copy."
            misfits += 1
        else:
            assert actual != checksum
    assert misfits > 10


def attempt(path: Path, layout: layouts.Layout) -> tuple[int, str]:
    """Return the checksum in the index for the third record, or the message of the error."""
    try:
        return int(index_file.extract(path, layout).rows["checksum"][2]), ""
    except DatasetError as error:
        return 0, str(error)


def test_cut_at_each_byte(files: list[Path]) -> None:
    content = files[1].read_bytes()
    second = int(vlpipe.build_index(files[1], LAYOUT).rows["offset"][1])
    for size in range(1, len(content)):
        if size == second:
            continue  # one whole record is missing, which cannot be detected
        number, begin = (0, 0) if size < second else (1, second)
        with pytest.raises(DatasetError, match=rf"^f, record {number} at byte {begin}: the (file ends after|header announces)"):
            scan_of(content[:size])
    assert scan_of(b"").offsets.tolist() == []


def scan_of(content: bytes) -> Scan:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        return scan(file, "f")


@pytest.mark.parametrize("piece", [16, 100, 1 << 16])
def test_scan_agrees_with_the_reader(files: list[Path], piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfrecord, "_PIECE", piece)
    frames = [(frame.offset, len(frame.data), frame.checksum) for frame in read_frames(files[3])]
    assert list(zip(*scan_of(files[3].read_bytes()), strict=True)) == frames
    huge = header_of(1 << 40) + bytes(100)
    with pytest.raises(DatasetError, match="f, record 0 at byte 0: the header announces 1099511627776 bytes of data, the file has 96 left"):
        scan_of(huge)
    monkeypatch.setattr(tfrecord, "_piece", lambda descriptor, begin, size: b"")
    with pytest.raises(DatasetError, match="f, record 0 at byte 0: the file became shorter while it was scanned"):
        scan_of(files[3].read_bytes())


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"x": floats([1, 2, 3, 4]), "label": ints(1)}, r'"x", at byte AT, has 4 values, not a multiple of 3 \(d = 3, float32\)'),
        ({"x": raw(b"123"), "label": ints(1)}, '"x" holds values of kind bytes, expected float'),
        ({"label": ints(1)}, 'has no feature "x"'),
        ({"x": floats([1, 2, 3])}, 'has no feature "label"'),
        ({"x": floats([1, 2, 3]), "label": ints(1, 2)}, r'"label" has 2 values, expected 1 in every record \(or name the key in lists='),
        ({"x": floats([1, 2, 3]), "label": floats([1])}, '"label" holds values of kind float, expected int64'),
    ],
)
def test_a_record_that_does_not_match_the_layout(tmp_path: Path, features: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "a.tfrecord", [record(2)] * 40 + [example(features)] + [record(1)])
    if "AT" in message:
        message = message.replace("AT", str(path.read_bytes().index(np.float32([1, 2, 3, 4]).tobytes())))
    with pytest.raises(DatasetError, match=rf"^{place(path, 40)}: {message}.* Pass the layout of these records"):
        vlpipe.build_index(path, LAYOUT)


@pytest.mark.parametrize(
    ("layout", "good", "bad", "message"),
    [
        (
            layouts.float_list("x", length="n"),
            {"x": floats(range(6)), "n": ints(2)},
            {"x": floats(range(6)), "n": ints(3)},
            r'"n" is \[3\], but "x" has 2 frames of 3 values; expected T',
        ),
        (
            layouts.float_list("x", shape="n"),
            {"x": floats(range(6)), "n": ints(2, 3)},
            {"x": floats(range(6)), "n": ints(2, 2)},
            r'"n" is \[2, 2\], but "x" has 2 frames of 3 values; expected \[T, 3\]',
        ),
        (
            layouts.ragged_rows("x"),
            {"x/ragged_flat_values": floats(range(6)), "x/ragged_row_lengths_0": ints(3, 3)},
            {"x/ragged_flat_values": floats(range(6)), "x/ragged_row_lengths_0": ints(2, 4)},
            r'is \[2, 4\], but "x/ragged_flat_values" has 2 frames of 3 values; expected one length for each',
        ),
        (
            layouts.serialized_tensor("x"),
            {"x": raw(tf.io.serialize_tensor(np.ones((2, 3), "f4")).numpy())},
            {"x": raw(tf.io.serialize_tensor(np.ones((3, 2), "f4")).numpy())},
            r'"x", at byte AT, is not a serialized tensor of float32 \[T, 3\], as in the first records',
        ),
        (
            layouts.serialized_tensor("x"),
            {"x": raw(tf.io.serialize_tensor(np.ones((2, 3, 4), "f4")).numpy())},
            {"x": raw(tf.io.serialize_tensor(np.ones((2, 4, 3), "f4")).numpy())},
            r"is not a serialized tensor of float32 \[T, 3, 4\], as in the first records",
        ),
        (
            layouts.serialized_tensor("x"),
            {"x": raw(tf.io.serialize_tensor(np.ones((2, 3), "f4")).numpy())},
            {"x": raw(tf.io.serialize_tensor(np.ones((2, 3), "i4")).numpy())},
            r"is not a serialized tensor of float32 \[T, 3\], as in the first records",
        ),
        (
            layouts.raw_bytes("x", dtype="int16", d=2),
            {"x": raw(bytes(8))},
            {"x": raw(bytes(9))},
            r'"x", at byte AT, has 9 bytes, not a multiple of 4 \(d = 2, int16\)',
        ),
        (
            layouts.raw_bytes("x", dtype="int16", d=2),
            {"x": raw(bytes(8))},
            {"x": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"1234", b"5678"]))},
            '"x" has 2 values, expected one value, or packed numbers',
        ),
    ],
)
def test_a_length_or_a_value_that_does_not_match(
    tmp_path: Path, layout: layouts.Layout, good: dict[str, Any], bad: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "a.tfrecord", [example(good)] * 40 + [example(bad)])
    payload = b"".join(bad["x"].bytes_list.value) if "x" in bad else b""  # at the end of the record
    message = message.replace("AT", str(path.stat().st_size - 4 - len(payload)))
    with pytest.raises(DatasetError, match=rf"^{place(path, 40)}: .*{message}"):
        vlpipe.build_index(path, layout)


@pytest.mark.parametrize(
    "frames",
    [
        [raw(bytes(7)), raw(bytes(5))],
        [raw(bytes(6)), raw(bytes(5))],
        [raw(bytes(6)), floats([1])],
        [raw(bytes(6)), ints(1)],
        [raw(bytes(6)), tf.train.Feature()],
    ],
)
def test_frames_of_different_sizes(tmp_path: Path, frames: list[tf.train.Feature]) -> None:
    good = sequence_example({}, {"x": [raw(bytes(6))] * 3})
    path = write(tmp_path / "a.tfrecord", [good] * 40 + [sequence_example({}, {"x": frames})])
    with pytest.raises(DatasetError, match=rf'^{place(path, 40)}: the feature list "x", at byte \d+, has \d+ bytes, which are not'):
        vlpipe.build_index(path, layouts.byte_frames("x", dtype="uint8"))
    path = write(tmp_path / "b.tfrecord", [good] * 40 + [sequence_example({}, {"y": frames})])
    with pytest.raises(DatasetError, match=f'^{place(path, 40)}: contains no feature list "x"'):
        vlpipe.build_index(path, layouts.byte_frames("x", dtype="uint8"))


def unusual(frames: int, tags: list[int]) -> bytes:
    """Return a record with a value before its key, unpacked numbers, unknown fields, and a repeated key."""
    x = field(2, field(1, np.full(3 * frames, 7, "<f4").tobytes()))
    loose = field(3, b"".join(b"\x08" + varint(tag) for tag in tags))
    label = field(1, field(2, field(3, b"\x08\x09")) + field(1, b"label"))
    twice = entry(b"x", field(2, field(1, bytes(4))))
    return field(7, b"unknown") + field(1, twice + label + entry(b"tags", loose) + field(5, b"?") + entry(b"x", x))


@pytest.mark.parametrize("engine", ["mapped", "graph"])
def test_records_of_an_unusual_encoding_among_others(tmp_path: Path, engine: str) -> None:
    records = [record(2, 3), unusual(3, [5, 300]), record(1, 2), unusual(0, []), unusual(1, [1, 2, 3])]
    path = write(tmp_path / "a.tfrecord", records)
    layout = layouts.float_list("x", d=3, label="tags", lists=("tags",))
    frames, labels, lengths = read(path, engine, layout=layout)
    assert [len(frames[number]) for number in range(5)] == [2, 3, 1, 0, 1]
    assert (frames[1] == 7).all()
    assert [labels[number][: lengths[number]].tolist() for number in range(5)] == [[0, 1, 2], [5, 300], [0, 1], [], [1, 2, 3]]
    assert vlpipe.build_index(path, layout).rows["value:label"].tolist() == [3, 9, 2, 9, 9]


@pytest.mark.parametrize("engine", ["mapped", "graph"])
def test_a_record_without_frames_may_be_shorter_than_a_frame_header(tmp_path: Path, engine: str) -> None:
    path = write(tmp_path / "a.tfrecord", [sequence_example({}, {"x": [floats(np.full(5000, 2.0))] * count}) for count in (0, 2)])
    layout = layouts.float_frames("x")
    assert vlpipe.build_index(path, layout).stored("x").gap == 12 > vlpipe.build_index(path, layout).rows["bytes"][0]
    for batching in ("pad", "ragged"):
        ((x,),) = vlpipe.make_dataset(path, layout=layout, engine=engine, batching=batching, shuffle=False, length_range=(0, None))
        assert np.array_equal(x[1], np.full((2, 5000), 2.0))
        assert not np.any(x[0])


def test_a_record_with_unpacked_floats_among_others(tmp_path: Path) -> None:
    packed = [record(2)] * 130
    path = write(tmp_path / "a.tfrecord", [*packed, loose_example("x", np.ones((1, 3)), 1)])
    layout = layouts.float_list("x", d=3)
    with pytest.raises(DatasetError, match=rf'^{place(path, 130)}: "x" has 3 unpacked numbers \(packed=False lets'):
        vlpipe.build_index(path, layout)
    index = vlpipe.build_index(path, layouts.float_list("x", d=3, packed=False).only())
    assert index.frames("x").tolist() == [2] * 130 + [1]
    # If the first records have them, they are parsed without packed=False.
    first = write(tmp_path / "b.tfrecord", [loose_example("x", np.ones((t, 3)), 1) for t in (4, 1, 0)])
    assert vlpipe.build_index(first, layout).frames("x").tolist() == [4, 1, 0]


@pytest.mark.parametrize("engine", ["mapped", "graph", "stream"])
def test_an_integer_outside_the_range_of_the_dtype(tmp_path: Path, engine: str) -> None:
    path = write(tmp_path / "a.tfrecord", [example({"x": ints(1, 2, 3)}), example({"x": ints(5, -1, 40_000)})])
    dataset = vlpipe.make_dataset(path, layout=layouts.int_list("x", d=1, dtype="int16"), engine=engine)
    offset = vlpipe.build_index(path, layouts.int_list("x", d=1)).rows["offset"][1]
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=rf"a.tfrecord, record 1 at byte {offset}: .*x.* holds 40000, which is outside the range of int16. Pass a layout",
    ):
        list(dataset)
    with Records(vlpipe.build_index(path, layouts.int_list("x", d=1, dtype="int16"))) as records:
        assert records.values(0)["x"].tolist() == [[1], [2], [3]]
        with pytest.raises(
            DatasetError, match=f'record 1 at byte {offset}: "x" holds 40000, which is outside the range of int16; pass a layout'
        ):
            records.values(1)


@pytest.mark.parametrize("engine", ["mapped", "graph", "stream"])
def test_audio_that_is_damaged_or_of_another_rate(tmp_path: Path, engine: str) -> None:
    good = audio_file(np.arange(500))
    layout = layouts.encoded_audio("x")
    for bad, message in (
        (
            audio_file(np.arange(9), rate=16_000),
            '"x": the sample rate is 16000 Hz, but the first records have 8000 Hz; all records must have one rate',
        ),
        (good[:700], '"x": the header announces 1000 bytes of samples, the file has 656'),
        (b"", '"x": the file is empty, expected WAV, FLAC'),
    ):
        path = write(tmp_path / "a.tfrecord", [example({"x": raw(data)}) for data in (good, bad)])
        with pytest.raises(DatasetError, match=rf"^{place(path, 1)}: {message}"):
            vlpipe.build_index(path, layout)
    flac = bytearray(audio_file(np.arange(500) % 77, kind="FLAC"))
    flac[-40] ^= 1  # damage that the header does not reveal
    path = write(tmp_path / "a.tfrecord", [example({"x": raw(data)}) for data in (good, bytes(flac))])
    assert vlpipe.build_index(path, layout).metadata == {"layout": "encoded_audio", "sample_rate": 8000}
    with pytest.raises(tf.errors.OpError, match=rf"{place(path, 1)}: .*x.*: "):
        list(vlpipe.make_dataset(path, layout=layout, engine=engine))
    with Records(vlpipe.build_index(path, layout)) as records, pytest.raises(DatasetError, match=f'^{place(path, 1)}: "x": '):
        records.values(1)
    with pytest.raises(
        SchemaError, match=r'layout: b.tfrecord, record 0 at byte 0: "x": begins with .*Pass a layout other than encoded_audio'
    ):
        vlpipe.build_index(write(tmp_path / "b.tfrecord", [example({"x": raw(b"no audio at all")})]), layout)


def test_a_varint_without_end_among_integers(tmp_path: Path) -> None:
    endless = field(1, entry(b"x", field(3, field(1, b"\x01\x80"))))
    path = write(tmp_path / "a.tfrecord", [example({"x": ints(1, 2)}), endless])
    with pytest.raises(
        DatasetError, match=rf"^{place(path, 1)}: not a tf.train.Example or SequenceExample: .* has a packed varint that does not end"
    ):
        vlpipe.build_index(path, layouts.int_list("x", d=1))


def test_a_record_that_is_not_an_example(tmp_path: Path, files: list[Path]) -> None:
    path = write(tmp_path / "a.tfrecord", [record(1)] * 40 + [b"\xff" * 20])
    with pytest.raises(
        DatasetError, match=rf"^{place(path, 40)}: neither a tf.train.Example nor a SequenceExample: byte \d+ of the file has"
    ):
        vlpipe.build_index(path, LAYOUT)
    zipped = tmp_path / "a.tfrecord.gz"
    zipped.write_bytes(gzip.compress(files[3].read_bytes()))
    assert np.array_equal(vlpipe.build_index(zipped, LAYOUT).rows, vlpipe.build_index(files[3], LAYOUT).rows)
    zipped.write_bytes(gzip.compress(zipped.read_bytes()))
    with pytest.raises(
        DatasetError, match=r"a.tfrecord.gz: its uncompressed content has no record at byte 0, but a wrong checksum. It is not"
    ):
        vlpipe.build_index(zipped, LAYOUT)
