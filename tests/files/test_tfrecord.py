"""The TFRecord format, compared with TensorFlow's reader and writer; damage is detected and located."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from vlpipe.errors import DatasetError
from vlpipe.files.tfrecord import FOOTER_BYTES, HEADER_BYTES, RecordFrame, footer_of, header_of, masked_crc, read_frames

RECORDS = st.lists(st.binary(max_size=300), max_size=6)
NEXT_STEP = r"The file is damaged or was cut: restore it from a copy, or write the dataset again\."


def framed(records: Iterable[bytes]) -> bytes:
    return b"".join(header_of(len(data)) + data + footer_of(masked_crc(data)) for data in records)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def slow_crc(data: bytes) -> int:
    """CRC32C bit by bit, as it is defined: reflected, polynomial 0x1EDC6F41."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_the_sizes_are_those_of_the_format() -> None:
    assert (HEADER_BYTES, FOOTER_BYTES) == (12, 4)
    assert framed([b"abc"])[:8] == struct.pack("<Q", 3)
    assert len(framed([b"abc"])) == 12 + 3 + 4


def test_the_known_checksum() -> None:
    assert google_crc32c.value(b"123456789") == 0xE3069283  # the check value of CRC32C in the CRC catalogues
    rotated = (0xE3069283 >> 15 | 0xE3069283 << 17) & 0xFFFFFFFF
    assert masked_crc(b"123456789") == (rotated + 0xA282EAD8) % 2**32


@given(st.binary(max_size=100))
def test_the_checksum_follows_the_definition(data: bytes) -> None:
    crc = slow_crc(data)
    assert masked_crc(data) == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


@given(RECORDS)
def test_tensorflow_reads_framed_records(tmp_path: Path, records: list[bytes]) -> None:
    path = write(tmp_path / "a.tfrecord", framed(records))
    assert list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()) == records


@given(RECORDS)
def test_the_bytes_are_those_of_tensorflow(tmp_path: Path, records: list[bytes]) -> None:
    path = tmp_path / "a.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for data in records:
            writer.write(data)
    assert path.read_bytes() == framed(records)


@given(RECORDS)
def test_read_frames_yields_offsets_contents_and_checksums(tmp_path: Path, records: list[bytes]) -> None:
    path = write(tmp_path / "a.tfrecord", framed(records))
    offsets = np.cumsum([0, *(len(data) + 16 for data in records)])
    expected = [RecordFrame(int(offset), data, masked_crc(data)) for offset, data in zip(offsets, records, strict=False)]
    assert list(read_frames(path)) == expected


# ---- damage ----------------------------------------------------------------------------------------------------------------------

FIRST, LAST = b"first record", b"the last one"
OFFSET = 16 + len(FIRST)  # where the last record begins


def test_every_cut_of_the_last_record_is_found(tmp_path: Path) -> None:
    content = framed([FIRST, LAST])
    for size in range(OFFSET + 1, len(content)):
        path = write(tmp_path / "cut.tfrecord", content[:size])
        with pytest.raises(DatasetError, match=rf"^cut\.tfrecord, record 1 at byte {OFFSET}: .*{NEXT_STEP}$") as caught:
            list(read_frames(path))
        left = size - OFFSET
        problem = (
            f"the file ends after {left} of 12 header bytes"
            if left < 12
            else f"the header announces 12 bytes of data, of which the file has {max(0, left - 16)}. "
        )
        assert problem in str(caught.value)
    assert len(list(read_frames(write(tmp_path / "whole.tfrecord", content[:OFFSET])))) == 1


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    content = framed([FIRST, LAST])
    for position in range(OFFSET, len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path = write(tmp_path / "flipped.tfrecord", bytes(damaged))
        with pytest.raises(DatasetError) as caught:
            list(read_frames(path))
        problem = "the checksum of its length is wrong" if position < OFFSET + 12 else "the checksum of its 12 bytes of data is wrong"
        assert str(caught.value).startswith(f"flipped.tfrecord, record 1 at byte {OFFSET}: {problem}. The file is damaged")


@pytest.mark.parametrize("length", [2**40, 2**63, 2**64 - 1, 13])
def test_a_length_beyond_the_file_allocates_nothing(tmp_path: Path, length: int) -> None:
    # With a valid checksum, so that only the size of the file refutes it: TensorFlow's reader crashes.
    path = write(tmp_path / "long.tfrecord", header_of(length) + b"\0" * 16)
    with pytest.raises(DatasetError, match=f"record 0 at byte 0: the header announces {length} bytes of data, of which the file has 12. "):
        list(read_frames(path))


@settings(max_examples=100)
@given(st.binary(max_size=80))
def test_noise_is_refused_or_read_unchanged(tmp_path: Path, noise: bytes) -> None:
    path = write(tmp_path / "noise.tfrecord", noise)
    problem = ""
    try:
        again = framed(frame.data for frame in read_frames(path))
    except DatasetError as error:
        problem = str(error)
    assert problem.startswith("noise.tfrecord, record 0 at byte 0: ") if problem else again == noise


@pytest.mark.parametrize("kind", ["missing", "directory"])
def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tfrecord"
    if kind == "directory":
        path.mkdir()
    with pytest.raises(DatasetError, match=r"a\.tfrecord: cannot be read \(.+\), expected an uncompressed TFRecord file"):
        list(read_frames(path))
