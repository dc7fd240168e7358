"""Files of a dataset that are damaged without looking so, or that cost far more than they weigh. Imports no TensorFlow."""

from __future__ import annotations

import json
import os
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import vlpipe
from tests.helpers.metadata_files import edit_metadata
from vlpipe import DatasetError
from vlpipe.files.json_files import MAX_JSON_BYTES, parse_json
from vlpipe.storage.metadata import open_directory, parse_metadata


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    with vlpipe.Writer(tmp_path / "d", num_shards=1) as writer:
        writer.metadata |= {"classes": ["ant", "bee"], "label": "label"}
        for n in range(3):
            writer.write({"x": np.full((12, 13), n, np.float32), "label": n % 2})
    return tmp_path / "d"


# ---- the digest of vlpipe.json ---------------------------------------------------------------------------------------------------------


def test_the_digest_is_that_of_the_document_without_it(dataset: Path) -> None:
    from google_crc32c import value

    document = json.loads((dataset / "vlpipe.json").read_bytes())
    digest = document.pop("digest")
    assert digest == f"crc32c:{value(json.dumps(document, sort_keys=True, separators=(',', ':')).encode()):08x}"


def test_each_flipped_bit_is_refused_or_changes_nothing(dataset: Path) -> None:
    """Of what a reader gets: spaces may be other ones, and a document may lose its digest, which `verify` reports."""
    path = dataset / "vlpipe.json"
    content = path.read_bytes()
    good = json.loads(content)
    accepted = 0
    for at in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[at] ^= 1 << bit
            try:
                metadata = parse_metadata(bytes(changed), str(path))
            except DatasetError:
                continue
            accepted += 1
            document = json.loads(changed)
            assert {key: document[key] for key in good if key != "digest"} == {key: good[key] for key in good if key != "digest"}
            assert metadata.has_digest == ("digest" in document)
    assert accepted < 100


@pytest.mark.parametrize("what", ["shape", "mean", "class", "length"])
def test_a_changed_number_or_name_is_refused(dataset: Path, what: str) -> None:
    """[13] became [12] with the statistics gone: the engines would have delivered frames of 12 numbers, which are other numbers."""
    document = json.loads((dataset / "vlpipe.json").read_bytes())
    if what == "shape":
        document["schema"]["x"]["shape"], document["statistics"] = [12], {}
    elif what == "mean":
        document["statistics"]["x"]["mean"][0] += 2**-40
    elif what == "class":
        document["metadata"]["classes"][0] = "cat"
    else:
        document["lengths"]["x"] = []
    (dataset / "vlpipe.json").write_text(json.dumps(document))
    message = (
        r"vlpipe\.json: the digest of its content is crc32c:\w{8}, it says 'crc32c:\w{8}': it was damaged, or edited after it was written"
    )
    with pytest.raises(DatasetError, match=message + r'\. Restore .* on purpose, remove its key "digest"'):
        open_directory(dataset)


def test_spaces_and_order_do_not_count(dataset: Path) -> None:
    document = json.loads((dataset / "vlpipe.json").read_bytes())
    (dataset / "vlpipe.json").write_text(json.dumps(dict(reversed(document.items())), indent=3))
    assert vlpipe.verify(dataset).ok


def test_a_dataset_without_the_digest_opens_and_verify_says_so(dataset: Path) -> None:
    document = json.loads((dataset / "vlpipe.json").read_bytes())
    del document["digest"]
    (dataset / "vlpipe.json").write_text(json.dumps(document))
    assert vlpipe.plan(dataset).records == 3
    (problem,) = vlpipe.verify(dataset).problems
    assert (problem.shard, problem.record, problem.kind) == (str(dataset / "vlpipe.json"), None, "digest")
    assert (problem.found, problem.expected) == ("no digest of its content", "one, as vlpipe writes it")
    assert problem.action == "Write the dataset again with this vlpipe, for example with `vlpipe convert`."


@pytest.mark.parametrize("digest", [None, 3, [], "crc32c:00000000", "x" * 10**6, "\x1b[2J"])
def test_a_digest_that_is_none(dataset: Path, digest: object) -> None:
    document = json.loads((dataset / "vlpipe.json").read_bytes())
    (dataset / "vlpipe.json").write_text(json.dumps({**document, "digest": digest}))
    with pytest.raises(DatasetError, match="it says .*: it was damaged, or edited") as caught:
        open_directory(dataset)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_metadata_of_mixed_keys_are_written_and_read(tmp_path: Path) -> None:
    with vlpipe.Writer(tmp_path / "d") as writer:
        writer.metadata |= {"a": (1, 2), "ä": {3: None, "b": 1e-300}}  # JSON has texts for keys and lists for tuples
        writer.write({"x": np.zeros((1, 2), np.float32)})
    assert open_directory(tmp_path / "d").metadata == {"a": [1, 2], "ä": {"3": None, "b": 1e-300}}


def test_metadata_with_a_key_twice_are_not_written(tmp_path: Path) -> None:
    writer = vlpipe.Writer(tmp_path / "d")
    writer.metadata |= {"a": {1: 2, "1": 3}}
    writer.write({"x": np.zeros((1, 2), np.float32)})
    with pytest.raises(vlpipe.ArgumentError, match="a value that JSON cannot express .the key '1' occurs twice in one object"):
        writer.close()
    assert not (tmp_path / "d").exists()


# ---- JSON ------------------------------------------------------------------------------------------------------------------------------


def test_a_key_twice_is_refused(dataset: Path) -> None:
    content = (dataset / "vlpipe.json").read_text()
    (dataset / "vlpipe.json").write_text(content.replace('"records": 3', '"records": 3, "records": 3', 1))
    with pytest.raises(DatasetError, match=r"vlpipe\.json: cannot be read as JSON \(the key 'records' occurs twice in one object\)"):
        open_directory(dataset)


def test_json_that_is_nested_too_deeply_or_too_long() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(b"[" * 10**6)
    with pytest.raises(ValueError, match=f"it has {MAX_JSON_BYTES + 1} bytes, expected at most {MAX_JSON_BYTES}"):
        parse_json(b" " * (MAX_JSON_BYTES + 1))


def test_deep_values_in_any_place_are_refused(dataset: Path) -> None:
    content = (dataset / "vlpipe.json").read_text()
    for depth in (200, 800, 990, 1200, 3000, 100_000):
        for key in ("digest", "metadata", "version", "statistics", "schema", "shards", "records"):
            deep = content.replace(f'"{key}": ', f'"{key}": {"[" * depth + "]" * depth}, "x": ', 1)
            (dataset / "vlpipe.json").write_text(deep)
            with pytest.raises(DatasetError) as caught:
                open_directory(dataset)
            assert len(str(caught.value)) < 3000


# ---- what costs more than it weighs -----------------------------------------------------------------------------------------------------


def cost(call: Callable[[], object]) -> tuple[float, int]:
    """Seconds of CPU and bytes of memory of a call that refuses, measured in a child process."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        text = "accepted"
        try:
            call()
        except DatasetError as error:
            text = str(error)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
        os.write(write, json.dumps([time.process_time() - started, grown, text[-3000:]]).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        seconds, grown, text = json.loads(answer.read())
    os.waitpid(child, 0)
    assert text != "accepted"
    assert len(text) < 2000
    return seconds, grown


def test_a_header_of_megabytes_costs_nothing(dataset: Path) -> None:
    text = ("[" + "1," * 2_000_000 + "]").encode()
    (dataset / "index.npy").write_bytes(b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text)
    seconds, grown = cost(lambda: open_directory(dataset))
    assert seconds < 1
    assert grown < 1 << 26
    with pytest.raises(DatasetError, match=r"index\.npy: cannot be read as a NumPy array \(its header has \d{7} bytes, for these columns"):
        open_directory(dataset)


def npy(header: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


HEADERS = {
    "another version": (b"\x93NUMPY\x09\x00", "it begins with"),
    "cut": (b"\x93NUMPY\x01\x00\x10", "it ends in its header"),
    "no dict": (npy("None"), "its header is not a dict of descr, fortran_order and shape: "),
    "order": (npy("{'descr': '<u4', 'fortran_order': 1, 'shape': ()}"), r"expected the keys descr, fortran_order \(False\) and shape"),
    "objects": (npy("{'descr': '|O', 'fortran_order': False, 'shape': ()}"), "it holds Python objects"),
    "too many": (npy("{'descr': '<u4', 'fortran_order': False, 'shape': (9,)}"), r"its header announces \[9\] of 4 bytes each"),
}


@pytest.mark.parametrize(("content", "message"), HEADERS.values(), ids=HEADERS)
def test_headers_that_are_none(dataset: Path, content: bytes, message: str) -> None:
    (dataset / "index.npy").write_bytes(content)
    with pytest.raises(DatasetError, match=rf"index\.npy: cannot be read as a NumPy array \(.*{message}"):
        open_directory(dataset)


def test_an_index_that_is_cut_while_it_is_read(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from vlpipe.storage import rows_file

    content = (dataset / "index.npy").read_bytes()

    class Cut(io.BytesIO):
        def readinto(self, buffer: object) -> int:
            return super().readinto(memoryview(buffer)[:5])  # type: ignore[arg-type]

    monkeypatch.setattr(rows_file, "open_file", lambda _: Cut(content))
    with pytest.raises(DatasetError, match=f"it was cut while it was read, from {len(content)} bytes"):
        open_directory(dataset)


def test_metadata_of_64_megabytes_are_not_parsed(dataset: Path) -> None:
    content = (dataset / "vlpipe.json").read_text()
    (dataset / "vlpipe.json").write_text(content.rstrip()[:-1] + ', "x": [' + "[]," * (22 << 20) + "[]]}")
    seconds, grown = cost(lambda: open_directory(dataset))
    assert seconds < 2
    assert grown < 1 << 27
    with pytest.raises(
        DatasetError, match=rf"the metadata cannot be read \(it has more than {MAX_JSON_BYTES} bytes, the most that is read"
    ):
        open_directory(dataset)


def test_metadata_of_the_largest_size_take_less_than_a_gigabyte(dataset: Path) -> None:
    content = (dataset / "vlpipe.json").read_text().rstrip()[:-1] + ', "x": ['
    count = (MAX_JSON_BYTES - len(content) - 10) // 3
    (dataset / "vlpipe.json").write_text(content + "[]," * count + "[]]}")
    _, grown = cost(lambda: open_directory(dataset))
    assert grown < 1 << 30


def test_more_metadata_than_can_be_read_are_not_written(tmp_path: Path) -> None:
    writer = vlpipe.Writer(tmp_path / "d", num_shards=1)
    writer.metadata["notes"] = "x" * MAX_JSON_BYTES
    writer.write({"x": np.zeros((1, 2), np.float32)})
    with pytest.raises(vlpipe.ArgumentError, match=f"expected at most {MAX_JSON_BYTES}"):
        writer.close()


# ---- a writer in two processes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["close", "write"])
def test_a_forked_child_neither_writes_nor_commits(tmp_path: Path, call: str) -> None:
    writer = vlpipe.Writer(tmp_path / "d", num_shards=2)
    writer.write({"x": np.zeros((3, 2), np.float32)})
    if (child := os.fork()) == 0:
        try:
            writer.close() if call == "close" else writer.write({"x": np.zeros((4, 2), np.float32)})
            os._exit(1)
        except vlpipe.VlpipeError as error:
            os._exit(0 if "Write and close in the process that opened it, or open it after the fork" in str(error) else 2)
    assert os.waitpid(child, 0)[1] == 0
    assert not (tmp_path / "d").exists()
    writer.write({"x": np.zeros((4, 2), np.float32)})
    writer.close()
    assert open_directory(tmp_path / "d").frames("x").tolist() == [3, 4]


# ---- text from files -------------------------------------------------------------------------------------------------------------------


def test_a_shard_that_is_no_regular_file(dataset: Path) -> None:
    (shard,) = dataset.glob("*.tfrecord")
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(DatasetError, match=r"tfrecord: is a pipe, expected a shard, a regular file\. Restore it"):
        vlpipe.plan(dataset)


def test_control_characters_in_a_dataset_reach_no_error(dataset: Path) -> None:
    edit_metadata(dataset / "vlpipe.json", lambda document: document["shards"][0].update(name="\x1b]0;pwned\x07"))
    with pytest.raises(DatasetError) as caught:
        vlpipe.plan(dataset)
    assert str(caught.value).isprintable()
    assert r"\x1b]0;pwned\x07" in str(caught.value)


def test_a_directory_whose_name_is_not_utf8(dataset: Path) -> None:
    other = Path(os.fsdecode(os.fsencode(dataset.parent) + b"/\xff\xfe"))
    shutil.copytree(dataset, other)
    assert vlpipe.plan(other).records == 3
    assert vlpipe.verify(other).ok
    (other / "index.npy").unlink()
    with pytest.raises(DatasetError, match=r"udcff\\udcfe/index\.npy: cannot be read"):
        vlpipe.plan(other)
