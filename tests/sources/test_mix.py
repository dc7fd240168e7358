"""`vlpipe.mix` and `balance`: exact shares, in every epoch and both engines."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import vlpipe
from tests.helpers.foreign_files import cases, write
from vlpipe.sources.record_set import RecordSet

NAMES = ("cat", "dog", "eel", "fox")


def make(path: Path, count: int, first: int = 0, classes: list[str] | None = None, **extra: Any) -> RecordSet:
    """Records of 1 to 25 frames; frame t of record n is [n, t]."""
    with vlpipe.Writer(path, num_shards=2) as writer:
        writer.metadata = {} if classes is None else {"classes": classes, "label": "label"}
        for number in range(first, first + count):
            frames = np.stack([np.full(1 + number * 7 % 25, number), np.arange(1 + number * 7 % 25)], 1).astype(np.float32)
            writer.write({"features": frames, "label": number % 3, "speaker": f"s{number % 4}", **extra})
    return vlpipe.open(path)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RecordSet]:
    folder = tmp_path_factory.mktemp("mix")
    return {"a": make(folder / "a", 90), "b": make(folder / "b", 40, 1000), "c": make(folder / "c", 7, 2000)}


def epochs(dataset: Any, count: int) -> list[list[dict[str, Any]]]:
    return [[{name: value.numpy() for name, value in x.items()} for x, *_ in dataset] for _ in range(count)]


def flat(value: Any) -> Any:
    """A batch of sequences of different lengths, one after another."""
    return np.concatenate(list(value)) if value.dtype == object else value


def test_every_part_is_exact_in_every_one_of_50_epochs(parts: dict[str, RecordSet]) -> None:
    """Each record floor or ceil, every step's shape as planned; over the epochs each record of a part equally often."""
    mixed = vlpipe.mix([(parts["a"], 0.5), (parts["b"], 0.3), (parts["c"], 0.2)])
    assert mixed.parts == {"a": 90, "b": 54, "c": 36}
    arguments: dict[str, Any] = {"batch_size": 8, "pad_to": "boundary", "buckets": 4, "seed": 3, "label": False}
    plan = vlpipe.plan(mixed, **arguments)
    dataset = vlpipe.make_dataset(mixed, ids=True, **arguments)
    rates = dict(zip(mixed.index.ids.tolist(), mixed.rates.tolist(), strict=True))
    part_of = np.repeat(["a", "b", "c"], [90, 40, 7])
    shapes, total = set(), np.zeros(137)
    for epoch in epochs(dataset, 50):
        ids = np.concatenate([batch["id"] for batch in epoch])
        assert len(epoch) == plan.steps_per_epoch == len(dataset)
        assert collections.Counter(part_of[ids].tolist()) == mixed.parts
        times = np.bincount(ids, minlength=137)
        assert all(int(rates[i]) <= times[i] <= -int(-rates[i] // 1) for i in range(137))
        shapes.add(tuple(sorted(collections.Counter(batch["features"].shape for batch in epoch).items())))
        total += times
    (same,) = shapes
    assert {shape for shape, _ in same} == set(plan.shapes)
    for name in "abc":
        own = part_of == name
        counts, expected = total[own], 50 * mixed.parts[name] / own.sum()
        assert ((counts - expected) ** 2 / expected).sum() < own.sum() + 4 * np.sqrt(2 * own.sum())


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"crop": vlpipe.Crop(4, random=True), "remainder": "pad"},
        {"windows": vlpipe.Windows(6, 3, jitter=True)},
        {"augment": vlpipe.SpecAugment(time_width=3, frequency_masks=0), "batching": "ragged"},
        {"batching": "same_length", "remainder": "drop"},
        {"shuffle": False},
        {"shard": (1, 2), "remainder": "pad", "frames_per_batch": 60},
        {"length_range": (3, 20), "out_of_range": "drop"},
    ],
)
def test_both_engines_deliver_the_same(parts: dict[str, RecordSet], arguments: dict[str, Any]) -> None:
    mixed = vlpipe.mix([(parts["a"], 1), (parts["b"], 3), (parts["a"].select({"label": 1}), 0.5)], records=300)
    arguments = {"seed": 5, "batch_size": 8, "ids": True, "lengths": True, "label": False, **arguments}
    both = [epochs(vlpipe.make_dataset(mixed, engine=engine, **arguments), 3) for engine in ("mapped", "graph")]
    for mapped, graph in zip(*both, strict=True):
        assert len(mapped) == len(graph) == vlpipe.plan(mixed, **arguments).steps_per_epoch
        for first, other in zip(mapped, graph, strict=True):
            for name in first:
                np.testing.assert_array_equal(flat(first[name]), flat(other[name]))


def test_copies_have_their_own_crops(parts: dict[str, RecordSet]) -> None:
    rare = parts["c"].select(rows=[3])
    mixed = vlpipe.mix([(parts["c"], 0.5), (rare, 0.5)], records=80)
    dataset = vlpipe.make_dataset(mixed, crop=vlpipe.Crop(1, random=True), ids=True, label=False, seed=1)
    (epoch,) = epochs(dataset, 1)
    ids, firsts = (np.concatenate([batch[name] for batch in epoch]) for name in ("id", "features"))
    row = mixed.index.ids[np.flatnonzero(mixed.index.ids == rare.index.ids[0])][0]
    places = firsts[ids == row, 0, 1]
    assert len(places) in (45, 46)
    assert len(set(places.tolist())) > 5  # of up to 25 frames


def test_selections_of_one_dataset_share_its_files_and_ids(parts: dict[str, RecordSet]) -> None:
    whole = parts["a"]
    mixed = vlpipe.mix([(whole, 0.8), (whole.select({"speaker": "s1"}), 0.2)])
    assert len(mixed.index.shards) == len(whole.index.shards)
    assert mixed.index.ids.tolist() == [*range(90), *range(1, 90, 4)]
    nested = vlpipe.mix([(vlpipe.mix([(whole, 1), (parts["b"], 1)]), 1), (whole.select({"label": 2}), 1), (parts["b"], 1)])
    assert len(nested.index.shards) == 4
    assert nested.index.ids.tolist() == [*range(130), *range(2, 90, 3), *range(90, 130)]
    assert [record["label"] for record in nested[[0, 91, 135]]] == [0, 1001 % 3, 2]
    assert [nested.index.where(row) for row in (0, 90)] == [whole.index.where(0), parts["b"].index.where(0)]


def test_nested_mixes_and_balance(parts: dict[str, RecordSet]) -> None:
    inner = parts["a"].balance("speaker")
    assert inner.parts == {"speaker s0": 23, "speaker s1": 23, "speaker s2": 23, "speaker s3": 23}
    mixed = vlpipe.mix([(inner, 0.9), (parts["b"], 0.1)], records=200)
    assert sum(count for name, count in mixed.parts.items() if name.startswith("a / speaker")) == 180
    assert mixed.parts["b"] == 20
    balanced = mixed.balance("label", records=99)
    by_label: dict[str, int] = collections.Counter()
    for name, count in balanced.parts.items():
        by_label[name.split(" / ")[0]] += count
    assert by_label == {"label 0": 33, "label 1": 33, "label 2": 33}
    assert balanced.rates.sum() == pytest.approx(99)
    dataset = vlpipe.make_dataset(balanced, seed=1, batch_size=16)
    for _ in range(3):
        assert np.bincount(np.concatenate([y.numpy() for _, y in dataset])).tolist() == [33, 33, 33]


@pytest.mark.parametrize("temperature", [1, 2, float("inf")])
def test_the_temperature_of_balance(parts: dict[str, RecordSet], temperature: float) -> None:
    source = parts["a"].select(lambda table: (table["label"] > 0) | (table["id"] % 9 == 0))
    sizes = np.bincount(source.table()["label"])
    weights = sizes ** (1 / temperature)
    counts = np.array(list(source.balance("label", temperature=temperature, records=1000).parts.values()))
    assert (np.abs(counts - 1000 * weights / weights.sum()) < 1).all()


def test_balanced_classes_have_their_names_and_equal_weights(tmp_path: Path) -> None:
    source = make(tmp_path / "d", 50, classes=["cat", "dog", "eel"])
    balanced = source.select(lambda table: (table["label"] > 0) | (table["id"] % 9 == 0)).balance()
    assert list(balanced.parts) == ["cat", "dog", "eel"]
    assert vlpipe.class_weights(balanced) == pytest.approx({0: 1.0, 1: 1.0, 2: 1.0})


def test_classes_are_numbered_by_their_names(tmp_path: Path) -> None:
    first = make(tmp_path / "a", 12, classes=["cat", "dog", "eel"])
    other = make(tmp_path / "b", 12, 100, classes=["eel", "fox", "cat"])
    mixed = vlpipe.mix({first: 1, other.select({"label": ["fox", "cat"]}): 1})
    assert mixed.classes == ["cat", "dog", "eel", "fox"]
    expected = [number % 3 for number in range(12)] + [{1: 3, 2: 0}[number % 3] for number in range(100, 112) if number % 3]
    assert mixed.table()["label"].tolist() == expected
    assert [int(record["label"]) for record in mixed] == expected
    again = vlpipe.mix([(mixed, 1), (make(tmp_path / "c", 6, classes=["gnu", "dog", "cat"]), 1)])
    assert again.classes == ["cat", "dog", "eel", "fox", "gnu"]
    assert again.table()["label"].tolist() == expected + [{0: 4, 1: 1, 2: 0}[number % 3] for number in range(6)]
    assert [int(record["label"]) for record in again] == again.table()["label"].tolist()


def test_sources_with_different_schemas_mix_if_the_delivered_fields_agree(
    tmp_path: Path, parts: dict[str, RecordSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    other = make(tmp_path / "d", 20, 300, room="r1", words=np.arange(3))
    mixed = vlpipe.mix([(other, 1), (parts["a"], 1)])
    assert list(mixed.schema.fields) == ["features", "label", "speaker"]
    assert [sorted(record) for record in mixed[[0, 20]]] == [["features", "label", "speaker"]] * 2
    assert vlpipe.verify(mixed).ok
    for engine in ("mapped", "graph"):
        dataset = vlpipe.make_dataset(mixed, engine=engine, label=("label", "speaker"), ids=True, seed=1)
        for x, y in dataset:
            for row, number in enumerate(x["id"].numpy()):
                value = int(x["features"][row, 0, 0])
                assert value == (300 + number if number < 20 else number - 20)
                assert (int(y["label"][row]), y["speaker"][row].numpy().decode()) == (value % 3, f"s{value % 4}")
    with pytest.raises(
        vlpipe.SchemaError, match=r"mix: the sources differ in what they deliver: .*d: .*room=Text.*; .*the schema has no field \"room\""
    ):
        vlpipe.plan(mixed, label="room")
    wide = tmp_path / "wide"
    vlpipe.write(wide, [{"features": np.ones((4, 3), np.float32), "label": 1}])
    from vlpipe.inspection.summary import summarize

    few = mixed.select(rows=[0, 3, 30])
    expected = np.concatenate([record["features"] for record in few]).mean(axis=0)
    assert summarize(few, compute=True).sequences["features"].mean == pytest.approx(expected)
    with pytest.raises(vlpipe.SchemaError, match=r"mix: .*share no sequence with it: \"features\" is Sequence\(shape=\(2,\).*\(3,\)"):
        vlpipe.mix([(parts["a"], 1), (wide, 1)])


def test_a_default_label_that_one_source_lacks_is_named(tmp_path: Path, parts: dict[str, RecordSet]) -> None:
    vlpipe.write(tmp_path / "d", [{"features": np.ones((4, 2), np.float32)}] * 3)
    mixed = vlpipe.mix([(parts["a"], 1), (tmp_path / "d", 1)])
    with pytest.raises(
        vlpipe.SchemaError,
        match=r"mix: the sources differ in what they deliver: .*a: features=Sequence.*, label=Fixed.*; .*d: features=Sequence",
    ):
        vlpipe.plan(mixed)
    assert vlpipe.plan(mixed, label=False).records == 180


def test_third_party_files_mix(tmp_path: Path, parts: dict[str, RecordSet]) -> None:
    case = cases()["float_list"]
    paths = [write(tmp_path / name / "x.tfrecord", case.records) for name in "ab"]
    sources = [vlpipe.open(path, layout=case.layout) for path in paths]
    mixed = vlpipe.mix([(sources[0], 1), (sources[1].select(rows=range(1, 9)), 2)])
    assert len(mixed) == 31
    np.testing.assert_equal(list(mixed)[24:], list(sources[1])[2:9])
    for engine in ("mapped", "graph"):
        dataset = vlpipe.make_dataset(mixed, engine=engine, ids=True, lengths=True, length_range=(0, None), seed=1)
        for x, _ in dataset:
            for row, number in enumerate(x["id"].numpy() % 23):
                np.testing.assert_array_equal(x["features"][row, : x["lengths"][row]], case.frames[number])
    with pytest.raises(vlpipe.SchemaError, match=r"mix: vlpipe wrote .*, but not .*, which is stored in another way. Convert it first"):
        vlpipe.mix([(sources[0], 1), (parts["a"], 1)])
    audio = cases()["audioset"]
    other = vlpipe.open(write(tmp_path / "c" / "x.tfrecord", audio.records), layout=audio.layout)
    with pytest.raises(vlpipe.SchemaError, match=r"mix: .* has other fields or another layout than"):
        vlpipe.mix([(sources[0], 1), (other, 1)])


def test_lists_of_labels_of_third_party_files_mix(tmp_path: Path) -> None:
    case = cases()["audioset"]
    sources = [vlpipe.open(write(tmp_path / name / "x.tfrecord", case.records), layout=case.layout) for name in "ab"]
    mixed = vlpipe.mix([(source, 1) for source in sources])
    np.testing.assert_equal(list(mixed), list(sources[0]) * 2)


def test_a_run_resumes(parts: dict[str, RecordSet]) -> None:
    mixed = vlpipe.mix([(parts["a"], 0.2), (parts["b"], 0.8)])
    arguments: dict[str, Any] = {"seed": 7, "batch_size": 16, "label": False, "crop": vlpipe.Crop(3, random=True)}
    plan = vlpipe.plan(mixed, **arguments)
    steps = plan.steps_per_epoch
    run = [x.numpy() for (x,) in vlpipe.make_dataset(mixed, repeat=True, **arguments).take(4 * steps)]
    state = plan.state(2, 5)
    again = vlpipe.mix([(vlpipe.open(parts["a"]), 0.2), (parts["b"], 0.8)])
    resumed = vlpipe.make_dataset(again, repeat=True, resume=state, **arguments)
    for expected, (x,) in zip(run[2 * steps + 5 :], resumed.take(2 * steps - 5), strict=True):
        np.testing.assert_array_equal(x.numpy(), expected)
    other = vlpipe.mix([(parts["a"], 0.3), (parts["b"], 0.7)])
    for source in (other, parts["a"]):
        with pytest.raises(vlpipe.ArgumentError, match="rates is"):
            vlpipe.make_dataset(source, repeat=True, resume=state, **arguments)
    assert "rates" not in vlpipe.plan(parts["a"], **arguments).state(0, 0)


def test_the_report_shows_the_parts(parts: dict[str, RecordSet]) -> None:
    report = vlpipe.plan(vlpipe.mix([(parts["a"], 0.5), (parts["c"], 0.5)]), label=False).report()
    assert [line.split() for line in report.splitlines()[-3:]] == [
        ["part", "records", "an", "epoch", "each", "comes"],
        ["a", "90", "90", "1", "time"],
        ["c", "7", "90", "12.86", "times"],
    ]


def test_a_selection_of_a_mix_keeps_its_weights(parts: dict[str, RecordSet]) -> None:
    mixed = vlpipe.mix([(parts["a"], 0.75), (parts["b"], 0.25)]).select({"frames": (10, None)})
    a, b = (len(parts[name].select({"frames": (10, None)})) for name in "ab")
    assert len(mixed) == a + b
    assert mixed.parts == {"a": a, "b": -(-a * 4 // 3) - a} or sum(mixed.parts.values()) == -(-a * 4 // 3)
    for train, validation in vlpipe.mix([(parts["a"], 1), (parts["b"], 1)]).folds(3):
        assert len(train) + len(validation) == 130


def test_parts_by_path_and_parts_of_the_same_name(tmp_path: Path, parts: dict[str, RecordSet]) -> None:
    path = str(Path(parts["c"].index.shards[0].path).parent)
    assert vlpipe.mix({path: 1}).parts == {"c": 7}
    assert vlpipe.mix([(path, 1), (path, 1)]).parts == {"c (1)": 7, "c (2)": 7}
    assert vlpipe.mix([(path, 1), (path, 1)]).statistics == {}
    c = parts["c"]
    some = [c.select({"frames": (2, None)}), c.select(fraction=0.5), c.select(rows=[0, 1]), c.select(lambda table: table["id"] > 0), c]
    named = ["c: frames>=2", "c: a fraction of 0.5", "c: rows", "c: by a function", path]
    assert list(vlpipe.mix([(source, 1) for source in some]).parts) == named
    divided = c.select({"frames": (2, 99)}).split({"train": 0.5, "val": 0.5})
    mixed = vlpipe.mix(dict.fromkeys(divided.values(), 1))
    assert list(mixed.parts) == ["c: frames 2 to 99, train", "c: frames 2 to 99, val"]
    assert list(vlpipe.mix([(c.folds(2)[1][1], 1), (path, 1)]).parts) == ["c: fold 1", path]
    shown = [" ".join(line.split()) for line in repr(mixed).splitlines()]
    assert {f"part {name}: {count:,} an epoch" for name, count in mixed.parts.items()} <= set(shown)
    assert "selected frames 2 to 99, val" in [" ".join(line.split()) for line in repr(divided["val"]).splitlines()]
    one = vlpipe.mix({parts["c"]: 1})
    assert one.statistics.keys() == {"features"}
    assert parts["a"].rates.tolist() == [1.0] * 90
    assert parts["a"].parts == {}


LONG: Any = {"length_range": (10, None)}


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda p: vlpipe.mix([]), "mix: there is no source, expected at least one with its weight"),
        (lambda p: vlpipe.mix([(p["a"], -1), (p["b"], 2)]), "mix: the weight of a: came as -1, expected a number >= 0 and below"),
        (lambda p: vlpipe.mix([(p["a"], float("nan"))]), "mix: the weight of a: came as nan"),
        (lambda p: vlpipe.mix([(p["a"], 0), (p["b"], 0.0)]), "mix: all 2 weights are 0, so no record would come"),
        (lambda p: vlpipe.mix([(p["a"], 1)], records=0), "records: came as 0, expected an integer >= 1"),
        (lambda p: vlpipe.mix("abc"), "mix: came as 'abc', expected a dict from sources to weights"),
        (lambda p: vlpipe.mix([p["a"]]), r"mix: entry 0 is RecordSet, expected a pair \(source, weight\)"),
        (lambda p: p["a"].balance("speeker"), "by: 'speeker' is not a column of the source"),
        (lambda p: p["a"].balance(temperature=0.5), "temperature: came as 0.5, expected a number >= 1, such as 2"),
        (
            lambda p: vlpipe.plan(
                vlpipe.mix([(p["a"], 1), (p["b"].select({"frames": (1, 3)}), 1)]), length_range=(10, None), out_of_range="drop"
            ),
            'mix: of the part "b" no record is delivered, because of length_range or windows',
        ),
        (lambda p: vlpipe.plan(vlpipe.mix([(p["a"], 1e-9), (p["b"], 1)])), "mix: an epoch would have 90,000,000,090 pieces, at most"),
        (lambda p: vlpipe.plan(vlpipe.mix([(p["a"], 1)]), engine="stream"), "mix: the stream engine delivers every record once an epoch"),
    ],
)
def test_refusals(parts: dict[str, RecordSet], act: Any, message: str) -> None:
    with pytest.raises(vlpipe.ArgumentError, match=message):
        act(parts)


def test_each_record_of_a_selection_or_a_mix_is_predicted_once(parts: dict[str, RecordSet]) -> None:
    x = keras.Input((None, 2))
    model = keras.Model(x, keras.layers.Conv1D(1, 1, kernel_initializer="ones")(x))
    chosen = parts["a"].select(rows=[50, 7, 20])
    mixed = vlpipe.mix([(chosen, 0.9), (parts["c"], 0.1)])
    for source in (chosen, mixed, mixed.balance("label")):
        answers = vlpipe.predict(model, source)
        assert answers.ids.tolist() == source.index.ids.tolist()
        for answer, record in zip(answers, source, strict=True):
            np.testing.assert_allclose(answer[:, 0], record["features"].sum(axis=1), rtol=1e-6)


def test_classes_of_a_mix_are_weighed_by_how_often_they_come(parts: dict[str, RecordSet]) -> None:
    mixed = vlpipe.mix([(parts["a"].select({"label": 0}), 3), (parts["a"].select({"label": 1}), 1)])
    assert vlpipe.class_weights(mixed) == pytest.approx({0: 4 / 6, 1: 2.0})
    dataset = vlpipe.make_dataset(mixed, class_weight="balanced", label="label", seed=1)
    weights = {int(label): float(weight) for _, y, w in dataset for label, weight in zip(y.numpy(), w.numpy(), strict=True)}
    assert weights == pytest.approx({0: 4 / 6, 1: 2.0})


def test_a_mix_is_not_converted(parts: dict[str, RecordSet], tmp_path: Path) -> None:
    from vlpipe.conversion import convert

    with pytest.raises(vlpipe.ArgumentError, match="source: a mix says how often records come in an epoch, which a dataset cannot hold"):
        convert(vlpipe.mix([(parts["a"], 1)]), tmp_path / "d")
