"""Each run says what it replaces, and the report by how much the figures moved."""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import changes, report, results


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that takes the place of this one."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.setattr(changes, "ROOT", tmp_path)
    return tmp_path


def run(repository: Path, speed: float, *, batch: int = 32, ways: tuple[str, ...] = ("a", "b"), commit: bool = True) -> dict[str, Any]:
    """Save a run of throughput in the repository, and commit it."""
    path = repository / "throughput.json"
    arguments = argparse.Namespace(json=path, ways=list(ways), batch=batch)
    figures = {"workloads": {"speech": {"records": 9, "ways": {way: {"frames_per_second": speed} for way in ways}}}}
    results.save("throughput", arguments, figures)
    if commit:
        subprocess.run(["git", "-C", str(repository), "add", "-A"], check=True)
        author = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", "-C", str(repository), *author, "commit", "-q", "-m", "results"], check=True)
    return json.loads(path.read_text())


def test_a_run_has_the_figures_of_the_committed_one(repository: Path) -> None:
    assert "previous" not in run(repository, 2e6)
    run(repository, 9e6, commit=False)  # is replaced without a trace
    document = run(repository, 5e6, ways=("a", "c"))
    assert document["previous"]["figures"] == {"speech, a, M frames/s": 2.0, "speech, b, M frames/s": 2.0}
    (section,) = report.changed({"throughput": document})
    assert "| throughput: speech, a, M frames/s | 2 | 5 | 2.50 |" in section
    assert "speech, b" not in section  # was not measured now
    assert "speech, c" not in section


def test_runs_of_other_sizes_or_machines_are_not_compared(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(repository, 2e6)
    assert "previous" not in run(repository, 2e6, batch=64, commit=False)
    monkeypatch.setattr(results, "_cpu", lambda: "another")
    assert "previous" not in run(repository, 2e6, commit=False)
    assert report.changed({"throughput": run(repository, 2e6, commit=False)}) == []


def test_the_figures_of_each_stored_run_are_found() -> None:
    for name, document in report.documents().items():
        found = changes.figures(document)
        assert found, name
        assert all(isinstance(value, float | int) for value in found.values())
        moved = copy.deepcopy(document) | {"previous": {"commit": "1", "date": "2026-01-01", "figures": found}}
        (section,) = report.changed({name: moved})
        assert section.count("| 1.00 |") >= len(found) - sum(value == 0 for value in found.values())
