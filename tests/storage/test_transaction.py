"""A dataset at an address: refused by all that write, before a byte; as a path it would be a folder named "s3:"."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import vlpipe
from tests.helpers.tones import write_tones
from vlpipe import cli
from vlpipe.conversion import convert
from vlpipe.errors import ArgumentError
from vlpipe.sources.foreign import cache

RECORDS = [{"features": np.ones((4, 2), np.float32), "label": 1}]
ADDRESSES = ("s3://bucket/train", "gs://bucket/train", Path("gs://bucket/train"))
REFUSAL = r"://bucket/train: is an address, and vlpipe writes to local directories only. Write to a local directory, then copy"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    vlpipe.write(tmp_path / "source", RECORDS, num_shards=1)
    write_tones(tmp_path / "audio", ["a.wav"])
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize(
    "write",
    [
        lambda address: vlpipe.write(address, RECORDS),
        lambda address: vlpipe.write(address, RECORDS, overwrite=True),
        vlpipe.Writer,
        lambda address: convert("../source", address),
    ],
    ids=["write", "overwrite", "Writer", "convert"],
)
def test_writing_to_an_address_is_refused(write: Callable[[str | Path], object], address: str | Path) -> None:
    with pytest.raises(ArgumentError, match=REFUSAL):
        write(address)
    assert os.listdir() == []


@pytest.mark.parametrize(
    "command",
    [
        ["convert", "../source", "s3://bucket/train"],
        ["convert", "../source", "gs://bucket/train", "--workers", "2", "--overwrite"],
        ["ingest", "../audio", "gs://bucket/train", "--mels", "8"],
        ["ingest", "../audio", "s3://bucket", "--mels", "8", "--split", "train=1"],
    ],
    ids=lambda command: "-".join(command[::2]),
)
def test_commands_that_write_to_an_address_have_status_1(command: list[str]) -> None:
    result = CliRunner().invoke(cli.main, command)
    assert result.exit_code == 1, result.output
    assert "://bucket/train: is an address, and vlpipe writes to local directories only" in " ".join(result.output.split())
    assert os.listdir() == []


def test_a_cache_directory_that_is_no_absolute_path_is_ignored(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As the XDG specification says; an address would be a folder named "s3:"."""
    monkeypatch.setenv("HOME", str(folder / "home"))
    for value in ("s3://bucket/cache", "cache", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache.store(b"1", cache.cache_paths("gs://bucket/a.tfrecord", "-x"))
        assert os.listdir() == []
    assert len(list((folder / "home" / ".cache" / "vlpipe" / "index").iterdir())) == 1
