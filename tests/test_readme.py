"""The README's Python, run as a reader would: every block in order, in an empty folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlpipe

README = Path(__file__).parents[1] / "README.md"
WHY = README.parent / "docs" / "why.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


def test_every_block_of_python_runs_and_runs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.random.seed(0)
    assert len(blocks()) >= 3
    space: dict[str, Any] = {}
    for number, block in enumerate(blocks()):
        exec(compile(block, f"README.md, block {number}", "exec"), space)
    exec(compile(blocks()[0], "README.md, block 0 again", "exec"), {})  # the dataset exists now
    assert "valid frames" in capsys.readouterr().out
    assert space["scores"].shape == (1000, 10)


def test_it_is_one_screen_and_a_table_of_links() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 150


def test_the_first_screen_writes_and_trains_in_ten_lines() -> None:
    lines = [line for line in blocks()[0].splitlines() if line.strip() and not line.startswith("import")]
    assert len(lines) <= 10


def test_the_table_of_the_spoken_digits(recordings: Path, tmp_path: Path) -> None:
    """Frames follow from the number of samples alone, so the figures need no features."""
    import wave

    def frames(path: Path) -> int:
        with wave.open(str(path)) as file:
            return 1 + max(0, -(-(2 * file.getnframes() - 400) // 160))  # resampled from 8 to 16 kHz, 25 ms every 10 ms

    paths = sorted(recordings.glob("*.wav"))
    vlpipe.write(tmp_path / "d", ({"features": np.zeros((frames(path), 1), np.uint8)} for path in paths))
    table = {row[0]: row[1:] for row in re.findall(r'\| `"(\w+)"`.*?\| .*? \| ([\d.]+) % \| (\d+) \|', WHY.read_text("utf-8"))}
    assert set(table) == {"bucket", "pad", "ragged", "same_length"}
    for batching, (valid, steps) in table.items():
        plan = vlpipe.plan(tmp_path / "d", batching=batching)
        assert plan.steps_per_epoch == int(steps)
        assert 100 * plan.valid_ratio == pytest.approx(float(valid), abs=0.5)  # the order of an epoch is random


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_the_files_and_names_in_the_documents_exist(document: str) -> None:
    """`folder/file.py`, from the top level or from vlpipe, and the names that follow it: `file.py` (`name`, `name`)."""
    root = README.parent
    for name, listed in re.findall(r"`([\w./-]+(?:\.py|\w/))`(?: \(((?:`\w+`(?:, )?)+)\))?", (root / document).read_text("utf-8")):
        paths = [path for path in (root / name, root / "vlpipe" / name) if path.exists()]
        assert paths, f"{document} names {name}, which does not exist"
        for identifier in re.findall(r"\w+", listed):
            assert re.search(rf"\b{identifier}\b", paths[0].read_text("utf-8")), f"{document}: {name} has no {identifier}"
