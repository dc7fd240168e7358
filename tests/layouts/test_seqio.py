"""Tasks cached by SeqIO: directories as its source code writes them, without SeqIO; and wrong sidecars."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

import vlpipe
from tests.engines.test_engines import digest
from tests.helpers.foreign_files import audio_file, example, floats, ints, place, prepared_directory, raw, read, write
from vlpipe import cli
from vlpipe.errors import ArgumentError, DatasetError, SchemaError, VlpipeError
from vlpipe.layouts import sidecars

pytestmark = pytest.mark.usefixtures("quick_graphs")
ENGINES = ("mapped", "graph")

# `GetInfo` of seqio/beam_utils.py: the shape of one example, but with None for the first axis unless the feature is a scalar.
FEATURES: dict[str, Any] = {
    "inputs": {"dtype": "float32", "shape": [None, 5]},
    "blocks": {"dtype": "bfloat16", "shape": [None, 2, 3]},
    "wave": {"dtype": "float64", "shape": [None]},
    "rows": {"dtype": "float32", "shape": [None, None]},
    "targets": {"dtype": "int32", "shape": [None]},
    "flags": {"dtype": "bool", "shape": [None]},
    "pairs": {"dtype": "int32", "shape": [None, 2]},
    "deep": {"dtype": "float32", "shape": [None, None, 2]},
    "label": {"dtype": "int64", "shape": []},
    "gain": {"dtype": "float16", "shape": []},
    "targets_pretokenized": {"dtype": "string", "shape": []},
    "names": {"dtype": "string", "shape": [None]},
    "spectrum": {"dtype": "complex64", "shape": [None]},
    "none": {"dtype": "float32", "shape": [None, 0]},
}
RANDOM = np.random.default_rng(11)
LENGTHS = [0, 3, 1, 7, 2, 9, 4, 1, 0, 5]
INPUTS = [RANDOM.normal(size=(t, 5)).astype("f4") for t in LENGTHS]
BLOCKS = [RANDOM.integers(-128, 128, (t % 4, 2, 3)).astype("f4") for t in LENGTHS]  # exact in bfloat16
WAVES = [RANDOM.normal(size=2 * t) for t in LENGTHS]
TARGETS = [RANDOM.integers(-1, 32_000, t % 5).tolist() for t in LENGTHS]


def cached_example(n: int) -> bytes:
    """Return a record like `dict_to_tfexample` of seqio/utils.py."""
    t = LENGTHS[n]
    return example(
        {
            "inputs": floats(INPUTS[n]),
            "blocks": floats(BLOCKS[n]),
            "wave": floats(WAVES[n]),
            "rows": floats(np.full(3 * t, n)),
            "_rl:0:rows": ints(*[3] * t),
            "targets": ints(*TARGETS[n]),
            "flags": ints(*[k % 2 for k in range(t)]),
            "pairs": ints(*range(2 * t)),
            "deep": floats(range(4 * t)),
            "_rl:0:deep": ints(*[2] * t),
            "label": ints(n - 3),
            "gain": floats([n / 2]),
            "targets_pretokenized": raw(b"text %d" % n),
            "names": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"a", b"b"])),
            "provenance/task": raw(b"mine"),  # in the records, but not in info.SPLIT.json
        }
    )


RECORDS = [cached_example(n) for n in range(len(LENGTHS))]


def cache(
    path: Path,
    splits: dict[str, list[list[bytes]]],
    features: dict[str, Any] | None = None,
    info: dict[str, Any] | None = None,
    stats: dict[str, Any] | None = None,
) -> Path:
    """Write a directory like `seqio_cache_tasks`."""
    for split, shards in splits.items():
        for number, records in enumerate(shards):
            write(path / f"{split}.tfrecord-{number:05d}-of-{len(shards):05d}", records)
        document = {"features": FEATURES if features is None else features, "num_shards": len(shards), "seqio_version": "0.0.18"}
        (path / f"info.{split}.json").write_text(json.dumps(document | (info or {}), sort_keys=True, indent=2))
        counted = {"examples": sum(map(len, shards)), "targets_tokens": 20, "targets_max_tokens": 4}
        (path / f"stats.{split}.json").write_text(json.dumps(counted | (stats or {}), sort_keys=True, indent=2))
    (path / "COMPLETED").write_text("")
    return path


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One split with three files, one of them empty."""
    return cache(tmp_path_factory.mktemp("one"), {"train": [RECORDS[:6], [], RECORDS[6:]]})


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cache(tmp_path_factory.mktemp("two"), {"train": [RECORDS[:4], RECORDS[4:7]], "validation": [RECORDS[7:]]})


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("name", "expected"), [("inputs", INPUTS), ("blocks", BLOCKS), ("wave", WAVES)])
def test_the_cached_frames_and_targets_are_delivered(one: Path, engine: str, name: str, expected: list[np.ndarray]) -> None:
    frames, targets, lengths = read(one, engine, features=name)
    assert sorted(frames) == list(range(len(RECORDS)))
    for number, values in enumerate(expected):
        assert np.array_equal(frames[number], values.astype("f4"))
        assert targets[number].dtype == np.int64
        assert targets[number][: lengths[number]].tolist() == TARGETS[number]


@pytest.mark.parametrize("engine", ENGINES)
def test_values_agree_with_the_reader_of_seqio(one: Path, engine: str) -> None:
    """The reader is `_CachedDataSource` of seqio/dataset_providers.py."""
    parsed = [
        tf.io.parse_single_example(
            record,
            {
                "inputs": tf.io.FixedLenSequenceFeature([5], tf.float32, allow_missing=True),
                "rows": tf.io.RaggedFeature(tf.float32, "rows", [tf.io.RaggedFeature.RowLengths("_rl:0:rows")]),
                "flags": tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True),
                "label": tf.io.FixedLenFeature([], tf.int64),
                "gain": tf.io.FixedLenFeature([], tf.float32),
                "targets_pretokenized": tf.io.FixedLenFeature([], tf.string),
            },
        )
        for record in RECORDS
    ]
    labels = ("flags", "label", "gain", "targets_pretokenized")
    arguments: dict[str, Any] = {"features": ("inputs", "rows"), "label": labels, "ids": True, "lengths": True, "length_range": (0, None)}
    seen = []
    for x, y in vlpipe.make_dataset(one, engine=engine, batch_size=3, **arguments):
        for row, number in enumerate(x["id"].numpy().tolist()):
            seen.append(number)
            expected = parsed[number]
            assert np.array_equal(x["inputs"][row, : x["inputs_lengths"][row]], expected["inputs"])
            assert np.array_equal(x["rows"][row, : x["rows_lengths"][row]], expected["rows"].to_tensor(shape=[None, 3]))
            assert np.array_equal(y["flags"][row, : x["flags_lengths"][row]], expected["flags"])
            assert all(y[name][row] == expected[name] for name in labels[1:])
    assert sorted(seen) == list(range(len(RECORDS)))


@pytest.mark.parametrize("engine", ENGINES)
def test_integers_of_two_axes(one: Path, engine: str) -> None:
    frames, _, _ = read(one, engine, features="pairs")
    assert {number: values.tolist() for number, values in frames.items()} == {
        n: np.arange(2 * t).reshape(t, 2).tolist() for n, t in enumerate(LENGTHS)
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_a_task_of_token_ids(tmp_path: Path, engine: str) -> None:
    """A text task has only lists of integers; the one that is not the label decides the bucket."""
    tokens = [RANDOM.integers(0, 32_000, t).tolist() for t in LENGTHS]
    records = [example({"inputs": ints(*tokens[n]), "targets": ints(*TARGETS[n])}) for n in range(len(LENGTHS))]
    path = cache(tmp_path, {"train": [records]}, {name: {"dtype": "int32", "shape": [None]} for name in ("inputs", "targets")})
    seen = []
    arguments: dict[str, Any] = {"dtype": "int32", "ids": True, "lengths": True, "length_range": (0, None), "batch_size": 3}
    for x, y in vlpipe.make_dataset(path, engine=engine, **arguments):
        for row, number in enumerate(x["id"].numpy().tolist()):
            seen.append(number)
            assert x["features"].dtype == tf.int32
            assert x["features"][row, : x["lengths"][row]].numpy().tolist() == tokens[number]
            assert y[row, : x["label_lengths"][row]].numpy().tolist() == TARGETS[number]
    assert sorted(seen) == list(range(len(LENGTHS)))
    frames, targets, _ = read(path, engine, features="targets", label="inputs")
    assert [frames[n].tolist() for n in range(len(LENGTHS))] == TARGETS
    assert max(map(len, targets.values())) == max(LENGTHS)
    path = cache(tmp_path / "lm", {"train": [records]}, {"targets": {"dtype": "bool", "shape": [None]}})
    assert vlpipe.build_index(path).schema.sequences == {"targets": vlpipe.Sequence((), "int64")}
    records = [example({"label": ints(1, 2), "tokens": ints(3)})]
    path = cache(tmp_path / "other", {"train": [records]}, {name: {"dtype": "int32", "shape": [None]} for name in ("label", "tokens")})
    assert vlpipe.build_index(path).frames("tokens").tolist() == vlpipe.build_index(path).rows["frames"].tolist() == [1]


def test_features_that_can_be_delivered(one: Path) -> None:
    index = vlpipe.build_index(one)
    assert index.metadata == {"layout": "seqio"}
    assert index.foreign is not None
    assert index.foreign.label == "targets"
    assert {name: (field.dimensions, field.dtype) for name, field in index.schema.sequences.items()} == {
        "blocks": ((2, 3), "float32"),
        "inputs": ((5,), "float32"),
        "pairs": ((2,), "int32"),
        "rows": ((3,), "float32"),
        "wave": ((), "float32"),
        "flags": ((), "int64"),
        "targets": ((), "int64"),
    }
    assert set(index.schema.fields) - set(index.schema.sequences) == {"label", "gain", "targets_pretokenized"}
    assert [shard.records for shard in index.shards] == [6, 0, 4]


def test_a_split_by_its_files(two: Path) -> None:
    train = vlpipe.build_index(two / "train.tfrecord-*")
    assert [shard.name for shard in train.shards] == ["train.tfrecord-00000-of-00002", "train.tfrecord-00001-of-00002"]
    assert vlpipe.build_index(two / "train.tfrecord-00001-of-00002").frames("inputs").tolist() == LENGTHS[4:7]
    assert vlpipe.build_index(str(two / "*.tfrec*")).frames("inputs").tolist() == LENGTHS


def test_a_directory_with_several_splits_is_refused_with_their_files(two: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ArgumentError, match=r"has the splits \['train', 'validation'\], expected one. Pass the files of one split"
    ) as caught:
        vlpipe.make_dataset(two, features="inputs")
    words = str(caught.value).replace(";", " ").replace(", ", " ").rstrip(".").split()
    choices = [word for word in words if word.startswith(f"{two}/")]
    assert [len(vlpipe.build_index(choice)) for choice in choices] == [7, 3, 10]
    tensor = {"tensor": {"shape": {"dimensions": ["-1", "5"]}, "dtype": "float32", "encoding": "none"}}
    records = [example({"inputs": floats(values)}) for values in INPUTS]
    prepared = prepared_directory(tmp_path, records, {"inputs": tensor}, {"train": [3, 4], "test": [3]})
    with pytest.raises(
        ArgumentError, match=rf"has the splits \['train', 'test'\], .*{prepared}/mine-train.tfrecord-\*-of-00002 or {prepared}/"
    ):
        vlpipe.build_index(prepared)
    for name in ("mine-train.tfrecord-00000-of-00002", "mine-train.tfrecord-00001-of-00002"):
        (prepared / name).rename(prepared / f".{name}")
    assert vlpipe.build_index(prepared).frames("inputs").tolist() == LENGTHS[7:]  # the training split was not copied


def test_splits_need_a_sidecar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = vlpipe.layouts.float_list("inputs", d=5)
    path = cache(tmp_path, {"train": [RECORDS[:4]], "test": [RECORDS[4:]]}, stats={"examples": 99})

    def forbidden(directory: str) -> list[str]:
        raise PermissionError(directory)

    with monkeypatch.context() as patch:
        patch.setattr(sidecars.os, "listdir", forbidden)
        assert len(vlpipe.build_index([path / f"{split}.tfrecord-00000-of-00001" for split in ("train", "test")], layout)) == 10
    for split in ("train", "test"):
        (path / f"info.{split}.json").unlink()
    assert len(vlpipe.build_index(path, layout)) == 10


def test_a_missing_file_of_a_directory(tmp_path: Path) -> None:
    path = cache(tmp_path, {"train": [RECORDS[:4], RECORDS[4:]]})
    write(path / "train.tfrecord-00000-of-00004", RECORDS)  # left over from an earlier run; SeqIO ignores it too
    assert len(vlpipe.build_index(path)) == 10
    (path / "train.tfrecord-00001-of-00002").unlink()
    with pytest.raises(DatasetError, match=r"1 of the 2 files of the split 'train' are missing, according to info.train.json. Copy"):
        vlpipe.build_index(path)
    assert len(vlpipe.build_index(path / "train.tfrecord-00000-of-00002")) == 4
    (path / "train.tfrecord-00000-of-00002").unlink()
    with pytest.raises(DatasetError, match=r"2 of the 2 files of the split 'train' are missing, according to info.train.json"):
        vlpipe.build_index(path)


def test_a_split_that_lost_records(tmp_path: Path) -> None:
    path = cache(tmp_path, {"train": [RECORDS[:4], RECORDS[4:]]}, stats={"examples": 11})
    message = r"2 files of the split 'train' hold 10 records, but stats.train.json specifies 11; a file was truncated after a record, or"
    for source in (path, path / "train*"):
        with pytest.raises(DatasetError, match=message):
            vlpipe.build_index(source)
    assert len(vlpipe.build_index(path / "train.tfrecord-00001-of-00002")) == 6  # the sidecar has no record count for one file
    (path / "stats.train.json").write_text('{"examples": 5}')
    with pytest.raises(DatasetError, match=r"1 files of the split 'train' hold 6 records, but stats.train.json specifies 5"):
        vlpipe.build_index(path / "train.tfrecord-00001-of-00002")
    for text in ("{", "[]", "{}", '{"examples": "10"}', '{"examples": true}', '{"examples": 1e999}', "\xff", "[" * 100_000):
        (path / "stats.train.json").write_bytes(text.encode("latin-1"))
        assert len(vlpipe.build_index(path)) == 10  # without a count, nothing is compared
    (path / "stats.train.json").unlink()
    assert len(vlpipe.build_index(path)) == 10


@pytest.mark.parametrize("shards", ["2", True, 0, -1, None, 2.0, [2]])
def test_an_invalid_number_of_files_is_not_compared(tmp_path: Path, shards: Any) -> None:
    path = cache(tmp_path, {"train": [RECORDS[:4], RECORDS[4:]]}, info={"num_shards": shards})
    assert len(vlpipe.build_index(path)) == 10


def test_a_split_without_examples_has_no_features(tmp_path: Path) -> None:
    """`GetInfo` writes an empty object for such a split."""
    path = cache(tmp_path, {"test": [[], []], "train": [RECORDS]}, stats={"examples": 10})
    (path / "info.test.json").write_text("{}")
    (path / "stats.test.json").write_text('{"examples": 0}')
    index = vlpipe.build_index(str(path / "*.tfrec*"))
    assert (index.metadata["layout"], len(index)) == ("seqio", 10)
    with pytest.raises(DatasetError, match="test.tfrecord-.*: none of 2 files holds a record"):
        vlpipe.build_index(path / "test*")


def test_splits_with_different_features_are_not_read_together(two: Path, tmp_path: Path) -> None:
    path = cache(tmp_path, {"train": [RECORDS[:4]], "other": [RECORDS[4:]]})
    (path / "info.other.json").write_text(json.dumps({"features": {"inputs": FEATURES["inputs"]}, "num_shards": 1}))
    with pytest.raises(SchemaError, match=r"/info.train.json: has other features than .*/info.other.json. Read the splits"):
        vlpipe.build_index(str(path / "*.tfrec*"))
    assert len(vlpipe.build_index(path / "other*")) == 6
    (path / "info.other.json").write_text(json.dumps({"features": dict(reversed(FEATURES.items())), "num_shards": 1}))
    assert len(vlpipe.build_index(str(path / "*.tfrec*"))) == 10  # the order of the features does not matter
    (path / "info.other.json").write_text(json.dumps({"features": {"inputs": FEATURES["inputs"]}, "num_shards": 1}))
    layout = vlpipe.layouts.float_list("inputs", d=5, label="label")
    assert len(vlpipe.build_index(str(path / "*.tfrec*"), layout)) == 10


MALFORMED = {
    "cut": "{",
    "a list": "[]",
    "deep": "[" * 100_000,
    "no text": "\xff\xfe",
    "a list of features": '{"features": ["inputs"]}',
    "a number": '{"features": {"inputs": 3}}',
    "no shape": '{"features": {"inputs": {"dtype": "float32"}}}',
    "no dtype": '{"features": {"inputs": {"shape": [null, 5]}}}',
    "a shape that is a text": '{"features": {"inputs": {"shape": "5", "dtype": "float32"}}}',
    "a shape of texts": '{"features": {"inputs": {"shape": [null, "5"], "dtype": "float32"}}}',
    "a negative size": '{"features": {"inputs": {"shape": [null, -5], "dtype": "float32"}}}',
    "a size that is no integer": '{"features": {"inputs": {"shape": [null, 5.0], "dtype": "float32"}}}',
    "a size that is true": '{"features": {"inputs": {"shape": [null, true], "dtype": "float32"}}}',
    "a size beyond all": '{"features": {"inputs": {"shape": [null, 99999999999999999999], "dtype": "float32"}}}',
    "many axes": json.dumps({"features": {"inputs": {"shape": [None] + [1] * 99, "dtype": "float32"}}}),
    "a dtype that is a number": '{"features": {"inputs": {"shape": [null, 5], "dtype": 1}}}',
}


REASONS = {"a list": ".*found list, expected a JSON object"}


@pytest.mark.parametrize("name", MALFORMED)
def test_an_info_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    path = cache(tmp_path, {"train": [RECORDS]})
    (path / "info.train.json").write_bytes(MALFORMED[name].encode("latin-1"))
    with pytest.raises(
        SchemaError, match=rf"{path}/info.train.json: cannot be read as the features of a SeqIO task \({REASONS.get(name, '')}"
    ):
        vlpipe.build_index(path)


@pytest.mark.parametrize("feature", [{"shape": [-5], "dtype": "float32"}, {"shape": [True], "dtype": "float32"}, {"shape": [], "dtype": 1}])
def test_an_info_with_an_invalid_feature(tmp_path: Path, feature: dict[str, Any]) -> None:
    path = cache(tmp_path, {"train": [RECORDS]}, {"inputs": FEATURES["inputs"], "x": feature})
    with pytest.raises(SchemaError, match=r"cannot be read as the features of a SeqIO task \(.*'x' has shape .* and dtype"):
        vlpipe.build_index(path)


def test_a_vector_too_long_for_the_index_is_ignored(tmp_path: Path) -> None:
    features = {
        "inputs": FEATURES["inputs"],
        "short": {"shape": [64, 64], "dtype": "float32"},
        "long": {"shape": [4097], "dtype": "float32"},
    }
    records = [example({"inputs": floats(values), "short": floats(np.ones(4096)), "long": floats(np.ones(4097))}) for values in INPUTS]
    assert list(vlpipe.build_index(cache(tmp_path, {"train": [records]}, features)).schema.fields) == ["inputs", "short"]


@pytest.mark.parametrize(
    "features",
    [
        {"inputs": {"dtype": "string", "shape": []}, "targets": {"dtype": "int32", "shape": []}},
        {"inputs": {"dtype": "int32", "shape": [None, None]}},
        {"inputs": {"dtype": "int32", "shape": [5]}},
        {"inputs": {"dtype": "float32", "shape": [5, None]}},
        {"inputs\n": {"dtype": "float32", "shape": [None, 5]}},
        {"": {"dtype": "float32", "shape": [None]}},
        {"inputs": {"dtype": "float32", "shape": [None, 0]}},
        {"inputs": {"dtype": "FLOAT", "shape": [None]}},
        {"inputs": {"dtype": "float32", "shape": []}},
        {"inputs": {"dtype": "float32", "shape": [5000]}},
    ],
)
def test_an_info_without_frames(tmp_path: Path, features: dict[str, Any]) -> None:
    path = cache(tmp_path, {"train": [RECORDS]}, features)
    with pytest.raises(SchemaError, match=r"info.train.json: none of the features \[.*\] is a numeric sequence of frames, \[T\] or"):
        vlpipe.build_index(path)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"x": {"dtype": "float32", "shape": [None, 5]}}, 'lacks the feature "x"; its keys are '),
        ({"targets": {"dtype": "float32", "shape": [None, 5]}}, '"targets" holds values of kind int64, expected float'),
        ({"inputs": {"dtype": "float32", "shape": [None, 4]}}, r"not a multiple of 4 \(d = 4, float32\)"),
        ({"inputs": FEATURES["inputs"], "gain": {"dtype": "int32", "shape": []}}, '"gain" holds values of kind float, expected int64'),
        ({"inputs": FEATURES["inputs"], "x": {"dtype": "int32", "shape": []}}, 'has no feature "x"'),
    ],
)
def test_an_info_that_does_not_match_the_records(tmp_path: Path, features: dict[str, Any], message: str) -> None:
    path = cache(tmp_path, {"train": [RECORDS]}, features)
    first = next(record for record, frames in enumerate(LENGTHS) if frames * 5 % 4) if "multiple of 4" in message else 0
    with pytest.raises((SchemaError, DatasetError), match=f"{place(path / 'train.tfrecord-00000-of-00001', first)}.*{message}"):
        vlpipe.build_index(path)


def test_an_info_of_another_library_or_without_files_is_ignored(tmp_path: Path) -> None:
    records = [example({"x": floats(np.ones(3 * t)), "s": ints(t, 3)}) for t in range(1, 5)]
    path = write(tmp_path / "train.tfrecord-00000-of-00001", records)
    (tmp_path / "info.train.json").write_text('{"made by": "somebody"}')
    (tmp_path / "info.val.json").write_text("{")
    assert vlpipe.build_index(tmp_path).metadata["layout"] == "float_list"
    (tmp_path / "info.train.json").unlink()
    (tmp_path / "info.json").write_text("{")
    assert vlpipe.build_index(path).metadata["layout"] == "float_list"


def test_a_directory_and_a_glob_give_the_same_order(one: Path) -> None:
    arguments: dict[str, Any] = {"features": "inputs", "seed": 2, "length_range": (0, None)}
    assert digest(vlpipe.make_dataset(one, **arguments)) == digest(vlpipe.make_dataset(one / "train*", **arguments))


def test_inspect_recognises_the_sidecar(one: Path, two: Path) -> None:
    run = CliRunner().invoke
    text = run(cli.main, ["inspect", str(one)]).stdout
    assert "layout: seqio, 100% sure: info.train.json of SeqIO is beside the files" in text
    assert f"  vlpipe.make_dataset('{one}')" in text
    report = json.loads(run(cli.main, ["inspect", str(two / "val*"), "--json"]).stdout)
    assert (report["layout"], report["reasons"]) == ("seqio", ["info.validation.json of SeqIO is beside the files"])
    result = run(cli.main, ["inspect", str(two)])
    assert (result.exit_code, "Pass the files of one split" in result.stderr) == (1, True)


def test_malformed_numbers_in_the_sidecars_of_tensorflow_datasets(tmp_path: Path) -> None:
    tensor = {"tensor": {"shape": {"dimensions": ["-1", "5"]}, "dtype": "float32", "encoding": "none"}}
    path = prepared_directory(tmp_path, [example({"inputs": floats(INPUTS[1])})], {"inputs": tensor})
    document = json.loads((path / "dataset_info.json").read_text())
    for counts in ([1e999], 3, ["x"], [None], [[1]]):
        document["splits"][0]["shardLengths"] = counts
        (path / "dataset_info.json").write_text(json.dumps(document))
        assert len(vlpipe.build_index(path)) == 1
    text = (path / "features.json").read_text()
    for size in ('"x"', "1e999", "[]", "null", '"99999999999999999999"'):
        (path / "features.json").write_text(text.replace('"5"', size))
        with pytest.raises(VlpipeError):
            vlpipe.build_index(path)
    (path / "features.json").write_text(text)
    for key in (3, [1], {}, None):
        document["supervisedKeys"]["tuple"]["items"][1]["featureKey"] = key
        (path / "dataset_info.json").write_text(json.dumps(document))
        assert len(vlpipe.build_index(path)) == 1


def test_a_directory_of_tensorflow_datasets_with_empty_shards_and_rows_of_fixed_length(tmp_path: Path) -> None:
    numbers = {"tensor": {"shape": {"dimensions": []}, "dtype": "float32", "encoding": "none"}}
    three = {"sequence": {"feature": {"sequence": {"feature": numbers, "length": "3"}}, "length": "-1"}}
    tensor = {"tensor": {"shape": {"dimensions": ["-1", "5"]}, "dtype": "float32", "encoding": "none"}}
    records = [example({"inputs": floats(values)}) for values in INPUTS]
    path = prepared_directory(tmp_path, records, {"inputs": tensor, "three": three}, {"train": [5, 0, 5]})
    (path / "mine-train.tfrecord-00001-of-00003").unlink()  # some versions do not write empty files
    index = vlpipe.build_index(path)
    assert (len(index), list(index.schema.fields)) == (10, ["inputs"])  # rows of fixed length are stored under other keys
    (path / "mine-train.tfrecord-00002-of-00003").unlink()
    with pytest.raises(DatasetError, match=r"1 of the 2 files of the split 'train' are missing, according to dataset_info.json"):
        vlpipe.build_index(path)


def test_the_sample_rate_of_recordings_of_tensorflow_datasets(tmp_path: Path) -> None:
    """`Audio.to_json_content` of tensorflow_datasets/core/features/audio_feature.py writes it; an audio file contains it."""
    audio = {"shape": {"dimensions": ["-1"]}, "dtype": "int64", "sampleRate": "16000", "encoding": "NONE"}
    samples, files = (
        [example({"speech": make(np.arange(t, dtype=np.int16))}) for t in (9, 4)]
        for make in (lambda x: ints(*x), lambda x: raw(audio_file(x)))
    )
    path = prepared_directory(tmp_path / "samples", samples, {"speech": {"audio": audio}})
    assert vlpipe.build_index(path).metadata == {"layout": "prepared", "sample_rate": 16_000}
    for rate in ("0", "-1"):
        prepared_directory(path, samples, {"speech": {"audio": audio | {"sampleRate": rate}}})
        assert vlpipe.build_index(path).metadata == {"layout": "prepared"}
    path = prepared_directory(tmp_path / "files", files, {"speech": {"audio": audio | {"lazyDecode": True}}})
    assert vlpipe.build_index(path).metadata["sample_rate"] == 8000
