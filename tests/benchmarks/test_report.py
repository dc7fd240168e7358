"""REPORT.md and the tables of README.md and docs/ match the JSON of the benchmarks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import pictures, report, sections
from tests.benchmarks.benching import quick

ROOT = Path(__file__).parents[2]


def test_the_report_and_the_readme_match_the_figures() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks.report", "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_figure_that_is_changed_by_hand_is_detected() -> None:
    documents = report.documents()
    texts = [page.read_text("utf-8") for page in report.PAGES]
    for name in sections.TABLES:
        text = next(text for text in texts if f"<!-- benchmark: {name} -->" in text)
        start = text.index(f"<!-- benchmark: {name} -->")
        digit = re.compile(r"\d").search(text, start, text.index("<!-- end -->", start))
        if digit is None:
            assert (name, "audio" in documents) == ("storing", False)  # its run is not stored yet
            continue
        changed = text[: digit.start()] + str((int(digit[0]) + 1) % 10) + text[digit.end() :]
        assert report.filled(changed, documents) == text, name


def test_every_stored_run_has_its_machine_and_versions() -> None:
    for name, document in report.documents().items():
        assert document["script"] == name.partition("-")[0]
        assert set(document) - {"previous"} == {"script", "commit", "date", "machine", "versions", "arguments", "results"}
        assert not document["arguments"]["quick"], name
        assert document["machine"]["cores"] >= 1
        assert {"vlpipe", "tensorflow", "numpy"} <= set(document["versions"]), name


def test_drawing_a_picture_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    documents = report.documents()
    pictures.draw(documents, tmp_path / "once")
    pictures.draw(documents, tmp_path / "twice")
    names = sorted(path.name for path in (tmp_path / "once").iterdir())
    assert names == sorted(path.name for path in pictures.DIRECTORY.iterdir())
    assert all((tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes() for name in names)
    linked = set(re.findall(r"pictures/(\S+\.svg)", report.REPORT.read_text("utf-8")))
    assert linked == set(names)


def test_the_layers_benchmark(tmp_path: Path) -> None:
    document = quick("layers", tmp_path)
    assert document["arguments"]["quick"]
    assert document["results"]["median_ratio"] > 0
    for scores in document["results"]["scores"].values():
        assert scores["mask_aware"] == pytest.approx([scores["mask_aware"][0]] * 3, rel=1e-5)
        assert scores["plain"] != pytest.approx([scores["plain"][0]] * 3, rel=1e-3)  # padding changes the answer of the plain model
