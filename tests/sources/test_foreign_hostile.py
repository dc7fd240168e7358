"""Valid protocol buffers that no usual writer produces are read like protobuf does, or refused with the name of the record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from tests.helpers.foreign_files import place, write
from vlpipe import layouts
from vlpipe.errors import DatasetError
from vlpipe.protobuf.wire import signed
from vlpipe.sources.records import Records
from vlpipe.storage.example import varint

pytestmark = pytest.mark.usefixtures("quick_graphs")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def field(number: int, *content: bytes) -> bytes:
    inside = b"".join(content)
    return varint(number << 3 | 2) + varint(len(inside)) + inside


def entry(feature: bytes) -> bytes:
    return field(1, field(1, b"x"), field(2, feature))


FLOATS = [np.float32(value).tobytes() for value in (1.5, -2, 0.25)]
INTEGERS = [varint(value & (1 << 64) - 1) for value in (3, -1, 1 << 40)]
KINDS = {
    "int64": (3, layouts.int_list("x", d=1), b"\x08", INTEGERS),
    "float": (2, layouts.float_list("x", d=1, packed=False), b"\x0d", FLOATS),
}


def encodings(kind: str) -> dict[str, tuple[bytes, bool]]:
    """Return records by name, and whether TensorFlow's own parser reads them like protobuf does."""
    number, _, tag, values = KINDS[kind]
    packed, single = field(1, *values), b"".join(tag + value for value in values)
    usual = entry(field(number, packed))
    return {
        "packed": (field(1, usual), True),
        "single": (field(1, entry(field(number, single))), True),
        "none": (field(1, entry(b"")), True),
        "an empty list": (field(1, entry(field(number))), True),
        "an empty run": (field(1, entry(field(number, field(1)))), True),
        "the key twice": (field(1, entry(field(number, single)), usual), True),
        "the message in parts": (field(1, entry(b"")) + field(1, usual), True),
        "value before key": (field(1, field(1, field(2, field(number, packed)), field(1, b"x"))), True),
        "unknown fields": (field(7, b"?") + field(1, usual), True),
        "two lists": (field(1, entry(field(number, packed) * 2)), False),
        "an empty list and one": (field(1, entry(field(number) + field(number, packed))), False),
        "of another kind first": (field(1, entry(field(5 - number) + field(number, packed))), False),
        "of another kind between": (
            field(1, entry(field(number, field(1, *values[::-1])) + field(5 - number) + field(number, packed))),
            False,
        ),
        "packed and single": (field(1, entry(field(number, packed, single))), False),
        "single and packed": (field(1, entry(field(number, single, packed))), False),
        "two runs": (field(1, entry(field(number, packed * 2))), False),
        "unknown in the list": (field(1, entry(field(number, packed, field(9)))), False),
        "unknown in the feature": (field(1, entry(field(9) + field(number, packed))), False),
        "two keys in an entry": (field(1, field(1, field(1, b"y"), field(1, b"x"), field(2, field(number, packed)))), False),
        "an entry without a value": (field(1, field(1, field(1, b"y")), usual), False),
    }


CASES = [(kind, name) for kind in KINDS for name in encodings(kind)]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_encodings_of_parsed_numbers(tmp_path: Path, kind: str, name: str) -> None:
    _, layout, _, _ = KINDS[kind]
    record, is_plain = encodings(kind)[name]
    path = write(tmp_path / "a.tfrecord", [encodings(kind)["packed"][0], record])
    if not is_plain:
        with pytest.raises(DatasetError, match=rf'^{place(path, 1)}: "x" is encoded in several parts, or in another way'):
            vlpipe.build_index(path, layout)
        return
    message = tf.train.Example.FromString(record).features.feature["x"]
    expected = list(message.int64_list.value or message.float_list.value)
    other = ("graph", "mapped", "stream", "mapped")[(CASES.index((kind, name)) + (kind == "float")) % 4]  # all parse with the same code
    for engine in dict.fromkeys(("mapped", other)):
        (batch,) = vlpipe.make_dataset(
            path, engine=engine, layout=layout, dtype="float64", batching="ragged", shuffle=False, length_range=(0, 9)
        )
        assert batch[0][1].numpy().ravel().tolist() == expected
    with Records(vlpipe.build_index(path, layout)) as records:
        assert records.values(1)["x"].ravel().tolist() == expected


@pytest.mark.parametrize("run", [b"\xff" * 10 + b"\x01", b"\x01" + b"\x80" * 10 + b"\x00\x01", b"\x01\xff"])
@pytest.mark.parametrize("single", [False, True])
def test_a_varint_that_does_not_end(tmp_path: Path, run: bytes, single: bool) -> None:
    values = b"\x08" + run if single else field(1, run)
    for before in (1, 50):  # within the records that complete the layout, and after them
        path = write(tmp_path / "a.tfrecord", [encodings("int64")["packed"][0]] * before + [field(1, entry(field(3, values)))])
        message = (
            rf"not a tf.train.Example or SequenceExample: byte \d+ of the file has a {'' if single else 'packed '}varint that does not end"
        )
        if before == 50 and single:
            message = r"neither a tf.train.Example nor a SequenceExample: byte \d+ of the file has a varint that does not end"
        elif before == 50:
            message = f'"x", at byte {path.read_bytes().rindex(run)}, holds frames with an endless varint'
        with pytest.raises(DatasetError, match=f"^{place(path, before)}: {message}"):
            vlpipe.build_index(path, layouts.int_list("x", d=1))


@pytest.mark.parametrize("run", [b"\xff" * 10 + b"\x01", b"\x01\xff"])
def test_a_label_that_does_not_end(tmp_path: Path, run: bytes) -> None:
    frames = field(1, field(1, b"y"), field(2, field(2, field(1, FLOATS[0]))))
    records = [field(1, frames, entry(field(3, field(1, values)))) for values in [b"\x01"] * 50 + [run]]
    path = write(tmp_path / "a.tfrecord", records)
    message = f'^{place(path, 50)}: "x", at byte {path.read_bytes().rindex(run)}, holds an endless varint'
    with pytest.raises(DatasetError, match=message):
        vlpipe.build_index(path, layouts.float_list("y", d=1, label="x"))


@pytest.mark.parametrize("last", [0x01, 0x7F])
def test_a_varint_of_ten_bytes(tmp_path: Path, last: int) -> None:
    """Bits beyond 64 are dropped, like in protobuf."""
    run = b"\xfe" * 9 + bytes([last])
    path = write(tmp_path / "a.tfrecord", [field(1, entry(field(3, field(1, run, b"\x05"))))])
    expected = [signed(int.from_bytes(b"\0", "little") | sum((0x7E << 7 * place) for place in range(9)) | 1 << 63), 5]
    with Records(vlpipe.build_index(path, layouts.int_list("x", d=1))) as records:
        assert records.values(0)["x"].ravel().tolist() == expected


def test_a_tag_that_is_longer_than_necessary(tmp_path: Path) -> None:
    record = field(1, entry(field(3, field(1, *INTEGERS))))
    path = write(tmp_path / "a.tfrecord", [record, b"\x8a\x00" + record[1:]])
    with pytest.raises(
        DatasetError, match=rf"^{place(path, 1)}: not a tf.train.Example or SequenceExample: .* has field number 1 in 2 bytes"
    ):
        vlpipe.build_index(path, layouts.int_list("x", d=1))
