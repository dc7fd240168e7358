"""`vlpipe verify`, `stats`, `head` and `histogram`: their output, JSON and exit status."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlpipe
from tests.cli.test_cli import run
from tests.helpers.foreign_files import cases
from tests.helpers.foreign_files import write as foreign_write
from vlpipe.inspection.head import first_records
from vlpipe.inspection.summary import summarize

COMMANDS = ("verify", "stats", "head", "histogram")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    with vlpipe.Writer(tmp_path / "d", num_shards=2) as writer:
        writer.metadata |= {"classes": ["Hund", "Kätzchen"], "features": {"hop_ms": 10}}
        for length in range(60):
            writer.write(
                {"x": np.full((length, 2), np.nan if length == 2 else 1, np.float32), "label": length % 2, "text": "ü\x1b[2J[bold]"}
            )
    return tmp_path / "d"


def document(*arguments: object) -> Any:
    result = run(*arguments, "--json")
    assert (result.exit_code, result.stderr) == (0, "")

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(result.stdout, parse_constant=refuse)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_missing_source_is_one_message(command: str, tmp_path: Path) -> None:
    for arguments in ((), ("--json",)):
        result = run(command, tmp_path / "nothing", *arguments)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"vlpipe: {tmp_path / 'nothing'}: not found")
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        *([command] for command in COMMANDS),
        ["verify", "x", "--workers", "0"],
        ["head", "x", "-n", "0"],
        ["head", "x", "-n", "many"],
        ["histogram", "x", "--bins", "0"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage: " in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_the_content_of_a_dataset_cannot_control_the_terminal(command: str, dataset: Path) -> None:
    output = run(command, dataset).output
    assert output
    assert all(letter.isprintable() or letter == "\n" for letter in output)


# vlpipe verify


def test_verify_an_intact_dataset(dataset: Path) -> None:
    result = run("verify", dataset)
    size = sum(path.stat().st_size for path in dataset.glob("*.tfrecord"))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"60 records in 2 shards, {size / 1e6:,.1f} MB read: all as they were written\n"
    expected = {"ok": True, "shards": 2, "records": 60, "bytes": size, "damaged": 0, "lost": 0, "problems": [], "unlisted": 0}
    expected["layout"] = "vlpipe"
    assert document("verify", dataset, "--workers", 2) == expected
    assert document("verify", *dataset.glob("*.tfrecord"))["records"] == 60


def test_verify_a_damaged_dataset_is_status_1(dataset: Path) -> None:
    path = sorted(dataset.glob("*.tfrecord"))[1]
    content = bytearray(path.read_bytes())
    content[14] ^= 1
    path.write_bytes(content)
    result = run("verify", dataset)
    assert (result.exit_code, result.stderr) == (1, "")
    assert result.stdout.strip() == vlpipe.verify(dataset).report()
    result = run("verify", dataset, "--json")
    assert (result.exit_code, result.stderr) == (1, "")
    report = json.loads(result.stdout)
    assert (report["ok"], report["damaged"], report["unlisted"]) == (False, 1, 0)
    (problem,) = report["problems"]
    assert {key: problem[key] for key in ("shard", "record", "offset", "kind")} == {
        "shard": str(path),
        "record": 0,
        "offset": 0,
        "kind": "data",
    }
    assert set(problem) == {"shard", "record", "offset", "kind", "found", "expected", "action"}


# vlpipe stats


def test_stats(dataset: Path) -> None:
    assert run("stats", dataset).stdout.strip() == summarize(dataset).report()
    assert run("stats", dataset, "--by", "label").stdout.strip() == summarize(dataset, "label").report()
    stats = document("stats", dataset)
    assert (stats["records"], stats["shards"]) == (60, 2)
    x = stats["sequences"]["x"]
    assert x["lengths"] == {"frames": 1770, "hours": 17.7 / 3600, "min": 0, "median": 29.5, "mean": 29.5, "p95": 56.05, "max": 59}
    assert (x["mean"], x["std"], x["not_finite"]) == ([1.0, 1.0], [0.0, 0.0], 4)
    classes = stats["labels"]["label"]["classes"]
    assert [(entry["label"], entry["name"], entry["records"], entry["lengths"]) for entry in classes] == [
        (0, "Hund", 30, None),
        (1, "Kätzchen", 30, None),
    ]
    assert stats["labels"]["label"]["class_weight"] == {"0": 1.0, "1": 1.0}
    by = document("stats", dataset, "--by", "label")["labels"]["label"]["classes"]
    assert [entry["lengths"]["frames"] for entry in by] == [870, 900]


def test_stats_by_a_field_that_is_not_a_label(dataset: Path) -> None:
    result = run("stats", dataset, "--by", "x")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("vlpipe: by: came as 'x', expected a scalar integer field or a text of the source: ")
    result = run("stats", dataset, "--by", "lable")
    assert "came as 'lable' (did you mean 'label'?)" in result.stderr


def test_stats_by_a_text(tmp_path: Path) -> None:
    """Texts that are a column of the index and texts of records; a field called as a column of its own has its own values."""
    records = [{"x": np.zeros((n + 1, 2), "f4"), "speaker": "ann" if n % 3 else "bob", "id": f"{n % 2} é"} for n in range(9)]
    vlpipe.write(tmp_path / "d", records, num_shards=2)
    for field in ("speaker", "id"):
        classes = document("stats", tmp_path / "d", "--by", field)["labels"][field]["classes"]
        for entry in classes:
            lengths = [len(record["x"]) for record in records if record[field] == entry["label"]]
            assert (entry["records"], entry["lengths"]["frames"], entry["lengths"]["max"]) == (len(lengths), sum(lengths), max(lengths))
        assert sum(entry["records"] for entry in classes) == 9
    shown = run("stats", tmp_path / "d", "--by", "speaker").stdout
    assert "label speaker: 2 classes" in shown
    assert "class_weight=" not in shown


# vlpipe head


def test_head(dataset: Path) -> None:
    views = list(first_records(dataset, 60))
    assert run("head", dataset).stdout == "".join(f"{view.report()}\n" for view in views[:5])
    records = document("head", dataset, "-n", 3)
    assert [record["id"] for record in records] == [0, 1, 2]
    assert records[2]["fields"]["x"] == {
        "dtype": "float32",
        "shape": [2, 2],
        "first": [None] * 4,
        "min": None,
        "max": None,
        "mean": None,
        "not_finite": 4,
        "text": None,
    }
    assert records[1]["fields"]["text"]["text"] == "ü\x1b[2J[bold]"
    assert len(document("head", dataset, "--records", 1000)) == 60


def test_head_shows_the_records_before_a_damaged_one(dataset: Path) -> None:
    view = list(first_records(dataset, 3))[2]
    path = dataset / view.shard
    content = bytearray(path.read_bytes())
    content[view.offset + 20] ^= 1
    path.write_bytes(content)
    result = run("head", dataset)
    assert result.exit_code == 1
    assert result.stdout.count("record 0: ") == result.stdout.count("record 1: ") == 1
    assert result.stderr.startswith(f"vlpipe: {view.shard}, record {view.record} at byte {view.offset}: the checksum")
    assert run("head", dataset, "--json").stdout == ""


# vlpipe histogram


def test_histogram(dataset: Path, tmp_path: Path) -> None:
    lines = run("histogram", dataset, "--bins", 4).stdout.splitlines()
    assert lines[0].split() == ["frames", "records"]
    assert [line.rstrip("█ ").split() for line in lines[1:]] == [[str(at), "to", str(at + 14), "15"] for at in (0, 15, 30, 45)]
    assert all(line.endswith("█" * 50) for line in lines[1:])
    expected = {"features": "x", "width": 15, "first": [0, 15, 30, 45], "records": [15] * 4}
    assert document("histogram", dataset, "--bins", 4, "--features", "x") == expected
    assert document("histogram", dataset, "--bins", 4, "-o", tmp_path / "a.png") == expected
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert run("histogram", dataset, "-o", tmp_path / "b.svg").stdout == ""
    assert (tmp_path / "b.svg").read_text("utf-8").startswith("<?xml")


def test_the_bars_are_proportional_to_the_counts(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", [{"a$b$": np.zeros((length, 1), np.int8)} for length in (1, 1, 1, 1, 2, 3, 3, 400)], num_shards=1)
    lines = run("histogram", tmp_path / "d", "--bins", 400).stdout.splitlines()
    assert lines[1:4] == ["     1        4  " + "█" * 50, "     2        1  " + "█" * 12 + "▌", "     3        2  " + "█" * 25]
    assert len(lines) == 401
    assert run("histogram", tmp_path / "d", "-o", tmp_path / "a.png").exit_code == 0  # matplotlib must not typeset the name


def test_the_histogram_of_an_empty_dataset(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", [], vlpipe.Schema(x=vlpipe.Sequence()), num_shards=1)
    assert document("histogram", tmp_path / "d") == {"features": "x", "width": 1, "first": [], "records": []}
    assert run("histogram", tmp_path / "d").exit_code == 0
    assert run("histogram", tmp_path / "d", "-o", tmp_path / "a.png").exit_code == 0


def test_a_histogram_that_cannot_be_written(dataset: Path, tmp_path: Path) -> None:
    result = run("histogram", dataset, "-o", tmp_path / "none" / "a.png")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "cannot be written" in result.stderr
    result = run("histogram", dataset, "--features", "label")
    assert (result.exit_code, "features: 'label' is not a sequence of the schema" in result.stderr) == (1, True)


# ---- third-party records ---------------------------------------------------------------------------------------------------------

LAYOUT = json.dumps({"float_list": {"key": "x", "d": 5, "label": "label"}})


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A third-party file whose layout cannot be detected with certainty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return foreign_write(tmp_path / "a.tfrecord", cases()["float_list"].records)


@pytest.mark.parametrize("command", [*COMMANDS, "plan"])
def test_every_command_takes_a_layout(command: str, third_party: Path) -> None:
    more = ["--length-range", "0:"] if command == "plan" else []
    if command != "verify":
        result = run(command, third_party, *more)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "layout=..., see `vlpipe inspect FILE`" in result.stderr
    result = run(command, third_party, "--layout", LAYOUT, *more)
    assert (result.exit_code, result.stderr) == (0, "")
    assert all(letter.isprintable() or letter == "\n" for letter in result.output)
    document(command, third_party, "--layout", LAYOUT, *more)
    for wrong in ("{", "other"):
        result = run(command, third_party, "--layout", wrong, *more)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"vlpipe: --layout: {wrong} cannot be parsed")


def test_commands_on_third_party_records(third_party: Path) -> None:
    case = cases()["float_list"]
    assert document("plan", third_party, "--layout", LAYOUT, "--length-range", "0:")["records"] == 23
    assert sum(document("histogram", third_party, "--layout", LAYOUT)["records"]) == 23
    (view,) = document("head", third_party, "--layout", LAYOUT, "-n", 1)
    assert (view["fields"]["x"]["shape"], view["fields"]["label"]["first"]) == ([0, 5], [case.labels[0]])
    report = document("verify", third_party, "--layout", LAYOUT)
    assert (report["ok"], report["records"], report["layout"]) == (True, 23, "float_list")
    assert document("verify", third_party)["layout"] is None
    os.truncate(third_party, third_party.stat().st_size - 1)
    result = run("verify", third_party, "--json")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["ok"], report["damaged"], report["problems"][0]["kind"]) == (1, False, 1, "cut")
    assert report["lost"] == third_party.stat().st_size - report["problems"][0]["offset"]


def test_stats_are_computed_on_request_and_then_cached(third_party: Path) -> None:
    arguments = ("stats", third_party, "--layout", LAYOUT)
    assert document(*arguments)["sequences"]["x"]["statistics"] is None
    computed = document(*arguments, "--compute")
    frames = np.concatenate(cases()["float_list"].frames).astype(np.float64)
    x = computed["sequences"]["x"]
    np.testing.assert_allclose(x["mean"], frames.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(x["std"], frames.std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(x["statistics"]["variance"], frames.var(axis=0), rtol=1e-12)
    assert document(*arguments) == computed
    assert "deviation" in run(*arguments).stdout
    result = run(*arguments, "--compute", FORCE_COLOR="1", TERM="xterm-256color")
    assert result.exit_code == 0
