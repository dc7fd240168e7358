"""Labels that are texts, delivered as numbers: third-party and native sources, every engine, selections, mixes, conversion, counts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

import vlpipe
from tests.helpers.foreign_files import floats, ints, raw
from vlpipe import layouts
from vlpipe.cli import main
from vlpipe.conversion import convert
from vlpipe.errors import ArgumentError, DatasetError, SchemaError
from vlpipe.inspection.summary import summarize

WORDS = ["go", "stop", "über", "go", "", "stop", "go"]
CLASSES = ["stop", "", "go", "über", "never"]
pytestmark = pytest.mark.usefixtures("quick_graphs")
LAYOUT = layouts.float_list("x", d=2, label="word")


def example(number: int, word: bytes | None) -> bytes:
    feature = {"x": floats(np.full((number + 1, 2), number)), "other": ints(number), "speaker": raw(b"ab"[number % 2 : number % 2 + 1])}
    feature |= {"word": tf.train.Feature(bytes_list=tf.train.BytesList(value=[] if word is None else [word]))}
    return bytes(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())


def foreign(path: Path, words: list[Any] = WORDS, compression: str = "") -> str:
    with tf.io.TFRecordWriter(str(path), compression or None) as writer:
        for number, word in enumerate(words):
            writer.write(example(number, word.encode() if isinstance(word, str) else word))
    return str(path)


def native(path: Path, words: list[str] = WORDS) -> str:
    records = ({"x": np.full((n + 1, 2), n, np.float32), "other": n, "speaker": "ab"[n % 2], "word": word} for n, word in enumerate(words))
    vlpipe.write(path, records, num_shards=2)
    return str(path)


def delivered(source: Any, **arguments: Any) -> list[tuple[int, int]]:
    """(number of the record, label), ascending."""
    options = {"batch_size": 2, "label": "word", **arguments}
    pairs = []
    for x, y, *_ in vlpipe.make_dataset(source, **options).as_numpy_iterator():
        assert y.dtype == np.int64
        pairs += zip(x[:, 0, 0].astype(int).tolist(), y.tolist(), strict=True)
    return sorted(pairs)


EXPECTED = [(number, CLASSES.index(word)) for number, word in enumerate(WORDS)]


@pytest.mark.parametrize("engine", ["mapped", "graph", "stream"])
@pytest.mark.parametrize("kind", ["foreign", "native"])
def test_each_engine_delivers_the_numbers(tmp_path: Path, kind: str, engine: str) -> None:
    source = foreign(tmp_path / "a.tfrecord") if kind == "foreign" else native(tmp_path / "a")
    layout = LAYOUT if kind == "foreign" else None
    assert delivered(source, layout=layout, label_classes=CLASSES, engine=engine, seed=1) == EXPECTED
    opened = vlpipe.open(source, layout=layout, label_classes=CLASSES) if kind == "foreign" else vlpipe.open(source)
    if kind == "native":
        with pytest.raises(SchemaError, match='label_classes: expected a label that is a text, but "x" is'):
            vlpipe.make_dataset(opened, label="x", features="x", label_classes=CLASSES)
        opened = vlpipe.open(vlpipe.open(source).select({"other": (0, 5)}), label_classes={"word": CLASSES})
    assert delivered(opened, engine=engine, seed=1, label=None) == EXPECTED[: len(opened)]
    assert opened.classes == CLASSES
    assert [int(opened[row]["word"]) for row in range(3)] == [number for _, number in EXPECTED[:3]]
    assert opened.table()["word"].tolist() == [number for _, number in EXPECTED[: len(opened)]]


def test_class_weights_statistics_and_verification(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "text", [{"x": np.zeros((1, 2), np.float32), "label": word} for word in ("a", "b", "a")])
    labels = summarize(tmp_path / "text").labels["label"]  # without being asked for: the index has the texts
    assert [(entry.label, entry.records) for entry in labels.classes] == [("a", 2), ("b", 1)]
    for source, layout in ((foreign(tmp_path / "a.tfrecord"), LAYOUT), (native(tmp_path / "a"), None)):
        opened = vlpipe.open(source, layout=layout, label_classes={"word": CLASSES})
        weights = vlpipe.class_weights(opened)
        assert weights == {0: 7 / (4 * 2), 1: 7 / 4, 2: 7 / (4 * 3), 3: 7 / 4}
        batches = vlpipe.make_dataset(source, layout=layout, label="word", label_classes=CLASSES, class_weight="balanced", batch_size=7)
        _, y, weight = next(batches.as_numpy_iterator())
        np.testing.assert_allclose(weight, [weights[int(label)] for label in y], rtol=1e-6)
        counts = {entry.name: entry.records for entry in summarize(opened).labels["word"].classes}
        assert counts == {"stop": 2, "": 1, "go": 3, "über": 1}
        texts = summarize(source, "word", layout).labels["word"]  # the texts themselves are counted too
        assert {entry.label: entry.records for entry in texts.classes} == counts
        assert not vlpipe.verify(opened).problems


def test_selections_mixes_and_compressed_files(tmp_path: Path) -> None:
    source = vlpipe.open(foreign(tmp_path / "a.tfrecord"), layout=LAYOUT)
    chosen = source.select({"word": ["go", "stop"]})
    pairs = [(number, ["go", "stop"].index(word)) for number, word in enumerate(WORDS) if word in ("go", "stop")]
    assert delivered(chosen, label_classes=["go", "stop"]) == pairs
    again = vlpipe.open(chosen, label_classes=["go", "stop"]).select({"speaker": "a"})
    other = vlpipe.open(foreign(tmp_path / "b.tfrecord", ["stop"] * 3), layout=LAYOUT, label_classes=["go", "stop"])
    mixed = vlpipe.mix([(vlpipe.open(chosen, label_classes=["go", "stop"]), 0.5), (other, 0.5)])
    natives = [
        vlpipe.open(native(tmp_path / name, words), label_classes={"word": ["go", "stop"]})
        for name, words in (("m", ["go"]), ("n", ["stop"]))
    ]
    for engine in ("mapped", "graph"):
        assert delivered(again, engine=engine) == [pair for pair in pairs if pair[0] % 2 == 0]
        assert delivered(vlpipe.mix([(part, 1) for part in natives]), engine=engine) == [(0, 0), (0, 1)]
    arguments: dict[str, Any] = {"seed": 3, "batch_size": 1, "ids": True}
    ways = [vlpipe.make_dataset(mixed, engine=engine, **arguments) for engine in ("mapped", "graph")]
    found = [[(int(x["id"][0]), int(y[0])) for x, y in batches] for batches in ways]
    assert len(found[0]) == 10
    assert found[0] == found[1]
    for wrong in (source, vlpipe.open(source, label_classes=CLASSES)):
        with pytest.raises(SchemaError, match="mix: the texts of .* have numbers by different label_classes, or only one has. Open"):
            vlpipe.mix([(other, 1), (wrong, 1)])
    with pytest.raises(ArgumentError, match='label_classes: the source has numbers for "word" already'):
        vlpipe.open(other, label_classes=["stop"])
    zipped = foreign(tmp_path / "z.tfrecord", compression="GZIP")
    assert delivered(zipped, layout=LAYOUT, label_classes=CLASSES) == EXPECTED


def test_a_label_that_changed_while_the_files_are_open_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    dataset = vlpipe.make_dataset(
        foreign(path), layout=LAYOUT, label_classes=CLASSES, engine="graph", shuffle=False, batch_size=1, verify="first"
    )
    foreign(path, ["go", "spot", *WORDS[2:]])  # another text of the same length
    with pytest.raises(tf.errors.OpError, match="record 1"):
        list(dataset)


def test_unknown_texts_name_the_record_and_the_nearest_class(tmp_path: Path) -> None:
    source = foreign(tmp_path / "a.tfrecord", ["go", "stopp", "stopp", b"\xff", None])
    with pytest.raises(
        DatasetError,
        match=r"a.tfrecord, record 1 at byte \d+: \"word\" is 'stopp', none of the 3 label_classes \(the nearest are 'stop'\); so "
        r"it is in 4 of 5 records\. Add the name, or leave these records out: vlpipe\.open",
    ):
        vlpipe.open(source, layout=LAYOUT, label_classes=["go", "stop", "no"])
    with pytest.raises(DatasetError, match=r"record 3 at byte \d+: \"word\" is '\\udcff'.* \('go', 'stopp'\); so it is in 2 of 5"):
        vlpipe.open(source, layout=LAYOUT, label_classes=["go", "stopp"])
    with pytest.raises(DatasetError, match=r"record 0 at byte \d+: \"word\" is 'go', none of the 9 label_classes .*'7' and 1"):
        vlpipe.open(native(tmp_path / "n"), label_classes={"word": list("012345678")})


def test_a_text_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = foreign(tmp_path / "a.tfrecord")
    vlpipe.build_index(source, LAYOUT)

    def fail(*_: Any) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("vlpipe.sources.records.Records._shard_file", fail)
    with pytest.raises(
        DatasetError, match=r"a.tfrecord, record 0 at byte 0: the bytes of its text \"word\" cannot be read \(Input/output error"
    ):
        vlpipe.open(source, layout=LAYOUT, label_classes=CLASSES)


def test_class_lists_from_files_and_datasets(tmp_path: Path) -> None:
    source = foreign(tmp_path / "a.tfrecord", ["b", "a"])
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with vlpipe.Writer(tmp_path / "named", vlpipe.Schema(x=vlpipe.Sequence(2), label=vlpipe.Fixed())) as writer:
        writer.metadata["classes"] = ["a", "b"]
        writer.write({"x": np.zeros((1, 2), np.float32), "label": 0})
    for classes in (["a", "b"], ("a", "b"), tmp_path / "classes.txt", str(tmp_path / "named"), vlpipe.open(tmp_path / "named")):
        assert delivered(source, layout=LAYOUT, label_classes=classes) == [(0, 1), (1, 0)]
    wrong: Any
    for wrong in ([], ["a", "a"], [1, 2], 3, {"a": 0}):
        with pytest.raises(ArgumentError, match="label_classes: came as .*, expected a list of different names, a file with one"):
            vlpipe.open(source, layout=LAYOUT, label_classes=wrong)
    with pytest.raises(ArgumentError, match="label_classes: the source has no names of its classes. Pass a list of names"):
        vlpipe.open(source, layout=LAYOUT, label_classes=vlpipe.open(source, layout=LAYOUT))


def test_which_text_is_the_label(tmp_path: Path) -> None:
    source = foreign(tmp_path / "a.tfrecord", ["b", "a"])
    bare = layouts.float_list("x", d=2)
    assert delivered(source, layout=bare, label_classes=["a", "b"]) == [(0, 1), (1, 0)]
    with pytest.raises(
        ArgumentError,
        match=r"label_classes: the records have the texts \['speaker', 'word'\], and one can be meant. Name it:",
    ):
        vlpipe.open(source, layout=bare, label_classes=["a", "b"])
    with pytest.raises(ArgumentError, match="label_classes: came with the labels .'speaker', 'word'., expected one"):
        vlpipe.open(source, layout=bare, label_classes={"speaker": ["a"], "word": ["a"]})
    with pytest.raises(SchemaError, match=r'expected a label that is a text, but "other" is Fixed.*; the texts of the records are'):
        vlpipe.make_dataset(source, layout=bare, label="other", label_classes=["a", "b"])
    _, y = next(vlpipe.make_dataset(source, layout=bare, label=("other", "word"), label_classes=["a", "b"]).as_numpy_iterator())
    assert sorted(zip(y["other"].tolist(), y["word"].tolist(), strict=True)) == [(0, 1), (1, 0)]

    def parse(data: Any) -> Any:
        parsed = tf.io.parse_single_example(data, {"x": tf.io.VarLenFeature(tf.float32), "word": tf.io.FixedLenFeature([], tf.string)})
        return {"x": tf.reshape(parsed["x"].values, [-1, 2]), "label": parsed["word"]}

    with pytest.raises(SchemaError, match='label_classes: parse_fn of the custom layout returns the text "label": let it'):
        vlpipe.open(source, layout=layouts.Layout.custom(parse), label_classes=["a", "b"])


def test_conversion_writes_numbers_and_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vlpipe")
    (tmp_path / "classes.txt").write_text("\n".join(["go", "stop", "über"]))
    words = ["stop", "go", "über", "go"]
    for name, source, layout in (("f", foreign(tmp_path / "a.tfrecord", words), LAYOUT), ("n", native(tmp_path / "a", words), None)):
        for workers in (1, 2) if name == "n" else (1,):
            out = tmp_path / f"{name}{workers}"
            convert(source, out, layout=layout, label_classes={"word": tmp_path / "classes.txt"}, num_shards=2, workers=workers)
            opened = vlpipe.open(out)
            assert opened.classes == ["go", "stop", "über"]
            assert opened.schema.fields["word"] == vlpipe.Fixed((), "int64")
            assert delivered(out, label=None) == [(0, 1), (1, 0), (2, 2), (3, 0)]
            assert not vlpipe.verify(out).problems
    arguments = ["convert", str(tmp_path / "a"), str(tmp_path / "c"), "--where", "word=go", "--num-shards", "1", "--label", "word"]
    assert "--label names the text that --classes is for: pass --classes" in CliRunner().invoke(main, arguments).output
    result = CliRunner().invoke(main, [*arguments, "--classes", str(tmp_path / "f1")])
    assert result.exit_code == 0, result.output
    assert vlpipe.open(tmp_path / "c").table()["word"].tolist() == [0, 0]
