"""Reports and plots of a plan: the table contains all numbers, and the plot is a valid image."""

from __future__ import annotations

import re
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlpipe
from tests.planning.test_make_plan import plan_of
from vlpipe.errors import ArgumentError, MissingExtraError


def lines_of(plan: Any) -> dict[str, str]:
    """The totals of the report by heading."""
    pairs = [re.split(r"\s{2,}", line, maxsplit=1) for line in plan.report().partition("\n\n")[0].splitlines()]
    return dict(pairs)


def test_the_report_contains_the_numbers_of_the_plan() -> None:
    lengths = [*range(1, 2001), 5000, 5000, 0]
    plan = plan_of(
        lengths, buckets=[500, 1000, 2000], out_of_range="drop", length_range=(1, 2000), remainder="drop", batch_size=30, engine="stream"
    )
    report = plan.report()
    assert plan.refused == {"too_short": 1, "too_long": 2, "remainder": 20 + 20 + 10}
    for expected in (
        "bucket, padded to the longest of the batch",
        "1,950 of 2,003 an epoch",
        "1 too short, 2 too long, 50 remainder",
        "65 an epoch, remainder: drop",
        f"{plan.valid_ratio:.1%} (the rest is padding)",
        f"{plan.peak_batch_bytes / 2**20:,.1f} MiB of features",
    ):
        assert expected in report
    rows = [line.split() for line in report.splitlines() if line.strip()[:1].isdigit()]
    assert rows == [["500", "30", "500", "16"], ["1,000", "30", "500", "16"], ["2,000", "30", "1,000", "33"]]


def test_the_report_contains_the_engine_and_the_ranks() -> None:
    lines = lines_of(plan_of([1] * 200, shard=(3, 4), remainder="drop", engine="graph"))
    assert lines["engine"] == "graph"
    assert lines["steps"] == "1 an epoch of each of 4 ranks, remainder: drop"


def test_the_report_contains_truncation_and_budget() -> None:
    plan = plan_of([10, 2000, 3000], length_range=(1, 1500), out_of_range="truncate", frames_per_batch=1000)
    assert "2 to 1,500 frames" in plan.report()
    assert "2 records of more than 1,000 frames, alone in their batch" in " ".join(plan.report().split())
    assert "truncated" not in plan_of([10]).report()
    assert "budget" not in plan_of([10]).report()
    assert lines_of(plan_of([10, 2000, 3000], crop=1500))["cropped"] == "2 to 1,500 frames"
    assert "cropped" not in plan_of([10], crop=1500).report()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batching": "ragged"}, "ragged"),
        ({"batching": "same_length"}, "same_length"),
        ({"batching": "pad", "pad_to": "boundary"}, "pad, padded to the boundary"),
        ({"batching": "pad"}, "pad, padded to the longest of the batch"),
    ],
)
def test_the_report_contains_the_batching(arguments: dict[str, Any], words: str) -> None:
    assert lines_of(plan_of([1, 2, 3], **arguments))["batching"] == words


def test_the_report_without_refused_records() -> None:
    assert lines_of(plan_of([1, 2, 3]))["refused"] == "none"


def test_the_report_lists_at_most_20_buckets() -> None:
    report = plan_of(list(range(1, 101)), batching="same_length").report()
    assert report.endswith("… and 80 more")
    assert len([line for line in report.splitlines() if line.strip()[:1].isdigit()]) == 20


def test_the_report_is_plain_text_as_wide_as_a_terminal() -> None:
    report = plan_of(np.full(10**6, 10**6)).report()
    assert "\x1b" not in report
    assert max(len(line) for line in report.splitlines()) <= 88
    assert not any(line.endswith(" ") for line in report.splitlines())


@pytest.mark.parametrize(
    "lengths", [[1], [7] * 50, list(range(1, 400)), [0, 3], []], ids=["one", "equal", "many", "none and three", "no records"]
)
@pytest.mark.parametrize("batching", ["bucket", "same_length"])
def test_the_plot_is_a_png_file(tmp_path: Path, lengths: list[int], batching: str) -> None:
    plan = plan_of(lengths, batching=batching, length_range=(0, None))
    plan.plot(tmp_path / "plan.png")
    content = (tmp_path / "plan.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(content) > 5000


def test_a_plot_without_matplotlib_names_the_extra_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"""^Plan\.plot needs the package "matplotlib".*pip install 'vlpipe\[plot\]'"""):
        plan_of([1, 2]).plot(tmp_path / "plan.png")


@pytest.mark.parametrize("name", ["no-folder/plan.png", "plan.xyz"])
def test_a_plot_that_cannot_be_written_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArgumentError, match=r"plot: .* cannot be written .*Pass a .png, .svg or .pdf in a folder that exists"):
        plan_of([1, 2]).plot(tmp_path / name)


def test_the_plot_shows_the_padding_of_the_batches_and_each_bin_has_as_many_lengths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    lengths = [int(length) for length in np.random.default_rng(0).integers(1, 200, 500)]
    vlpipe.write(tmp_path / "a", ({"features": np.zeros((length, 1), np.float32)} for length in lengths))
    arguments: dict[str, Any] = {"batch_size": 16, "buckets": 4, "seed": 1, "lengths": True, "label": False}
    plan = vlpipe.plan(tmp_path / "a", **arguments)
    figure = Figure()
    monkeypatch.setattr("vlpipe.planning.plan.picture", lambda *_: nullcontext(figure))
    plan.plot("not-written.png")
    upper, lower = figure.axes
    bars = list(upper.patches)
    assert {round(bar.get_width(), 9) for bar in bars} == {4}
    counts = np.histogram(lengths, np.arange(0, 205, 4) + 0.5)[0]
    assert [int(bar.get_height()) for bar in bars] == counts[: len(bars)].tolist()
    assert [text.get_text() for text in upper.get_legend().get_texts()] == ["records", "boundaries of the buckets"]
    valid, delivered = np.zeros(4), np.zeros(4)
    for (x,) in vlpipe.make_dataset(tmp_path / "a", **arguments).as_numpy_iterator():
        bucket = np.searchsorted(plan.boundaries, x["lengths"].max())
        valid[bucket] += x["lengths"].sum()
        delivered[bucket] += np.prod(x["features"].shape)
    np.testing.assert_allclose([bar.get_height() for bar in lower.patches], 100 * (1 - valid / delivered), rtol=1e-9)
