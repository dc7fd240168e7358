"""The throughput benchmark with little data: its figures, its check of the records, and the peers that are installed."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

import vlpipe
from benchmarks import consuming, peers, pipelines, racing, throughput, workloads
from benchmarks.own_process import Way, own_process
from benchmarks.peer_tools import LengthGrouped, once

ROOT = Path(__file__).parents[2]
FLOORS = {"copy floor, NumPy", "copy floor, memoryview"}
COPIES = {*FLOORS, "copy on every core"}


def check_figures(result: dict[str, Any], ways: set[str], rounds: int) -> None:
    """Check that every way and every round is present, and that the figures are plausible."""
    assert set(result["ways"]) == ways
    assert result["ways"][result["base"]]["ratio"] == 1
    assert max(result["ways"][name]["share_of_floor"] for name in FLOORS) == 1
    for name, figures in result["ways"].items():
        assert len(figures["seconds"]) == rounds
        assert (
            min(figures["seconds"] + [figures[key] for key in ("ratio", "frames_per_second", "records_per_second", "share_of_floor")]) > 0
        )
        assert (figures["valid_ratio"] is None) if name in COPIES else (0 < figures["valid_ratio"] <= 1)
        assert ("workers" in figures) == (name in peers.PEERS)
        assert ("graph" in figures) == (name in set(pipelines.WAYS) - {consuming.ARRAYS})
        assert len(figures["graph"]["seconds"] if "graph" in figures else figures["seconds"]) == rounds


def test_quick_writes_every_way_and_every_round(tmp_path: Path, quick_graphs: None, capsys: pytest.CaptureFixture[str]) -> None:
    throughput.main(["--quick", "--workloads", "events", "--json", str(tmp_path / "figures.json")])
    output = capsys.readouterr().out
    document = json.loads((tmp_path / "figures.json").read_text("utf-8"))
    assert (document["script"], document["arguments"]["quick"]) == ("throughput", True)
    missing = {name: peer.missing for name, peer in peers.PEERS.items() if peer.missing}
    assert document["results"]["skipped"] == missing
    for name, packages in missing.items():
        assert f"{name} is skipped: {packages} is not installed\n" in output
    figures = document["results"]["workloads"]
    assert {name: (result["records"], result["d"]) for name, result in figures.items()} == {"events": (300, 40)}
    pieces = document["results"]["pieces"]
    assert list(pieces) == ["whole records", "windows", "overlapping windows", "mix, two to one"]
    assert all(figure["ratio"] > 0 and len(figure["seconds"]) == 1 for figure in pieces.values())
    for result in figures.values():
        check_figures(result, {*pipelines.WAYS, *peers.PEERS, *COPIES} - set(missing), rounds=1)


def one_wrong_number(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Change one number in one frame of the third record of the first batch."""

    def change(number: tf.Tensor, batch: tuple[dict[str, tf.Tensor], tf.Tensor]) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        x, y = batch
        wrong = tf.tensor_scatter_nd_add(x["features"], [[2, 1, 5]], [1e-3])
        return {**x, "features": tf.where(number == 0, wrong, x["features"])}, y

    return batches.enumerate().map(change)


def test_a_wrong_frame_ends_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quick_graphs: None) -> None:
    monkeypatch.setitem(pipelines.WAYS, "planted", lambda task: one_wrong_number(pipelines.WAYS["vlpipe mapped"](task)))
    arguments = ["--quick", "--workloads", "events", "--records", "40", "--peers", "--json", str(tmp_path / "figures.json")]
    with pytest.raises(SystemExit, match=r"^planted: 1 of 40 records were not delivered as written, 1 unexpected records were$"):
        throughput.main([*arguments, "--ways", "planted"])
    assert not (tmp_path / "figures.json").exists()


def test_ways_in_processes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(racing, "fill_caches", lambda: None)
    ways = ["vlpipe mapped", consuming.ARRAYS]
    arguments = throughput.parse_arguments(["--rounds", "2", "--starts", "1", "--peers", "--ways", *ways])
    result = throughput.measure_workload(workloads.events(300), tmp_path, arguments, Console(quiet=True))
    check_figures(result, {*ways, *COPIES}, rounds=2)
    assert all(len(result["ways"][name]["process_seconds"]) == 1 for name in ways)
    assert not multiprocessing.active_children()


def enter_wrong() -> Way:
    return Way({"planted": list}, throughput.check("planted", [(np.zeros((1, 2, 3)), [2], [0])], Counter()))


def enter_and_end() -> Way:
    return Way({"one": list, "end": lambda: os._exit(3)}, 0.5, {"note": 1})


def enter_and_fail() -> Way:
    raise ValueError("planted")


@pytest.mark.parametrize(
    ("enter", "says"),
    [
        (enter_wrong, "planted: 0 of 0 records were not delivered as written, 1 unexpected records were"),
        (enter_and_fail, "way: its process ended with status 1"),
        (enter_and_end, "way: its process ended with status 3"),
    ],
)
def test_a_process_of_its_own_that_ends_ends_the_run(enter: Callable[[], Way], says: str) -> None:
    with pytest.raises(SystemExit, match=f"^{says}$"):
        call_both(enter)
    assert not multiprocessing.active_children()


def call_both(enter: Callable[[], Way]) -> None:
    with own_process("way", enter) as way:
        assert (list(way.runs), way.valid_ratio, way.notes) == (["one", "end"], 0.5, {"note": 1})
        way.runs["one"]()
        way.runs["end"]()


def test_the_check_compares_every_record() -> None:
    x = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    lengths, labels = np.array([4, 2]), np.array([7, 8])
    expected = Counter(throughput.digest(row[:length], label) for row, length, label in zip(x, lengths, labels, strict=True))
    padded = x.copy()
    padded[1, 2:] = -1  # the value of the padding does not matter
    assert throughput.check("way", [(padded, lengths, labels)], expected) == 6 / 8
    filled_up = {"features": x[[0, 1, 1]], "lengths": lengths[[0, 1, 1]]}, labels[[0, 1, 1]], [1, 1, 0]
    assert throughput.check("way", [filled_up], expected) == 6 / 12
    for wrong in ([(x, lengths, labels[::-1])], [(x, [4, 3], labels)], [(x[:1], lengths[:1], labels[:1])], [(x, lengths, labels)] * 2):
        with pytest.raises(SystemExit, match=r"^way: \d of 2 records "):
            throughput.check("way", wrong, expected)


def records(dtype: str, text: bool) -> Iterator[dict[str, Any]]:
    """40 records of other names, another d and two sequences."""
    random = np.random.default_rng(0)
    for number in range(40):
        mel = random.integers(-99, 99, (number % 12, 7)).astype(dtype)
        yield {"phones": np.arange(number, dtype=np.int32), "mel": mel} | ({"word": f"wörd {number}"} if text else {})


@pytest.mark.parametrize(
    ("dtype", "text", "arguments", "ways", "rounds"),
    [
        ("float16", True, ["--label", "word"], list(pipelines.WAYS), 1),
        ("int16", False, [], ["by hand, bytes", "vlpipe mapped, 8 static shapes"], 2),
    ],
)
def test_the_dataset_of_the_data_option(
    tmp_path: Path, quick_graphs: None, dtype: str, text: bool, arguments: list[str], ways: list[str], rounds: int
) -> None:
    vlpipe.write(tmp_path / "mine", records(dtype, text), num_shards=2)
    arguments = [*arguments, "--quick", "--rounds", str(rounds), "--batch-size", "8", "--ways", *ways]
    throughput.main(["--data", str(tmp_path / "mine"), *arguments, "--json", str(tmp_path / "figures.json")])
    results = json.loads((tmp_path / "figures.json").read_text("utf-8"))["results"]
    result = results["workloads"]["mine"]
    assert results["skipped"] == {}
    assert (result["records"], result["frames"], result["d"], result["batch_size"]) == (40, 3 * 66 + 6, 7, 8)
    check_figures(result, {*ways, *COPIES}, rounds)


def test_a_dataset_that_cannot_be_read_gives_one_message(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^throughput: .*nowhere"):
        throughput.main(["--data", str(tmp_path / "nowhere"), "--quick"])


def test_length_groups() -> None:
    lengths = np.random.default_rng(0).integers(10, 800, 5000)
    groups = LengthGrouped(lengths, 32)
    epochs = [list(groups), list(groups)]
    for batches in epochs:
        assert len(batches) == len(groups) == 157
        assert sorted(row for batch in batches for row in batch) == list(range(5000))
        assert lengths.sum() / sum(len(batch) * lengths[batch].max() for batch in batches) > 0.95
    assert epochs[0] != epochs[1]


def test_an_interrupted_write_starts_again(tmp_path: Path) -> None:
    def stop(directory: Path) -> None:
        (directory / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        once(tmp_path / "data", stop)
    once(tmp_path / "data", lambda directory: (directory / "whole").touch())
    assert [path.name for path in once(tmp_path / "data", stop).iterdir()] == ["whole"]


def test_a_peer_that_is_not_installed() -> None:
    peer = peers.Peer({"json": "json", "no_such_module": "no-such-package", "nor_this": "nor-this"}, peers.pytorch)
    assert peer.missing == "no-such-package nor-this"


@pytest.mark.filterwarnings("ignore")  # of third-party packages
@pytest.mark.parametrize("name", list(peers.PEERS))
def test_a_peer(name: str, tmp_path: Path) -> None:
    for module in peers.PEERS[name].packages:
        pytest.importorskip(module)
    workload = workloads.events(300)
    expected = Counter(throughput.digest(x, np.int64(y)) for x, y in workload.records())
    way = throughput.enter_peer(name, workload, tmp_path, [0, 1], expected)
    assert way.notes["workers"] in (0, 1)
    assert set(way.notes["tried"]) == {0, 1}
    epochs = peers.PEERS[name].make(workload, tmp_path, way.notes["workers"])
    orders = [[np.asarray(lengths).tolist() for _, lengths, _ in epochs] for _ in range(2)]
    assert orders[0] != orders[1]
    assert sum(map(len, orders[0])) == 300
    with pytest.raises(SystemExit, match=f"^{name}: 1 of 300 records "):
        throughput.check(name, wrong_in_the_first_batch(epochs), expected)


def wrong_in_the_first_batch(epochs: Any) -> Iterator[Any]:
    for number, (features, lengths, labels) in enumerate(epochs):
        changed = np.array(features)
        changed[0, 1, 5] += 1e-3 * (number == 0)
        yield changed, lengths, labels
