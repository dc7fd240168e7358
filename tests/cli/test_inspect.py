"""`vlpipe inspect` and `vlpipe index`: each layout is detected, and other records are not given one."""

from __future__ import annotations

import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner, Result

import vlpipe
from tests.helpers.foreign_files import audio_file, cases, example, floats, ints, prepared_directory, raw, sequence_example, write
from vlpipe import cli, layouts
from vlpipe.cli.common import parse_layout

CASES = cases()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, list(arguments))


def inspect(path: Path) -> dict[str, Any]:
    result = run("inspect", str(path), "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", CASES)
def test_each_layout_is_detected(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    report = inspect(write(tmp_path / "a.tfrecord", case.records))
    best = report if case.detected else report["candidates"][0]
    assert best["layout"] == case.layout.name
    assert best["confidence"] > 0.9 if case.detected else report["layout"] is None
    assert best["reasons"]
    call = best["call"]
    if case.detected:
        built = eval(call.replace("make_dataset", "build_index"))  # the printed call itself
        assert np.array_equal(vlpipe.build_index(tmp_path / "a.tfrecord", parse_layout(best["option"])).rows, built.rows)
        assert built.frames(case.key).tolist() == [len(frames) for frames in case.frames]
        assert built.foreign.label == case.layout.label
    else:
        assert "=..." in call or "='s'" in call or "length='n'" in call
    assert {fact["key"] for fact in report["keys"]} >= set(case.layout.keys) - {"labels"}


def test_the_printed_report(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", CASES["audioset"].records)
    text = run("inspect", str(path)).stdout
    assert "1 file, " in text
    assert "the first 23 records are SequenceExamples" in text
    assert re.search(r"^audio_embedding +feature list +bytes +23 +0 to 28 +128$", text, re.MULTILINE)
    assert "layout: audioset, 99% sure: feature list audio_embedding of 128 bytes" in text
    assert f"  vlpipe.make_dataset('{path}', layout=vlpipe.layouts.audioset())" in text
    text = run("inspect", str(write(tmp_path / "b.tfrecord", CASES["float_list"].records))).stdout
    assert "layout: unknown; candidates:" in text
    assert "layout=vlpipe.layouts.float_list('x', d=..., label='label'))" in text


def test_native_and_tfds_files(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "own", [{"x": np.ones((2, 3), np.float32)}])
    report = inspect(tmp_path / "own")
    assert (report["layout"], report["call"]) == ("vlpipe", f"vlpipe.make_dataset('{tmp_path / 'own'}')")
    tensor = {"tensor": {"shape": {"dimensions": ["-1", "5"]}, "dtype": "float32", "encoding": "none"}}
    prepared_directory(tmp_path / "tfds", [example({"speech": floats(np.ones((2, 5)))})], {"speech": tensor})
    assert inspect(tmp_path / "tfds")["layout"] == "prepared"
    assert "layout: prepared, 100% sure" in run("inspect", str(tmp_path / "tfds")).stdout


def framed(*records: bytes) -> bytes:
    from vlpipe.files.tfrecord import footer_of, header_of, masked_crc

    return b"".join(header_of(len(record)) + record + footer_of(masked_crc(record)) for record in records)


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


GOOD = framed(*CASES["audioset"].records)
DAMAGED_OR_FOREIGN = {
    "empty": b"",
    "random": random.Random(3).randbytes(5000),
    "text": b"path,label\na.wav,3\n" * 50,
    "image": b"\xff\xd8\xff\xe0" + bytes(range(256)) * 9,
    "wav": b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(200),
    "zipped": gzip.compress(b"something else"),
    "zipped and cut": gzip.compress(GOOD)[:-30],
    "zipped twice": gzip.compress(gzip.compress(GOOD)),
    "cut": GOOD[:300],
    "flipped": flipped(GOOD, 200),
    "flipped header": flipped(GOOD, 3),
    "records of text": framed(b"hello world", b"and so on"),
    "records of random bytes": framed(*(random.Random(n).randbytes(300) for n in range(20))),
}


@pytest.mark.parametrize("name", DAMAGED_OR_FOREIGN)
def test_damaged_and_foreign_files_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.tfrecord"
    path.write_bytes(DAMAGED_OR_FOREIGN[name])
    result = run("inspect", str(path))
    assert result.exit_code == 1
    assert result.stderr.startswith("vlpipe: ")
    assert "a.tfrecord" in result.stderr
    assert "layout:" not in result.output


chooser = np.random.default_rng(4)
UNKNOWN = {
    "images": [example({"image/encoded": raw(b"\xff\xd8\xff\xe0" + chooser.bytes(500)), "label": ints(n)}) for n in range(20)],
    "recordings": [example({"audio": raw(b"RIFF" + chooser.bytes(50 * n)), "label": ints(n)}) for n in range(1, 20)],
    "tokens of a long text": [example({"inputs": ints(*chooser.integers(0, 999, 300 + n).tolist())}) for n in range(9)],
    "crops of recordings": [example({"audio": ints(*chooser.integers(-999, 999, 512).tolist()), "label": ints(n)}) for n in range(9)],
    "rates": [example({"audio": raw(audio_file(np.arange(99), rate=rate))}) for rate in (8000, 8000, 16000)],
    "texts": [example({"text": raw(b"some words " * n), "label": ints(n)}) for n in range(9)],
    "tokens": [example({"inputs": ints(*range(n)), "targets": ints(*range(n))}) for n in range(1, 9)],
    "nothing": [example({})] * 5,
    "numbers": [example({"a": floats([n]), "b": ints(n)}) for n in range(9)],
    "frames of changing size": [sequence_example({}, {"x": [floats([1] * (1 + k % 3)) for k in range(n)]}) for n in range(2, 9)],
    "ragged": [example({"x/ragged_flat_values": floats(range(2 * n + 1)), "x/ragged_row_lengths_0": ints(n, n + 1)}) for n in range(1, 9)],
    "kinds that change": [example({"x": floats([1] * n) if n % 2 else raw(bytes(n)), "n": ints(n)}) for n in range(1, 20)],
    "images in a list": [
        sequence_example({"id": raw(b"v")}, {"rgb": [raw(b"\x89PNG" + chooser.bytes(90 + k)) for k in range(n)]}) for n in range(1, 9)
    ],
    "lengths that do not divide": [example({"x": floats(range(3 * n + n % 2)), "n": ints(n)}) for n in range(1, 20)],
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_records_of_no_known_layout(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.tfrecord", UNKNOWN[name])
    report = inspect(path)
    assert report["layout"] is None
    assert report["call"] is None
    assert all(candidate["confidence"] < 0.9 and "..." in candidate["call"] for candidate in report["candidates"])
    assert "layout: unknown" in run("inspect", str(path)).stdout
    with pytest.raises(
        vlpipe.SchemaError,
        match="vlpipe did not write this file .*and its records (may have layout=|have no layout)",
    ):
        vlpipe.plan(path)


def tensor(values: np.ndarray) -> Any:
    return raw(tf.io.serialize_tensor(values).numpy())


def words(n: int) -> list[int]:
    """Token ids of a prompt, masked by -100, and of the answer."""
    return [-100] * (60 + n) + chooser.integers(0, 30_000, 80 + n % 7).tolist()


picture = chooser.integers(0, 256, (40, 8, 3)).astype("u1")
NOT_RECORDINGS = {
    "words of which some do not count": lambda n: {"labels": ints(*words(n))},
    "small differences": lambda n: {"residual": ints(*chooser.integers(-20, 20, 150 + n).tolist())},
    "degrees": lambda n: {"outside": ints(*chooser.integers(-5, 300, 150 + n).tolist())},
    "pictures of floats": lambda n: {"image": floats(chooser.random(8 * 8)), "shape": ints(8, 8)},
    "pictures of one width": lambda n: {"image": floats(chooser.random((8 + n) * 8 * 3)), "shape": ints(8 + n, 8, 3)},
    "raw pictures": lambda n: {"image": raw(chooser.random((8 + n, 8, 1)).astype("f4").tobytes()), "shape": ints(8 + n, 8, 1)},
    "pictures as tensors": lambda n: {"image": tensor(picture)},
    "pictures as tensors of one width": lambda n: {"image": tensor(picture[n:])},
    "matrices of one size": lambda n: {"matrix": tensor(chooser.random((8, 8)))},
    "boxes": lambda n: {"boxes": floats(chooser.random(4 * n)), "count": ints(n)},
    "raw boxes": lambda n: {"boxes": raw(chooser.random(4 * n).astype("f4").tobytes()), "count": ints(n)},
    "boxes in rows": lambda n: {"x/ragged_flat_values": floats(chooser.random(4 * n)), "x/ragged_row_lengths_0": ints(*[4] * n)},
    "something of pictures": lambda n: {"image": raw(b"\xff\xd8\xff\xe0..."), "points": floats(chooser.random(34 * n)), "count": ints(n)},
}


@pytest.mark.parametrize("name", NOT_RECORDINGS)
def test_records_that_are_not_recordings(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.tfrecord", [example({**NOT_RECORDINGS[name](n), "label": ints(n % 3)}) for n in range(1, 20)])
    report = inspect(path)
    assert report["layout"] is None
    assert report["candidates"]
    with pytest.raises(vlpipe.SchemaError, match="may have layout="):
        vlpipe.plan(path)


def test_frames_of_few_values(tmp_path: Path) -> None:
    records = [sequence_example({}, {"x": [floats([k, k + 1.0, 2, 3]) for k in range(n)]}) for n in range(2, 9)]
    assert inspect(write(tmp_path / "a.tfrecord", records))["layout"] is None


@pytest.mark.parametrize(("values", "label"), [(lambda n: 16_000, None), (lambda n: 500 + n, None), (lambda n: n % 4, "other")])
def test_a_label_is_neither_constant_nor_different_in_every_record(tmp_path: Path, values: Any, label: str | None) -> None:
    records = [example({"x": floats(chooser.random(5 * n)), "n": ints(n), "other": ints(values(n))}) for n in range(1, 20)]
    report = inspect(write(tmp_path / "a.tfrecord", records))
    assert (report["layout"], re.findall(r"label='(\w+)'", report["call"])) == ("float_list", [label] if label else [])


def test_the_reason_for_no_layout_is_named(tmp_path: Path) -> None:
    for name, words in (
        ("recordings", '"audio" starts like WAV, but audio: begins with'),
        ("images", '"image/encoded" holds encoded JPEG, which is not a sequence'),
        ("rates", r'"audio" holds WAV of \[8000, 16000\] Hz, but all records must have one rate'),
    ):
        path = write(tmp_path / f"{name}.tfrecord", UNKNOWN[name])
        assert re.search(words, run("inspect", str(path)).stdout)
        with pytest.raises(vlpipe.SchemaError, match=words):
            vlpipe.plan(path)


@pytest.mark.parametrize("compression", ["GZIP", "ZLIB"])
def test_compressed_files(tmp_path: Path, compression: str) -> None:
    report = inspect(write(tmp_path / "a.tfrecord", CASES["audioset"].records, compression))
    assert (report["layout"], report["compression"]) == ("audioset", compression)
    assert f"compressed with {compression}" in run("inspect", str(tmp_path / "a.tfrecord")).stdout


def test_index(tmp_path: Path) -> None:
    write(tmp_path / "a.tfrecord", CASES["audioset"].records)
    write(tmp_path / "b.tfrecord", CASES["audioset"].records)
    result = run("index", str(tmp_path / "*.tfrecord"))
    frames = 2 * sum(map(len, CASES["audioset"].frames))
    assert "2 files, 46 records, " in result.stdout
    assert ", layout audioset, in " in result.stdout
    assert f"audio_embedding: {frames:,} frames of [128] uint8" in result.stdout
    assert len(list((tmp_path / ".vlpipe-index").iterdir())) == 2
    write(tmp_path / "f" / "a.tfrecord", CASES["float_list"].records)
    result = run("index", str(tmp_path / "f"), "--layout", '{"float_list": {"key": "x", "d": 5, "label": "label"}}')
    assert "1 file, 23 records" in result.stdout
    result = run("index", str(tmp_path / "f"), "--layout", '{"float_frames": {"keys": ["x"], "d": 5}}')
    assert 'lacks the feature list "x"; its keys are ' in result.stderr
    for text in ("{", '{"kaldi": {}}', '{"float_list": 3}'):
        result = run("index", str(tmp_path / "f"), "--layout", text)
        assert result.exit_code == 1
        assert "--layout: " in result.stderr
        assert "cannot be parsed (" in result.stderr
        assert "expected a JSON object with one of float_list, " in result.stderr


def test_native_datasets_already_have_an_index(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "own", [{"x": np.ones((2, 3), np.float32)}])
    result = run("index", str(tmp_path / "own"))
    assert (result.exit_code, result.stderr) == (
        1,
        f"vlpipe: {tmp_path / 'own'}: already has an index, which vlpipe wrote with the dataset. Pass third-party files.\n",
    )


def test_files_with_different_layouts(tmp_path: Path) -> None:
    paths = [str(write(tmp_path / f"{name}.tfrecord", CASES[name].records)) for name in ("audioset", "wav", "length")]
    result = run("inspect", *paths)
    assert "records are Example and SequenceExamples" in result.stdout
    assert "layout: unknown" in result.stdout
    assert "the file is empty" not in result.stdout


def test_only_is_read_beside_the_layout_and_inside(tmp_path: Path) -> None:
    inside = parse_layout('{"float_list": {"key": "x", "d": 5, "label": "label", "only": ["speaker"]}}')
    assert inside != layouts.float_list("x", d=5, label="label")
    assert parse_layout('{"float_list": {"key": "x", "d": 5, "label": "label"}, "only": ["speaker"]}') == inside
    assert layouts.float_list("x", d=5, label="label").only("speaker") == inside


@pytest.mark.parametrize("text", ["nosuch", "{}", "float_list(x)", '{"float_list": 3}', "{", '{"nosuch": {}}'])
def test_a_layout_that_cannot_be_parsed(tmp_path: Path, text: str) -> None:
    result = run("plan", str(write(tmp_path / "a.tfrecord", CASES["length"].records)), "--layout", text)
    assert result.exit_code == 1
    assert f"--layout: {text} cannot be parsed (" in result.stderr
    assert 'such as {"float_list": {"key": "mel", "d": 80}}' in result.stderr


def test_a_record_of_80_keys_fills_one_screen(tmp_path: Path) -> None:
    records = [example({f"k{key}": floats([float(key)] * 8 * (count + 3)) for key in range(80)}) for count in range(6)]
    shown = run("inspect", str(write(tmp_path / "a.tfrecord", records))).stdout.partition("layout: unknown")[2].splitlines()
    assert sum(line.startswith("float_list, ") for line in shown) == 5
    assert shown[-1] == "… and 75 more candidates, which --json lists"
    assert len(inspect(tmp_path / "a.tfrecord")["candidates"]) == 80


@pytest.mark.parametrize(("key", "said"), [("sample_rate", True), ("fs", True), ("operation", False)])
def test_bytes_beside_a_sample_rate_may_be_samples(tmp_path: Path, key: str, said: bool) -> None:
    records = [example({"audio": raw(np.arange(1000 + 10 * n, dtype="<i2")), key: ints(16000)}) for n in range(6)]
    reason = inspect(write(tmp_path / "a.tfrecord", records))["candidates"][0]["reasons"][0]
    advice = f"; beside {key}, if they are 16-bit samples of one channel: dtype='int16', d=1"
    assert reason == "2000 to 2100 bytes in audio, of unknown frame size" + advice * said
