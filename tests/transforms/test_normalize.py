"""Normalisation by the mean and variance of each sequence, and by the statistics of whole datasets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import vlpipe
from tests.cli.test_cli import run
from tests.helpers.foreign_files import cases
from tests.helpers.foreign_files import read as foreign_read
from tests.helpers.foreign_files import write as foreign_write
from tests.helpers.metadata_files import write_signed
from tests.helpers.transforms_numpy import normalized as reference
from tests.test_dataset import make_records, write
from vlpipe import ArgumentError, DatasetError
from vlpipe.inspection.summary import summarize
from vlpipe.transforms.normalize import by_utterance

special = st.sampled_from([0.0, 1.0, -1.0, 3e4, 1e-30, float("nan"), float("inf"), float("-inf")])


def normalized(sequences: list[np.ndarray]) -> list[np.ndarray]:
    values = tf.constant(np.concatenate(sequences).astype(np.float64))
    rows = tf.constant(np.repeat(np.arange(len(sequences)), [len(x) for x in sequences]))
    found = by_utterance(values, rows, tf.constant(len(sequences), tf.int64)).numpy()
    return np.split(found, np.cumsum([len(x) for x in sequences])[:-1])


@given(st.lists(st.lists(st.tuples(special, st.floats(-100, 100, width=32)), max_size=6), min_size=1, max_size=5))
def test_each_sequence_by_its_own_finite_frames(sequences: list[list[tuple[float, float]]]) -> None:
    arrays = [np.array(frames, np.float32).reshape(-1, 2) for frames in sequences]
    for x, found in zip(arrays, normalized(arrays), strict=True):
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(found, reference(x), rtol=1e-9, atol=1e-9)
        assert np.array_equal(np.isnan(found), np.isnan(x))
        assert np.array_equal(np.isinf(found), np.isinf(x))


@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1.0, 1e6, 1e18])
def test_mean_0_and_variance_1_at_every_scale_and_offset(scale: float) -> None:
    x = (np.random.default_rng(0).normal(size=(500, 3)) * scale + np.array([0, 10, 1e4]) * scale).astype(np.float32)
    (found,) = normalized([x])
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(found.var(0), 1, rtol=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e-30, 3e38, 7.0])
@pytest.mark.parametrize("frames", [1, 3, 1000])
def test_a_constant_dimension_is_zero_and_never_nan(value: float, frames: int) -> None:
    (found,) = normalized([np.full((frames, 2), value, np.float32)])
    assert np.abs(found).max() <= 1e-12 * abs(value)


def test_datasets_read_together_are_pooled_by_their_frames(tmp_path: Path) -> None:
    parts = [make_records([3, 8, 5], 4), make_records([40, 2], 4), make_records([0], 4)]
    parts[1] = [{**record, "features": record["features"] * 3 + 100} for record in parts[1]]
    sources = [write(tmp_path / str(number), records) for number, records in enumerate(parts)]
    frames = np.concatenate([record["features"] for records in parts for record in records]).astype(np.float64)
    plan = vlpipe.plan(sources, normalize="global", length_range=(0, None))
    np.testing.assert_allclose(plan.frame_plan.moments["features"].mean, frames.mean(0), rtol=1e-12)
    np.testing.assert_allclose(plan.frame_plan.moments["features"].variance, frames.var(0), rtol=1e-12)
    delivered = np.concatenate(
        [
            x[row, :length]
            for x, _ in vlpipe.make_dataset(sources, normalize="global", lengths=True, length_range=(0, None))
            for x, lengths in [(x["features"].numpy(), x["lengths"].numpy())]
            for row, length in enumerate(lengths)
        ]
    )
    np.testing.assert_allclose(delivered.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(delivered.var(0), 1, rtol=1e-5)


def with_statistics(source: Path, statistics: Any) -> None:
    document = json.loads((source / "vlpipe.json").read_text())
    write_signed(source / "vlpipe.json", {**document, "statistics": statistics})


def test_a_dataset_without_statistics_says_what_to_do(tmp_path: Path) -> None:
    source = write(tmp_path / "d", make_records([3]), num_shards=2)
    some = [sorted(source.glob("*.tfrecord"))[0]]
    for change, sources in ((False, some), (True, source)):
        if change:
            with_statistics(source, {})
        for function in (vlpipe.plan, vlpipe.make_dataset):
            with pytest.raises(
                DatasetError,
                match="are unknown: vlpipe stores .*`vlpipe stats SOURCE --compute` .* or use normalize=",
            ):
                function(sources, normalize="global")
            function(sources, normalize="utterance")


def test_statistics_without_numbers_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "d", make_records([3]))
    size = len(json.loads((source / "vlpipe.json").read_text())["statistics"]["features"]["mean"])
    entry = {"count": [3] * size, "mean": [None] * size, "variance": [1.0] * size, "not_finite": 0}
    with_statistics(source, {"features": entry})
    with pytest.raises(DatasetError, match='the statistics of "features" exceed the range of float64. Use normalize="utterance"'):
        vlpipe.plan(source, normalize="global")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"normalize": "utterance"}, "normalize: results are fractions, which dtype='int32' cannot hold"),
        ({"augment": vlpipe.SpecAugment()}, "augment: results are fractions, which dtype='int32' cannot hold"),
    ],
)
def test_integers_cannot_hold_it(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        vlpipe.planning.options.Options.of(dtype="int32", **arguments)
    vlpipe.planning.options.Options.of(dtype="int32", augment=vlpipe.SpecAugment(fill="zero"))


# ---- third-party records ---------------------------------------------------------------------------------------------------------

CASES = cases()


@pytest.fixture
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def of_all(frames: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each dimension over all frames."""
    whole = np.concatenate(frames).astype(np.float64)
    return whole.mean(axis=0), whole.var(axis=0)


@pytest.mark.usefixtures("_cache", "quick_graphs")
@pytest.mark.parametrize("name", CASES)
def test_third_party_frames_are_normalised_as_by_numpy(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    path = foreign_write(tmp_path / "a.tfrecord", case.records)
    with pytest.raises(
        DatasetError, match=f'the statistics of "{case.key}" are unknown: vlpipe stores those of whole datasets that it writes'
    ):
        vlpipe.plan(path, layout=case.layout, normalize="global", length_range=(0, None), label=False, features=case.key)
    summarize(path, layout=case.layout, compute=True)
    for normalize, known in (("utterance", ()), ("global", of_all(case.frames))):
        # Frames are normalised after they are parsed, by the same code on every engine: every third layout takes a graph.
        engine = "mapped" if normalize == "utterance" or list(CASES).index(name) % 3 else "graph"
        found, _, _ = foreign_read(path, engine, layout=case.layout, normalize=normalize, features=case.key)
        assert len(found) == len(case.frames)
        for number, frames in enumerate(case.frames):
            np.testing.assert_allclose(found[number], reference(frames, *known), rtol=1e-5, atol=1e-5)


# ---- the statistics of another dataset -------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Training and validation data with different statistics."""
    train = write(tmp_path / "train", make_records([30, 50, 1], 4))
    records = [{**record, "features": record["features"] * 3 + 5} for record in make_records([4, 9], 4)]
    return train, write(tmp_path / "val", records)


def delivered(source: Path, **arguments: Any) -> list[np.ndarray]:
    """The frames of each record, in order."""
    found = {}
    for x, _ in vlpipe.make_dataset(source, lengths=True, ids=True, length_range=(0, None), **arguments):
        for row, number in enumerate(x["id"].numpy().tolist()):
            found[number] = x["features"].numpy()[row, : int(x["lengths"][row])]
    return [found[number] for number in range(len(found))]


@pytest.mark.usefixtures("quick_graphs")
@pytest.mark.parametrize("engine", ["mapped", "graph", "stream"])
def test_validation_data_take_the_statistics_of_the_training_data(pair: tuple[Path, Path], engine: str) -> None:
    train, val = pair
    found = delivered(val, engine=engine, normalize=train)
    for x, raw in zip(found, delivered(val), strict=True):
        np.testing.assert_allclose(x, reference(raw, *of_all(delivered(train))), rtol=1e-5, atol=1e-5)


def test_every_way_to_name_them(pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, val = pair
    noted = json.loads((train / "vlpipe.json").read_text())["statistics"]["features"]
    (tmp_path / "train.json").write_text(run("stats", train, "--json").stdout)
    (tmp_path / "global").symlink_to(train)
    monkeypatch.chdir(tmp_path)
    for normalize in (train, str(train), train / "vlpipe.json", tmp_path / "train.json", "train.json", Path("global"), "./global"):
        found = vlpipe.plan(val, normalize=normalize).frame_plan.moments["features"]
        assert (found.mean.tolist(), found.variance.tolist()) == (noted["mean"], noted["variance"])
    own = json.loads((val / "vlpipe.json").read_text())["statistics"]["features"]
    found = vlpipe.plan(val, normalize="global").frame_plan.moments["features"]  # "global" is the method, not the path ./global
    assert found.mean.tolist() == own["mean"] != noted["mean"]


@pytest.mark.usefixtures("_cache")
def test_the_statistics_of_foreign_training_data(tmp_path: Path) -> None:
    case = CASES["youtube8m"]
    train = foreign_write(tmp_path / "train.tfrecord", case.records[:15])
    val = foreign_write(tmp_path / "val.tfrecord", case.records[15:])
    noted = tmp_path / "train.json"
    noted.write_text(run("stats", train, "--layout", "youtube8m", "--json").stdout)
    arguments = {"layout": case.layout, "length_range": (0, None), "label": False, "normalize": noted}
    with pytest.raises(DatasetError, match=r'train.json: has no statistics of "rgb", only of \[\]. Compute them with `vlpipe stats'):
        vlpipe.plan(val, features=("rgb", "audio"), **arguments)
    noted.write_text(run("stats", train, "--layout", "youtube8m", "--compute", "--json").stdout)
    moments = vlpipe.plan(val, features=("rgb", "audio"), **arguments).frame_plan.moments
    index = vlpipe.build_index(train, case.layout)
    for name in ("rgb", "audio"):  # to the last bit
        assert moments[name].mean.tolist() == index.statistics[name].mean.tolist()
        assert moments[name].variance.tolist() == pytest.approx(index.statistics[name].variance.tolist(), rel=1e-15)
    np.testing.assert_allclose(moments["rgb"].mean, of_all(case.frames[:15])[0], rtol=1e-12, atol=1e-12)


def damaged(document: Any, *keys: str, value: Any) -> Any:
    """A copy of a document with one value replaced."""
    if not keys:
        return value
    return {**document, keys[0]: damaged(document[keys[0]], *keys[1:], value=value)}


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("count", None, "its statistics cannot be read"),
        ("count", [-1] * 4, "its statistics are not count, mean and variance of 4 numbers"),
        ("mean", [0.0] * 3, "its statistics are not count, mean and variance of 4 numbers"),
        ("mean", [[0.0] * 4], "its statistics are not count, mean and variance of 4 numbers"),
        ("mean", ["a"] * 4, "its statistics cannot be read"),
        ("mean", [float("nan")] * 4, 'the statistics of "features" exceed the range of float64'),
        ("variance", [float("inf")] * 4, 'the statistics of "features" exceed the range of float64'),
        ("variance", [-1.0] * 4, "its statistics are not count, mean and variance of 4 numbers"),
        ("not_finite", -1, "its statistics are not count, mean and variance of 4 numbers"),
        ("", 7, "its statistics cannot be read"),
    ],
)
def test_hostile_statistics_are_refused(pair: tuple[Path, Path], tmp_path: Path, native: bool, key: str, value: Any, said: str) -> None:
    path = write_statistics(pair[0], tmp_path / "bad.json", native, key, value)
    where = f"normalize: {path}: "
    if said.startswith("its"):
        where = f"{path}: not the metadata of a vlpipe dataset: " if native else f'{where}contains no readable .*: of "features", '
    with pytest.raises(DatasetError, match=f"^{where}{said}"):
        vlpipe.plan(pair[1], normalize=path)


def write_statistics(train: Path, path: Path, native: bool, key: str, value: Any) -> Path:
    """Write a `vlpipe.json`, or the output of `vlpipe stats --json`, with one value of the statistics replaced."""
    text = (train / "vlpipe.json").read_text() if native else run("stats", train, "--json").stdout
    where = ("statistics", "features") if native else ("sequences", "features", "statistics")
    write_signed(path, damaged(json.loads(text), *where, *filter(None, [key]), value=value))
    return path


@pytest.mark.parametrize(
    ("native", "said"),
    [
        (True, "{path}: not the metadata of a vlpipe dataset: its statistics cannot be read"),
        (False, r'normalize: {path}: has no statistics of "features", only of \[\]'),
    ],
)
def test_null_statistics_are_refused(pair: tuple[Path, Path], tmp_path: Path, native: bool, said: str) -> None:
    path = write_statistics(pair[0], tmp_path / "bad.json", native, "", None)
    with pytest.raises(DatasetError, match=f"^{said.format(path=path)}"):
        vlpipe.plan(pair[1], normalize=path)


def test_another_format_version_is_refused_with_the_message_of_opening(pair: tuple[Path, Path]) -> None:
    train, val = pair
    path = train / "vlpipe.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 2}))
    messages = []
    for source, normalize in ((train, None), (val, train), (val, path)):
        with pytest.raises(DatasetError) as caught:
            vlpipe.plan(source, normalize=normalize)
        messages.append(str(caught.value))
    assert messages[0].startswith(f"{path}: has format version 2, this vlpipe reads version 1. Install the vlpipe version that wrote it")
    assert messages[1:] == messages[:1] * 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "JSONDecodeError: Expecting value"),
        ("[]", "AttributeError: 'list' object"),
        ("7", "AttributeError: 'int' object"),
        ("{}", "KeyError: 'sequences'"),
        ('{"sequences": 7}', "AttributeError: 'int' object"),
        ('{"sequences": {"features": 7}}', "TypeError: 'int' object is not subscriptable"),
        ('{"sequences": {"a": {"shape": 7}}}', "TypeError: 'int' object is not iterable"),
        ('{"sequences": {"a": {"shape": [7]}}}', "KeyError: 'statistics'"),
        ("[" * 100_000, "ValueError: it is nested too deeply"),
        ("\udcff", "UnicodeDecodeError: "),
    ],
    ids=lambda text: text[:24],
)
def test_a_file_without_statistics_is_refused(pair: tuple[Path, Path], tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(DatasetError, match=rf"^normalize: {path}: contains no readable statistics \({said}.*\)\. Pass a dataset directory"):
        vlpipe.plan(pair[1], normalize=path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"format": "vlpipe"}', "has format version None, this vlpipe reads version 1"),
        (
            '{"format": "vlpipe", "schema": {"a": {"kind": "sequence"}}, "statistics": {}}',
            "has format version None, this vlpipe reads version 1",
        ),
        ('{"format": "vlpipe", "version": 1}', "not the metadata of a vlpipe dataset: the key 'schema' is missing"),
    ],
)
def test_incomplete_metadata_are_refused(pair: tuple[Path, Path], tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(DatasetError, match=f"^{path}: {said}"):
        vlpipe.plan(pair[1], normalize=path)


def test_paths_and_frames_that_do_not_serve(pair: tuple[Path, Path], tmp_path: Path) -> None:
    _, val = pair
    with pytest.raises(DatasetError, match=r"vlpipe.json: no such file. Pass a dataset directory that vlpipe wrote, its vlpipe"):
        vlpipe.plan(val, normalize=tmp_path)
    with pytest.raises(ArgumentError, match=r"normalize: came as 'batch', expected .* or a path that exists: a dataset directory"):
        vlpipe.plan(val, normalize="batch")
    with pytest.raises(ArgumentError, match=r"^normalize: \S+ is named twice; name each file once, or its records would be delivered"):
        vlpipe.plan(val, normalize=[val, val])
    vlpipe.write(tmp_path / "other", [{"features": np.ones((3, 2, 2), np.float32), "label": 1}])
    with pytest.raises(
        DatasetError, match=r'its statistics of "features" are of frames \[2, 2\], here frames are \[4\]. Pass the statistics'
    ):
        vlpipe.plan(val, normalize=tmp_path / "other")
    vlpipe.write(tmp_path / "named", [{"mel": np.ones((3, 4), np.float32), "label": 1}])
    with pytest.raises(DatasetError, match=r"has no statistics of \"features\", only of \['mel'\]"):
        vlpipe.plan(val, normalize=tmp_path / "named")
    with pytest.raises(
        ArgumentError, match=r'normalize="/.*named": the statistics describe stored frames \[4\], but the transform returns frames \[2\]'
    ):
        vlpipe.plan(tmp_path / "named", normalize=tmp_path / "named", transform=lambda x: x[:, :2])
    with pytest.raises(ArgumentError, match="normalize: results are fractions, which dtype='int32' cannot hold"):
        vlpipe.plan(val, normalize=tmp_path / "other", dtype="int32")


@pytest.mark.usefixtures("quick_graphs")
def test_a_list_of_datasets_has_their_statistics_together(pair: tuple[Path, Path]) -> None:
    train, val = pair
    expected = of_all(delivered(train) + delivered(val))
    for several in ([train, str(val)], (val, train / "vlpipe.json")):
        for x, raw in zip(delivered(val, normalize=several), delivered(val), strict=True):
            np.testing.assert_allclose(x, reference(raw, *expected), rtol=1e-5, atol=1e-5)
    one, alone = (vlpipe.plan(val, normalize=normalize, seed=1).state(0, 0) for normalize in ([train], train))
    assert one == alone
    with pytest.raises(ArgumentError, match="or a list of datasets, for their statistics together"):
        vlpipe.plan(val, normalize=[train, "missing"])


@pytest.mark.parametrize(
    "numbers", [[0.0, 1.0], ([0.0] * 3, [1.0] * 3), np.zeros((2, 3)), {"mean": [0.0], "variance": [1.0]}, [np.zeros(3)]]
)
def test_numbers_are_refused_with_the_way_to_pass_them(pair: tuple[Path, Path], numbers: object) -> None:
    with pytest.raises(ArgumentError, match=r"normalize: came as numbers, .*keras.layers.Normalization\(mean=..., variance=...\)"):
        vlpipe.plan(pair[1], normalize=numbers)  # type: ignore[arg-type]
