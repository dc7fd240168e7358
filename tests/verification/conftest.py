"""A vlpipe dataset and a third-party file to damage."""

from __future__ import annotations

from pathlib import Path

import pytest

import vlpipe
from tests.helpers.foreign_files import write
from tests.verification.damage import LENGTHS, RECORDS, SCHEMA, make_record


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    vlpipe.write(tmp_path / "d", (make_record(*pair) for pair in enumerate(LENGTHS)), SCHEMA, num_shards=2)
    return tmp_path / "d"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """40 records, 14 KB: the twentieth is in neither the head nor the tail by which an index knows its file."""
    return write(tmp_path / "a.tfrecord", RECORDS)
